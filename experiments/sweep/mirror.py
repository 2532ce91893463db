"""The folder of a sweep, which may be a copy of a folder in a bucket.

Cells run in a folder of this machine, because they write checkpoints, locks and
memory-mapped files. What others need of them is copied to the bucket and back: all but
these files. A cell is done if the bucket says so.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dc_jax.errors import UserError
from dc_jax.files.content import write_atomically
from dc_jax.files.paths import is_address, user_path
from experiments.sweep.cells import RECORD

# Files and folders of a cell that only the machine that runs it needs.
_PRIVATE = {"checkpoints", "networks", ".lock"}


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A folder, and where it is copied to.

    Attributes:
      folder: of this machine.
      address: of the folder in the bucket; None if there is none.
    """

    folder: Path
    address: str | None = None

    @classmethod
    def open(cls, output: str) -> "Mirror":
        """Returns the folder of an output; for a bucket it is in the user's cache."""
        if not is_address(output):
            return cls(user_path(output, "--output").absolute())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]
        return cls(cache / "dc_jax" / name, output.rstrip("/"))

    def pull(self, *names: str) -> None:
        """Copies cells from the bucket.

        Without names it copies all cells that are done there, and the files beside
        them. Cells that are not done there are then not done here either, but they
        keep their checkpoints.

        Raises:
          UserError: the kind of bucket is unknown, or a package is missing.
          OSError: the bucket cannot be read.
        """
        if self.address is None:
            return
        bucket = self._open()
        places = sorted(self._call(bucket.find, ""), key=_is_record)
        done = {_cell_of(place) for place in places if _is_record(place)}
        if not names:
            self._forget_others(places)
        for place in places:
            if _cell_of(place) in (names or {"", *done}):
                data = self._call(bucket.cat_file, place)
                write_atomically(self.folder / place, data)

    def push(self, *names: str) -> None:
        """Copies cells to the bucket, or without names the files beside the cells.

        The record that a cell is done goes last.

        Raises:
          UserError, OSError: see `pull`.
        """
        if self.address is None:
            return
        paths = [] if names else list(self.folder.iterdir())
        for name in names:
            paths += (self.folder / name).rglob("*")
        places = [p.relative_to(self.folder) for p in paths if p.is_file()]
        public = [p for p in places if _PRIVATE.isdisjoint(p.parts)]
        bucket = self._open()
        for place in sorted((p.as_posix() for p in public), key=_is_record):
            if not place.endswith(".tmp"):
                parent = place.rpartition("/")[0]
                self._call(bucket.makedirs, parent, exist_ok=True)
                self._call(bucket.put_file, str(self.folder / place), place)

    def _forget_others(self, places: list[str]) -> None:
        """Removes records, and results beside the cells, that the bucket lacks."""
        for pattern in (f"*/{RECORD}", "results.*"):
            for path in self.folder.glob(pattern):
                if path.relative_to(self.folder).as_posix() not in places:
                    path.unlink()

    def _open(self) -> Any:
        """Returns the folder in the bucket as a file system, whose root it is."""
        try:
            # Few need this package, so it is not imported above.
            from fsspec.core import url_to_fs
            from fsspec.implementations.dirfs import DirFileSystem

            system, root = self._call(url_to_fs, self.address)
        except (ImportError, OSError) as error:
            cause = error.__cause__ or error
            if not isinstance(cause, ImportError | ValueError):
                raise
            raise UserError(
                f"--output={self.address} needs a package ({cause}); for gs:// "
                'pip install -e ".[gcs]".'
            ) from error
        return DirFileSystem(root, system)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the bucket; its errors, of many kinds, become `OSError`s.

        Those that a bug of ours would raise stay as they are.
        """
        try:
            return function(*args, **kwargs)
        except (AttributeError, NameError, TypeError):
            raise
        # Each kind of bucket has its own errors.
        except Exception as error:
            raise OSError(
                f"--output={self.address} cannot be read or written "
                f"({type(error).__name__}: {error})."
            ) from error


def _cell_of(place: str) -> str:
    """Returns the folder of a file of a cell, "" for a file beside the cells."""
    return place.partition("/")[0] if "/" in place else ""


def _is_record(place: str) -> bool:
    return place.endswith(f"/{RECORD}")
