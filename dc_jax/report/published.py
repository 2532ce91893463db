"""Published test accuracies on the ConvNet, by dataset, images per class and method.

Table 1 of Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR
2021; the rows of dsa and dm are from Zhao, Bilen, "Dataset Condensation with
Differentiable Siamese Augmentation", ICML 2021, and "Dataset Condensation with
Distribution Matching", WACV 2023.
"""

from typing import NamedTuple


class Value(NamedTuple):
    """A published accuracy."""

    mean: float  # In percent.
    std: float | None = None  # In percent; None if the publication does not give it.
    is_verified: bool = True  # Read in the publication, or in one that quotes it.

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std}"
        return f"{self.mean}{spread}{'' if self.is_verified else '?'}"


# By dataset and images per class: mean and standard deviation of each method. A "?"
# follows what was not verified.
_METHODS = ("random", "herding", "k_center", "forgetting", "dc")
_ROWS = {
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
    # CIFAR-100 is in the appendix of the paper.
    ("cifar100", 1): "4.2 0.3 8.4 0.3 8.3 0.3 3.5 0.3? 12.8 0.3",
    ("cifar100", 10): "14.6 0.5 17.3 0.3 7.1 0.2 9.8 0.2? 25.2 0.3",
}
# By dataset and method: the same of 1, 10 and 50 images per class.
_SUCCESSORS = {
    ("mnist", "dsa"): "88.7 0.6 97.8 0.1 99.2 0.1",
    ("fashion_mnist", "dsa"): "70.6 0.6 84.6 0.3 88.7 0.2",
    ("svhn", "dsa"): "27.5 1.4 79.2 0.5 84.4 0.4",
    ("cifar10", "dsa"): "28.8 0.7 52.1 0.5 60.6 0.5",
    ("fashion_mnist", "dm"): "70.7 0.6 83.5 0.3 88.1 0.6",
    ("cifar10", "dm"): "26.0 0.8 48.9 0.6 63.0 0.4",
}


def _values(row: str) -> list[Value]:
    words = row.split()
    return [
        Value(float(mean), float(std.rstrip("?")), not std.endswith("?"))
        for mean, std in zip(words[::2], words[1::2], strict=True)
    ]


# By dataset, images per class and method.
TABLE1 = {
    (*key, method): value
    for key, row in _ROWS.items()
    for method, value in zip(_METHODS, _values(row), strict=True)
} | {
    (dataset, ipc, method): value
    for (dataset, method), row in _SUCCESSORS.items()
    for ipc, value in zip((1, 10, 50), _values(row), strict=True)
}
# Networks trained on all images.
WHOLE = {
    "mnist": Value(99.6, 0.0),
    "fashion_mnist": Value(93.5, 0.1),
    "svhn": Value(95.4, 0.1),
    "cifar10": Value(84.8, 0.1),
    "cifar100": Value(56.2, 0.3),
}
