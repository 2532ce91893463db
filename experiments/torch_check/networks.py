"""Plain PyTorch networks, trained on a set by its recipe."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging

from dc_jax.errors import UserError

# What a recipe must have, by the names of `Protocol`.
_PLAIN = {
    "optimiser": "sgd",
    "schedule": "drop",
    "cutmix": 0.0,
    "loss": "cross_entropy",
}
_TESTED_AT_ONCE = 500


class Accuracy(NamedTuple):
    """Of some networks, as fractions."""

    mean: float
    std: float
    num: int

    @property
    def error(self) -> float:
        """The standard error of the mean; 0 for one network."""
        # `std` divides by the number of networks, an estimate by one less.
        return self.std / max(self.num - 1, 1) ** 0.5

    def __str__(self) -> str:
        return f"{self.mean:.2%} ± {100 * self.std:.2f} ({self.num} networks)"


def check(path: str, test_images: Any, test_labels: Any, num: int) -> str:
    """Returns a line about the set of a path.

    The test images are those of a `Dataset`, `[n, H, W, D]`, and their labels `[n]`.

    Raises what `load_plain` raises.
    """
    import numpy as np
    import torch

    condensed = load_plain(path)
    recipe = condensed.recipe
    pixels = np.ascontiguousarray(np.moveaxis(test_images, -1, 1))
    pixels = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
    images = condensed.prepare(torch.from_numpy(pixels))
    accuracies = []
    for seed in range(num):
        accuracies.append(train(condensed, images, test_labels, seed))
        logging.info("Network %d of %d: %.2f%%.", seed + 1, num, 100 * accuracies[-1])
    theirs = Accuracy(np.mean(accuracies), np.std(accuracies), num)
    names = ("accuracy_mean", "accuracy_std", "num_evaluations")
    ours = Accuracy(*(recipe[name] for name in names))
    difference, error = theirs.mean - ours.mean, math.hypot(theirs.error, ours.error)
    apart = f"{abs(difference) / error:.1f} standard errors" if error else "no spread"
    text = f"{path}: PyTorch {theirs}, its recipe {ours}"
    return f"{text}: {100 * difference:+.2f}, {apart}."


def load_plain(path: str) -> Any:
    """Returns the `CondensedDataset` of a path, whose recipe is plain.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: its recipe is not plain or has no accuracy, or its labels are soft.
    """
    from dc_jax.torch import CondensedDataset

    condensed = CondensedDataset(path)
    if condensed.soft_labels is not None:
        raise UserError(f"{path} has soft labels, must have hard ones.")
    _check_recipe(path, condensed.recipe)
    return condensed


def _check_recipe(path: str, recipe: Mapping[str, Any]) -> None:
    """Raises a `UserError` where the recipe of a set is not plain."""
    from dc_jax.networks.convnet import parse_convnet_name
    from dc_jax.training.augment import parse_strategy

    if "accuracy_mean" not in recipe:
        raise UserError(f"{path} has no accuracy in its recipe, must have one.")
    if recipe["num_evaluations"] < 2:
        raise UserError(f"{path} has the accuracy of one network, must have several.")
    training = recipe["training"]
    for name, value in _PLAIN.items():
        if training.get(name, value) != value:
            raise UserError(
                f"{path} has {name} {training[name]!r} in its recipe, must have "
                f"{value!r}."
            )
    parse_strategy(training["augmentation"])
    spec = parse_convnet_name(training["network"])
    if spec is None or (spec.activation, spec.norm, spec.pooling) != (
        *("relu", "instance", "average"),
    ):
        raise UserError(
            f"{path} has the network {training['network']} in its recipe, must be a "
            "ConvNet with ReLU, instance norm and average pooling."
        )


def train(condensed: Any, test_images: Any, test_labels: Any, seed: int) -> float:
    """Trains one network on a `CondensedDataset`; returns its accuracy, a fraction.

    The test images are a tensor `[n, D, H, W]`, as the network expects them.
    """
    import numpy as np
    import torch

    from dc_jax.networks.convnet import convnet_depth, parse_convnet_name
    from experiments.benchmark.cases import Case
    from experiments.benchmark.torch_experiment import Options, make_network
    from experiments.torch_check.augment import augment

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)  # Of the augmentation.
    training, (channels, side, _) = condensed.recipe["training"], test_images.shape[1:]
    spec = parse_convnet_name(training["network"])
    depth = spec.depth or convnet_depth((side, side))
    case = Case(
        classes=len(condensed.class_names),
        side=side,
        channels=channels,
        width=spec.width,
        depth=depth,
    )
    network, epochs = make_network(case, Options()), training["epochs"]
    strategy = training["augmentation"]

    def make_optimiser(lr: float) -> torch.optim.SGD:
        momentum, decay = training["momentum"], training["weight_decay"]
        parameters = network.parameters()
        return torch.optim.SGD(parameters, lr, momentum, weight_decay=decay)

    optimiser = make_optimiser(training["lr"])
    for epoch in range(epochs + 1):
        for batch in torch.randperm(len(condensed)).split(training["batch_size"]):
            optimiser.zero_grad()
            logits = network(augment(rng, condensed.images[batch], strategy))
            loss = torch.nn.functional.cross_entropy(logits, condensed.labels[batch])
            loss.backward()
            optimiser.step()
        if epoch == epochs // 2 + 1:  # The momentum starts again, as in the recipe.
            optimiser = make_optimiser(training["lr"] / 10)
    size, labels = _TESTED_AT_ONCE, torch.tensor(test_labels)
    pairs = zip(test_images.split(size), labels.split(size), strict=True)
    with torch.no_grad():
        right = sum((network(x).argmax(1) == y).sum().item() for x, y in pairs)
    return right / len(labels)
