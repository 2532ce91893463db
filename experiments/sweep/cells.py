"""A cell of a table: one run of a command, and its result once it is done."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dc_jax.errors import UserError, one_line
from dc_jax.files.content import read_json, write_json

ROOT = Path(__file__).parent.parent.parent
# The file in the folder of a cell that says what was run, and that it is done.
RECORD = "cell.json"
MAIN = "dc_jax.main"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a command, in its own folder below the folder of the sweep.

    Attributes:
      labels: what the row of the results says of the cell, such as dataset, method and
        ipc. The values of the labels name the folder, so they are unique.
      config: file, relative to the root of the repository.
      changes: other values of some fields of the config, by their dotted names.
      evaluates: the cells whose sets this one evaluates or uses; none if it makes its
        own.
      module: the command. A command other than the main one takes `--config`,
        `--workdir` and `--set`, writes `result.json`, and has `check(values, folder)`
        and `run(values, folder, *sets)`.
    """

    labels: dict[str, Any]
    config: str
    changes: dict[str, Any]
    evaluates: tuple["Cell", ...] = ()
    module: str = MAIN

    @property
    def name(self) -> str:
        """Name of the folder."""
        text = "-".join(str(value) for value in self.labels.values())
        return text.replace(" ", "_")

    def command(self, folder: Path) -> list[str]:
        """Returns the command line, to be run in the root of the repository."""
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
          UserError: there is no such config, or no such field.
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
        try:
            config.update_from_flattened_dict(self.changes)
        except KeyError as error:
            raise UserError(f"{self.config}: {one_line(error)}") from error
        return config.to_dict()

    def read_result(self, folder: Path) -> dict[str, Any] | None:
        """Returns the result of exactly this run, or None while it is not done.

        Raises:
          UserError: the record is damaged.
        """
        path = folder / self.name / RECORD
        record = read_json(path)
        if record is None:
            return None
        if "values" not in record or not _is_result(record.get("result")):
            raise UserError(f"{path} is damaged (it has no result): delete {path}.")
        return record["result"] if record["values"] == self._inputs() else None

    def finish(self, folder: Path) -> None:
        """Records that the run is done.

        Raises:
          UserError: the result is missing or damaged.
        """
        own = folder / self.name
        if self._is_evaluation:
            result = _read_last_line(own / "evaluations.jsonl")
        else:
            result = read_json(own / "result.json")
        if not _is_result(result):
            raise UserError(
                f"the result in {own} is missing or has no accuracies: delete {own}."
            )
        write_json(own / RECORD, {"values": self._inputs(), "result": result})

    @property
    def _is_evaluation(self) -> bool:
        return bool(self.evaluates) and self.module == MAIN

    def _inputs(self) -> dict[str, Any]:
        """Returns all that the result follows from, except the code, as JSON has it."""
        inputs = {"config": self.values()}
        if self.evaluates:
            inputs["sets"] = [cell.values() for cell in self.evaluates]
        return json.loads(json.dumps(inputs))


def _read_last_line(path: Path) -> Any:
    """Returns the value in the last line of a file; None if there is none."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return None


def _is_result(value: Any) -> bool:
    """Whether a value has what `results.py` reads of every cell."""
    has = isinstance(value, dict) and "seconds" in value
    return has and ("accuracies" in value or "networks" in value)


def flatten(values: dict[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested groups that are not None, by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value
    return flat
