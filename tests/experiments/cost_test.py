"""The counter of matrix products and convolutions, against sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from experiments.plan.cost import Cost, count


def _count(function, *args, **kwargs) -> Cost:
    return count(jax.make_jaxpr(function)(*args), **kwargs)


def _conv(x, w, strides=(1, 1), padding="SAME"):
    return jax.lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


A, B = jnp.ones((2, 3)), jnp.ones((3, 5))
IMAGES, KERNEL = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 8))
# A 3x3 kernel on 4 pixels padded by one meets 2 + 3 + 3 + 2 = 10 of them a side.
CONV_FLOPS = 2 * 2 * 3 * 8 * 10 * 10


def test_cost_of_a_matrix_product():
    # 2x5 results of 3 products and 3 additions; 6 + 15 + 10 numbers of 4 bytes.
    assert _count(jnp.matmul, A, B) == (60, 124)


def test_cost_of_a_batched_product():
    lhs, rhs = jnp.ones((7, 2, 3)), jnp.ones((7, 3, 5))
    assert _count(jnp.matmul, lhs, rhs).flops == 7 * 60


def test_cost_of_a_convolution():
    numbers = 2 * 4 * 4 * 3 + 3 * 3 * 3 * 8 + 2 * 4 * 4 * 8
    assert _count(_conv, IMAGES, KERNEL) == (CONV_FLOPS, 4 * numbers)


def test_cost_of_a_convolution_without_padding_and_with_stride():
    assert _count(lambda: _conv(IMAGES, KERNEL, padding="VALID")).flops == (
        2 * 2 * 2 * 2 * 8 * 27
    )
    # Of the outputs at 0 and 2 with padding (0, 1) the second misses one pixel.
    assert _count(lambda: _conv(IMAGES, KERNEL, strides=(2, 2))).flops == (
        2 * 2 * 3 * 8 * 5 * 5
    )


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("argument", [0, 1])
def test_gradients_of_a_convolution_cost_as_much(strides, argument):
    def gradient(x, w, g):
        return jax.vjp(lambda *args: _conv(*args, strides), x, w)[1](g)[argument]

    forward = _count(lambda: _conv(IMAGES, KERNEL, strides)).flops
    g = jnp.ones(_conv(IMAGES, KERNEL, strides).shape)
    assert _count(gradient, IMAGES, KERNEL, g).flops == forward


def test_vmapped_convolutions_and_their_gradients_cost_as_separate_ones():
    def gradient(x, w):
        return jax.grad(lambda w: jnp.sum(_conv(x, w) ** 2))(w)

    images, kernels = jnp.ones((5, *IMAGES.shape)), jnp.ones((5, *KERNEL.shape))
    one = _count(gradient, IMAGES, KERNEL)
    many = _count(jax.vmap(gradient), images, kernels)
    assert one.flops == 2 * CONV_FLOPS  # forward, and the gradient
    assert many.flops == 5 * one.flops
    assert many.bytes == 5 * one.bytes


def test_cost_agrees_with_xla_where_there_is_no_loop():
    def function(x, w):
        return jax.lax.dot(_conv(x, w).reshape(2, -1), jnp.ones((128, 6)))

    xla = jax.jit(function).lower(IMAGES, KERNEL).cost_analysis()["flops"]
    np.testing.assert_allclose(_count(function, IMAGES, KERNEL).flops, xla, rtol=0.01)


def test_loops_and_calls_are_multiplied():
    def function(a, b):
        def body(carry, _):
            return carry, jax.jit(jnp.matmul)(a, b)

        inner = lambda i, c: c + jax.lax.scan(body, 0.0, length=4)[1].sum()  # noqa: E731
        return jax.lax.fori_loop(0, 3, inner, 0.0) + jnp.matmul(a, b).sum()

    assert _count(function, A, B).flops == 60 * (3 * 4 + 1)


def test_branches_cost_the_most_expensive():
    def function(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b, lambda: jnp.zeros((2, 5)))

    assert _count(function, True, A, B).flops == 60


def test_while_loops_need_a_number_where_they_have_products():
    def function(trips, a, b):
        return jax.lax.fori_loop(0, trips, lambda i, c: c + a @ b, jnp.zeros((2, 5)))

    assert _count(function, 3, A, B, while_trips=4.5).flops == 270
    with pytest.raises(ValueError, match="unknown length"):
        _count(function, 3, A, B)
    assert (
        _count(lambda n: jax.lax.fori_loop(0, n, lambda i, c: c + i, 0), 3).flops == 0
    )


def test_the_part_of_one_device_counts():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    function = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(P("x"), P()), out_specs=P("x")
    )
    assert _count(function, A, B).flops == 60


def test_the_groups_of_a_convolution_cost_only_their_channels():
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            *(x, w, (1, 1), "VALID"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    x, w = jnp.ones((1, 6, 6, 6)), jnp.ones((3, 3, 2, 9))
    assert _count(conv, x, w).flops == 2 * (4 * 4 * 9) * (3 * 3 * 2)


@pytest.mark.parametrize("is_traced", [False, True])
def test_a_branch_with_a_loop_costs_its_share(is_traced):
    """Both ways to train before four of five outer steps cost the same."""

    def function(trips, a, b):
        def train(number):
            loop = lambda _, c: c + a @ b  # noqa: E731
            return jax.lax.fori_loop(0, number, loop, jnp.zeros((2, 5)))

        def outer(carry, t):
            if is_traced:
                return carry + train(jnp.where(t > 0, trips, 0)), None
            trained = jax.lax.cond(t > 0, lambda: train(3), lambda: carry)
            return carry + trained, None

        return jax.lax.scan(outer, jnp.zeros((2, 5)), jnp.arange(5))[0]

    cost = _count(function, 3, A, B, while_trips=3, share=0.8)
    assert cost.flops == pytest.approx(4 * 3 * 60)


def test_a_loop_of_unknown_length_in_a_branch_counts_its_share_once():
    def function(trips, a, b):
        loop = lambda _, c: c + a @ b  # noqa: E731
        train = lambda: jax.lax.fori_loop(0, trips, loop, jnp.zeros((2, 5)))  # noqa: E731
        return jax.lax.cond(trips > 0, train, lambda: jnp.zeros((2, 5)))

    cost = _count(function, 3, A, B, while_trips=3, share=0.8)
    assert cost.flops == pytest.approx(0.8 * 3 * 60)
