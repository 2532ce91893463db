"""The networks: their names, sizes and behaviour under transformations."""

import chex
import golden_inputs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dc_jax import networks
from dc_jax.networks.chains import MLP
from dc_jax.networks.convnet import ConvNetSpec, parse_convnet_name

pytestmark = pytest.mark.usefixtures("quick_compile")

GREY = (28, 28, 1)
COLOUR = (32, 32, 3)
SMALL = (8, 8, 2)


def _count(name, image_shape, num_classes=10):
    module = networks.make_network(name, num_classes, image_shape)
    shapes = golden_inputs.parameter_shapes(module, image_shape)
    return sum(np.prod(shape) for shape in shapes.values())


def _network(name, image_shape, num=None):
    """A network with arbitrary variables (`num` of them), drawn without compiling."""
    module = networks.make_network(name, 3, image_shape)
    images = jnp.zeros((1, *image_shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    random = np.random.RandomState(0)
    lead = () if num is None else (num,)

    def draw(leaf):
        # Positive, so that it will do for a variance too.
        return random.uniform(0, 0.5, (*lead, *leaf.shape)).astype(leaf.dtype)

    return module, jax.tree.map(draw, shapes)


def _images(num, image_shape):
    return np.random.RandomState(1).normal(size=(num, *image_shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "grey", "colour"),
    [
        ("MLP", 118282, 411146),
        ("LeNet", 61706, 62006),
        ("AlexNet", 1865802, 1872202),
        ("AlexNetBN", 1867722, 1874122),
        ("AlexCifarNet", 1753226, 1756426),
        ("VGG11", 9229962, 9231114),
        ("VGG11BN", 9229962, 9231114),
        ("ResNet18", 11172810, 11173962),
        ("ResNet18BN", 11172810, 11173962),
        ("ResNet18_AP", 11213770, 11250762),
        ("ResNet18BN_AP", 11213770, 11250762),
        ("ConvNet", 317706, 320010),
        ("ConvNetD1", None, 331530),
        ("ConvNetD2", None, 233610),
        ("ConvNetD3", None, 320010),
        ("ConvNetD4", None, 452490),
        ("ConvNetW32", None, 24714),
        ("ConvNetW256", None, 1229834),
        ("ConvNetNN", None, 319242),
        ("ConvNetBN", None, 320010),
        ("ConvNetGN", None, 320010),
        ("ConvNetLN", None, 663306),
        ("ConvNetNP", None, 1610250),
    ],
)
def test_number_of_parameters_is_the_authors(name, grey, colour):
    assert grey is None or _count(name, GREY) == grey
    assert _count(name, COLOUR) == colour


def test_number_of_parameters_for_other_datasets_is_the_authors():
    assert _count("ConvNet", COLOUR, num_classes=100) == 504420
    assert _count("ConvNetD4", (64, 64, 3), num_classes=200) == 857160


@pytest.mark.parametrize("name", networks.network_names())
def test_every_name_makes_a_network_with_logits_and_embedding(name):
    module = networks.make_network(name, 7, COLOUR)
    images = jnp.zeros((2, *COLOUR))
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    assert ("batch_stats" in variables) == networks.has_batch_norm(name)
    logits = jax.eval_shape(module.apply, variables, images)
    assert logits.shape == (2, 7)
    embedding = jax.eval_shape(
        lambda variables: module.apply(variables, images, method="embed"), variables
    )
    kernel = variables["params"]["classifier"]["kernel"]
    assert embedding.shape == (2, kernel.shape[0])


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("MLP", (3, 5, 2)),
        ("ConvNet", (2, 3, 1)),
        ("ConvNet", (17, 40, 4)),
        ("ConvNetD4", (16, 31, 1)),
        ("ConvNetD2NP", (1, 2, 1)),
        ("LeNet", (16, 19, 2)),
        ("AlexNet", (8, 9, 2)),
        ("AlexCifarNet", (1, 9, 2)),
        ("VGG11", (33, 32, 1)),
        ("ResNet18", (8, 8, 1)),
        ("ResNet18", (64, 48, 3)),
        ("ResNet18BN_AP", (8, 15, 1)),
    ],
)
def test_any_image_that_leaves_a_pixel_will_do(name, image_shape):
    module = networks.make_network(name, 1, image_shape)
    images = jnp.zeros((2, *image_shape))
    logits, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "image_shape", "side"),
    [
        ("ConvNet", (1, 28, 1), 2),
        ("ConvNetD4", (8, 8, 1), 16),
        ("ConvNetD6", GREY, 64),
        ("LeNet", (15, 16, 1), 16),
        ("AlexNet", (7, 8, 1), 8),
        ("VGG11", (31, 32, 3), 32),
        ("ResNet18BN_AP", (7, 7, 1), 8),
    ],
)
def test_too_small_images_are_refused(name, image_shape, side):
    height, width, _ = image_shape
    message = (
        f"network {name} needs images of at least {side}x{side} pixels, "
        f"got {height}x{width}."
    )
    with pytest.raises(ValueError, match=message):
        networks.make_network(name, 10, image_shape)


@pytest.mark.parametrize(
    "name",
    [
        "convnet",
        "ConvNetXX",
        "ConvNetD0",
        "ConvNetD2D3",
        "ConvNetW999999",
        "ConvNetBNIN",
        "ResNet50",
    ],
)
def test_unknown_names_are_refused_with_what_is_allowed(name):
    with pytest.raises(ValueError, match="network must be one of MLP, LeNet") as error:
        networks.make_network(name, 10, COLOUR)
    assert "\n" not in str(error.value)
    assert repr(name) in str(error.value)
    assert "(W1 to W99999)" in str(error.value)
    with pytest.raises(ValueError, match="network must be one of"):
        networks.has_batch_norm(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ConvNet", "ConvNet"),
        ("ConvNetBN", "ConvNet"),
        ("ConvNetD2BNMP", "ConvNetD2MP"),
        ("ConvNetASwishBN", "ConvNetASwish"),
        ("ResNet18BN", "ResNet18"),
        ("ResNet18BN_AP", "ResNet18"),
        ("ResNet18_AP", "ResNet18_AP"),
        ("Own", "Own"),
    ],
)
def test_network_without_batch_norm(name, expected, monkeypatch):
    # One that somebody adds, of which there is no other.
    own = networks.Entry(lambda conv_fn: MLP(), 1, has_batch_norm=True)
    monkeypatch.setitem(networks.NETWORKS, "Own", own)
    assert networks.without_batch_norm(name) == expected


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"three positive numbers .* got \(28, 28\)"):
        networks.make_network("ConvNet", 10, (28, 28))
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        networks.make_network("ConvNet", 0, COLOUR)
    with pytest.raises(ValueError, match="width must be a multiple of 4, got 6"):
        networks.make_network("ConvNetW6GN", 10, COLOUR)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("ConvNet", ConvNetSpec()),
        ("ConvNetASwishBN", ConvNetSpec(activation="swish", norm="batch")),
        ("ConvNetBNASwish", ConvNetSpec(activation="swish", norm="batch")),
        ("ConvNetARAP", ConvNetSpec(activation="relu", pooling="average")),
        ("ConvNetW64D2ALGNMP", ConvNetSpec(2, 64, "leaky_relu", "group", "max")),
        ("ConvNetD4W256LNNP", ConvNetSpec(4, 256, norm="layer", pooling="none")),
    ],
)
def test_names_of_convnets_combine_suffixes(name, spec):
    assert parse_convnet_name(name) == spec


def test_depth_without_a_suffix_follows_the_resolution():
    sides = (1, 3, 4, 8, 15, 16, 28, 32, 64)
    depths = [networks.convnet_depth((side, 64)) for side in sides]
    assert depths == [1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert networks.default_depth("ConvNetBN", (8, 8, 1)) == 2
    assert networks.default_depth("ConvNetD3", (8, 8, 1)) is None
    assert networks.default_depth("LeNet", (8, 8, 1)) is None
    assert networks.make_network("ConvNetW8", 10, (8, 8, 1)).features.depth == 2
    assert networks.make_network("ConvNetW8D3", 10, (8, 8, 1)).features.depth == 3


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("ConvNet", 4 * 4), ("VGG11", 1), ("AlexNet", 4 * 4)],
)
def test_only_images_of_28_pixels_are_padded(name, pixels):
    for image_shape in (GREY, (28, 28, 3), (32, 32, 1), COLOUR):
        module = networks.make_network(name, 10, image_shape)
        shapes = golden_inputs.parameter_shapes(module, image_shape)
        *_, channels, _ = [shape for shape in shapes.values() if len(shape) == 1]
        assert shapes["classifier", "kernel"] == (pixels * channels[0], 10)


def test_padding_puts_zeros_around_the_image():
    module, variables = _network("ConvNetW8D1BN", GREY)
    images = _images(2, GREY)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(
        apply(variables, images), apply(variables, padded), rtol=1e-5
    )


def test_weights_and_biases_are_uniform_as_in_pytorch():
    module = networks.make_network("ConvNetW64D1", 100, COLOUR)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *COLOUR)))
    features = variables["params"]["features"]
    for parameters, fan_in in (
        (features["Conv_0"], 9 * 3),
        (variables["params"]["classifier"], 64 * 16 * 16),
    ):
        bound = fan_in**-0.5
        values = np.concatenate([np.ravel(leaf) for leaf in parameters.values()])
        assert np.max(np.abs(values)) <= bound
        assert np.max(np.abs(parameters["bias"])) > 0.9 * bound
        assert np.std(values) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_batch_norm_of_a_network_uses_running_statistics_unless_training():
    module, variables = _network("ConvNetW8BN", SMALL)
    images = _images(4, SMALL)

    @jax.jit
    def run(variables, images):
        trained = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return module.apply(variables, images), *trained

    logits, trained, updated = run(variables, images)
    moved = np.concatenate([images[:1], 1 + images[1:]])
    logits_moved, trained_moved, _ = run(variables, moved)
    np.testing.assert_allclose(logits_moved[0], logits[0], rtol=1e-5)
    assert np.max(np.abs(trained_moved[0] - trained[0])) > 1e-3
    chex.assert_trees_all_equal_shapes_and_dtypes(
        updated["batch_stats"], variables["batch_stats"]
    )


@pytest.mark.parametrize("name", ["MLP", "LeNet", "ConvNetW8BN"])
def test_logits_are_linear_in_the_embedding(name):
    image_shape = (16, 16, 2)
    module, variables = _network(name, image_shape)
    images = _images(3, image_shape)

    @jax.jit
    def run(variables):
        embedding = module.apply(variables, images, method="embed")
        return module.apply(variables, images), embedding

    logits, embedding = run(variables)
    classifier = variables["params"]["classifier"]
    expected = embedding @ classifier["kernel"] + classifier["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_convolutions_go_through_conv_fn():
    num_inputs = []

    def conv_fn(images, kernel, *args, **kwargs):
        num_inputs.append(images.shape[-1])
        return jax.lax.conv_general_dilated(images, kernel, *args, **kwargs)

    images = jnp.zeros((1, *COLOUR))
    for name, expected in (
        ("ConvNetW8", [3, 8, 8]),
        ("LeNet", [3, 6]),
        ("AlexNet", [3, 128, 192, 256, 192]),
        ("VGG11", [3, 64, 128, 256, 256, 512, 512, 512]),
    ):
        num_inputs.clear()
        module = networks.make_network(name, 10, COLOUR, conv_fn)
        jax.eval_shape(module.init, jax.random.key(0), images)
        assert num_inputs == expected
    num_inputs.clear()
    module = networks.make_network("ResNet18", 10, COLOUR, conv_fn)
    jax.eval_shape(module.init, jax.random.key(0), images)
    assert len(num_inputs) == 20


@pytest.mark.parametrize("name", ["ConvNetW4D1", "ConvNetW4D1BNMP", "ConvNetW4D1LN"])
def test_networks_batch_under_vmap_and_map(name):
    module, variables = _network(name, SMALL, num=2)
    images = _images(4, SMALL)

    def images_grad(variables):
        """The gradient of a gradient: what condensing takes."""

        def loss_fn(params, images):
            logits = module.apply(variables | {"params": params}, images)
            return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])

        def norm_fn(images):
            grads = jax.grad(loss_fn)(variables["params"], images)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads))

        return jax.grad(norm_fn)(images)

    batched = jax.jit(jax.vmap(images_grad))(variables)
    mapped = jax.jit(lambda variables: jax.lax.map(images_grad, variables))(variables)
    scale = np.max(np.abs(mapped))
    assert np.isfinite(scale)
    assert scale > 0
    np.testing.assert_allclose(batched, mapped, atol=1e-4 * scale)


@pytest.mark.parametrize("norm", ["NN", "BN", "LN", "IN", "GN"])
@pytest.mark.parametrize("is_double", [False, True])
def test_types_follow_jax(norm, is_double):
    with jax.enable_x64(is_double):
        dtype = np.float64 if is_double else np.float32
        module = networks.make_network(f"ConvNetW8{norm}", 3, SMALL)
        images = jnp.zeros((2, *SMALL))

        def run(key):
            variables = module.init(key, images)
            logits, updated = module.apply(
                variables, images, train=True, mutable=["batch_stats"]
            )
            return variables, updated, logits

        for leaf in jax.tree.leaves(jax.eval_shape(run, jax.random.key(0))):
            assert leaf.dtype == dtype
