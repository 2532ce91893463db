"""Checkpoints: one file per step, which is verified when it is read.

A file begins with the SHA-256 of all that follows. Then come, as msgpack, the number of
the step, what the caller keeps beside the state, a description of every array, and the
arrays. They are whole, so a checkpoint does not depend on the number of devices.
"""

import hashlib
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.serialization import msgpack_restore, msgpack_serialize

from dc_jax.devices import processes
from dc_jax.errors import UserError, one_line
from dc_jax.files import write_atomically

PyTree = Any

_NAME = re.compile(r"(\d{8,})\.ckpt")
_DIGEST_BYTES = hashlib.sha256().digest_size


class Restored(NamedTuple):
    """What `Checkpointer.restore` found."""

    step: int
    state: PyTree
    meta: dict


class Checkpointer:
    """Saves and restores a pytree of arrays, numbered by step, in one folder."""

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        """Chooses the folder. The first save creates it where needed.

        Args:
          directory: folder that holds nothing but checkpoints. Only the first of
            several processes needs it.
          keep: how many of the newest steps to keep.

        Raises:
          UserError: `keep` is below 1, or `directory` is not a folder.
        """
        if keep < 1:
            raise UserError(f"keep must be >= 1, got {keep}.")
        self._directory = Path(os.path.abspath(directory))
        if os.path.exists(self._directory) and not os.path.isdir(self._directory):
            raise UserError(f"checkpoint path {self._directory} is not a folder.")
        self._keep = keep
        self._damaged: set[int] = set()

    def save(self, step: int, state: PyTree, meta: dict) -> None:
        """Writes one step, then deletes the steps that are no longer needed.

        Only the first of several processes writes; every leaf must be whole there. The
        others return at once.

        An intact file of the same step stays as it is; a damaged one is replaced. The
        damaged steps that `restore` skipped are deleted.

        Args:
          step: number of the step, >= 0.
          state: pytree of arrays, typed keys and Python numbers.
          meta: values that JSON can hold; `restore` returns them with the state.

        Raises:
          UserError: the folder holds an intact step beyond this one.
          TypeError: `meta` holds something that JSON cannot.
          OSError: the file cannot be written, or a later step cannot be read.
        """
        if not processes.is_first():
            return
        for held in reversed(self._steps()):
            if held < step or held in self._damaged or self._read(held) is None:
                continue
            if held == step:
                return
            raise UserError(
                f"checkpoint folder {self._directory} already holds step {held}, "
                f"beyond step {step} to be saved: restore it or use another folder."
            )
        data = _pack(step, state, meta)
        try:
            write_atomically(self._path(step), data)
            self._damaged.discard(step)
            self._clean()
        except OSError as error:
            raise OSError(
                f"a checkpoint cannot be written in {self._directory} "
                f"({_reason(error)}): those before it are intact; make room there and "
                "give the same command again."
            ) from error

    def restore(self, template: PyTree) -> Restored | None:
        """Returns the newest intact step, or None where there is no checkpoint.

        Each damaged step that is skipped is logged as one warning. The first of several
        processes reads, and all of them get what it found.

        Args:
          template: pytree with the structure, shapes, dtypes and shardings wanted: a
            state, or `jax.ShapeDtypeStruct`s.

        Raises:
          UserError: no step is intact, or the newest intact one does not fit
            `template` because it was saved under another configuration.
          OSError: a file cannot be read now, which does not mean that it is damaged.
        """
        found = processes.on_first(self._newest, _describe(template))
        if found is None:
            return None
        leaves, treedef = jax.tree.flatten(template)
        placed = [
            _place(found["arrays"][str(i)], leaf, held["key_impl"])
            for i, (leaf, held) in enumerate(zip(leaves, found["leaves"], strict=True))
        ]
        state = jax.tree.unflatten(treedef, placed)
        return Restored(found["step"], state, json.loads(found["meta"]))

    def _newest(self, wanted: list[dict]) -> dict[str, Any] | None:
        """Returns the newest intact step, as in `_pack`."""
        steps = self._steps()
        for step in reversed(steps):
            contents = self._read(step)
            if contents is not None:
                self._check_fit(step, contents["leaves"], wanted)
                return contents
        if steps:
            raise UserError(
                f"no checkpoint in {self._directory} is intact (tried steps "
                f"{', '.join(map(str, reversed(steps)))}): delete the folder to start "
                "again, or put back a copy of it."
            )
        return None

    def _path(self, step: int) -> Path:
        return self._directory / f"{step:08d}.ckpt"

    def _steps(self) -> list[int]:
        """Returns the steps in the folder, damaged or not, in ascending order.

        Raises:
          UserError: they are folders, which this version cannot read.
          OSError: the folder cannot be read now.
        """
        try:
            paths = list(self._directory.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._directory, error) from error
        if any(path.name.isdecimal() and path.is_dir() for path in paths):
            raise UserError(
                f"{self._directory} holds checkpoints of an earlier version of dc_jax, "
                "which this version cannot read: delete the folder to start again, or "
                "choose another."
            )
        matches = [_NAME.fullmatch(path.name) for path in paths]
        return sorted(int(match[1]) for match in matches if match)

    def _read(self, step: int) -> dict[str, Any] | None:
        """Returns what `_pack` packed, None if the file is damaged.

        Raises:
          OSError: the file cannot be read now. That is no reason to give it up, since
            it may be intact.
        """
        path = self._path(step)
        try:
            contents = _unpack(path.read_bytes())
        except (OSError, MemoryError) as error:
            raise _unreadable(path, error) from error
        if contents is None or contents["step"] != step:
            logging.warning("Checkpoint %s is damaged and not used.", path)
            self._damaged.add(step)
            return None
        return contents

    def _clean(self) -> None:
        """Deletes damaged steps, all but the newest, and unfinished files."""
        for held in self._damaged.intersection(self._steps()):
            self._path(held).unlink()
        self._damaged.clear()
        for held in self._steps()[: -self._keep]:
            self._path(held).unlink()
        # A process that was killed while it wrote.
        for path in self._directory.glob("*.ckpt.*.tmp"):
            path.unlink()

    def _check_fit(self, step: int, held: list[dict], wanted: list[dict]) -> None:
        for ours, theirs in itertools.zip_longest(held, wanted):
            if _signature(ours) != _signature(theirs):
                raise UserError(
                    f"checkpoint step {step} in {self._directory} holds "
                    f"{_signature(ours)} where this run needs {_signature(theirs)}: "
                    "use the configuration it was saved with, or another folder."
                )


def _pack(step: int, state: PyTree, meta: dict) -> bytes:
    """Returns the contents of a file.

    They are `step`, `meta` as the text of a JSON object, `leaves` as `_describe`
    returns them, and `arrays`, numbered in the order of the leaves.
    """
    arrays = [_to_host(leaf) for leaf in jax.tree.leaves(state)]
    data = msgpack_serialize(
        {
            "step": step,
            "meta": json.dumps(meta),
            "leaves": _describe(state),
            "arrays": {str(i): array for i, array in enumerate(arrays)},
        }
    )
    return hashlib.sha256(data).digest() + data


def _unpack(data: bytes) -> dict[str, Any] | None:
    """Returns what `_pack` packed, None unless it is the same to the last bit."""
    digest, data = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return msgpack_restore(data) if hashlib.sha256(data).digest() == digest else None


def _unreadable(path: Path, error: Exception) -> OSError:
    return OSError(
        f"checkpoint {path} cannot be read now ({_reason(error)}): it may be intact, "
        "and nothing was deleted; give the same command again once it can be read."
    )


def _reason(error: Exception) -> str:
    """Returns what the system says, without the path."""
    return getattr(error, "strerror", None) or one_line(error)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _to_host(leaf: Any) -> np.ndarray:
    """Returns the whole leaf."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _place(array: np.ndarray, like: Any, key_impl: str | None) -> Any:
    """Returns `array` as the type of leaf, and on the devices, that `like` is."""
    if isinstance(like, bool | int | float):
        return array.item()
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return array.copy()  # msgpack gives arrays that cannot be written to.
    # A committed leaf would refuse to meet arrays that live on a mesh.
    is_free = like.sharding is None or not getattr(like, "committed", True)
    value = jnp.asarray(array) if is_free else jax.device_put(array, like.sharding)
    return value if key_impl is None else jax.random.wrap_key_data(value, impl=key_impl)


def _describe(state: PyTree) -> list[dict]:
    """Returns path, dtype, shape and kind of key of every leaf, in tree order."""
    described = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        described.append(
            {
                "path": jax.tree_util.keystr(path, simple=True, separator="/"),
                "dtype": str(getattr(leaf, "dtype", type(leaf).__name__)),
                "shape": list(np.shape(leaf)),
                "key_impl": str(jax.random.key_impl(leaf)) if _is_key(leaf) else None,
            }
        )
    return described


def _signature(leaf: dict | None) -> str:
    if leaf is None:
        return "nothing more"
    return f"{leaf['path'] or 'the state'} {leaf['dtype']}{leaf['shape']}"
