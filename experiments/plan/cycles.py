"""Sums the cycles that the compiler of TPUs expects of its own program.

It notes `estimated_cycles` at most operations, by its model of the chip: how long
each takes alone, with the traffic between memories that it cannot hide.
"""

import re
from typing import NamedTuple

from experiments.plan import hlo
from experiments.plan.loops import Loops


class Cycles(NamedTuple):
    """The cycles of one call of a program.

    Attributes:
      total: the sum of all that the compiler notes.
      missing: operations without a note, as often as they run. The largest are
        exchanges between chips and copies between memories that run beside others.
    """

    total: float
    missing: float


def count(program: hlo.Program, loops: Loops) -> Cycles:
    """Returns the cycles of a program that was compiled for a TPU."""
    total = missing = 0.0
    for operation, _, times in hlo.walk(program, loops):
        noted = re.search(r'estimated_cycles":"(\d+)"', operation.rest)
        if noted:
            total += times * int(noted[1])
        elif not operation.is_free:
            missing += times
    return Cycles(total, missing)
