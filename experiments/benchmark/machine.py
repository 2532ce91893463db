"""Describes the machine and the software that a benchmark depends on."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from experiments.benchmark.measure import ROOT

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def machine(device: str) -> dict[str, Any]:
    """Returns the processor, the memory, the load and the versions of packages.

    Args:
      device: `cpu` or `gpu`, which adds the card.
    """
    cpu = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        model = re.search(r"model name\s*: (.*)", path.read_text("utf-8"))
        cpu = model[1] if model else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": _gpu() if device == "gpu" else None,
        "memory_gib": round(memory / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "versions": {
            "commit": _commit(),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }


def _commit() -> str:
    """Returns the commit that is measured, with `-dirty` if files differ from it."""
    return _output("git", "describe", "--always", "--dirty")


def _gpu() -> str:
    """Returns name, memory, driver and power limit of the first card."""
    fields = "name,memory.total,driver_version,power.limit"
    command = ("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    return _output(*command).splitlines()[0]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
