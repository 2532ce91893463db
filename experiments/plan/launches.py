"""Estimates the time of a program on a GPU, launch by launch.

A GPU runs one operation of a compiled program after another: a fusion, a copy, a call
of cuDNN. Each takes the longest of three times: that of a launch, that of moving its
operands and results through memory, and that of its products at a rate that good ones
reach. What stays in the chip's caches counts as moved.
"""

import math
import re
from typing import NamedTuple

from experiments.plan import hlo
from experiments.plan.loops import Loops
from experiments.plan.target import Launch

_SLICES = ("dynamic-slice", "gather", "slice")


class Launches(NamedTuple):
    """What one call of a program launches.

    Attributes:
      number: of launches.
      bytes: that they read and write.
      flops: operations of matrix products and convolutions.
      seconds: that they take.
    """

    number: float
    bytes: float
    flops: float
    seconds: float


def count(program: hlo.Program, loops: Loops, launch: Launch) -> Launches:
    """Returns the launches of a program that was compiled for a GPU."""
    number = moved = flops = seconds = 0.0
    for run in hlo.walk(program, loops):
        if run.operation.is_free:
            continue
        one_moved = _count_bytes(program, run.operation, run.computation)
        one_flops = _count_flops(program, run.operation, run.computation)
        number += run.times
        moved += run.times * one_moved
        flops += run.times * one_flops
        seconds += run.times * max(
            launch.seconds, one_moved / launch.bandwidth, one_flops / launch.flops
        )
    return Launches(number, moved, flops, seconds)


def _count_bytes(
    program: hlo.Program, operation: hlo.Operation, computation: hlo.Computation
) -> int:
    """Returns the bytes that an operation reads and writes."""
    results = [computation[name].result for name in operation.operands]
    sizes = [hlo.num_bytes(result) for result in results]
    written = hlo.num_bytes(operation.result)
    if operation.kind in _SLICES:
        return 2 * written
    for called in operation.calls("calls"):
        inside = program.computations[called]
        sizes = [min(pair) for pair in zip(sizes, _read(inside), strict=True)]
        written -= _untouched(inside)
    return sum(sizes) + written


def _read(inside: hlo.Computation) -> list[float]:
    """Returns the most bytes that a fusion reads of each of its parameters.

    Of one that it only cuts parts out of it reads these parts, and of one that it
    replaces a part of, nothing.
    """
    reads = {}
    for parameter in inside.values():
        if parameter.kind != "parameter":
            continue
        users = [user for user in inside.values() if parameter.name in user.operands]
        parts = [_part(user, parameter.name) for user in users]
        whole = any(part is None for part in parts)
        reads[int(parameter.arguments)] = math.inf if whole else sum(parts)
    return [reads[index] for index in sorted(reads)]


def _part(user: hlo.Operation, name: str) -> int | None:
    """Returns the bytes that an operation reads of its operand; None for all."""
    if user.operands[0] != name:
        return None
    if user.kind in _SLICES:
        return hlo.num_bytes(user.result)
    return 0 if user.kind == "dynamic-update-slice" else None


def _untouched(inside: hlo.Computation) -> int:
    """Returns the bytes of a fusion's result that it leaves as they are."""
    return sum(
        hlo.num_bytes(update.result) - hlo.num_bytes(inside[update.operands[1]].result)
        for update in inside.values()
        if update.kind == "dynamic-update-slice"
        and inside[update.operands[0]].kind == "parameter"
    )


def _count_flops(
    program: hlo.Program, operation: hlo.Operation, computation: hlo.Computation
) -> int:
    """Returns the operations of the products of an operation and of what it calls."""
    if operation.kind == "dot":
        return _dot_flops(operation, computation)
    if operation.kind == "custom-call":
        return _call_flops(operation, computation)
    return sum(
        _count_flops(program, inner, program.computations[called])
        for called in operation.calls("calls")
        for inner in program.computations[called].values()
    )


def _shape(result: str) -> tuple[int, ...]:
    return hlo.arrays(result)[0][1]


def _dot_flops(dot: hlo.Operation, computation: hlo.Computation) -> int:
    left = _shape(computation[dot.operands[0]].result)
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)[1].split(",")
    terms = math.prod(left[int(axis)] for axis in axes if axis)
    return 2 * math.prod(_shape(dot.result)) * terms


def _call_flops(call: hlo.Operation, computation: hlo.Computation) -> int:
    """Returns the operations of a call of cuDNN's convolutions or cuBLAS's products.

    Padding counts as products: a kernel meets every output, or every pixel of its
    cotangent, with all of its entries.
    """
    name = re.search(r'custom_call_target="([^"]*)"', call.rest)[1]
    if "matmul" in name or "gemm" in name:
        left = _shape(computation[call.operands[0]].result)
        axes = re.search(r'lhs_contracting_dimensions":\["(\d+)"', call.rest)
        terms = left[int(axes[1])] if axes else left[-1]
        return 2 * math.prod(_shape(call.result)) * terms
    if "conv" not in name:
        return 0
    shapes = [_shape(computation[operand].result) for operand in call.operands[:2]]
    if "BackwardFilter" in name:
        output, kernel = shapes[1], _shape(call.result)
    elif "BackwardInput" in name:
        output, kernel = shapes
    else:
        output, kernel = _shape(call.result), shapes[1]
    labels = re.search(r"dim_labels=\w+_(\w+)->", call.rest)[1]
    return 2 * math.prod(output) * math.prod(kernel) // kernel[labels.index("o")]
