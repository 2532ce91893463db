"""The folder of a sweep, which may be a copy of one in a bucket.

Cells run in a folder of the machine, as they write checkpoints, locks and memory-mapped
files; what others need of them, all but these, is copied to the bucket and back.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from dc_jax.text import is_address

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
        """Copies cells from the bucket, or all that there are.

        Raises:
          ValueError: the bucket cannot be read.
        """
        if self.address is None:
            return
        system, root = self._system()
        for name in names or [""]:
            for path in system.find(f"{root}/{name}".rstrip("/")):
                local = self.folder / path.removeprefix(root).lstrip("/")
                local.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(path, str(local))

    def push(self, *names: str) -> None:
        """Copies cells to the bucket, or the files beside them.

        Raises:
          ValueError: the bucket cannot be written.
        """
        if self.address is None:
            return
        system, root = self._system()
        paths = list(self.folder.iterdir()) if not names else []
        for name in names:
            paths += (self.folder / name).rglob("*")
        for path in paths:
            place = path.relative_to(self.folder)
            if path.is_file() and _PRIVATE.isdisjoint(place.parts):
                target = f"{root}/{place.as_posix()}"
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
                system.put_file(str(path), target)

    def _system(self) -> tuple[Any, str]:
        """Returns the file system of the bucket, and the path of the folder there."""
        # Not before: few need it.
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"--output={self.address} needs a package: {error}"
            ) from error
