"""Our convolutions against the native one, to second order, and how they are lowered.

In double precision, where the two must agree to 1e-10.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn, patches_conv, trilinear_conv

pytestmark = pytest.mark.usefixtures("quick_compile")
NHWC = ("NHWC", "HWIO", "NHWC")
# Image, kernel, strides, padding. Some leave a last row or column of the image unread,
# and those with more padding than kernel make negative padding in the gradient.
CASES = [
    ((6, 5), (1, 1), (2, 2), "SAME"),
    ((4, 5), (1, 1), (2, 1), ((0, 2), (1, 0))),
    ((6, 5), (3, 3), (1, 1), "SAME"),
    ((6, 5), (3, 3), (2, 2), "SAME"),
    ((6, 6), (3, 3), (2, 2), "VALID"),
    ((4, 4), (3, 3), (1, 1), ((3, 3), (3, 3))),
    ((5, 4), (3, 3), (2, 2), ((1, 0), (0, 2))),
    ((5, 7), (5, 5), (2, 2), "SAME"),
    ((5, 6), (5, 5), (1, 1), "VALID"),
    ((4, 3), (5, 5), (2, 1), ((2, 2), (1, 4))),
    ((6, 5), (1, 3), (1, 2), ((0, 0), (1, 1))),
]


def _draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def _native(x, w, strides, pads):
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=NHWC)


def _pads(image, kernel, strides, padding):
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(image, kernel, strides, padding)
    return tuple(tuple(int(p) for p in pair) for pair in padding)


def _to_second_order(conv):
    """The value, both gradients, and both gradients of the norm of the gradients."""

    def loss(x, w):
        return jnp.sum(jnp.sin(conv(x, w)))

    def norm_of_gradients(x, w):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, w))

    return jax.jit(
        lambda x, w: (
            conv(x, w),
            jax.grad(loss, (0, 1))(x, w),
            jax.grad(norm_of_gradients, (0, 1))(x, w),
        )
    )


def _convolutions(jaxpr):
    """Every convolution of a program, in whatever loop or call it stands."""
    for eqn in jaxpr.eqns:
        if eqn.primitive is lax.conv_general_dilated_p:
            yield eqn.params
        for value in jax.tree.leaves(eqn.params):
            if hasattr(value, "eqns"):
                yield from _convolutions(value)


def _is_plain(params):
    numbers = params["dimension_numbers"]
    return (
        numbers == lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NHWC)
        and params["feature_group_count"] == params["batch_group_count"] == 1
    )


def _assert_equals_native(conv, image, kernel, strides, padding):
    with jax.enable_x64(True):
        pads = _pads(image, kernel, strides, padding)
        x, w = _draw((2, *image, 2), (*kernel, 2, 3))
        ours = functools.partial(conv, strides=strides, pads=pads)
        native = functools.partial(_native, strides=strides, pads=padding)
        chex.assert_trees_all_close(
            _to_second_order(ours)(x, w),
            _to_second_order(native)(x, w),
            rtol=1e-10,
            atol=1e-10,
        )


@pytest.mark.parametrize(("image", "kernel", "strides", "padding"), CASES)
def test_trilinear_equals_native_to_second_order(image, kernel, strides, padding):
    _assert_equals_native(trilinear_conv, image, kernel, strides, padding)


WINOGRAD_CASES = [
    ((6, 4), "SAME"),
    pytest.param((5, 7), "VALID", marks=pytest.mark.slow),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ((5, 4), "SAME"),
            ((1, 2), "SAME"),
            ((4, 3), ((3, 3), (0, 2))),
            ((6, 5), ((-1, 0), (1, -2))),
        )
    ),
]


@pytest.mark.parametrize(("image", "padding"), WINOGRAD_CASES)
def test_winograd_equals_native_to_second_order(image, padding):
    conv = functools.partial(trilinear_conv, fast=True)
    _assert_equals_native(conv, image, (3, 3), (1, 1), padding)


def test_winograd_rounds_no_worse_than_a_few_ulps():
    # The paper's second layer in float32, against float64.
    x, w = (
        np.asarray(a, np.float32) for a in _draw((2, 16, 16, 128), (3, 3, 128, 128))
    )
    pads = ((1, 1), (1, 1))
    with jax.enable_x64(True):
        exact = np.asarray(
            _native(jnp.float64(x), jnp.float64(w), (1, 1), pads), np.float64
        )
    ours = np.asarray(trilinear_conv(x, w, (1, 1), pads, fast=True))
    assert ours.dtype == np.float32
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    assert 0 < error < 1e-6


def test_only_3x3_kernels_without_strides_on_4x4_pixels_are_winograds():
    conv_fn = make_conv_fn("winograd")

    def num_convolutions(kernel, strides, size=4):
        x, w = jnp.zeros((1, size, size, 8)), jnp.zeros((*kernel, 8, 2))
        return len(
            list(
                _convolutions(
                    jax.make_jaxpr(lambda x, w: conv_fn(x, w, strides, "SAME"))(x, w)
                )
            )
        )

    assert num_convolutions((3, 3), (1, 1)) == 0
    assert num_convolutions((3, 3), (1, 1), size=3) == 1
    assert num_convolutions((3, 3), (2, 2), size=6) == 1
    assert num_convolutions((5, 5), (1, 1), size=6) == 1


# Plain slices and a product, whose gradients are JAX's: fewer cases will do.
@pytest.mark.parametrize(("image", "kernel", "strides", "padding"), CASES[1:7:2])
def test_patches_equal_native_to_second_order(image, kernel, strides, padding):
    _assert_equals_native(patches_conv, image, kernel, strides, padding)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x, w = _draw((1, 3, 3, 2), (3, 3, 2, 2))

        @jax.jit
        def function(x, w):
            return jnp.sin(trilinear_conv(x, w, (2, 1), ((1, 1), (1, 1))))

        check_grads(function, (x, w), order=2, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("conv", [trilinear_conv, patches_conv])
def test_vmap_and_map_equal_a_python_loop(conv):
    xs, ws = _draw((3, 2, 4, 4, 2), (3, 3, 3, 2, 3))

    def second_order(conv):
        def norm(x, w):
            def loss(w):
                return jnp.sum(jnp.sin(conv(x, w, (2, 2), ((1, 1), (1, 1)))))

            return jnp.sum(jax.grad(loss)(w) ** 2)

        return jax.value_and_grad(norm, (0, 1))

    ours, native = second_order(conv), jax.jit(second_order(_native))

    @jax.jit
    def run(xs, ws):
        by_vmap = [
            jax.vmap(ours, (0, None))(xs, ws[0]),
            jax.vmap(ours, (None, 0))(xs[0], ws),
            jax.vmap(ours)(xs, ws),
        ]
        return by_vmap, lax.map(lambda xw: ours(*xw), (xs, ws))

    by_vmap, by_map = run(xs, ws)
    expected = [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(native, *pairs))
        for pairs in ((xs, [ws[0]] * 3), ([xs[0]] * 3, ws), (xs, ws))
    ]
    chex.assert_trees_all_close(by_vmap, expected, rtol=1e-4, atol=1e-3)
    chex.assert_trees_all_close(by_map, expected[-1], rtol=1e-4, atol=1e-3)


def _gradient_of_gradient_norm(conv_fn, order):
    """A program as in matching: gradients of gradients of a network, class by class."""
    network = make_network("ConvNetD2W8", 3, (8, 8, 1), conv_fn)
    shape = (2, 4, 8, 8, 1)
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape[1:]))

    def loss(variables, images):
        return jnp.sum(jnp.sin(network.apply(variables, images)))

    def norm(variables, images):
        grads = jax.grad(loss)(variables, images)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads))

    function = jax.grad({1: loss, 2: norm}[order], (0, 1))
    return jax.make_jaxpr(
        lambda variables, images: lax.map(lambda x: function(variables, x), images)
    )(variables, jnp.zeros(shape))


@pytest.mark.parametrize("order", [1, 2])
def test_every_gradient_is_made_of_plain_convolutions(order):
    # XLA's CPU backend runs any other layout as a scalar loop inside a loop.
    jaxpr = _gradient_of_gradient_norm(make_conv_fn("trilinear"), order)
    ours = list(_convolutions(jaxpr))
    assert ours
    assert all(map(_is_plain, ours))

    jaxpr = _gradient_of_gradient_norm(make_conv_fn("native"), order)
    assert not all(map(_is_plain, _convolutions(jaxpr)))


def test_the_first_layer_is_a_matrix_product():
    conv_fn = make_conv_fn("trilinear")

    def num_convolutions(channels):
        x, w = jnp.zeros((1, 4, 4, channels)), jnp.zeros((3, 3, channels, 2))
        return len(
            list(
                _convolutions(
                    jax.make_jaxpr(lambda x, w: conv_fn(x, w, (1, 1), "SAME"))(x, w)
                )
            )
        )

    assert [num_convolutions(channels) for channels in (1, 3, 4, 5)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("size", "stride", "num"), [(2, 1, 0), (3, 1, 1), (4, 2, 0), (6, 2, 1)]
)
def test_maps_smaller_than_the_kernel_are_matrix_products(size, stride, num):
    # As images, or as the cotangents that the gradient is a convolution of: XLA swaps
    # them with the kernel, and runs that as a scalar loop.
    conv_fn = make_conv_fn("trilinear")
    x, w = jnp.zeros((1, size, size, 8)), jnp.zeros((3, 3, 8, 8))
    jaxpr = jax.make_jaxpr(lambda x, w: conv_fn(x, w, (stride,) * 2, "SAME"))(x, w)
    assert len(list(_convolutions(jaxpr))) == num


def test_native_is_the_function_of_jax():
    assert make_conv_fn("native") is lax.conv_general_dilated


def test_default_is_the_better_one_of_the_backend(monkeypatch):
    for backend, implementation in (
        ("cpu", "winograd"),
        ("gpu", "mapped"),
        ("tpu", "native"),
    ):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert make_conv_fn() is make_conv_fn(implementation)


def test_implementations_are_different_objects():
    names = ("native", "mapped", "trilinear", "winograd")
    assert len({make_conv_fn(name) for name in names}) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"lhs_dilation": (1, 2)},
        {"rhs_dilation": (2, 2)},
    ],
)
def test_groups_and_dilation_are_refused(options):
    x, w = jnp.zeros((1, 4, 4, 8)), jnp.zeros((3, 3, 8, 8))
    with pytest.raises(ValueError, match="no groups and no dilation"):
        make_conv_fn("trilinear")(x, w, (1, 1), "SAME", **options)
