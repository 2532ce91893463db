"""The ConvNet of the paper, and its family of variants by name.

A block is a 3x3 convolution, a normalisation, an activation and a 2x2 pooling. The
default is three blocks of 128 channels with instance norm, ReLU and average pooling.
"""

import dataclasses
import re

import flax.linen as nn
import jax

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

NAME_RULE = (
    "ConvNet followed by at most one each of D<depth> (D1 to D9), W<width> (W1 to "
    "W99999), AS|AL|AR|ASwish, NN|BN|LN|IN|GN, NP|MP|AP"
)

_ACTIVATIONS = {"AS": "sigmoid", "AL": "leaky_relu", "AR": "relu", "ASwish": "swish"}
_NORMS = {"NN": "none", "BN": "batch", "LN": "layer", "IN": "instance", "GN": "group"}
_POOLINGS = {"NP": "none", "MP": "max", "AP": "average"}
# ASwish before AS, which begins it.
_SUFFIX = re.compile(
    r"D(?P<depth>[1-9])|W(?P<width>[1-9]\d{0,4})|(?P<activation>ASwish|AS|AL|AR)"
    r"|(?P<norm>NN|BN|LN|IN|GN)|(?P<pooling>NP|MP|AP)"
)


@dataclasses.dataclass(frozen=True)
class ConvNetSpec:
    """The properties of a ConvNet that its name gives."""

    depth: int | None = None  # number of blocks; None leaves it to `convnet_depth`
    width: int = 128  # channels of every block
    activation: str = "relu"  # one of `layers.ACTIVATIONS`
    norm: str = "instance"  # one of `layers.NORMS`
    pooling: str = "average"  # one of `layers.POOLINGS`


def parse_convnet_name(name: str) -> ConvNetSpec | None:
    """Returns what a name such as `ConvNetD2W64BN` means; None for any other name."""
    if not name.startswith("ConvNet"):
        return None
    fields = {}
    position = len("ConvNet")
    while position < len(name):
        match = _SUFFIX.match(name, position)
        if match is None or match.lastgroup in fields:
            return None
        fields[match.lastgroup] = match.group()
        position = match.end()
    meanings = {"activation": _ACTIVATIONS, "norm": _NORMS, "pooling": _POOLINGS}
    return ConvNetSpec(
        **{
            kind: meanings[kind][suffix] if kind in meanings else int(suffix[1:])
            for kind, suffix in fields.items()
        }
    )


def convnet_depth(image_shape: tuple[int, ...]) -> int:
    """The number of blocks of a ConvNet whose name gives none.

    It is three, as in the paper, but two if the smaller side is below 16 pixels, and
    one if it is below 4. The third block of an 8x8 image would normalise each channel
    over a map of 2x2 pixels, which leaves next to nothing to learn from. The shape is
    `(H, W, ...)`.
    """
    side = min(image_shape[:2])
    return 3 if side >= 16 else 2 if side >= 4 else 1


def default_depth(name: str, image_shape: tuple[int, ...]) -> int | None:
    """The depth that the resolution decides; None if it does not decide."""
    spec = parse_convnet_name(name)
    return convnet_depth(image_shape) if spec and spec.depth is None else None


class ConvNet(nn.Module):
    """Everything before the classifier. `[n, H, W, D]` -> `[n, H', W', width]`."""

    depth: int  # number of blocks; each halves H and W if there is pooling
    spec: ConvNetSpec  # the rest
    conv_fn: ConvFn

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        spec = self.spec
        for i in range(self.depth):
            padding = layers.first_padding(x, 1) if i == 0 else 1
            x = layers.conv(x, spec.width, 3, padding=padding, conv_fn=self.conv_fn)
            x = layers.norm(x, spec.norm, train=train)
            x = self.end_block(x)
        return x

    def end_block(self, x: jax.Array) -> jax.Array:
        """The activation, then the pooling."""
        x = layers.ACTIVATIONS[self.spec.activation](x)
        return layers.pool(x, self.spec.pooling)
