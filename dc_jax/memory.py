"""What fits into the memory of this machine."""

import os


def check_fits(num_bytes: int, what: str) -> None:
    """Checks that arrays do not take more than all memory, before they are made.

    Args:
      num_bytes: that they take.
      what: they are, a plural.

    Raises:
      ValueError: there is less memory.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > there:
        raise ValueError(
            f"{what} take {num_bytes / 2**30:,.1f} GiB, more than the "
            f"{there / 2**30:.1f} GiB of memory of this machine."
        )
