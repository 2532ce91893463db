"""Our numbers against those of the authors' PyTorch code (tests/golden/README.md).

Float64 pins what is computed, to 1e-7; float32 that single precision will do, to 2e-3.
Only gradients of images through ResNet-18 have 1e-2: they jump where an
activation close to zero rounds to the other side, so that changing the weights by one
part in a million changes them by a hundredth, in float64 too.

Errors are relative to scales stated in `relative_errors`.
"""

import dataclasses
import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import golden_inputs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dc_jax import networks
from dc_jax.base import CondenseState
from dc_jax.config import DISTANCES
from dc_jax.data.store import ClassStore
from dc_jax.devices.backend import Execution
from dc_jax.evaluation.protocol import Protocol, phases
from dc_jax.methods import distances, distribution_matching, gradient_matching
from dc_jax.methods.matching import Matching
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.training import augment_siamese, train

TOLERANCES = {"float64": 1e-7, "float32": 2e-3}
# One lowering is pinned in float64, the other in float32.
CONVOLUTIONS = {"float64": "trilinear", "float32": "winograd"}
# One file per architecture and normalisation runs by default, the others by `-m slow`.
FAST_FILES = {
    "float64": ("MLP_1ch", "ConvNet_3ch", "ConvNetBN_1ch"),
    "float32": ("ConvNetD1_1ch",),
}
# Of whole trajectories, by default in float64 alone.
TRAJECTORIES = ["float64", pytest.param("float32", marks=pytest.mark.slow)]


def pytest_generate_tests(metafunc):
    if "network_file" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("golden_dir"))
    files = sorted(folder.glob("*_[13]ch.npz"))
    if not list(folder.glob("*.npz")):
        raise pytest.UsageError(f"--golden-dir={folder} has no golden files (.npz).")
    is_single = metafunc.function is test_network_in_float32
    fast = FAST_FILES["float32" if is_single else "float64"]
    metafunc.parametrize(
        "network_file",
        [
            pytest.param(
                file, id=file.stem, marks=() if file.stem in fast else pytest.mark.slow
            )
            for file in files
        ],
    )


def network_name(path: Path) -> str:
    return re.sub(r"_[13]ch$", "", path.stem)


def tolerance(key: str, dtype: str, name: str) -> float:
    """The relative error that is allowed for one array of a golden file."""
    if dtype == "float32" and name.startswith("ResNet18") and "grad_syn" in key:
        return 1e-2
    return TOLERANCES[dtype]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the inputs of its golden file.

    Attributes:
      golden: the file's arrays.
      module: the network.
      variables: its `params`, and `batch_stats` after the pass over the real images.
      paths: the parameters in PyTorch's order.
      real: `[2, N, H, W, D]`, a row a class.
      syn: `[2, I, H, W, D]`.
    """

    golden: dict[str, np.ndarray]
    module: nn.Module
    variables: dict[str, Any]
    paths: list[tuple[str, ...]]
    real: np.ndarray
    syn: np.ndarray


def load_case(path: Path, dtype: str) -> Case:
    with np.load(path, allow_pickle=False) as file:
        golden = dict(file)
    name = network_name(path)
    num_classes = golden["real_logits"].shape[-1]
    num_rows, num_syn, channels, height, width = golden["grad_syn_ours"].shape
    image_shape = (height, width, channels)
    module = networks.make_network(
        name, num_classes, image_shape, make_conv_fn(CONVOLUTIONS[dtype])
    )
    seed = int(golden["seed"])
    shapes = golden_inputs.parameter_shapes(module, image_shape)
    assert [
        str(list(golden_inputs.torch_shape(shape))) for shape in shapes.values()
    ] == golden["param_shapes"].tolist()
    num_real = golden["real_logits"].shape[1]
    drawn = golden_inputs.draw_images(
        seed, [(num_rows, n, channels, height, width) for n in (num_real, num_syn)]
    )
    real, syn = (array.astype(dtype) for array in drawn)
    params = golden_inputs.draw_parameters(module, image_shape, seed)
    variables = {"params": jax.tree.map(lambda leaf: leaf.astype(dtype), params)}
    if networks.has_batch_norm(name):
        images = real.reshape(-1, *image_shape)
        variables["batch_stats"] = _running_statistics(module, variables, images)
    return Case(golden, module, variables, list(shapes), real, syn)


def _running_statistics(
    module: nn.Module, variables: dict[str, Any], images: np.ndarray
) -> dict[str, Any]:
    """The running statistics after one training pass over these images."""

    @jax.jit
    def update(variables, images):
        fresh = module.init(jax.random.key(0), images)["batch_stats"]
        variables = variables | {"batch_stats": fresh}
        _, updated = module.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        return updated["batch_stats"]

    return update(variables, images)


def _programs(case: Case, options: dict[str, Any]):
    """Compiled functions of the images and the label of one class.

    Returns:
      grad_fn: `(images, label) -> gradients, (loss, logits)`.
      pull_back_fn: `(images, label, cotangent) -> gradients, the gradient of their
        product with the cotangent with respect to the images, loss`. One program for
        the three distances, of which each has its cotangent.
    """
    statistics = {k: v for k, v in case.variables.items() if k != "params"}

    def loss_fn(params, images, label):
        logits = case.module.apply({"params": params, **statistics}, images)
        loss = -jnp.mean(jax.nn.log_softmax(logits)[:, label])
        return loss, (loss, logits)

    def grad_fn(params, images, label):
        return jax.grad(loss_fn, has_aux=True)(params, images, label)

    def pull_back_fn(params, images, label, cotangent):
        grads, vjp_fn, (loss, _) = jax.vjp(
            lambda images: grad_fn(params, images, label), images, has_aux=True
        )
        return grads, vjp_fn(cotangent)[0], loss

    return tuple(
        functools.partial(
            jax.jit(function, compiler_options=options), case.variables["params"]
        )
        for function in (grad_fn, pull_back_fn)
    )


def compute(case: Case, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the golden file of a network holds, but all entries of `grad_syn_*`."""
    grad_fn, pull_back_fn = _programs(case, options)
    zeros = jax.tree.map(np.zeros_like, case.variables["params"])
    results = {}
    classes = zip(case.real, case.syn, case.golden["classes"], strict=True)
    for real, syn, label in classes:
        grads_real, (loss_real, logits) = grad_fn(real, label)
        grads_syn, _, loss_syn = pull_back_fn(syn, label, zeros)
        leaves = [
            np.asarray(leaf, np.float64)
            for leaf in golden_inputs.leaves_in_order(grads_real, case.paths)
        ]
        row = {
            "real_logits": logits,
            "losses": [loss_real, loss_syn],
            "real_grad_norms": [np.linalg.norm(leaf) for leaf in leaves],
            "real_grad_sums": [np.sum(leaf) for leaf in leaves],
        }
        for distance in DISTANCES:
            value, cotangent = jax.value_and_grad(distances.match_loss)(
                grads_syn, grads_real, distance
            )
            row[f"match_{distance}"] = value
            _, grad, _ = pull_back_fn(syn, label, cotangent)
            row[f"grad_syn_{distance}"] = np.moveaxis(grad, -1, -3)
        for key, value in row.items():
            results.setdefault(key, []).append(np.asarray(value, np.float64))
    return {key: np.stack(rows) for key, rows in results.items()}


def relative_errors(
    results: dict[str, np.ndarray], golden: dict[str, np.ndarray]
) -> dict[str, float]:
    """The largest error of each array, relative to a scale of its own.

    - `losses`, `match_*`, `grad_syn_*_norm`: to the value itself.
    - `real_logits`: to the largest of them.
    - `real_grad_norms`: to the norm itself, but at least to 1e-4 of the largest norm of
      the class: the gradient of a bias before instance norm is zero up to rounding.
    - `real_grad_sums`: to the same times the square root of the number of entries, the
      largest sum that there can be at this norm.
    - `grad_syn_*`: the norm of the error to the norm. In float32 single entries differ
      more: the odd ReLU close to zero or tie in a maximum falls on the other side.
    """
    errors = {}

    def compare(key, value, scale):
        errors[key] = float(np.max(np.abs(value - golden[key]) / scale))

    sizes = [math.prod(json.loads(shape)) for shape in golden["param_shapes"].tolist()]
    norms = golden["real_grad_norms"]
    norms = np.maximum(norms, 1e-4 * np.max(norms, axis=1, keepdims=True))
    compare(
        "real_logits", results["real_logits"], np.max(np.abs(golden["real_logits"]))
    )
    compare("losses", results["losses"], np.abs(golden["losses"]))
    compare("real_grad_norms", results["real_grad_norms"], norms)
    compare("real_grad_sums", results["real_grad_sums"], norms * np.sqrt(sizes))
    for distance in DISTANCES:
        key = f"match_{distance}"
        compare(key, np.sum(results[key]), np.abs(golden[key]))
        key = f"grad_syn_{distance}"
        value, expected = results[key], golden[key]
        compare(f"{key}_norm", np.linalg.norm(value), golden[f"{key}_norm"])
        if expected.ndim == 1:
            value = value.reshape(-1)[::97]
        errors[key] = float(np.linalg.norm(value - expected) / np.linalg.norm(expected))
    return errors


def check_network(path: Path, dtype: str, options: dict[str, Any]) -> None:
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        case = load_case(path, dtype)
        errors = relative_errors(compute(case, options), case.golden)
    print(errors)  # all of them, to be seen with `pytest -rA`
    too_large = {
        key: error
        for key, error in errors.items()
        if not error <= tolerance(key, dtype, network_name(path))
    }
    assert not too_large


def test_network_in_float64(network_file):
    # Compiling takes most of the time, and half as long without optimisation. Only the
    # strides of ResNet are then slow to run.
    is_strided = network_name(network_file) in ("ResNet18", "ResNet18BN")
    options = {} if is_strided else {"xla_backend_optimization_level": 0}
    check_network(network_file, "float64", options)


def test_network_in_float32(network_file):
    check_network(network_file, "float32", {})


@pytest.mark.parametrize(
    ("name", "image_shape"), [("ConvNet", (28, 28, 1)), ("ConvNetW32", (32, 32, 3))]
)
def test_distribution_matching(request, name, image_shape):
    height, width, channels = image_shape
    golden = load_or_skip(request, "distribution_matching.npz")
    seed = int(golden["seed"])
    loss = golden[f"{name}_{channels}ch_loss"]
    grad = golden[f"{name}_{channels}ch_grad_syn"]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        module = networks.make_network(name, 10, image_shape)
        params = golden_inputs.draw_parameters(module, image_shape, seed)
        shapes = [(2, n, channels, height, width) for n in (4, 2)]
        real, syn = golden_inputs.draw_images(seed, shapes)

        @jax.jit
        def match(syn, real):
            # A slice of 3 images divides neither batch.
            return distribution_matching.match_class(
                module,
                {"params": params},
                syn,
                real,
                lambda images: images,
                slice_size=3,
            )

        losses, grads = zip(*map(match, syn, real), strict=True)
        got_loss, got_grad = sum(losses), np.stack(grads)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-7)
    error = np.linalg.norm(np.moveaxis(got_grad, -1, -3) - grad)
    assert error <= 1e-7 * np.linalg.norm(grad)


# All operations, "color" in its three parts.
SIAMESE = (
    *("brightness", "saturation", "contrast"),
    *("crop", "cutout", "flip", "scale", "rotate"),
)


@pytest.mark.parametrize("name", SIAMESE)
@pytest.mark.parametrize("channels", [1, 3])
def test_siamese_augmentation(request, name, channels):
    golden = load_or_skip(request, "siamese_augmentation.npz")
    images = np.moveaxis(golden[f"x_{channels}ch"], 1, -1)
    run = jax.jit(jax.vmap(getattr(augment_siamese, f"apply_{name}"), (0, None)))
    for i in range(3):
        draws = golden[f"{name}_{channels}ch_{i}_draws"]
        is_place = name in ("crop", "cutout")
        draws = draws.astype(np.int32 if is_place else np.float32)
        expected = np.moveaxis(golden[f"{name}_{channels}ch_{i}_y"], 1, -1)
        result = run(images, draws if len(draws) == 2 else draws[0])
        np.testing.assert_allclose(result, expected, atol=2e-5)


def load_or_skip(request, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a golden file that not every folder has."""
    path = Path(request.config.getoption("golden_dir")) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def small_network(golden: dict[str, np.ndarray], hyper: dict[str, Any], dtype: str):
    """Returns a network of whole algorithms with its variables and paths."""
    shape = (28, 28, 1)
    module = networks.make_network(
        hyper["model"], 10, shape, make_conv_fn(CONVOLUTIONS[dtype])
    )
    params = golden_inputs.draw_parameters(module, shape, int(golden["seed"]))
    variables = {"params": jax.tree.map(lambda x: jnp.asarray(x, dtype), params)}
    return module, variables, list(golden_inputs.parameter_shapes(module, shape))


def assert_close(value: Any, expected: np.ndarray, dtype: str) -> None:
    """The largest error, relative to the largest expected value."""
    error = np.max(np.abs(np.asarray(value, np.float64) - expected))
    assert error <= TOLERANCES[dtype] * np.max(np.abs(expected))


def parameter_norms(variables: dict[str, Any], paths: list[tuple[str, ...]]):
    leaves = golden_inputs.leaves_in_order(variables["params"], paths)
    return [np.linalg.norm(np.asarray(leaf, np.float64)) for leaf in leaves]


@pytest.mark.parametrize("dtype", TRAJECTORIES)
def test_trajectory(request, dtype):
    golden = load_or_skip(request, "trajectory.npz")
    hyper = json.loads(str(golden["hyper"]))
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        module, variables, paths = small_network(golden, hyper, dtype)
        num_steps, num_real, ipc = (
            hyper["outer_loop"],
            hyper["batch_real"],
            hyper["ipc"],
        )
        images, real = golden_inputs.draw_images(
            int(golden["seed"]),
            [(10, ipc, 1, 28, 28), (num_steps, 10, num_real, 1, 28, 28)],
        )
        matching_config = Matching(
            # A slice of 3 images divides neither the batch of 8 nor is it one class.
            recipe=train.Recipe(
                module, optax.sgd(hyper["lr_net"]), hyper["batch_train"], slice_size=3
            ),
            distance="ours",
            batch_real=num_real,
            optimiser=optax.sgd(hyper["lr_img"], hyper["momentum_img"]),
            num_networks=1,
            network_loop="map",
        )
        images = jnp.asarray(images, dtype)
        state = CondenseState(images, matching_config.optimiser.init(images))
        network = train.init_state(matching_config.recipe, variables)
        labels = jnp.repeat(jnp.arange(10), ipc)

        @jax.jit
        def match(state, network, store):
            networks = jax.tree.map(lambda x: x[None], network)
            state, networks, loss, _ = gradient_matching.match_step(
                matching_config, state, networks, store, jax.random.key(0)
            )
            return state, jax.tree.map(lambda x: x[0], networks), sum(loss.values())

        @jax.jit
        def train_epoch(network, images, order):
            flat = images.reshape(-1, *images.shape[2:])
            return train.train_epoch(
                matching_config.recipe,
                network,
                flat,
                labels,
                order=order,
                key=jax.random.key(0),
            )

        for t in range(num_steps):
            # A class has as many images as are drawn, so that all of them are.
            store = ClassStore(
                images=jnp.asarray(real[t].reshape(-1, 28, 28, 1), dtype),
                starts=jnp.arange(10) * num_real,
                counts=jnp.full(10, num_real),
                mean=jnp.zeros(1),
                std=jnp.ones(1),
                num_classes=10,
                max_count=num_real,
            )
            state, network, loss = match(state, network, store)
            assert_close(loss, golden["losses"][t], dtype)
            expected = np.moveaxis(golden["images_after"][t], -3, -1)
            assert_close(state.images, expected, dtype)
            for order in golden["perms"][t] if t < num_steps - 1 else ():
                network = train_epoch(network, state.images, jnp.asarray(order))
        norms = parameter_norms(network.variables, paths)
        assert_close(norms, golden["final_param_norms"], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TRAJECTORIES)
def test_evaluation_training(request, dtype):
    golden = load_or_skip(request, "evaluation_training.npz")
    hyper = json.loads(str(golden["hyper"]))
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        module, variables, paths = small_network(golden, hyper, dtype)
        num_epochs, num_images = golden["perms"].shape
        images, test_images = (
            jnp.asarray(x, dtype)
            for x in golden_inputs.draw_images(
                int(golden["seed"]),
                [(num_images, 1, 28, 28), (5, 1, 28, 28)],
                skip=[num_images] * num_epochs,
            )
        )
        labels = jnp.repeat(jnp.arange(10), 2)
        protocol = Protocol(
            network=hyper["model"],
            epochs=hyper["epochs"],
            augmentation="none",
            lr=hyper["lr"],
            momentum=hyper["momentum"],
            weight_decay=hyper["weight_decay"],
            batch_size=hyper["batch_train"],
        )
        orders, losses = list(golden["perms"]), []
        for recipe, epochs in phases(protocol, module, Execution("map", 3)):
            network = train.init_state(recipe, variables)
            step = jax.jit(functools.partial(_loss_and_step, recipe))
            for order in (orders.pop(0) for _ in range(epochs)):
                for first in range(0, len(order), protocol.batch_size):
                    batch = jnp.asarray(order[first : first + protocol.batch_size])
                    loss, network = step(network, images, labels, batch)
                    losses.append(loss)
            variables = network.variables
        assert not orders
        assert_close(losses, golden["losses"], dtype)
        logits = module.apply(variables, test_images)
        assert_close(logits, golden["test_logits"], dtype)
        assert_close(parameter_norms(variables, paths), golden["param_norms"], dtype)


def _loss_and_step(recipe, network, images, labels, batch):
    """Returns the loss of a batch, and the network after one step on it."""
    logits = recipe.network.apply(network.variables, images[batch])
    loss = jnp.mean(train.cross_entropy(logits, labels[batch]))
    key = jax.random.key(0)
    return loss, train.train_epoch(
        recipe, network, images, labels, order=batch, key=key
    )
