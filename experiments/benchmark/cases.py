"""What is benchmarked: a workload and its sizes. Imports neither JAX nor PyTorch."""

import dataclasses
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
    "inner_epochs": 2,
    "matrix": 64,
    "copy_mib": 1,
    "turn_seconds": 0.01,
}


def peak_work(case: Case) -> int:
    """Returns the operations of a matrix product, or the bytes that a copy moves."""
    return 2 * (case.copy_mib * 2**20 if case.workload == "copy" else case.matrix**3)
