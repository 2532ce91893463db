"""From the name of a network to the network: features, and a linear classifier."""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dc_jax.errors import UserError
from dc_jax.networks import chains, layers
from dc_jax.networks.convnet import (
    NAME_RULE,
    ConvNet,
    ConvNetSpec,
    convnet_depth,
    parse_convnet_name,
)
from dc_jax.networks.convolution import ConvFn
from dc_jax.networks.resnet import ResNet18


class Network(nn.Module):
    """A linear classifier on the flattened output of `features`."""

    features: nn.Module  # `(x, train)`, `[n, H, W, D]` -> `[n, ...]`
    num_classes: int  # C
    # Of what is computed between the images and the logits. Those are of JAX's default
    # float type, as the parameters are.
    dtype: DTypeLike = float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits. `[n, H, W, D]` -> `[n, C]`."""
        x = self.embed(x, train)
        return layers.dense(x, self.num_classes, name="classifier").astype(float)

    def embed(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns what the classifier reads. `[n, H, W, D]` -> `[n, F]`."""
        x = self.features(jnp.asarray(x, self.dtype), train)
        return x.reshape(x.shape[0], -1)


class Entry(NamedTuple):
    """A network that is known by one name."""

    make: Callable[[ConvFn], nn.Module]  # Makes the features, see `Network`.
    min_side: int  # The fewest rows and columns of an image that it can take.
    has_batch_norm: bool = False  # Whether it has running statistics.


_alexnet = partial(chains.Convolutions, table=chains.ALEXNET)
_vgg11 = partial(chains.Convolutions, table=chains.VGG11)
_pooled_resnet = partial(ResNet18, is_pooled=True)
# Every network but the ConvNets, whose names follow a rule. Others may be added. An
# image must leave a pixel: 8 pixels become one by three poolings, 32 by five.
NETWORKS = {
    "MLP": Entry(lambda conv_fn: chains.MLP(), 1),
    "LeNet": Entry(chains.LeNet, 16),  # Two unpadded 5x5 convolutions, each pooled.
    "AlexNet": Entry(partial(_alexnet, norm="none"), 8),
    "AlexNetBN": Entry(partial(_alexnet, norm="batch"), 8, True),
    "AlexCifarNet": Entry(chains.AlexCifarNet, 1),  # Two poolings that round up.
    "VGG11": Entry(partial(_vgg11, norm="instance"), 32),
    "VGG11BN": Entry(partial(_vgg11, norm="batch"), 32, True),
    "ResNet18": Entry(partial(ResNet18, norm="instance"), 1),  # Strides leave a pixel.
    "ResNet18_AP": Entry(partial(_pooled_resnet, norm="instance"), 8),
    "ResNet18BN": Entry(partial(ResNet18, norm="batch"), 1, True),
    "ResNet18BN_AP": Entry(partial(_pooled_resnet, norm="batch"), 8, True),
}
# The variants that the authors' code has; `make_network` takes every combination.
_CONVNET_SUFFIXES = (
    *("", "D1", "D2", "D3", "D4", "W32", "W64", "W128", "W256"),
    *("AS", "AL", "AR", "ASwish", "ASwishBN"),
    *("NN", "BN", "LN", "IN", "GN", "NP", "MP", "AP"),
)


def network_names() -> tuple[str, ...]:
    """The names of the authors' code. Other ConvNet combinations are allowed too."""
    return (*NETWORKS, *(f"ConvNet{suffix}" for suffix in _CONVNET_SUFFIXES))


def has_batch_norm(name: str) -> bool:
    """Whether the network keeps running statistics (`batch_stats`).

    Raises:
      UserError: the name is unknown.
    """
    if name in NETWORKS:
        return NETWORKS[name].has_batch_norm
    return _convnet_spec(name).norm == "batch"


def without_batch_norm(name: str) -> str:
    """Returns the name of the network that evaluates the small sets of a network.

    A few images are not enough for the statistics of batch norm, so networks with batch
    norm are evaluated with instance norm instead, as in the authors' code. In ResNet18,
    strides also replace the pooling, which only matching needs. A network without batch
    norm, or without such a counterpart, is evaluated itself.

    Raises:
      UserError: the name is unknown.
    """
    if not has_batch_norm(name):
        return name
    other = name.replace("BN", "").removesuffix("_AP")
    is_known = other in NETWORKS or parse_convnet_name(other) is not None
    return other if is_known else name


def make_network(
    name: str,
    num_classes: int,
    image_shape: Sequence[int],
    conv_fn: ConvFn = jax.lax.conv_general_dilated,
    *,
    dtype: DTypeLike = float,
) -> nn.Module:
    """Makes the network of a name for one kind of images.

    The result has `init(key, images) -> variables`, `apply(variables, images, train) ->
    logits` and `apply(variables, images, method="embed") -> [n, F]`, the classifier's
    input. `variables` holds `params`, and `batch_stats` if there is batch norm.

    The first convolution pads images of 28x28 pixels to 32x32, as in the authors' code
    (but not in `ResNet18*` and `MLP`).

    Args:
      name: one of `network_names()`, or any combination of ConvNet suffixes.
      num_classes: C.
      image_shape: `(H, W, D)`.
      conv_fn: called in place of `jax.lax.conv_general_dilated`.
      dtype: of the layers' arithmetic. Parameters, normalisations and logits have
        JAX's default float type whatever it is.

    Raises:
      UserError: the name is unknown, or the images are too small for the network.
    """
    image_shape = tuple(operator.index(size) for size in image_shape)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise UserError(
            f"image_shape must be three positive numbers (H, W, D), got {image_shape}."
        )
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}.")
    if name in NETWORKS:
        entry = NETWORKS[name]
        _check_size(name, image_shape, entry.min_side)
        return Network(entry.make(conv_fn), num_classes, dtype)
    spec = _convnet_spec(name)
    depth = spec.depth or convnet_depth(image_shape)
    _check_size(name, image_shape, 1 if spec.pooling == "none" else 2**depth)
    return Network(ConvNet(depth, spec, conv_fn), num_classes, dtype)


def _convnet_spec(name: str) -> ConvNetSpec:
    spec = parse_convnet_name(name)
    if spec is None:
        raise UserError(
            f"network must be one of {', '.join(NETWORKS)}, or {NAME_RULE}; got "
            f"{name!r}."
        )
    if spec.norm == "group" and spec.width % layers.GROUPS:
        raise UserError(
            f"network {name} has group norm, so its width must be a multiple of "
            f"{layers.GROUPS}, got {spec.width}."
        )
    return spec


def _check_size(name: str, image_shape: tuple[int, ...], min_side: int) -> None:
    if min(layers.padded_shape(image_shape)) < min_side:
        height, width = image_shape[:2]
        raise UserError(
            f"network {name} needs images of at least {min_side}x{min_side} pixels, "
            f"got {height}x{width}."
        )
