"""Times the workloads of several systems in turn, and the start of the program."""

import contextlib
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import logging

from experiments.benchmark.cases import Case

ROOT = Path(__file__).parent.parent.parent
# All systems run on the CPU, and programs are compiled, not read from a cache.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
# In this time the threads of one system fall asleep before the turn of the other.
_PAUSE = 0.25


def measure(
    case: Case, pythons: dict[str, str], *, rounds: int
) -> list[dict[str, Any]]:
    """Times a workload of all systems in turn.

    Args:
      case: the workload.
      pythons: the interpreter of each system.
      rounds: number of turns of each system.

    Returns:
      A record for each system, and one of their ratio if there are two systems.
    """
    fields = dataclasses.asdict(case)
    changed = [f"{k} {v}" for k, v in fields.items() if v != getattr(Case, k)]
    logging.info("Measuring %s: %s.", case.workload, ", ".join(changed) or "as it is")
    with contextlib.ExitStack() as stack:
        # A worker is ready and warm before the next one is started.
        workers = {
            system: stack.enter_context(Worker(system, python, case))
            for system, python in pythons.items()
        }
        seconds: dict[str, list[float]] = {system: [] for system in workers}
        for index in range(rounds):
            # Each system goes first in half the rounds.
            for system in list(workers)[:: -1 if index % 2 else 1]:
                time.sleep(_PAUSE)
                seconds[system].append(workers[system].ask("run")["seconds"])
        records = [
            {
                "measurement": "workload",
                "system": system,
                **fields,
                **summarise(seconds[system]),
                **worker.ask("finish"),
            }
            for system, worker in workers.items()
        ]
    if len(records) == 2:
        records.append({"measurement": "ratio", **fields, **compare(seconds)})
    return records


def summarise(seconds: list[float]) -> dict[str, Any]:
    """Returns the times with their median and their range."""
    return {
        "seconds": seconds,
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }


def compare(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Returns by which factor PyTorch takes longer."""
    ours, torch = seconds["dc_jax"], seconds["pytorch"]
    ratios = [theirs / own for own, theirs in zip(ours, torch, strict=True)]
    return {
        "ratios": ratios,
        "median_of_ratios": statistics.median(ratios),
        "ratio_of_medians": statistics.median(torch) / statistics.median(ours),
    }


class Worker:
    """The parent's side of a process of `worker`; ready when it is entered."""

    def __init__(self, system: str, python: str, case: Case):
        self._name = f"{system} {case.workload}"
        arguments = [system, json.dumps(dataclasses.asdict(case))]
        self._process = subprocess.Popen(
            [python, "-m", "experiments.benchmark.worker", *arguments],
            cwd=ROOT,
            env=os.environ | _ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> "Worker":
        self._answer()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()  # This ends the process when it is idle.
        if error[0] is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, request: str) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        self._process.stdin.write(request + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"The process of {self._name} ended with {code}.")
        return json.loads(line)


def measure_startup(*, rounds: int) -> list[dict[str, Any]]:
    """Times the program from its start to its help and to its first iteration."""
    logging.info("Measuring the start of the program.")
    first = "first iteration of the digits"
    with tempfile.TemporaryDirectory() as cache:
        _seconds_to_first_iteration(cache)
        return [
            {
                "measurement": "startup",
                "what": what,
                **summarise([function() for _ in range(rounds)]),
            }
            for what, function in (
                ("help", _seconds_to_help),
                (f"{first}, nothing compiled", _seconds_to_first_iteration),
                (
                    f"{first}, compilation cached",
                    functools.partial(_seconds_to_first_iteration, cache),
                ),
            )
        ]


def _seconds_to_help() -> float:
    began = time.perf_counter()
    with _start_program("--help") as process:
        process.wait()
    return time.perf_counter() - began


def _seconds_to_first_iteration(cache: str | None = None) -> float:
    """Returns the time to the first line of `metrics.jsonl`.

    Args:
      cache: folder of compiled programs; None compiles all.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config=configs/digits.py", f"--workdir={folder}/run"]
        arguments += [f"--config.execution.compilation_cache={cache or folder}"]
        metrics = Path(folder) / "run" / "metrics.jsonl"
        began = time.perf_counter()
        with _start_program(*arguments) as run:
            while not (metrics.exists() and metrics.stat().st_size):
                if run.poll() is not None:
                    raise RuntimeError(f"dc_jax.main ended with {run.returncode}.")
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            run.kill()
    return seconds


def _start_program(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dc_jax.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
