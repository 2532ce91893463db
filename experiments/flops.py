"""Counts the floating point operations of a function: its products and convolutions."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Returns the operations of the matrix products and convolutions of a call.

    A multiplication and an addition are two. The products with the zeros of padding
    and dilation count. All else (norms, activations, sampling) does not: it is bound
    by memory. Of branches the costliest counts; a loop whose length is not known
    before it runs counts as one pass.

    Args:
      function: traceable, or jitted; is not run.
      *args: of the function.
    """
    # A jitted function with compiler options cannot be traced as part of another.
    if not isinstance(function, jax.stages.Wrapped):
        function = jax.jit(function)
    return _count(function.trace(*args).jaxpr.jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        terms = math.prod(shape[axis] for axis in contracted)
        return 2 * terms * equation.outvars[0].aval.size
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * (kernel.size // outputs) * equation.outvars[0].aval.size
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    if name == "shard_map":  # Its body has the shapes of one device's part.
        return params["mesh"].size * sum(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)
