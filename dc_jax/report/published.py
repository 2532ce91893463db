"""Published test accuracies on the ConvNet, by dataset, images per class and method.

Table 1 of Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR
2021; the rows of dsa and dm are from Zhao, Bilen, "Dataset Condensation with
Differentiable Siamese Augmentation", ICML 2021, and "Dataset Condensation with
Distribution Matching", WACV 2023.
"""

from typing import NamedTuple


class Value(NamedTuple):
    """A published accuracy.

    Attributes:
      mean: in percent.
      std: in percent; None if the publication does not give it.
      is_verified: whether it was read in the publication, or in one that quotes it.
    """

    mean: float
    std: float | None = None
    is_verified: bool = True

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std}"
        return f"{self.mean}{spread}{'' if self.is_verified else '?'}"


def _table1() -> dict[tuple[str, int, str], Value]:
    methods = ("random", "herding", "k_center", "forgetting", "dc")
    rows = {
        ("mnist", 1): "64.9 3.5 89.2 1.6 89.3 1.5 35.5 5.6 91.7 0.5",
        ("mnist", 10): "95.1 0.9 93.7 0.3 84.4 1.7 68.1 3.3 97.4 0.2",
        ("mnist", 50): "97.9 0.2 94.9 0.2 97.4 0.3 88.2 1.2 98.8 0.2",
        ("fashion_mnist", 1): "51.4 3.8 67.0 1.9 66.9 1.8 42.0 5.5 70.5 0.6",
        ("fashion_mnist", 10): "73.8 0.7 71.1 0.7 54.7 1.5 53.9 2.0 82.3 0.4",
        ("fashion_mnist", 50): "82.5 0.7 71.9 0.8 68.3 0.8 55.0 1.1 83.6 0.4",
        ("svhn", 1): "14.6 1.6 20.9 1.3 21.0 1.5 12.1 1.7 31.2 1.4",
        ("svhn", 10): "35.1 4.1 50.5 3.3 14.0 1.3 16.8 1.2 76.1 0.6",
        ("svhn", 50): "70.9 0.9 72.6 0.8 20.1 1.4 27.2 1.5 82.3 0.3",
        ("cifar10", 1): "14.4 2.0 21.5 1.2 21.5 1.3 13.5 1.2 28.3 0.5",
        ("cifar10", 10): "26.0 1.2 31.6 0.7 14.7 0.9 23.3 1.0 44.9 0.5",
        ("cifar10", 50): "43.4 1.0 40.4 0.6 27.0 1.4 23.3 1.1 53.9 0.5",
    }
    values = {}
    for (dataset, ipc), text in rows.items():
        numbers = list(map(float, text.split()))
        for method, mean, std in zip(methods, numbers[::2], numbers[1::2], strict=True):
            values[dataset, ipc, method] = Value(mean, std)
    return values


def _successors() -> dict[tuple[str, int, str], Value]:
    rows = {
        ("mnist", "dsa"): "88.7 0.6 97.8 0.1 99.2 0.1",
        ("fashion_mnist", "dsa"): "70.6 0.6 84.6 0.3 88.7 0.2",
        ("svhn", "dsa"): "27.5 1.4 79.2 0.5 84.4 0.4",
        ("cifar10", "dsa"): "28.8 0.7 52.1 0.5 60.6 0.5",
        ("fashion_mnist", "dm"): "70.7 0.6 83.5 0.3 88.1 0.6",
        ("cifar10", "dm"): "26.0 0.8 48.9 0.6 63.0 0.4",
    }
    values = {}
    for (dataset, method), text in rows.items():
        numbers = list(map(float, text.split()))
        for ipc, mean, std in zip(
            (1, 10, 50), numbers[::2], numbers[1::2], strict=True
        ):
            values[dataset, ipc, method] = Value(mean, std)
    return values


# By dataset, images per class and method. CIFAR-100 is in the appendix of the paper.
TABLE1 = _table1() | {
    ("cifar100", 1, "random"): Value(4.2, 0.3),
    ("cifar100", 1, "herding"): Value(8.4, 0.3),
    ("cifar100", 1, "k_center"): Value(8.3, 0.3),
    ("cifar100", 1, "forgetting"): Value(3.5, 0.3, is_verified=False),
    ("cifar100", 1, "dc"): Value(12.8, 0.3),
    ("cifar100", 10, "random"): Value(14.6, 0.5),
    ("cifar100", 10, "herding"): Value(17.3, 0.3),
    ("cifar100", 10, "k_center"): Value(7.1, 0.2),
    ("cifar100", 10, "forgetting"): Value(9.8, 0.2, is_verified=False),
    ("cifar100", 10, "dc"): Value(25.2, 0.3),
    **_successors(),
}
# Networks trained on all images.
WHOLE = {
    "mnist": Value(99.6, 0.0),
    "fashion_mnist": Value(93.5, 0.1),
    "svhn": Value(95.4, 0.1),
    "cifar10": Value(84.8, 0.1),
    "cifar100": Value(56.2, 0.3),
}
