"""Times the start of the program."""

import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import logging

from experiments.benchmark.measure import ROOT, environment, summarise


def measure_startup(device: str, *, rounds: int) -> list[dict[str, Any]]:
    """Times the program from its start to its help and to its first iteration."""
    logging.info("Measuring the start of the program.")
    first = "first iteration of the digits"
    with tempfile.TemporaryDirectory() as cache:
        _seconds_to_first_iteration(device, cache)
        return [
            {
                "measurement": "startup",
                "what": what,
                **summarise([function(device) for _ in range(rounds)]),
            }
            for what, function in (
                ("help", _seconds_to_help),
                (f"{first}, nothing compiled", _seconds_to_first_iteration),
                (
                    f"{first}, compilation cached",
                    functools.partial(_seconds_to_first_iteration, cache=cache),
                ),
            )
        ]


def _seconds_to_help(device: str) -> float:
    began = time.perf_counter()
    with _start_program(device, "--help") as process:
        process.wait()
    return time.perf_counter() - began


def _seconds_to_first_iteration(device: str, cache: str | None = None) -> float:
    """Returns the time to the first line of `metrics.jsonl`.

    Args:
      device: `cpu` or `gpu`.
      cache: folder of compiled programs; None compiles all.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config=configs/digits.py", f"--workdir={folder}/run"]
        arguments += [f"--config.execution.compilation_cache={cache or folder}"]
        metrics = Path(folder) / "run" / "metrics.jsonl"
        began = time.perf_counter()
        with _start_program(device, *arguments) as run:
            while not (metrics.exists() and metrics.stat().st_size):
                if run.poll() is not None:
                    raise RuntimeError(f"dc_jax.main ended with {run.returncode}.")
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            run.kill()
    return seconds


def _start_program(device: str, *arguments: str) -> subprocess.Popen:
    variables = environment(device)
    # Here the cache is what is measured.
    del variables["JAX_ENABLE_COMPILATION_CACHE"]
    return subprocess.Popen(
        [sys.executable, "-m", "dc_jax.main", *arguments],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
