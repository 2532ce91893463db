"""A process that holds one workload of one system ready, and runs it when asked.

  python -m experiments.benchmark.worker dc_jax '{"workload": "outer_step", "ipc": 1}'

Lines of JSON on its standard output: `{}` once it is ready and warm, then an answer to
every line of its standard input, where it waits without using the CPU: to `run` the
seconds of one run, to `finish` what there is to say of all of them.
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

# Modules with `prepare(case) -> (run, facts)`: what to time, and what else to report,
# which is asked for at the end.
SYSTEMS = {
    "dc_jax": "experiments.benchmark.workloads",
    "pytorch": "experiments.benchmark.torch_baseline",
}


def main() -> None:
    system, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    # Whatever else is printed goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if case.cores:
        # Before the system starts its threads, one for each core that it sees.
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
                run()  # Others had the caches, and its threads slept.
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
    """The largest resident memory so far; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # Not `getrusage`, which begins with the memory of the process that started this.
    kib = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8"))[1]
    return round(int(kib) / 1024, 1)


def _forget_peak() -> None:
    """Makes the peak begin again from what is resident now."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5", "utf-8")


if __name__ == "__main__":
    main()
