"""The report of a run: `report.html`, made from the files in the run's folder.

The page needs no network and no other files. It has a section for everything that the
folder holds. `python -m dc_jax.report --workdir=runs/digits` makes it again.
"""

import importlib
from typing import Any

# Public name -> its module, and its name there. Imported on first use, so that the
# command can be stopped with a line while it waits for JAX.
_EXPORTS = {
    "COMPARISON": ("comparison", "NAME"),
    "NEIGHBOURS": ("kept", "NEIGHBOURS"),
    "is_ours": ("page", "is_ours"),
    "keep_confusion": ("page", "keep_confusion"),
    "keep_neighbours": ("page", "keep_neighbours"),
    "refresh": ("page", "refresh"),
    "write": ("page", "write"),
    "write_comparison": ("comparison", "write"),
    "write_if_possible": ("page", "write_if_possible"),
}


def __getattr__(name: str) -> Any:
    """Imports the module behind a public name when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dc_jax.report' has no attribute '{name}'")
    module, attribute = _EXPORTS[name]
    return getattr(importlib.import_module(f"dc_jax.report.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
