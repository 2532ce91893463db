"""Counts the matrix products and convolutions of a traced program.

XLA's own `cost_analysis` counts the body of a loop once, but almost all the work of a
step is inside loops. So this module walks the jaxpr and multiplies by the trip counts.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval

from dc_jax.errors import UserError
from experiments.plan.loops import Loops


class Cost(NamedTuple):
    """Work of one device.

    Attributes:
      flops: floating-point operations of matrix products and convolutions; a
        multiplication and an addition are two.
      bytes: of the operands and results of these, each read or written once per use.
        Everything between them counts as fused into them.
    """

    flops: float
    bytes: float

    def plus(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, number: float) -> "Cost":
        return Cost(self.flops * number, self.bytes * number)


_NOTHING = Cost(0, 0)


def count(
    program: ClosedJaxpr, *, while_trips: float | None = None, share: float = 1.0
) -> Cost:
    """Returns the work of a program on one device.

    Operations that no result needs do not count, because XLA removes them. The body of
    a `scan` counts once per step. The body of a `shard_map` has the shapes of one
    device's part and counts once; what is outside it counts as if every device did all
    of it.

    Args:
      program: what `jax.make_jaxpr` returns.
      while_trips: how often the body of a `while` runs, if it runs at all; None if no
        `while` holds a matrix product or convolution.
      share: how often, of 1, it does; or how often a `cond` takes its branch with the
        most operations, which holds the `while` then.

    Raises:
      UserError: a `while` holds one, but `while_trips` is None.
    """
    jaxpr = program.jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(needed, Loops(while_trips, share))


def _count(jaxpr: ClosedJaxpr | Jaxpr, loops: Loops) -> Cost:
    total = _NOTHING
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total = total.plus(_count_equation(equation, loops))
    return total


def _count_equation(equation: Any, loops: Loops) -> Cost:
    name = equation.primitive.name
    if name in _FLOPS:
        operands = [*equation.invars, *equation.outvars]
        moved = sum(v.aval.size * v.aval.dtype.itemsize for v in operands)
        return Cost(_FLOPS[name](equation), moved)
    is_cond = name == "cond"
    inside = loops.inside_a_condition() if is_cond else loops
    inner = [_count(jaxpr, inside) for jaxpr in _jaxprs(equation.params)]
    if is_cond:
        *others, most = sorted(inner)
        rest = _sum(others).times((1 - loops.share) / max(len(others), 1))
        return most.times(loops.share).plus(rest)
    total = _sum(inner)
    if name == "scan":
        return total.times(equation.params["length"])
    if name == "while" and total.flops:
        if loops.mean_trips is None:
            raise UserError("a while loop of unknown length has matrix products.")
        return total.times(loops.mean_trips)
    return total


def _sum(costs: list[Cost]) -> Cost:
    return functools.reduce(Cost.plus, costs, _NOTHING)


def _jaxprs(params: dict[str, Any]) -> list[ClosedJaxpr | Jaxpr]:
    """Returns the programs among the parameters of an equation."""
    found = []
    for value in params.values():
        values = value if isinstance(value, tuple | list) else [value]
        found += [v for v in values if isinstance(v, ClosedJaxpr | Jaxpr)]
    return found


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    terms = math.prod(lhs[axis] for axis in contracted)
    return 2 * equation.outvars[0].aval.size * terms


def _conv_flops(equation: Any) -> int:
    """Counts no products with padding or with the holes of a dilated operand."""
    params = equation.params
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    lhs, rhs = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    pairs = 1
    for axis, (low, _) in enumerate(params["padding"]):
        pairs *= _num_pairs(
            image=lhs[lhs_spec[2 + axis]],
            kernel=rhs[rhs_spec[2 + axis]],
            output=out[out_spec[2 + axis]],
            low=low,
            stride=params["window_strides"][axis],
            image_dilation=params["lhs_dilation"][axis],
            kernel_dilation=params["rhs_dilation"][axis],
        )
    # The kernel's input features are those of one group.
    return 2 * out[out_spec[0]] * out[out_spec[1]] * rhs[rhs_spec[1]] * pairs


def _num_pairs(
    *,
    image: int,
    kernel: int,
    output: int,
    low: int,
    stride: int,
    image_dilation: int,
    kernel_dilation: int,
) -> int:
    """Returns the number of pairs of an output and a kernel entry that meet a pixel.

    Args:
      image: pixels.
      kernel: entries.
      output: pixels.
      low: zeros before the first pixel.
      stride: between outputs.
      image_dilation: distance between pixels.
      kernel_dilation: distance between kernel entries.
    """
    starts = stride * np.arange(output)[:, None] - low
    places = starts + kernel_dilation * np.arange(kernel)
    inside = (places >= 0) & (places <= (image - 1) * image_dilation)
    return int(np.sum(inside & (places % image_dilation == 0)))


_FLOPS = {"dot_general": _dot_flops, "conv_general_dilated": _conv_flops}
