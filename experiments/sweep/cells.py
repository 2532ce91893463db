"""A cell of a table: a run of a command, and its result once it is done."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dc_jax.errors import UserError

ROOT = Path(__file__).parent.parent.parent
# In the folder of a cell: what was run, and that it is done.
RECORD = "cell.json"
MAIN = "dc_jax.main"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a command, in a folder of its own below that of the sweep.

    Attributes:
      labels: what the row of the results says it is, such as dataset, method and ipc;
        their values name the folder and are unique.
      config: file, relative to the root of the repository.
      changes: other values of some fields of the config, by their dotted names.
      evaluates: the cells whose sets are evaluated, or used; none where this one makes
        its own.
      module: the command. One that is not the main one takes `--config`, `--workdir`
        and `--set`, writes `result.json`, and has `check(values, folder)` and
        `run(values, folder, *sets)`.
    """

    labels: dict[str, Any]
    config: str
    changes: dict[str, Any]
    evaluates: tuple["Cell", ...] = ()
    module: str = MAIN

    @property
    def name(self) -> str:
        """The folder's."""
        text = "-".join(str(value) for value in self.labels.values())
        return text.replace(" ", "_")

    def command(self, folder: Path) -> list[str]:
        """Returns the command line, for the root of the repository."""
        arguments = [f"--config={self.config}"]
        arguments += [f"--config.{name}={v}" for name, v in self.changes.items()]
        if self.evaluates:
            mode = ["--mode=evaluate"] if self._is_evaluation else []
            sets = ",".join(str(folder / cell.name) for cell in self.evaluates)
            arguments += [*mode, f"--set={sets}"]
        workdir = f"--workdir={folder / self.name}"
        return [sys.executable, "-m", self.module, *arguments, workdir]

    def values(self) -> dict[str, Any]:
        """Returns all values of the config.

        Raises:
          UserError: there is no such config.
          KeyError: there is no such field.
        """
        if not (ROOT / self.config).is_file():
            names = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
            raise UserError(
                f"there is no {self.config}; configs/ has {', '.join(names)}."
            )
        spec = importlib.util.spec_from_file_location("config", ROOT / self.config)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config().lock()
        config.update_from_flattened_dict(self.changes)
        return config.to_dict()

    def read_result(self, folder: Path) -> dict[str, Any] | None:
        """Returns the result of just this run, or None while it is not done.

        Raises:
          UserError: the record of it is damaged.
        """
        path = folder / self.name / RECORD
        if not path.exists():
            return None
        record = _read(path, delete=path)
        if "values" not in record or not _is_result(record.get("result")):
            raise UserError(f"{path} is damaged (it has no result): delete {path}.")
        return record["result"] if record["values"] == self._inputs() else None

    def finish(self, folder: Path) -> dict[str, Any]:
        """Records that the run is done, and returns its result.

        Raises:
          UserError: the result is missing or damaged.
        """
        own = folder / self.name
        if self._is_evaluation:
            result = _read(own / "evaluations.jsonl", line=-1, delete=own)
        else:
            result = _read(own / "result.json", delete=own)
        if not _is_result(result):
            raise UserError(f"{own} has no accuracies in its result: delete {own}.")
        record = {"values": self._inputs(), "result": result}
        temporary = own / f"{RECORD}.tmp"
        temporary.write_text(json.dumps(record), "utf-8")
        temporary.replace(own / RECORD)
        return result

    @property
    def _is_evaluation(self) -> bool:
        return bool(self.evaluates) and self.module == MAIN

    def _inputs(self) -> dict[str, Any]:
        """All that the result follows from, but the code, as JSON has it."""
        inputs = {"config": self.values()}
        if self.evaluates:
            inputs["sets"] = [cell.values() for cell in self.evaluates]
        return json.loads(json.dumps(inputs))


def _read(path: Path, *, delete: Path, line: int | None = None) -> dict[str, Any]:
    """Returns the value in a file, or in a line of it.

    Raises:
      UserError: it is missing or damaged; says what to delete.
    """
    try:
        text = path.read_text("utf-8")
        value = json.loads(text if line is None else text.splitlines()[line])
        if not isinstance(value, dict):
            raise UserError("it is no dict")
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}): delete {delete}."
        ) from error
    return value


def _is_result(value: Any) -> bool:
    """Whether it has what `results.py` tells of every cell."""
    has = isinstance(value, dict) and "seconds" in value
    return has and ("accuracies" in value or "networks" in value)


def flatten(values: dict[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested groups by their dotted names, but None."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value
    return flat
