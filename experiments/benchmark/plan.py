"""In which order cases are measured, and which get ready together."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmark.cases import SHAPES, STEPS, Case

# Sizes of an outer step that grow, one at a time; the others keep their defaults.
GROWTH = {
    "ipc": (1, 2, 5, 10, 20, 50),
    "classes": (2, 5, 10, 20),
    "networks": (1, 2, 4),
    "side": (8, 16, 32, 64),
}
SMOKE_GROWTH = {"ipc": (1, 2), "networks": (1, 2)}


def sized_cases(
    workloads: Sequence[str],
    sizes: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any],
    *,
    evaluations: int,
    loops: Mapping[int, tuple[int, int]],
) -> dict[Case, bool]:
    """Returns all cases, the most important first.

    Args:
      workloads: their names, the most important first.
      sizes: values of `experiments`, `networks`, `dataset` and `ipc`; the first is the
        most important.
      fixed: other fields of all cases.
      evaluations: networks of `eval_epoch` and `test_10k`.
      loops: outer steps and inner epochs of an iteration, by images per class.

    Returns:
      Cases, and whether all their sizes are the first.
    """
    found = []
    for values in itertools.product(*sizes.values()):
        case = dict(zip(sizes, values, strict=True))
        others = sum(case[name] != sizes[name][0] for name in sizes)
        for name in workloads:
            changes = SHAPES[case["dataset"]] | case | {"workload": name}
            if name not in STEPS:
                changes["experiments"] = 1
            if name in ("eval_epoch", "test_10k"):
                changes["networks"] = evaluations
            if name == "test_10k":  # It does not depend on the synthetic images.
                changes["ipc"] = sizes["ipc"][0]
            if name == "iteration":
                changes["outer_steps"], changes["inner_epochs"] = loops[case["ipc"]]
                if changes["outer_steps"] == 1:  # Nothing is trained after it.
                    changes |= {"workload": "outer_step", "inner_epochs": 1}
            found.append((others, Case(**(changes | fixed))))
    found.sort(key=lambda pair: pair[0])
    cases: dict[Case, bool] = {}
    for others, case in found:
        cases.setdefault(case, others == 0)
    return cases


def growing_cases(
    fixed: Mapping[str, Any], *, is_smoke: bool
) -> Iterator[tuple[Case, str]]:
    """Yields outer steps of growing sizes, and the size that grows."""
    for axis, values in (SMOKE_GROWTH if is_smoke else GROWTH).items():
        for value in values:
            yield Case(**(fixed | {axis: value})), axis


def groups(
    systems: Mapping[Case, Sequence[str]], jobs: int
) -> Iterator[dict[Case, Sequence[str]]]:
    """Yields the cases that get ready together: of `jobs` programs, but at least one.

    Args:
      systems: the names of the systems of each case.
      jobs: number of programs that are compiled at the same time.
    """
    group: dict[Case, Sequence[str]] = {}
    for case, names in systems.items():
        if group and sum(map(len, group.values())) + len(names) > jobs:
            yield group
            group = {}
        group[case] = names
    if group:
        yield group
