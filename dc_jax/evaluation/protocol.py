"""The evaluations: how a network is trained on a set to tell how good the set is.

`paper` is that of Zhao, Mopuri and Bilen (ICLR 2021) as in the authors' code: plain SGD
with momentum and weight decay for `epochs` + 1 epochs. After epoch `epochs // 2 + 1`
(counted from 0) the learning rate drops to a tenth, and the optimiser is made anew, so
that the momentum starts again from zero.

`dsa` is the same with the augmentation of Zhao and Bilen (ICML 2021), whatever made the
set.

`strong` is one recipe of today for every set: AdamW, this augmentation, CutMix, and a
learning rate that rises in the first epochs and then falls as a cosine to zero. It was
chosen on training images that were held out, for random and condensed images alike, see
docs/results.md. It has as many epochs as `paper` has without augmentation: so it takes
no longer.

`frepo` is that of Zhou, Nezhadarya and Ba (NeurIPS 2022): Adam on the squared error
between logits and centred labels, with the augmentation of `dsa`. Their code has
augmentations of its own, averages the weights, and trains for 1,000 updates.

In each of them the network after the last epoch counts, and a set that has soft labels
is learned by these.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dc_jax.config import EvaluationConfig
from dc_jax.data.facts import find_facts
from dc_jax.defaults import FULL_SIAMESE, SIAMESE_PREFIX, without_flip
from dc_jax.devices.backend import Execution
from dc_jax.training.augment import parse_strategy
from dc_jax.training.train import Recipe, cross_entropy, squared_error

_DROP = 0.1
_WARM_UP = 0.05  # Of all epochs.
_IN_WORDS = {"sgd": "SGD", "adamw": "AdamW"}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How evaluation networks are trained; printed and saved with every accuracy."""

    network: str  # Name of the architecture, see `make_network`.
    epochs: int  # As the authors count them: one more is run.
    augmentation: str  # Strategy of `augment`.
    lr: float  # The largest learning rate.
    momentum: float  # Of `adamw`, its first decay rate.
    weight_decay: float
    batch_size: int  # Images per step.
    # Recipes of earlier versions do not have these: theirs are the paper's.
    protocol: str = "paper"  # Of `NAMED`; gave what the config left open.
    optimiser: str = "sgd"  # Of `OPTIMISERS`.
    # Of the learning rate: `drop` or `cosine`; `constant` for `run/experts.py`.
    schedule: str = "drop"
    cutmix: float = 0.0  # How likely a batch is mixed, see `cutmix`.
    loss: str = "cross_entropy"  # Of `LOSSES`.

    def __str__(self) -> str:
        falling = f"a tenth of it after {self.epochs // 2 + 2} epochs"
        if self.schedule == "cosine":
            falling = f"rising for {_WARM_UP:.0%} of them, then falling as a cosine"
        if self.schedule == "constant":
            falling = "to the end"
        loss = "" if self.loss == "cross_entropy" else " on the squared error"
        name = "" if self.protocol == "paper" else f"evaluation {self.protocol}: "
        mixing = f", CutMix of {self.cutmix:.0%} of the batches" if self.cutmix else ""
        return (
            f"{name}{self.network}, {self.epochs} + 1 epochs of "
            f"{_IN_WORDS[self.optimiser]}{loss} (lr {self.lr:g}, "
            f"{falling}, momentum {self.momentum:g}, weight decay "
            f"{self.weight_decay:g}, batch {self.batch_size}), augmentation "
            f"{self.augmentation}{mixing}"
        )


@dataclasses.dataclass(frozen=True)
class Named:
    """A named evaluation: the values of the fields that the config leaves open."""

    optimiser: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    schedule: str = "drop"
    cutmix: float = 0.0
    loss: str = "cross_entropy"
    # None: the authors' for the dataset and the network, see `make_protocol`.
    augmentation: str | None = SIAMESE_PREFIX + FULL_SIAMESE
    epochs: int | None = None  # None: 1,000 with augmentation, 300 without.


NAMED = {
    "paper": Named(augmentation=None),
    "dsa": Named(),
    "strong": Named(
        optimiser="adamw",
        lr=1e-3,
        weight_decay=0.01,
        schedule="cosine",
        cutmix=0.5,
        epochs=300,
    ),
    "frepo": Named(
        optimiser="adamw",
        lr=3e-4,
        weight_decay=0.0,
        batch_size=500,
        schedule="cosine",
        loss="squared_error",
        epochs=1000,
    ),
}


def make_protocol(
    config: EvaluationConfig, *, dataset_name: str, network_name: str
) -> Protocol:
    """Returns the protocol of a run.

    Where the config leaves them open, the network is the one that condensed, and the
    others are those of the named evaluation. The augmentation of `paper` is the
    authors': `crop_scale_rotate` for MNIST, `crop_noise` for the ConvNet with batch
    norm. Siamese augmentation has no flip where that changes the class of an image.

    Raises:
      UserError: the augmentation is unknown.
    """
    named, facts = NAMED[config.protocol], find_facts(dataset_name)
    names = [field.name for field in dataclasses.fields(Protocol)]
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    fields = vars(named) | {"network": network_name} | given
    if fields["augmentation"] is None:
        is_noisy = fields["network"] == "ConvNetBN"
        fields["augmentation"] = "crop_noise" if is_noisy else facts.augmentation
    elif config.augmentation is None and not facts.is_flippable:
        fields["augmentation"] = without_flip(fields["augmentation"])
    is_augmented = bool(parse_strategy(fields["augmentation"]))
    if fields["epochs"] is None:
        fields["epochs"] = 1000 if is_augmented else 300
    return Protocol(**fields)


def phases(
    protocol: Protocol, network: nn.Module, execution: Execution
) -> list[tuple[Recipe, int]]:
    """Returns the parts of training: how, and for how many epochs.

    The optimiser is made anew where the learning rate drops, as the authors' code does.
    """
    epochs, make_optimiser = protocol.epochs + 1, OPTIMISERS[protocol.optimiser]

    def recipe(lr: float) -> Recipe:
        return Recipe(
            network=network,
            optimiser=make_optimiser(lr, protocol.momentum, protocol.weight_decay),
            batch_size=protocol.batch_size,
            slice_size=execution.slice_size,
            augmentation=protocol.augmentation,
            cutmix=protocol.cutmix,
            loss=LOSSES[protocol.loss],
        )

    if protocol.schedule == "cosine":
        schedule = functools.partial(cosine, epochs=epochs)
        scheduled = dataclasses.replace(recipe(protocol.lr), schedule=schedule)
        return [(scheduled, epochs)]
    if protocol.schedule == "constant":
        return [(recipe(protocol.lr), epochs)]
    before = min(protocol.epochs // 2 + 2, epochs)
    return [
        (recipe(protocol.lr), before),
        (recipe(protocol.lr * _DROP), epochs - before),
    ]


def cosine(done: jax.Array, *, epochs: int) -> jax.Array:
    """Returns the factor of the learning rate after `done` of all epochs, `[]`.

    It rises from 0 to 1 in the first twentieth, then falls as half a cosine to 0.
    """
    part = done / epochs
    falling = (1 + jnp.cos(jnp.pi * (part - _WARM_UP) / (1 - _WARM_UP))) / 2
    return jnp.where(part < _WARM_UP, part / _WARM_UP, falling)


def sgd(
    lr: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay is added to the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum or None)
    )


def adamw(
    lr: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW: weight decay is apart from the gradient, and multiplied by `lr`."""
    return optax.adamw(lr, b1=momentum, weight_decay=weight_decay)


OPTIMISERS = {"sgd": sgd, "adamw": adamw}
LOSSES = {"cross_entropy": cross_entropy, "squared_error": squared_error}
