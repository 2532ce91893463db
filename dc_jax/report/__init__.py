"""The report of a run, `report.html` in its folder, made of the files there.

One page that needs nothing else: no network, no other files. Every part of it is there
if the files it is of are. `python -m dc_jax.report --workdir=runs/digits` makes it
again.
"""

from dc_jax.report.page import finish, make, write, write_if_missing, write_if_possible

__all__ = ["finish", "make", "write", "write_if_missing", "write_if_possible"]
