"""The report of a run: `report.html`, made from the files in the run's folder.

The page needs no network and no other files. It has a section for everything that the
folder holds. `python -m dc_jax.report --workdir=runs/digits` makes it again.
"""

from dc_jax.report.comparison import NAME as COMPARISON
from dc_jax.report.comparison import write as write_comparison
from dc_jax.report.kept import NEIGHBOURS
from dc_jax.report.page import (
    is_ours,
    keep_confusion,
    keep_neighbours,
    refresh,
    write,
    write_if_possible,
)

__all__ = [
    "COMPARISON",
    "NEIGHBOURS",
    "is_ours",
    "keep_confusion",
    "keep_neighbours",
    "refresh",
    "write",
    "write_comparison",
    "write_if_possible",
]
