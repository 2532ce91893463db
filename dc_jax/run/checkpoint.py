"""Checkpoints: one file per step, which is verified when it is read.

A file begins with the SHA-256 of all that follows. Then come, as msgpack, the number of
the step, what the caller keeps beside the state, and the arrays. They are whole, so a
checkpoint does not depend on the number of devices.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.serialization import msgpack_restore, msgpack_serialize

from dc_jax.devices import processes
from dc_jax.errors import UserError, one_line
from dc_jax.files.content import write_atomically
from dc_jax.files.drafts import remove_stale

PyTree = Any

_NAME = re.compile(r"(\d{8,})\.ckpt")


class Restored(NamedTuple):
    """What `Checkpointer.restore` found."""

    step: int
    state: PyTree
    meta: dict


class Checkpointer:
    """Saves and restores a pytree of arrays, numbered by step, in one folder.

    The first save creates the folder, which has the `keep` newest steps. Only the first
    of several processes uses it.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        self._directory, self._keep = Path(directory), keep
        self._damaged: set[int] = set()

    def save(self, step: int, state: PyTree, meta: dict) -> None:
        """Writes one step, then deletes old steps and those that `restore` skipped.

        Args:
          step: not below the one that `restore` found.
          state: pytree of JAX's arrays and typed keys, whole on this process.
          meta: values that JSON can hold; `restore` returns them with the state.

        Raises:
          TypeError: `meta` holds something that JSON cannot.
          OSError: the file cannot be written.
        """
        if not processes.is_first():
            return
        data = _pack(step, state, meta)
        with _explained(
            f"a checkpoint cannot be written in {self._directory}",
            "the earlier ones are intact; make room there",
        ):
            # Not its parents: a folder that somebody deleted is no place for results.
            self._directory.mkdir(exist_ok=True)
            write_atomically(self._path(step), data)
            damaged = self._damaged - {step}
            intact = [held for held in self.steps() if held not in damaged]
            for held in (*damaged, *intact[: -self._keep]):
                self._path(held).unlink(missing_ok=True)
            self._damaged.clear()
            remove_stale(self._directory, lambda name: bool(_NAME.fullmatch(name)))

    def restore(self, template: PyTree) -> Restored | None:
        """Returns the newest intact step, or None where there is no checkpoint.

        Logs a warning for each damaged step, and skips it. All processes get the same.

        Args:
          template: a state with the structure, shapes, dtypes and shardings wanted.

        Raises:
          UserError: no step is intact, or the newest intact one does not fit
            `template` because it was saved under another configuration.
          OSError: a file cannot be read now, which does not mean that it is damaged.
        """
        named = _named(template)
        with _explained(
            f"the checkpoints in {self._directory} cannot be read now",
            "they may be intact, and nothing was deleted; make them readable",
        ):
            found = processes.on_first(self._newest, list(named))
        if found is None:
            return None
        leaves = [_place(found["arrays"][name], leaf) for name, leaf in named.items()]
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return Restored(found["step"], state, json.loads(found["meta"]))

    def _newest(self, wanted: list[str]) -> dict[str, Any] | None:
        """Returns the newest intact step as in `_pack`; its arrays have these names."""
        steps = self.steps()[::-1]
        for step in steps:
            contents = _unpack(self._path(step).read_bytes())
            if contents is None or contents["step"] != step:
                logging.warning("Checkpoint %s is damaged, not used.", self._path(step))
                self._damaged.add(step)
                continue
            for held, needed in itertools.zip_longest(
                sorted(contents["arrays"]), sorted(wanted), fillvalue="nothing more"
            ):
                if held != needed:
                    raise UserError(
                        f"checkpoint step {step} in {self._directory} holds {held} "
                        f"where this run needs {needed}: use the configuration it was "
                        "saved with, or another folder."
                    )
            return contents
        if steps:
            raise UserError(
                f"no checkpoint in {self._directory} is intact (tried steps "
                f"{', '.join(map(str, steps))}): delete the folder to start again, or "
                "put back a copy of it."
            )
        return None

    def _path(self, step: int) -> Path:
        return self._directory / f"{step:08d}.ckpt"

    def steps(self) -> list[int]:
        """Returns the steps in the folder, damaged or not, in ascending order."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)


def _pack(step: int, state: PyTree, meta: dict) -> bytes:
    """Returns a file: `step`, `meta` as JSON, and `arrays` by the names of `_named`."""
    arrays = {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in _named(state).items()
    }
    data = msgpack_serialize({"step": step, "meta": json.dumps(meta), "arrays": arrays})
    return hashlib.sha256(data).digest() + data


def _unpack(data: bytes) -> dict[str, Any] | None:
    """Returns what `_pack` packed, None unless it is the same to the last bit."""
    digest, data = data[:32], data[32:]
    return msgpack_restore(data) if hashlib.sha256(data).digest() == digest else None


def _named(state: PyTree) -> dict[str, jax.Array]:
    """Returns the leaves by path, dtype and shape, as in `images float32[10, 1]`."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "the state"
        named[f"{name} {leaf.dtype}{list(leaf.shape)}"] = leaf
    return named


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _place(array: np.ndarray, like: jax.Array) -> jax.Array:
    """Returns `array` as the kind of leaf, and on the devices, that `like` is."""
    # A leaf that is put on devices would refuse to meet arrays that live on a mesh.
    value = jax.device_put(array, like.sharding if like.committed else None)
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))
    return value


@contextlib.contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    """Adds to an error of the system what cannot be done, and what to do."""
    try:
        yield
    except (OSError, MemoryError) as error:
        text = f"{what} ({one_line(error)}): {advice} and give the same command again."
        raise OSError(text) from error
