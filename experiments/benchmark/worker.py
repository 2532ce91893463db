"""A process that keeps one workload of one system ready, and runs it on request.

  python -m experiments.benchmark.worker dc_jax '{"workload": "outer_step", "ipc": 1}'

It writes lines of JSON to its standard output: `{}` when it is ready and warm, then an
answer to every line of its standard input. The answer to `run` is the seconds of one
run, the answer to `finish` are the facts about all runs. While it waits for a line it
does not use the CPU.
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

from experiments.benchmark.cases import Case

# Modules with `prepare(case) -> (run, facts)`: the function to time, and one that
# returns what else to report, which is called at the end.
SYSTEMS = {
    "dc_jax": "experiments.benchmark.workloads",
    "pytorch": "experiments.benchmark.torch_baseline",
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
    run, facts = importlib.import_module(SYSTEMS[system]).prepare(case)
    run()
    repeats = max(1, math.ceil(case.turn_seconds / _seconds(run, 1)))
    peak = _peak_mib()
    _forget_peak()
    print("{}", file=replies)
    for request in sys.stdin:
        if request.strip() == "run":
            if repeats > 1:
                run()  # Warms the caches and wakes the threads again.
            reply = {"seconds": _seconds(run, repeats)}
        else:
            running = _peak_mib()
            reply = {
                "repeats": repeats,
                "peak_mib": max(peak, running) if peak else None,
                "peak_running_mib": running,
                **facts(),
            }
        print(json.dumps(reply), file=replies)


def _seconds(run: Callable[[], None], repeats: int) -> float:
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
