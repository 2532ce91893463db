"""Published peaks of TPU chips.

Peak and bandwidth are from Google's pages, read in 2026:

  v4   https://cloud.google.com/tpu/docs/v4
  v5e  https://cloud.google.com/tpu/docs/v5e
  v5p  https://cloud.google.com/tpu/docs/v5p
  v6e  https://cloud.google.com/tpu/docs/v6e
"""

import re
from typing import NamedTuple

from dc_jax.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
    """One chip.

    Attributes:
      flops: peak operations per second in bfloat16.
      bandwidth: of its memory, in bytes per second.
      hbm_bytes: memory that the compiler leaves to a program, as libtpu 0.0.42 says
        when it runs out; 32, 16, 95 and 32 GB are published.
      chip_config: setting of libtpu under which a chip is one device, as it is for JAX
        on a TPU; None for the default.
    """

    flops: float
    bandwidth: float
    hbm_bytes: int
    chip_config: str | None = None


CHIPS = {
    "v4": Chip(275e12, 1200e9, int(30.75 * GIB), "megacore"),
    "v5e": Chip(197e12, 819e9, int(15.75 * GIB)),
    "v5p": Chip(459e12, 2765e9, int(95.74 * GIB)),
    "v6e": Chip(918e12, 1638e9, int(31.25 * GIB)),
}


def parse_topology(topology: str) -> Chip:
    """Returns the chip of a topology such as `v5e:2x4`.

    Raises:
      UserError: this is no topology of a known chip.
    """
    match = re.fullmatch(r"(\w+):\d+(x\d+)+", topology)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"--topology must be a chip ({', '.join(CHIPS)}) and its grid, such as "
            f"v5e:2x4 or v4:2x2x2, got {topology!r}."
        )
    return CHIPS[match[1]]
