"""Times the workloads of several systems in turn."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging

from experiments.benchmark.cases import Case
from experiments.benchmark.systems import DEVICES, SYSTEMS

ROOT = Path(__file__).parent.parent.parent
# All ratios are to the time of this system.
STANDARD = "dc_jax"


def environment(device: str) -> dict[str, str]:
    """Returns the variables of processes that run on a kind of device."""
    variables = dict(os.environ)
    # Both systems shall use the default: TF32 on GPUs that have it.
    variables.pop("JAX_DEFAULT_MATMUL_PRECISION", None)
    # Programs are compiled, not read from a cache.
    variables["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    variables["JAX_PLATFORMS"] = "cpu"
    if device == "gpu":
        variables["JAX_PLATFORMS"] = ""  # JAX chooses.
        # One card, whose memory is shared by the processes of all systems.
        cards = variables.get("CUDA_VISIBLE_DEVICES", "0")
        variables["CUDA_VISIBLE_DEVICES"] = cards.split(",")[0]
        variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return variables


def measure(
    cases: Mapping[Case, Sequence[str]],
    pythons: Mapping[str, str],
    *,
    rounds: int,
    jobs: int = 1,
    end: float = float("inf"),
) -> Iterator[dict[str, Any]]:
    """Times workloads, each with its systems in turn.

    Nothing is timed before all is compiled: compilers for a GPU try on it what is
    fastest, which disturbs whatever runs there.

    Args:
      cases: the workloads, with the names of their systems.
      pythons: the interpreter of each module of `SYSTEMS`.
      rounds: number of turns of each system.
      jobs: number of programs that are compiled at the same time.
      end: when all must be done, by `time.monotonic`.

    Yields:
      A record for each case and system, and one of each ratio to `STANDARD`.
    """
    with contextlib.ExitStack() as stack:
        workers = {
            case: [
                stack.enter_context(
                    Worker(system, pythons[SYSTEMS[system].module], case, end)
                )
                for system in systems
            ]
            for case, systems in cases.items()
        }
        everyone = [worker for group in workers.values() for worker in group]
        for request, at_once in (("prepare", os.cpu_count()), ("compile", jobs)):
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(Worker.ask, everyone, [request] * len(everyone)))
        for case, group in workers.items():
            yield from _in_turn(case, group, rounds)


def _in_turn(case: Case, workers: list["Worker"], rounds: int) -> Iterator[dict]:
    """Yields the records of a case, and ends its workers."""
    logging.info("Measuring %s.", case)
    seconds: dict[str, list[float]] = {worker.system: [] for worker in workers}
    for index in range(rounds):
        # Each system is among the first in half the rounds.
        for worker in workers[:: -1 if index % 2 else 1]:
            time.sleep(DEVICES[case.device].pause)
            seconds[worker.system] += worker.ask("run").values()
    fields = dataclasses.asdict(case)
    done = []
    for worker in workers:
        facts, record = worker.ask("finish"), {"system": worker.system, **fields}
        worker.end()
        if worker.error:
            logging.warning("%s failed: %s", worker.system, worker.error)
            yield {"measurement": "failed", **record, "error": worker.error}
            continue
        done.append(worker.system)
        times = summarise(seconds[worker.system])
        yield {"measurement": "workload", **record, **times, **facts}
    for system in done:
        if system != STANDARD and STANDARD in done:
            ratio = compare(seconds[STANDARD], seconds[system])
            yield {"measurement": "ratio", "system": system, **fields, **ratio}


def summarise(seconds: list[float]) -> dict[str, Any]:
    """Returns the times with their median and their range."""
    return {
        "seconds": seconds,
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Returns by which factor another system takes longer than ours."""
    ratios = [their / own for own, their in zip(ours, theirs, strict=True)]
    return {
        "ratios": ratios,
        "median_of_ratios": statistics.median(ratios),
        "ratio_of_medians": statistics.median(theirs) / statistics.median(ours),
    }


class Worker:
    """The parent's side of a process of `worker`.

    Attributes:
      system: its name.
      error: why it failed, or None. A worker that has failed answers nothing.
    """

    def __init__(self, system: str, python: str, case: Case, end: float):
        self.system = system
        self.error: str | None = None
        self._end, self._patience = end, DEVICES[case.device].patience
        arguments = [system, json.dumps(dataclasses.asdict(case))]
        self._process = subprocess.Popen(
            [python, "-m", "experiments.benchmark.worker", *arguments],
            cwd=ROOT,
            env=environment(case.device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        self.end()

    def ask(self, request: str) -> dict[str, Any]:
        """Sends a request and returns the answer, {} from a worker that has failed."""
        if self.error:
            return {}
        left = max(0, self._end - time.monotonic())
        limit = min(left, self._patience, threading.TIMEOUT_MAX)
        timer = threading.Timer(limit, self._give_up, [request, limit])
        timer.start()
        with contextlib.suppress(BrokenPipeError):  # Then there is no answer either.
            self._process.stdin.write(request + "\n")
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            code = self._process.wait()
            self.error = self.error or f"The process ended with {code}."
            return {}
        answer = json.loads(line)
        self.error = answer.get("error")
        return {} if self.error else answer

    def end(self) -> None:
        """Ends the process, which is idle, and frees its memory."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _give_up(self, request: str, limit: float) -> None:
        self.error = f"No answer to {request} within {limit:.0f} s."
        self._process.kill()
