"""How often the loops and branches of a step run, where a program does not say so.

Gradient matching trains its networks before all of the T outer steps but the first. A
program says so in one of two ways: by a loop over a number of epochs that is sometimes
0, or by a condition around a loop of constant length.
"""

from typing import NamedTuple

from dc_jax.config import Config


class Loops(NamedTuple):
    """What is known of the loops and conditions of a program.

    Attributes:
      trips: how often the body of a loop of unknown length runs, if it runs at all;
        None if there is no such loop.
      share: how often, of 1, it does; or a condition takes the branch with the work.
    """

    trips: float | None = None
    share: float = 1.0

    @property
    def mean_trips(self) -> float | None:
        """How often the body of a loop of unknown length runs on average."""
        return None if self.trips is None else self.trips * self.share

    def inside_a_condition(self) -> "Loops":
        """What is known inside the branch that `share` already counts."""
        return self._replace(share=1.0)


def loops_of(config: Config) -> Loops:
    """Returns the loops of an iteration of a run."""
    outer_loop, inner_loop = config.loops()
    if config.pool.size:  # Its networks are trained after the last outer step, too.
        return Loops(trips=inner_loop)
    return Loops(trips=inner_loop, share=(outer_loop - 1) / outer_loop)
