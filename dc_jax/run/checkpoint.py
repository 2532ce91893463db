"""Checkpoints that are verified when they are read. The only module that knows Orbax.

Orbax gives the atomic folders, the writing in the background and the choice of which
steps to keep. It has no checksum on array data, so a flipped byte would come back as a
wrong value without a word: the SHA-256 of every leaf is kept in a JSON file beside the
arrays, and a step that does not match it counts as damaged.

Leaves are handed to Orbax as NumPy copies. The caller may donate its buffers while the
write is still under way, and a checkpoint does not depend on the number of devices it
was written with.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging as python_logging
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dc_jax.devices import processes
from dc_jax.errors import UserError

PyTree = Any


class Restored(NamedTuple):
    """What `Checkpointer.restore` found."""

    step: int
    state: PyTree
    meta: dict


class Checkpointer:
    """Saves and restores a pytree of arrays, numbered by step, in one folder."""

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        """Chooses the folder, which the first save creates where needed.

        Args:
          directory: folder that holds checkpoints and nothing else. Of several
            processes only the first needs it.
          keep: how many of the newest steps to keep.

        Raises:
          UserError: `keep` is below 1, or `directory` is not a folder.
        """
        if keep < 1:
            raise UserError(f"keep must be >= 1, got {keep}.")
        self._directory = os.path.abspath(directory)
        if os.path.exists(self._directory) and not os.path.isdir(self._directory):
            raise UserError(f"checkpoint path {self._directory} is not a folder.")
        self._keep = keep
        self._damaged: set[int] = set()

    @functools.cached_property
    def _ocp(self) -> Any:
        # Not before it is needed: a new run need not wait for the import.
        import orbax.checkpoint

        logging.get_absl_logger().addFilter(_is_not_orbax_chatter)
        return orbax.checkpoint

    @functools.cached_property
    def _manager(self) -> Any:
        os.makedirs(self._directory, exist_ok=True)
        return self._ocp.CheckpointManager(
            self._directory,
            options=self._ocp.CheckpointManagerOptions(
                # Else Orbax would wait for the other processes.
                multiprocessing_options=self._ocp.options.MultiprocessingOptions(
                    active_processes={0}
                ),
                create=False,
                max_to_keep=self._keep,
                # What a killed process left half written.
                cleanup_tmp_directories=True,
                # Otherwise a damaged step could already fail here.
                lightweight_initialize=True,
            ),
        )

    def save(self, step: int, state: PyTree, meta: dict) -> None:
        """Starts to write one step; returns once the values are copied.

        Only the first of several processes writes; on all of them every leaf must be
        whole. The others return at once.

        Waits for the write before it. A step that is there and intact stays as it is;
        a damaged one is replaced, and the steps that `restore` had to skip are deleted.

        Args:
          step: number of the step, >= 0.
          state: pytree of arrays, typed keys and Python numbers.
          meta: values that JSON can hold; comes back with the state.

        Raises:
          UserError: the folder holds an intact step beyond this one.
          TypeError: `meta` holds something that JSON cannot.
          OSError: it, or the one before it, cannot be written.
        """
        if not processes.is_first():
            return
        self.wait()
        for held in reversed(self._steps()):
            if held < step or held in self._damaged or self._read(held) is None:
                continue
            if held == step:
                return
            raise UserError(
                f"checkpoint folder {self._directory} already holds step {held}, "
                f"beyond step {step} to be saved: restore it or use another folder."
            )
        for held in self._damaged.intersection(self._steps()):
            self._manager.delete(held)
        self._damaged.clear()

        arrays = [_to_host(leaf) for leaf in jax.tree.leaves(state)]
        record = {"meta": json.loads(json.dumps(meta)), "leaves": _describe(state)}
        for leaf, array in zip(record["leaves"], arrays, strict=True):
            leaf["sha256"] = _checksum(array)
        record["sha256"] = _digest(record)
        args = self._ocp.args
        with self._writing():
            self._manager.save(
                step,
                args=args.Composite(
                    # Our own checksums guard the order, so names need not be paths.
                    state=args.PyTreeSave({str(i): a for i, a in enumerate(arrays)}),
                    record=args.JsonSave(record),
                ),
                # Else Orbax skips, without a word, a step below a damaged one.
                force=True,
            )

    def restore(self, template: PyTree) -> Restored | None:
        """Returns the newest intact step, or None where there is no checkpoint.

        Every damaged step that is passed over is logged as one warning. The first of
        several processes reads, and all get what it found.

        Args:
          template: pytree with the structure, shapes, dtypes and shardings wanted: a
            state, or `jax.ShapeDtypeStruct`s.

        Raises:
          UserError: no step is intact, or the newest intact one does not fit
            `template` because it was saved under another configuration.
        """
        found = processes.on_first(self._newest, _describe(template))
        if found is None:
            return None
        step, record, arrays = found
        leaves, treedef = jax.tree.flatten(template)
        placed = [
            _place(array, leaf, held["key_impl"])
            for array, leaf, held in zip(arrays, leaves, record["leaves"], strict=True)
        ]
        return Restored(step, jax.tree.unflatten(treedef, placed), record["meta"])

    def _newest(self, wanted: list[dict]) -> list[Any] | None:
        """Returns the newest intact step, its record and its arrays."""
        if not os.path.exists(self._directory):
            return None
        self.wait()
        steps = self._steps()
        for step in reversed(steps):
            contents = self._read(step)
            if contents is None:
                continue
            record, arrays = contents
            self._check_fit(step, record["leaves"], wanted)
            return [step, record, arrays]
        if steps:
            raise UserError(
                f"no checkpoint in {self._directory} is intact (tried steps "
                f"{', '.join(map(str, reversed(steps)))}): delete the folder to start "
                "again, or put back a copy of it."
            )
        return None

    def wait(self) -> None:
        """Returns when all that was saved is on disk.

        Raises:
          OSError: it cannot be written.
        """
        if self._is_open():
            with self._writing():
                self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says of a failure what failed, and what to do."""
        try:
            yield
        except (OSError, ValueError) as error:  # The latter from TensorStore.
            raise OSError(
                f"a checkpoint cannot be written in {self._directory}: those before it "
                "are intact; make room there and give the same command again "
                f"({_reason(error)})."
            ) from error

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self.wait()
        if self._is_open():
            self._manager.close()

    def _is_open(self) -> bool:
        # Where the cached property is kept.
        return "_manager" in vars(self)

    def _steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def _read(self, step: int) -> tuple[dict, list[np.ndarray]] | None:
        """Returns the verified record and arrays of a step, None if it is damaged."""
        try:
            return self._read_verified(step)
        # On a damaged file Orbax and TensorStore raise a dozen types, plain Exception
        # among them. Whatever the reason, it is logged and the step is not used.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            logging.warning(
                "Checkpoint step %d in %s is damaged and not used: %s: %s",
                step,
                self._directory,
                type(error).__name__,
                reason,
            )
            self._damaged.add(step)
            return None

    def _read_verified(self, step: int) -> tuple[dict, list[np.ndarray]]:
        args = self._ocp.args
        record = self._manager.restore(
            step, args=args.Composite(record=args.JsonRestore())
        )["record"]
        if record["sha256"] != _digest(record):
            raise UserError("the checksum of its JSON record does not match")
        arrays = []
        # One by one: when several damaged arrays are read together, TensorStore prints
        # a traceback for each failure after the first.
        for i, leaf in enumerate(record["leaves"]):
            only = args.PyTreeRestore({str(i): np.empty(0)}, partial_restore=True)
            held = self._manager.restore(step, args=args.Composite(state=only))
            arrays.append(np.asarray(held["state"][str(i)]))
            if _checksum(arrays[-1]) != leaf["sha256"]:
                raise UserError(f"the checksum of {leaf['path']} does not match")
        return record, arrays

    def _check_fit(self, step: int, held: list[dict], wanted: list[dict]) -> None:
        for ours, theirs in itertools.zip_longest(held, wanted):
            if _signature(ours) != _signature(theirs):
                raise UserError(
                    f"checkpoint step {step} in {self._directory} holds "
                    f"{_signature(ours)} where this run needs {_signature(theirs)}: "
                    "use the configuration it was saved with, or another folder."
                )


def _is_not_orbax_chatter(record: python_logging.LogRecord) -> bool:
    """Filters absl's one logger, which Orbax shares: hundreds of lines a save.

    And the tracebacks of its threads, whose errors are raised by `wait`.
    """
    from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    is_worth = record.levelno >= python_logging.WARNING and not record.exc_info
    return is_worth or not from_orbax


def _reason(error: OSError | ValueError) -> str:
    """Returns what the system says of it, in a few words."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's.
    if code:
        return os.strerror(int(code[1]))
    text = error.strerror if isinstance(error, OSError) else None
    return text or " ".join(str(error).split())[:200]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _to_host(leaf: Any) -> np.ndarray:
    """Returns a copy of the whole leaf."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def _place(array: np.ndarray, like: Any, key_impl: str | None) -> Any:
    """Returns `array` as the type of leaf, and on the devices, that `like` is."""
    if isinstance(like, bool | int | float):
        return array.item()
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return array
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


def _checksum(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's dtype, shape and bytes."""
    checksum = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    checksum.update(array.tobytes())
    return checksum.hexdigest()


def _digest(record: dict) -> str:
    """Returns the SHA-256 of a record, its own field `sha256` aside."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
