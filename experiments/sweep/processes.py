"""Cells as processes of this machine, one after another."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from experiments.sweep.cells import ROOT, Cell
from experiments.sweep.mirror import Mirror


def run_here(cells: list[Cell], output: Mirror) -> Iterator[tuple[Cell, str | None]]:
    """Runs cells; yields each with what went wrong, or None."""
    folder = output.folder
    for cell in cells:
        missing = [c.name for c in cell.evaluates if c.read_result(folder) is None]
        if missing:
            yield cell, f"there is no set of {', '.join(missing)}."
            continue
        log = folder / cell.name / "log.txt"
        logging.info("%s: see %s", cell.name, log)
        code = _call(cell.command(folder), log)
        if code in (-signal.SIGINT, 128 + signal.SIGINT):
            raise KeyboardInterrupt
        if code == 0:
            cell.finish(folder)
        output.push(cell.name)  # Also the log of a cell that failed.
        yield cell, _last_line(log) if code else None


def _call(command: list[str], log: Path) -> int:
    """Runs a command, which ends with this process; returns its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            process.terminate()  # It saves its state.
            process.wait()


def _stop(*_: Any) -> None:
    logging.info("Stopped by SIGTERM. The same command continues.")
    sys.exit(128 + signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8").strip().splitlines()
    return lines[-1] if lines else "it ended without a message"
