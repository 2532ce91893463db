"""The common protocol: how a network is trained on a set to tell how good the set is.

It is that of Zhao, Mopuri and Bilen (ICLR 2021) as in the authors' code: plain SGD with
momentum and weight decay for `epochs` + 1 epochs. After epoch `epochs // 2 + 1`
(counted from 0) the learning rate drops to a tenth, and the optimiser is made anew, so
that the momentum starts again from zero.
"""

import dataclasses

import flax.linen as nn
import optax

from dc_jax.config import EvaluationConfig
from dc_jax.data.facts import find_facts
from dc_jax.devices.backend import Execution
from dc_jax.training.augment import parse_strategy
from dc_jax.training.train import Recipe

_DROP = 0.1


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How evaluation networks are trained; printed and saved with every accuracy."""

    network: str  # Name of the architecture, see `make_network`.
    epochs: int  # As the authors count them: one more is run.
    augmentation: str  # Strategy of `augment`.
    lr: float  # Learning rate until the drop to a tenth.
    momentum: float
    weight_decay: float
    batch_size: int  # Images per step.

    def __str__(self) -> str:
        return (
            f"{self.network}, {self.epochs} + 1 epochs of SGD (lr {self.lr:g}, a tenth "
            f"of it after {self.epochs // 2 + 2} epochs, momentum "
            f"{self.momentum:g}, weight decay {self.weight_decay:g}, batch "
            f"{self.batch_size}), augmentation {self.augmentation}"
        )


def make_protocol(
    config: EvaluationConfig, *, dataset_name: str, network_name: str
) -> Protocol:
    """Returns the protocol of a run.

    Where the config leaves them open, the network is the one that condensed, and the
    augmentation and epochs are the authors': `crop_scale_rotate` for MNIST,
    `crop_noise` for the ConvNet with batch norm, and 1,000 epochs with augmentation,
    300 without.

    Raises:
      UserError: the augmentation is unknown.
    """
    network = config.network or network_name
    augmentation = config.augmentation
    if augmentation is None:
        augmentation = find_facts(dataset_name).augmentation
        if network == "ConvNetBN":
            augmentation = "crop_noise"
    is_augmented = bool(parse_strategy(augmentation))
    epochs = config.epochs
    if epochs is None:
        epochs = 1000 if is_augmented else 300
    return Protocol(
        network=network,
        epochs=epochs,
        augmentation=augmentation,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
    )


def phases(
    protocol: Protocol, network: nn.Module, execution: Execution
) -> list[tuple[Recipe, int]]:
    """Returns the two parts of training: how, and for how many epochs.

    The optimiser is made anew for the second, as the authors' code does.
    """
    before = min(protocol.epochs // 2 + 2, protocol.epochs + 1)

    def recipe(lr: float) -> Recipe:
        return Recipe(
            network=network,
            optimiser=sgd(lr, protocol.momentum, protocol.weight_decay),
            batch_size=protocol.batch_size,
            slice_size=execution.slice_size,
            augmentation=protocol.augmentation,
        )

    after = protocol.epochs + 1 - before
    return [(recipe(protocol.lr), before), (recipe(protocol.lr * _DROP), after)]


def sgd(
    lr: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay is added to the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum or None)
    )
