"""A process that keeps one workload of one system ready, and runs it on request.

  python -m experiments.benchmark.worker dc_jax '{"workload": "outer_step", "ipc": 1}'

It reads requests from its standard input and answers each with a line of JSON:

  prepare  imports the system and makes all that the workload needs: {}
  compile  compiles the workload and runs it, so that it is warm: {}
  run      repeats it for a turn: {"seconds": of one run}
  finish   the facts about all runs

The answer of a request that fails is {"error": why}, and the process ends. While it
waits for a request it does not use the CPU.
"""

import importlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmark.cases import Case
from experiments.benchmark.systems import SYSTEMS

Run = Callable[[], None]
Facts = Callable[[], dict[str, Any]]


class Workload:
    """A workload of a system; its methods are the requests, in their order."""

    def __init__(self, system: str, case: Case):
        self._system, self._case = SYSTEMS[system], case
        self._repeats: int | None = None

    def prepare(self) -> dict[str, Any]:
        module = importlib.import_module(self._system.module)
        self._compile = module.prepare(self._case, **self._system.options)
        return {}

    def compile(self) -> dict[str, Any]:
        self._run, self._facts = self._compile()
        self._run()
        self._peak = _peak_mib()
        _forget_peak()
        return {}

    def run(self) -> dict[str, Any]:
        if self._repeats is None:
            once = _seconds(self._run, 1)
            self._repeats = max(1, math.ceil(self._case.turn_seconds / once))
            if self._repeats == 1:
                return {"seconds": once}
        if self._repeats > 1:
            self._run()  # Warms the caches and wakes the threads again.
        return {"seconds": _seconds(self._run, self._repeats)}

    def finish(self) -> dict[str, Any]:
        running = _peak_mib()
        return {
            "repeats": self._repeats,
            "peak_mib": max(self._peak, running) if running else None,
            "peak_running_mib": running,
            **self._facts(),
        }


def main() -> None:
    system, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    # Everything else that is printed goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if case.cores and hasattr(os, "sched_setaffinity"):  # Not on macOS.
        # This comes before the system starts a thread for each core that it sees.
        cores = sorted(os.sched_getaffinity(0))[: case.cores]
        os.sched_setaffinity(0, cores)
    workload = Workload(system, case)
    requests = {
        method.__name__: method
        for method in (
            workload.prepare,
            workload.compile,
            workload.run,
            workload.finish,
        )
    }
    for request in sys.stdin:
        try:
            reply = requests[request.strip()]()
        except Exception as error:  # Whatever it is, the other systems go on.
            reply = {"error": _one_line(error)}
        print(json.dumps(reply), file=replies)
        if "error" in reply:
            sys.exit(1)


def _one_line(error: Exception) -> str:
    """Returns the kind of an error and the beginning of what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}"


def _seconds(run: Run, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats


def _peak_mib() -> float | None:
    """Returns the largest resident memory so far; None if the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # `getrusage` would start with the memory of the process that started this one.
    kib = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8"))[1]
    return round(int(kib) / 1024, 1)


def _forget_peak() -> None:
    """Sets the peak to the memory that is resident now."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5", "utf-8")


if __name__ == "__main__":
    main()
