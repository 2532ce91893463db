"""Tests of the convolutions for GPUs: equal to native ones, to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from dc_jax.networks.mapped import mapped_conv

pytestmark = pytest.mark.usefixtures("quick_compile")

GEOMETRIES = [
    # Strides, pads, side of the kernel, side of the image.
    ((1, 1), ((1, 1), (1, 1)), 3, 4),
    pytest.param((2, 1), ((3, 1), (0, 2)), 3, 5, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _native_conv(x, w, strides, pads):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=numbers)


def _arrays(kernel, side, *lead):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(*lead, 2, side, side, 3))),
        jnp.asarray(rng.normal(size=(*lead, kernel, kernel, 3, 4))),
    )


def _second_order(conv, strides, pads):
    """A function of images and kernel that needs second derivatives."""

    def distance(x, w):
        def loss(x, w):
            return jnp.sum(jnp.sin(conv(x, w, strides, pads)))

        of_images, of_kernel = jax.grad(loss, (0, 1))(x, w)
        return jnp.sum(of_images**2) + jnp.sum(jnp.sin(of_kernel))

    return jax.value_and_grad(distance, (0, 1))


def _check_equal(function, *args):
    ours, native = function(mapped_conv)(*args), function(_native_conv)(*args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
        ours,
        native,
    )


@pytest.mark.parametrize(("strides", "pads", "kernel", "side"), GEOMETRIES)
def test_gradients_to_second_order(strides, pads, kernel, side):
    x, w = _arrays(kernel, side)
    check_grads(
        lambda x, w: mapped_conv(x, w, strides, pads), (x, w), order=2, modes=["rev"]
    )
    _check_equal(lambda conv: _second_order(conv, strides, pads), x, w)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize(("strides", "pads", "kernel", "side"), GEOMETRIES)
def test_mapped_is_native(strides, pads, kernel, side, axes):
    x, w = _arrays(kernel, side, 3)
    args = [a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True)]
    _check_equal(lambda conv: jax.vmap(_second_order(conv, strides, pads), axes), *args)


@pytest.mark.parametrize(
    "inner", [pytest.param((0, None), marks=pytest.mark.slow), (0, 0)]
)
def test_mapped_twice_is_native(inner):
    """As networks, which have kernels of their own, over classes."""
    strides, pads, kernel, side = GEOMETRIES[0]
    x, w = _arrays(kernel, side, 2, 3)
    w = w if inner[1] == 0 else w[:, 0]
    _check_equal(
        lambda conv: jax.vmap(jax.vmap(_second_order(conv, strides, pads), inner)), x, w
    )


def test_a_kernels_gradient_has_the_kernels_window_when_it_is_mapped():
    strides, pads, kernel, side = GEOMETRIES[0]
    x, w = _arrays(kernel, side, 3)

    def windows(conv):
        def loss(w, x):
            return jnp.sum(jnp.sin(conv(x, w, strides, pads)))

        text = jax.jit(jax.vmap(jax.grad(loss))).lower(w, x).as_text()
        return text.count("batch_group_count = 3"), text.count(
            "feature_group_count = 3"
        )

    # One grouped convolution forward, and its transpose for the gradient.
    assert windows(mapped_conv) == (1, 1)
