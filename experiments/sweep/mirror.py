"""The folder of a sweep, which may be a copy of one in a bucket.

Cells run in a folder of the machine, as they write checkpoints, locks and memory-mapped
files; what others need of them, all but these, is copied to the bucket and back. What
is done is what is done in the bucket.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dc_jax.errors import UserError
from dc_jax.files import is_address
from experiments.sweep.cells import RECORD

# Of a cell, what only the machine that runs it needs.
_PRIVATE = {"checkpoints", "networks", ".lock"}


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A folder, and where it is copied to.

    Attributes:
      folder: of this machine.
      address: of the bucket, None where there is none.
    """

    folder: Path
    address: str | None = None

    @classmethod
    def open(cls, output: str) -> "Mirror":
        """Returns the folder of an output, in the user's cache for one in a bucket."""
        if not is_address(output):
            return cls(Path(output).absolute())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]
        return cls(cache / "dc_jax" / name, output.rstrip("/"))

    def pull(self, *names: str) -> None:
        """Copies cells from the bucket.

        Without names, all that are done there, and the files beside them; cells that
        are not done there then are not done here either, but keep their checkpoints.

        Raises:
          UserError: the bucket's kind is unknown, or a package is missing.
          OSError: it cannot be read.
        """
        if self.address is None:
            return
        with self._opened() as (system, root):
            places = [path.removeprefix(root).lstrip("/") for path in system.find(root)]
            done = {_cell_of(place) for place in places if _is_record(place)}
            if not names:
                self._forget_others(done, places)
            for place in sorted(places, key=_is_record):
                if _cell_of(place) in (names or {"", *done}):
                    local = self.folder / place
                    local.parent.mkdir(parents=True, exist_ok=True)
                    # Others may read what is there.
                    temporary = f"{local}.{os.getpid()}.tmp"
                    system.get_file(f"{root}/{place}", temporary)
                    os.replace(temporary, local)

    def push(self, *names: str) -> None:
        """Copies cells to the bucket, or without names the files beside them.

        The record that a cell is done goes last.

        Raises:
          UserError, OSError: as `pull`.
        """
        if self.address is None:
            return
        paths = [] if names else list(self.folder.iterdir())
        for name in names:
            paths += (self.folder / name).rglob("*")
        places = [p.relative_to(self.folder) for p in paths if p.is_file()]
        with self._opened() as (system, root):
            for place in sorted(places, key=lambda place: _is_record(str(place))):
                if _PRIVATE.isdisjoint(place.parts) and place.suffix != ".tmp":
                    target = f"{root}/{place.as_posix()}"
                    system.makedirs(target.rpartition("/")[0], exist_ok=True)
                    system.put_file(str(self.folder / place), target)

    def _forget_others(self, done: set[str], places: list[str]) -> None:
        """Removes records, and results beside the cells, that the bucket lacks."""
        for path in self.folder.glob(f"*/{RECORD}"):
            if path.parent.name not in done:
                path.unlink()
        for path in self.folder.glob("results.*"):
            if path.name not in places:
                path.unlink()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """Gives the file system of the bucket, and the path of the folder there."""
        try:
            # Not before: few need it.
            import fsspec

            system, root = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"--output={self.address} needs a package ({error}); for gs:// "
                'pip install -e ".[gcs]".'
            ) from error
        try:
            yield system, root
        # Each kind of bucket has errors of its own.
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
