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


def machine() -> dict[str, Any]:
    """Returns the processor, the memory, the load and the versions of packages."""
    cpu = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        model = re.search(r"model name\s*: (.*)", path.read_text("utf-8"))
        cpu = model[1] if model else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
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
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
