"""Networks in bfloat16: where it is used, where not, and how far numbers move."""

import jax
import numpy as np
import pytest
from jax import lax

from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.methods.feature_regression import regression_loss
from dc_jax.methods.gradient_matching import match_class
from dc_jax.methods.images import mean_over_networks
from dc_jax.methods.matching import Matching
from dc_jax.networks import make_network, resnet
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.training import train

pytestmark = pytest.mark.usefixtures("quick_compile")
CLASSES, SHAPE, NUM = 3, (8, 8, 2), 10
LABELS = np.arange(NUM) % CLASSES
IMAGES = np.random.RandomState(0).normal(size=(NUM, *SHAPE)).astype(np.float32)
# Networks with how they convolve.
CASES = [
    ("ConvNetW8", "native"),
    ("ConvNetW8", "trilinear"),
    ("ConvNetW8", "winograd"),
    ("ConvNetW8BN", "native"),
    ("ConvNetW8D1GNMP", "native"),
    ("ResNet18", "native"),
    ("MLP", "native"),
]


@pytest.fixture(autouse=True)
def _narrow_resnet(monkeypatch):
    monkeypatch.setattr(resnet, "_WIDTHS", (8, 8, 8, 8))


def _case(name, implementation, dtype):
    """A network's programs, functions of its variables, and the variables' shapes."""
    network = make_network(
        name, CLASSES, SHAPE, make_conv_fn(implementation), dtype=dtype
    )
    recipe = train.Recipe(network, None, batch_size=NUM, slice_size=NUM)
    matching = Matching(recipe, "ours", NUM - 2, None, 1, "map")

    def match(variables):
        """Logits, gradients of parameters, the matching loss and its gradient."""
        logits = network.apply(variables, IMAGES)
        grads = train.mean_gradient(network, variables, IMAGES, LABELS, slice_size=NUM)
        losses, images_grad = match_class(
            matching, variables, IMAGES[:2], IMAGES[2:], LABELS[0], lambda x: x
        )
        return logits, grads, sum(losses.values()), images_grad

    def update(variables):
        """The gradient of a batch, and the variables with new batch statistics."""
        return train._train_gradient(recipe, variables, IMAGES, LABELS)[:2]

    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    return match, update, shapes


def _equations(jaxpr):
    """Every equation of a program, in whatever loop or call it stands."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params):
            if hasattr(value, "eqns"):
                yield from _equations(value)


def _input_types(function, shapes, *primitives):
    """The types of all inputs of these primitives in a program."""
    return {
        str(variable.aval.dtype)
        for eqn in _equations(jax.make_jaxpr(function)(shapes))
        if eqn.primitive in primitives
        for variable in eqn.invars
    }


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_all_products_are_of_bfloat16_and_all_results_of_float32(name, implementation):
    match, update, shapes = _case(name, implementation, "bfloat16")
    for function in (match, update):
        products = (lax.dot_general_p, lax.conv_general_dilated_p)
        assert _input_types(function, shapes, *products) == {"bfloat16"}
        # Of normalisations, and of the norms of gradients.
        roots = (lax.rsqrt_p, lax.sqrt_p)
        assert _input_types(function, shapes, *roots) <= {"float32"}
        for leaf in jax.tree.leaves((shapes, jax.eval_shape(function, shapes))):
            assert leaf.dtype == np.float32


@pytest.mark.parametrize("name", ["ConvNetW8", "ConvNetW8BN", "MLP"])
def test_nothing_is_of_bfloat16_in_float32(name):
    match, update, shapes = _case(name, "winograd", "float32")
    default = make_network(name, CLASSES, SHAPE, make_conv_fn("winograd"))
    for function in (match, update):
        assert "bf16" not in str(jax.make_jaxpr(function)(shapes))
    logits = jax.make_jaxpr(default.apply)(shapes, IMAGES)
    network = make_network(
        name, CLASSES, SHAPE, make_conv_fn("winograd"), dtype="float32"
    )
    assert str(jax.make_jaxpr(network.apply)(shapes, IMAGES)) == str(logits)


def _regress(real, synthetic, labels):
    return regression_loss(real, np.arange(NUM) % CLASSES, synthetic, labels)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (jax.grad(_regress, (1, 2)), [(NUM, 5), (6, 5), (6, CLASSES)]),
        (lambda grads: mean_over_networks(grads, ONE_DEVICE, 4), [(4, 2, 8, 8, 3)]),
    ],
    ids=["regression", "mean"],
)
def test_what_loses_digits_is_of_float32_in_every_precision(function, shapes):
    # On a CPU, all products are. So what is asked of a GPU or TPU is compared.
    inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    with jax.default_matmul_precision("bfloat16"):
        program = jax.make_jaxpr(function)(*inputs).jaxpr
    products = [e for e in _equations(program) if e.primitive is lax.dot_general_p]
    assert products
    for product in products:
        assert set(product.params["precision"]) == {lax.Precision.HIGHEST}


def _cosine(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        pytest.param("ConvNetW8", "native", marks=pytest.mark.slow),
        pytest.param("ConvNetW8", "winograd", marks=pytest.mark.slow),
        pytest.param("ConvNetW8BN", "native", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_agrees_with_float32(name, implementation):
    single, _, shapes = _case(name, implementation, "float32")
    half, _, _ = _case(name, implementation, "bfloat16")
    random = np.random.RandomState(0)

    def draw(path, leaf):
        # As fresh networks are: gains and variances of one.
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        return random.uniform(-0.2, 0.2, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    expected, got = jax.jit(single)(variables), jax.jit(half)(variables)
    logits, grads, loss, images_grad = zip(expected, got, strict=True)
    scale = np.max(np.abs(logits[0]))
    np.testing.assert_allclose(logits[1], logits[0], atol=0.03 * scale)
    assert _cosine(*grads) > 0.99
    np.testing.assert_allclose(loss[1], loss[0], rtol=0.03)
    assert _cosine(*images_grad) > 0.97
