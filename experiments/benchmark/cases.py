"""What is benchmarked: a workload and its sizes. Imports neither JAX nor PyTorch."""

import dataclasses

WORKLOADS = ("outer_step", "inner_epoch", "eval_epoch", "test_10k", "dm_step")


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload on random images; the defaults are the shapes of FashionMNIST.

    Attributes:
      workload: one of `WORKLOADS`, or `matmul`: a product of two square matrices.
      ipc: synthetic images per class.
      classes: number of classes.
      networks: number of networks at once; PyTorch runs them one after another.
      side: rows and columns of a grey image.
      width: channels of the ConvNet.
      depth: blocks of the ConvNet.
      batch_real: real images per class for one gradient.
      batch_train: images in a step of training.
      real_per_class: real images per class from which batches are drawn.
      num_test: test images.
      matrix: rows and columns of `matmul`.
      cores: of the CPU that may be used; None for all.
      turn_seconds: how long a worker repeats the workload in a turn, at least once.
    """

    workload: str = "outer_step"
    ipc: int = 1
    classes: int = 10
    networks: int = 1
    side: int = 28
    width: int = 128
    depth: int = 3
    batch_real: int = 256
    batch_train: int = 256
    real_per_class: int = 6000
    num_test: int = 10_000
    matrix: int = 2048
    cores: int | None = None
    turn_seconds: float = 0.5


# Everything tiny, to see whether it works.
SMOKE = Case(
    classes=2,
    side=8,
    width=4,
    depth=1,
    batch_real=4,
    batch_train=4,
    real_per_class=8,
    num_test=16,
    matrix=64,
    turn_seconds=0.01,
)

# Sizes of an outer step that grow, one at a time; the others keep their defaults.
GROWTH = {
    "ipc": (1, 2, 5, 10, 20, 50),
    "classes": (2, 5, 10, 20),
    "networks": (1, 2, 4),
    "side": (8, 16, 32, 64),
}
SMOKE_GROWTH = {"ipc": (1, 2), "networks": (1, 2)}
