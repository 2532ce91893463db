"""What is benchmarked: a workload, its sizes, and the systems that run it.

Imports neither JAX nor PyTorch.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

# Updates of the images, then what trains or tests given networks.
STEPS = ("outer_step", "iteration", "dm_step")
WORKLOADS = (*STEPS, "inner_epoch", "eval_epoch", "test_10k")


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload on random images; the defaults are the shapes of FashionMNIST.

    Attributes:
      workload: one of `WORKLOADS`, or of the peaks of a device, see `peak_work`.
      device: `cpu` or `gpu`.
      dataset: whose config is used.
      ipc: synthetic images per class.
      classes: number of classes.
      networks: number of networks at once; PyTorch runs them one after another.
      experiments: number of sets at once, each with its networks; the same holds.
      outer_steps: of an iteration.
      inner_epochs: of an iteration, between two outer steps.
      side: rows and columns of an image.
      channels: of an image.
      width: channels of the ConvNet.
      depth: blocks of the ConvNet.
      batch_real: real images per class for one gradient.
      batch_train: images in a step of training.
      real_per_class: real images per class from which batches are drawn.
      num_test: test images.
      matrix: rows and columns of a matrix product.
      copy_mib: size of the array that is copied.
      cores: of the CPU that may be used; None for all.
      turn_seconds: how long a worker repeats the workload in a turn, at least once.
    """

    workload: str = "outer_step"
    device: str = "cpu"
    dataset: str = "fashion_mnist"
    ipc: int = 1
    classes: int = 10
    networks: int = 1
    experiments: int = 1
    outer_steps: int = 1
    inner_epochs: int = 1
    side: int = 28
    channels: int = 1
    width: int = 128
    depth: int = 3
    batch_real: int = 256
    batch_train: int = 256
    real_per_class: int = 6000
    num_test: int = 10_000
    matrix: int = 2048
    copy_mib: int = 256
    cores: int | None = None
    turn_seconds: float = 0.5

    def __str__(self) -> str:
        fields = dataclasses.asdict(self)
        del fields["workload"]
        changed = [f"{k} {v}" for k, v in fields.items() if v != getattr(Case, k)]
        return ", ".join([self.workload, *changed])


# The shapes of a dataset, by its name.
SHAPES: dict[str, dict[str, Any]] = {
    "fashion_mnist": {},
    "cifar10": {"side": 32, "channels": 3, "real_per_class": 5000},
}

# Everything tiny, to see whether it works.
SMOKE = {
    "classes": 2,
    "side": 8,
    "width": 4,
    "depth": 1,
    "batch_real": 4,
    "batch_train": 4,
    "real_per_class": 8,
    "num_test": 16,
    "matrix": 64,
    "copy_mib": 1,
    "turn_seconds": 0.01,
}

# Sizes of an outer step that grow, one at a time; the others keep their defaults.
GROWTH = {
    "ipc": (1, 2, 5, 10, 20, 50),
    "classes": (2, 5, 10, 20),
    "networks": (1, 2, 4),
    "side": (8, 16, 32, 64),
}
SMOKE_GROWTH = {"ipc": (1, 2), "networks": (1, 2)}


@dataclasses.dataclass(frozen=True)
class System:
    """A program that is measured.

    Attributes:
      module: has `prepare(case, **options)`, see `worker`.
      options: of this variant; without any it is what the package or the authors do.
      workloads: that the options change.
    """

    module: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    workloads: Sequence[str] = WORKLOADS


OURS = "experiments.benchmark.workloads"
TORCH = "experiments.benchmark.torch_baseline"
_GRAPHS = "reduce-overhead"  # The mode of `torch.compile` with CUDA graphs.
SYSTEMS = {
    "dc_jax": System(OURS),
    "dc_jax+map": System(OURS, {"class_loop": "map"}, STEPS),
    "dc_jax+vmap": System(OURS, {"class_loop": "vmap"}, STEPS),
    "dc_jax+bfloat16": System(OURS, {"dtype": "bfloat16"}),
    "pytorch": System(TORCH),
    "pytorch+channels_last": System(TORCH, {"channels_last": True}),
    "pytorch+bfloat16": System(TORCH, {"bfloat16": True}),
    "pytorch+compile": System(TORCH, {"compile": "default"}),
    "pytorch+graphs": System(TORCH, {"compile": _GRAPHS}),
    "pytorch+graphs+bfloat16": System(TORCH, {"compile": _GRAPHS, "bfloat16": True}),
    "pytorch+vmap+compile": System(TORCH, {"compile": "default", "vmap": True}, STEPS),
}


@dataclasses.dataclass(frozen=True)
class Device:
    """What is measured by default on a kind of device, and how.

    Attributes:
      workloads, ipc, systems, variants, evaluations: see the flags of the command.
      peaks: workloads that show what the device can do, with the cores that they use.
      sizes: of cases, where they are not `Case`'s.
      pause: seconds before a turn. Threads of a CPU that wait for work fall asleep.
      patience: seconds within which a worker must answer.
    """

    workloads: Sequence[str]
    ipc: Sequence[str]
    systems: Sequence[str]
    variants: Sequence[str]
    evaluations: int
    peaks: Sequence[tuple[str, int | None]]
    sizes: Mapping[str, Any]
    pause: float
    patience: float


DEVICES = {
    "cpu": Device(
        # Whole iterations at 10 images per class take minutes.
        workloads=[name for name in WORKLOADS if name != "iteration"],
        ipc=("1", "10", "50"),
        systems=("dc_jax", "pytorch"),
        variants=(),
        evaluations=1,
        peaks=(("matmul_float32", 1), ("matmul_float32", None), ("copy", None)),
        sizes={},
        pause=0.25,
        patience=float("inf"),
    ),
    "gpu": Device(
        workloads=WORKLOADS,
        ipc=("10", "1", "50"),
        systems=("dc_jax", "pytorch"),
        # The package vectorises classes on a GPU.
        variants=[name for name in SYSTEMS if name != "dc_jax+vmap"],
        evaluations=20,
        peaks=[
            *((f"matmul_{kind}", None) for kind in ("tf32", "float32", "bfloat16")),
            ("copy", None),
        ],
        sizes={"matrix": 8192, "copy_mib": 2048, "turn_seconds": 0.2},
        pause=0,
        patience=150,
    ),
}


def peak_work(case: Case) -> int:
    """Returns the operations of a matrix product, or the bytes that a copy moves."""
    return 2 * (case.copy_mib * 2**20 if case.workload == "copy" else case.matrix**3)


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
