"""Reads the text of a compiled program: its operations, and how often each one runs.

XLA prints a program as computations, which are lists of operations. An operation may
name other computations: the body of a loop, the branches of a condition, the inside of
a fusion. The language is described at https://openxla.org/xla/operation_semantics.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from dc_jax.errors import UserError
from experiments.plan.loops import Loops


class Operation(NamedTuple):
    """One line of a computation.

    Attributes:
      name: of its result.
      kind: such as `fusion`.
      result: type and shape of the result, as text.
      arguments: what is in the brackets, as text.
      rest: what follows them, as text.
    """

    name: str
    kind: str
    result: str
    arguments: str
    rest: str

    @property
    def is_free(self) -> bool:
        """Whether it only names or awaits what is there."""
        return self.kind in _FREE or self.kind.endswith("-done")

    @property
    def operands(self) -> list[str]:
        """The names of the operands."""
        return _NAME.findall(self.arguments)

    def calls(self, role: str) -> list[str]:
        """Returns the computations that it names as a role, such as `body`."""
        found = re.search(role + r"=(?:\{([^}]*)\}|%?([\w.\-]+))", self.rest)
        if not found:
            return []
        return re.findall(r"[\w.\-]+", found[1] or found[2])


Computation = dict[str, Operation]


class Program(NamedTuple):
    """A program.

    Attributes:
      entry: name of the computation that begins.
      computations: by name.
    """

    entry: str
    computations: dict[str, Computation]


class Run(NamedTuple):
    """An operation of a program that runs a number of times.

    Attributes:
      operation: not a loop or a condition, but what is inside them.
      computation: where it is.
      times: how often it runs in one call of the program.
    """

    operation: Operation
    computation: Computation
    times: float


_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier"),
}
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_BYTES = {"pred": 1, "bf16": 2, "token": 0}
_ARRAY = re.compile(r"\b(pred|token|bf16|[a-z]+\d+)(?:e\w+)?\[([\d,]*)\]")


def parse(text: str) -> Program:
    """Returns the program of a text, such as `compiled.as_text()`."""
    entry, computations, current = "", {}, None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("  ") and current is not None:
            operation = _parse_operation(line.strip())
            if operation:
                current[operation.name] = operation
    return Program(entry, computations)


def _parse_operation(line: str) -> Operation | None:
    name, equals, text = line.removeprefix("ROOT ").partition(" = ")
    if not equals:
        return None
    end = _end(text) if text.startswith("(") else text.index(" ")
    kind, bracket, rest = text[end:].strip().partition("(")
    rest = bracket + rest
    end_of_arguments = _end(rest)
    return Operation(
        name=name.lstrip("%"),
        kind=kind,
        result=text[:end],
        arguments=rest[1 : end_of_arguments - 1],
        rest=rest[end_of_arguments:],
    )


def _end(text: str) -> int:
    """Returns the index behind the bracket that closes the first one."""
    depth = 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def arrays(result: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the types and shapes of the arrays of a result."""
    return [
        (kind, tuple(map(int, filter(None, sizes.split(",")))))
        for kind, sizes in _ARRAY.findall(result)
    ]


def num_bytes(result: str) -> int:
    """Returns the bytes of all arrays of a result."""
    return sum(_item_bytes(kind) * math.prod(shape) for kind, shape in arrays(result))


def _item_bytes(kind: str) -> int:
    bits = int(re.sub(r"\D", "", kind) or 0)
    return _BYTES.get(kind, max(bits // 8, 1))


def walk(program: Program, loops: Loops) -> Iterator[Run]:
    """Yields what runs, with loops and conditions resolved.

    A fusion is one operation, because it runs as one.

    Raises:
      UserError: a loop has an unknown length, and `loops` knows no mean.
    """
    yield from _walk(program, program.entry, loops, 1.0)


def _walk(program: Program, name: str, loops: Loops, times: float) -> Iterator[Run]:
    computation = program.computations[name]
    for operation in computation.values():
        inside = loops
        if operation.kind == "while":
            called = {
                body: _trips(program, operation, loops)
                for body in operation.calls("body")
            }
        elif operation.kind == "conditional":
            called = _branches(program, operation, loops)
            inside = loops.inside_a_condition()
        elif operation.kind == "call":
            called = dict.fromkeys(operation.calls("to_apply"), 1)
        else:
            yield Run(operation, computation, times)
            continue
        for other, share in called.items():
            yield from _walk(program, other, inside, times * share)


def _trips(program: Program, loop: Operation, loops: Loops) -> float:
    known = trip_count(program, loop)
    trips = loops.mean_trips if known is None else known
    if trips is None:
        raise UserError("the program has a loop of unknown length.")
    return trips


def trip_count(program: Program, loop: Operation) -> int | None:
    """Returns how often a `while` runs, or None if that is unknown.

    XLA notes it, or the condition compares a counter from 0 with a constant.
    """
    noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
    if noted:
        return int(noted[1])
    (condition,) = loop.calls("condition")
    constants = _constants(program, condition)
    return constants[0] if len(constants) == 1 else None


def _constants(program: Program, name: str) -> list[int]:
    """Returns the whole numbers of a computation and of its fusions."""
    found = []
    for operation in program.computations[name].values():
        if operation.kind == "constant" and operation.result.startswith("s32[]"):
            found.append(int(operation.arguments))
        for called in operation.calls("calls"):
            found += _constants(program, called)
    return found


def _branches(program: Program, condition: Operation, loops: Loops) -> dict[str, float]:
    """Returns the branches of a condition, and how often each one runs.

    A branch with a loop trains networks, which happens as often as `loops` says. Other
    branches, such as augmentations, are as likely as one another.
    """
    names = condition.calls("branch_computations") or [
        *condition.calls("true_computation"),
        *condition.calls("false_computation"),
    ]
    most = max(names, key=lambda name: _num_loops(program, name))
    if _num_loops(program, most) == 0:
        return dict.fromkeys(names, 1 / len(names))
    rest = (1 - loops.share) / max(len(names) - 1, 1)
    return {name: loops.share if name == most else rest for name in names}


def _num_loops(program: Program, name: str) -> int:
    return sum(
        1 + sum(_num_loops(program, body) for body in operation.calls("body"))
        for operation in program.computations[name].values()
        if operation.kind == "while"
    )
