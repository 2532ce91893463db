"""Networks in bfloat16: where it is used, where not, and what is left of the numbers.

Beside each bound is what it bounds: the worst of these networks, on a CPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers

from dc_jax.convolution import make_conv_fn
from dc_jax.methods.gradient_matching import Matching, match_class
from dc_jax.networks import layers, make_network, resnet
from dc_jax.parallel import ONE_DEVICE
from dc_jax.parts import make_parts
from dc_jax.train import Recipe, _train_gradient, mean_gradient

CLASSES, SHAPE = 3, (16, 16, 2)
# Products of matrices, and convolutions.
PRODUCTS = ("conv_general_dilated", "dot_general")
CASES = [
    ("ConvNetW8", "native"),
    ("ConvNetW8", "trilinear"),
    ("ConvNetW8", "winograd"),
    ("ConvNetW8BN", "native"),
    ("ConvNetW8D2GNMP", "native"),
    ("LeNet", "winograd"),
    ("MLP", "native"),
    ("ResNet18", "native"),
]


@pytest.fixture(autouse=True)
def _narrow_resnet(monkeypatch):
    monkeypatch.setattr(resnet, "_WIDTHS", (8, 8, 8, 8))


def _images(num):
    random = np.random.RandomState(num)
    return random.normal(size=(num, *SHAPE)).astype(np.float32)


class _Programs:
    """What a run computes with one network.

    All take `(variables, images, labels)`; the last two, those of a class, too.
    """

    def __init__(self, name, implementation, dtype):
        conv_fn = make_conv_fn(implementation)
        self.network = make_network(name, CLASSES, SHAPE, conv_fn, dtype=dtype)
        self.recipe = Recipe(self.network, None, batch_size=8, slice_size=4)

    def init(self):
        return jax.jit(self.network.init)(jax.random.key(0), _images(1))

    def logits(self, variables, images, labels):
        return self.network.apply(variables, images)

    def grads(self, variables, images, labels):
        return mean_gradient(self.network, variables, images, labels, slice_size=4)

    def train(self, variables, images, labels):
        return _train_gradient(self.recipe, variables, images, labels)

    def match(self, variables, images, labels):
        matching = Matching(self.recipe, "ours", 8, None, 1, "map")
        syn, real = images[:2], images[2:]
        return match_class(matching, variables, syn, real, labels[0])
