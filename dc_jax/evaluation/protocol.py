"""How good is a synthetic set: train fresh networks on it, test them on real images.

The common protocol is that of Zhao, Mopuri and Bilen (ICLR 2021) as in the authors'
code: plain SGD with momentum and weight decay, `epochs` + 1 epochs, one drop of the
learning rate after epoch epochs // 2 + 1 (counted from 0) at which the optimiser is
made anew, so that the momentum starts again from zero.

Sets of dataset distillation also have one of their own: a few steps with the learning
rates that were learned with the images.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from dc_jax.config import EvaluationConfig
from dc_jax.data.facts import find_facts
from dc_jax.devices.backend import Execution, batched
from dc_jax.networks import set_member, split_names
from dc_jax.training.augment import parse_strategy
from dc_jax.training.train import Recipe, confusion, init_state, train
from dc_jax.training.unrolled import init_xavier, train_unrolled

_DROP = 0.1


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How evaluation networks are trained; printed and saved with every accuracy.

    Attributes:
      network: name of the architecture, or several, see `make_network`.
      epochs: as the authors count them: one more is run.
      augmentation: strategy of `augment`.
      lr: learning rate until the drop to a tenth.
      momentum: of SGD.
      weight_decay: of SGD.
      batch_size: images a step.
    """

    network: str
    epochs: int
    augmentation: str
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

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


def make_evaluate(
    protocol: Protocol, network: nn.Module, execution: Execution
) -> Callable[..., jax.Array]:
    """Returns a pure function that trains and tests networks.

    It takes `(images, labels, test_images, test_labels, keys)`: the training set
    `[n, H, W, D]` and `[n]`, the test set `[n', H, W, D]` and `[n']`, both normalised,
    and a key for each network, `[M]`. It returns for each network how many test images
    of each class are taken for each, `[M, C, C]`, see `train.confusion`. Where
    `protocol.network` names several, each key is for one of each, and the result is
    `[M, names, C, C]`.

    Args:
      protocol: how to train.
      network: the module of `protocol.network`.
      execution: how to run it.
    """
    parts = phases(protocol, network, execution)

    def train_one(images, labels, key, member=None) -> dict[str, Any]:
        init_key, *train_keys = jax.random.split(key, 1 + len(parts))
        variables = set_member(network.init(init_key, images[:1]), member)
        for (recipe, epochs), train_key in zip(parts, train_keys, strict=True):
            state = init_state(recipe, variables)
            state = train(recipe, state, images, labels, epochs=epochs, key=train_key)
            variables = state.variables
        return variables

    num_names = len(split_names(protocol.network))
    return _test_many(train_one, network, execution, num_names)


def make_evaluate_own(
    network: nn.Module, execution: Execution
) -> Callable[..., jax.Array]:
    """Returns a pure function like `make_evaluate`'s, for sets with learning rates.

    It takes `(images, labels, learning_rates, test_images, test_labels, keys)`: a set
    `[C, I, H, W, D]`, `[C, I]` and `[R, I]`, which trains networks as `train_unrolled`
    does, and the rest as there.

    Args:
      network: the module.
      execution: how to run it.
    """

    def train_one(images, labels, learning_rates, key: jax.Array) -> dict[str, Any]:
        variables = init_xavier(network, key, images[0, :1])
        return train_unrolled(network, variables, images, labels, learning_rates)

    return _test_many(train_one, network, execution)


def _test_many(
    train_one: Callable[..., dict[str, Any]],
    network: nn.Module,
    execution: Execution,
    num_names: int = 1,
) -> Callable[..., jax.Array]:
    """Returns what trains, by `train_one(*training, key)`, and tests networks.

    Where the module is several networks, by `train_one(*training, key, member)`.
    """
    devices = execution.layout.everything

    def evaluate(*args: jax.Array) -> jax.Array:
        *training, test_images, test_labels, keys = args

        def evaluate_one(*key_and_member: jax.Array) -> jax.Array:
            return confusion(
                network,
                train_one(*training, *key_and_member),
                test_images,
                test_labels,
                slice_size=execution.slice_size,
            )

        num, networks = len(keys), (keys,)
        if num_names > 1:
            places = jnp.arange(num * num_names)
            networks = (keys[places // num_names], places % num_names)
        mine, _ = devices.part(num * num_names)
        counts = batched(evaluate_one, execution.network_loop)(
            *(of_networks[mine] for of_networks in networks)
        )
        counts = devices.gather(counts, num * num_names)
        if num_names > 1:
            counts = counts.reshape(num, num_names, *counts.shape[1:])
        return counts

    return execution.layout.spread(evaluate, P())


def accuracies(counts: np.ndarray) -> np.ndarray:
    """Returns the fraction that is on the diagonal. `[..., C, C]` -> `[...]`."""
    counts = np.asarray(counts, np.float64)
    return counts.trace(axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))


def phases(
    protocol: Protocol, network: nn.Module, execution: Execution
) -> list[tuple[Recipe, int]]:
    """Returns the two parts of training: how, and for how many epochs.

    The optimiser is made anew for the second, as the authors' code does.
    """
    before = min(protocol.epochs // 2 + 2, protocol.epochs + 1)
    return [
        (
            Recipe(
                network=network,
                optimiser=sgd(lr, protocol.momentum, protocol.weight_decay),
                batch_size=protocol.batch_size,
                slice_size=execution.slice_size,
                augmentation=protocol.augmentation,
            ),
            epochs,
        )
        for lr, epochs in (
            (protocol.lr, before),
            (protocol.lr * _DROP, protocol.epochs + 1 - before),
        )
    ]


def sgd(
    lr: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay is added to the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum or None)
    )
