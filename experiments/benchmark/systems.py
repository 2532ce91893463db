"""The systems that are benchmarked, and the kinds of devices that they run on.

Imports neither JAX nor PyTorch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmark.cases import STEPS, WORKLOADS


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
