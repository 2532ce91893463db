"""From the name of a network to the network."""

import dataclasses
import operator
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from dc_jax.errors import UserError
from dc_jax.networks import alex_cifar, alexnet, layers, lenet, resnet, vgg
from dc_jax.networks.convnet import (
    NAME_RULE,
    ConvNet,
    ConvNetSpec,
    convnet_depth,
    parse_convnet_name,
)
from dc_jax.networks.convolution import ConvFn
from dc_jax.networks.mlp import MLP
from dc_jax.networks.network import Network


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network that is known by one name.

    Attributes:
      make: makes the features, see `Network`, with a `conv_fn`.
      min_side: the fewest rows and columns of an image that the network can take.
      has_batch_norm: whether it has running statistics.
    """

    make: Callable[[ConvFn], nn.Module]
    min_side: int
    has_batch_norm: bool = False


def _resnet(norm: str, is_pooled: bool) -> Entry:
    return Entry(
        lambda conv_fn: resnet.ResNet18(conv_fn, norm, is_pooled),
        resnet.MIN_SIDE_AP if is_pooled else resnet.MIN_SIDE,
        has_batch_norm=norm == "batch",
    )


# Every network but the ConvNets, whose names follow a rule. Others may be added.
NETWORKS = {
    "MLP": Entry(lambda conv_fn: MLP(), 1),
    "LeNet": Entry(lenet.LeNet, lenet.MIN_SIDE),
    "AlexNet": Entry(alexnet.AlexNet, alexnet.MIN_SIDE),
    "AlexNetBN": Entry(
        lambda conv_fn: alexnet.AlexNet(conv_fn, "batch"), alexnet.MIN_SIDE, True
    ),
    "AlexCifarNet": Entry(alex_cifar.AlexCifarNet, alex_cifar.MIN_SIDE),
    "VGG11": Entry(vgg.VGG11, vgg.MIN_SIDE),
    "VGG11BN": Entry(lambda conv_fn: vgg.VGG11(conv_fn, "batch"), vgg.MIN_SIDE, True),
    "ResNet18": _resnet("instance", False),
    "ResNet18_AP": _resnet("instance", True),
    "ResNet18BN": _resnet("batch", False),
    "ResNet18BN_AP": _resnet("batch", True),
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
