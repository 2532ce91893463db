"""Classes with different numbers of synthetic images: each as if it were alone."""

import functools
import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import run_helpers
from absl import flags
from ml_collections import config_flags
from PIL import Image
from toy import Tiny, random_dataset

import dc_jax
from configs import digits
from dc_jax.base import CondenseState, SyntheticSet, flatten_set, make_labels
from dc_jax.data.sources import load_dataset
from dc_jax.data.store import make_store, normalise
from dc_jax.data.stream import HostStore
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, make_layout
from dc_jax.evaluation.evaluator import Evaluator
from dc_jax.methods import distribution_matching, gradient_matching, make_method
from dc_jax.methods.images import init_images, slot_weights
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.report import kept
from dc_jax.run import command_line, runner
from dc_jax.run.checks import check_memory
from dc_jax.run.compiled import compile_draws, compile_method
from dc_jax.sets import formats, image_grid, pictures, set_file
from dc_jax.sets.make import make_set
from dc_jax.training.augment_siamese import make_siamese
from dc_jax.training.train import train

CLASSES, SHAPE = 3, (4, 4, 1)
pytestmark = pytest.mark.usefixtures("quick_compile")
# The last has fewer images than are drawn at once.
COUNTS = (20, 11, 5)
IPC = (2, 3, 1)
DATASET = random_dataset(COUNTS, SHAPE)
STORE = make_store(DATASET)
LABELS = np.array([[0, 0, -1], [1, 1, 1], [2, -1, -1]], np.int32)
IS_IMAGE = LABELS >= 0


@functools.cache
def _network(name):
    if name.startswith("Tiny"):
        return Tiny(CLASSES, has_batch_norm=name == "TinyBN")
    return make_network(name, CLASSES, SHAPE, make_conv_fn("trilinear"))


def _config(**changes):
    defaults = {
        "ipc": IPC,
        "outer_loop": 1,
        "inner_loop": 2,
        "batch_real": 8,
        "batch_train": 4,
        "mesh.net": None,
        "mesh.classes": None,
    }
    return run_helpers.tiny_config(**defaults | changes)


def _make_method(name, loop="map", layout=ONE_DEVICE, **changes):
    return make_method(_config(**changes), _network(name), Execution(loop, 8, layout))


def _draw_images():
    images = np.random.default_rng(0).normal(size=(CLASSES, max(IPC), *SHAPE))
    return (images * IS_IMAGE[..., None, None, None]).astype(np.float32)


def _run(name, images, loop="map", **changes):
    """The images after two iterations from these."""
    step = jax.jit(_make_method(name, loop, **changes).step)
    state = CondenseState(images, optax.sgd(0.1, 0.5).init(images))
    for i in range(2):
        state, _ = step(state, STORE, jax.random.key(i))
    return np.asarray(state.images)


def test_labels_say_which_slots_hold_images():
    labels = make_labels(IPC)
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int32
    images = _draw_images()
    flat, flat_labels = flatten_set(images, LABELS)
    expected = [images[0, 0], images[0, 1], *images[1], images[2, 0]]
    np.testing.assert_array_equal(flat, expected)
    np.testing.assert_array_equal(flat_labels, [0, 0, 1, 1, 1, 2])
    np.testing.assert_allclose(
        slot_weights(LABELS), [[1.5, 1.5, 0], [1, 1, 1], [3, 0, 0]]
    )
    assert slot_weights(make_labels((2, 2))) is None


@pytest.mark.parametrize(
    ("method", "name"),
    [("dc", "TinyBN"), ("dsa", "Tiny"), ("dm", "ConvNetD1W8")]
    + [("dm", "ConvNetD1W8BN"), ("dd", "Tiny")],
)
def test_equal_numbers_are_the_same_program_as_one_number(method, name):
    def lower(ipc):
        made = _make_method(name, method=method, ipc=ipc, outer_loop=2)
        state = jax.eval_shape(made.init, STORE, jax.random.key(0))
        return jax.jit(made.step).lower(state, STORE, jax.random.key(0)).as_text()

    one = lower(3)
    assert lower((3, 3, 3)) == one
    if method != "dd":
        assert lower((3, 3, 2)) != one


@pytest.mark.parametrize(
    ("method", "name"),
    [("dsa", "TinyBN"), ("dm", "ConvNetD1W8")],
)
def test_a_class_becomes_what_it_would_with_its_number_for_all(method, name):
    """The same real images, augmentation and updates, with momentum."""
    images = _draw_images()
    actual = _run(name, images, method=method)
    assert not actual[~IS_IMAGE].any()
    alone = _run(name, images[:, :2], method=method, ipc=2)
    np.testing.assert_allclose(actual[0, :2], alone[0], rtol=1e-4, atol=1e-5)
    changes = np.abs(actual - images).max(axis=(2, 3, 4))
    assert (changes[IS_IMAGE] > 1e-3).all()


def test_vmap_of_networks_equals_map():
    images = _draw_images()
    results = [_run("TinyBN", images, loop, num_networks=2) for loop in ("map", "vmap")]
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-5)
    assert not results[1][~IS_IMAGE].any()


def _real(label, num=8):
    images = DATASET.train_images[DATASET.train_labels == label][:num]
    return normalise(images, DATASET.mean, DATASET.std)


def test_the_loss_of_a_class_is_that_of_its_images_alone():
    network = _network("ConvNetD1W8")
    images = _draw_images()[0]
    variables = network.init(jax.random.key(0), images[:1])
    augment = make_siamese(jax.random.key(1), "color", SHAPE)
    matching = gradient_matching.Matching(
        recipe=gradient_matching.inner_recipe(_config(), network, Execution("map", 8)),
        distance="ours",
        batch_real=8,
        optimiser=optax.sgd(0.1),
        num_networks=1,
        network_loop="map",
    )

    def by_gradients(images, weights):
        return gradient_matching.match_class(
            *(matching, variables, images, _real(0), jnp.int32(0), augment),
            weights=weights,
        )

    def by_embeddings(images, weights):
        return distribution_matching.match_class(
            *(network, variables, images, _real(0), augment),
            slice_size=2,
            weights=weights,
        )

    for match in (by_gradients, by_embeddings):
        loss, grads = jax.jit(match)(images, slot_weights(LABELS)[0])
        expected, expected_grads = jax.jit(match)(images[:2], None)
        chex.assert_trees_all_close(loss, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(grads[:2], expected_grads, rtol=1e-3, atol=1e-5)
        assert np.abs(grads[:2]).max() > 1e-4
        assert not np.any(grads[2])


def test_batch_norm_of_distribution_matching_is_that_of_the_images():
    """Blank slots are neither in its statistics nor in the means."""
    network, images = _network("ConvNetD1W8BN"), jnp.asarray(_draw_images())
    variables = network.init(jax.random.key(0), images[0])
    real = jnp.stack([_real(label, 5) for label in range(CLASSES)])

    def embed(images):
        return network.apply(
            *(variables, images, True), method="embed", mutable=["batch_stats"]
        )[0]

    def loss(images):
        flat = jnp.concatenate([images[0, :2], images[1], images[2, :1]])
        syn, of_real = embed(flat), embed(real.reshape(-1, *SHAPE))
        means = jnp.stack([syn[:2].mean(0), syn[2:5].mean(0), syn[5]])
        targets = of_real.reshape(CLASSES, 5, -1).mean(1)
        losses = jnp.sum((means - targets) ** 2, axis=1)
        return losses.sum(), losses

    reference = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, expected), expected_grads = reference(images)
    match = functools.partial(
        distribution_matching.match_classes, network, augment=jnp.asarray, labels=LABELS
    )
    losses, grads = jax.jit(match)(variables, images, real)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(grads, expected_grads, rtol=1e-3, atol=1e-5)
    assert not np.any(grads[~IS_IMAGE])


def test_networks_are_trained_on_the_images_alone():
    network, images = _network("TinyBN"), jnp.asarray(_draw_images())
    recipe = gradient_matching.inner_recipe(_config(), network, Execution("map", 8))
    matching = gradient_matching.Matching(
        *(recipe, "ours", 8, optax.sgd(0.1), 1, "map"), ipc=IPC
    )
    key = jax.random.key(0)
    networks = jax.jit(functools.partial(gradient_matching.init_networks, matching))(
        images, key
    )
    trained = jax.jit(functools.partial(gradient_matching.train_networks, matching))(
        networks, images, epochs=2, key=key
    )
    expected = jax.jit(functools.partial(train, recipe))(
        jax.tree.map(lambda leaf: leaf[0], networks),
        jnp.concatenate([images[0, :2], images[1], images[2, :1]]),
        jnp.array([0, 0, 1, 1, 1, 2]),
        epochs=2,
        key=gradient_matching.network_keys(matching, key)[0],
    )
    actual = jax.tree.map(lambda leaf: leaf[0], trained)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["noise", "real"])
def test_a_class_begins_with_what_it_would_with_its_number_for_all(kind):
    key = jax.random.key(0)
    # More than the first two have; the last gets all of its images.
    class_ipc = (25, 11, 5)
    images = np.asarray(init_images(STORE, key, class_ipc=class_ipc, kind=kind))
    assert images.shape == (CLASSES, 25, *SHAPE)
    for label, num in enumerate(class_ipc):
        alone = init_images(STORE, key, class_ipc=(num,) * CLASSES, kind=kind)
        np.testing.assert_array_equal(images[label, :num], alone[label])
        assert not images[label, num:].any()
    if kind == "real":
        assert len(np.unique(images[2, :5].reshape(5, -1), axis=0)) == 5


@pytest.mark.parametrize(
    ("method", "name", "changes"),
    [
        ("dc", "TinyBN", {"outer_loop": 2}),
        ("dm", "ConvNetD1W8", {"augmentation": "color"}),
    ],
)
def test_two_devices_that_stream_are_the_same_as_one(method, name, changes):
    def run(num_devices, *, stream):
        config = _config(
            **changes | {"method": method, "init": "real", "mesh.classes": num_devices}
        )
        layout = make_layout(config, CLASSES, jax.devices()[:num_devices])
        execution = Execution("map", 8, layout)
        made = make_method(config, _network(name), execution)
        init, step = compile_method(made, execution)
        init_draws, step_draws = compile_draws(made)
        host, store = HostStore(DATASET, layout), make_store(DATASET, layout)
        keys = jax.random.split(jax.random.key(0), config.num_experiments)
        if stream:
            store = host.load(init_draws(host.index, keys))
        state = init(store, keys)
        if stream:
            store = host.load(step_draws(host.index, keys, jnp.int32(0)))
        return step(state, store, keys, jnp.int32(0))

    one, two = run(1, stream=False), run(2, stream=True)
    chex.assert_trees_all_close(two, one, rtol=1e-4, atol=1e-5)
    images = np.asarray(one[0].images)
    assert images[:, IS_IMAGE].any(axis=(-3, -2, -1)).all()
    assert not images[:, ~IS_IMAGE].any()


def test_evaluation_trains_on_the_images_alone():
    seen = []

    def program(*args):
        seen.append(args)
        return np.ones((len(args[-1]), CLASSES, CLASSES))

    images = _draw_images()
    evaluator = Evaluator(DATASET.test_images, DATASET.test_labels, None, program)
    keys = jax.random.split(jax.random.key(0), 2)
    evaluator.count(make_set(images, DATASET, LABELS), keys)
    (((trained, labels), *_),) = seen
    np.testing.assert_array_equal(trained, images[IS_IMAGE])
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 1, 2])


# What is saved.


def _make_set(channels=1, **changes) -> SyntheticSet:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 3, 4, 5, channels)).astype(np.float32)
    images[~IS_IMAGE] = 0
    synthetic = SyntheticSet(
        images=images,
        labels=LABELS,
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
        class_names=("cat", "dog", "eel"),
    )
    return synthetic.replace(**changes)


@pytest.mark.parametrize("file_format", ["npz", "safetensors"])
def test_exact_formats_keep_blank_slots(tmp_path, file_format):
    indices = np.where(IS_IMAGE, np.arange(9, dtype=np.int32).reshape(3, 3), -1)
    synthetic = _make_set(indices=indices.astype(np.int32))
    path = tmp_path / f"set.{file_format}"
    formats.export(synthetic, path, file_format)
    loaded = dc_jax.load_synthetic_set(path)
    for field in ("images", "labels", "indices"):
        expected = getattr(synthetic, field)
        np.testing.assert_array_equal(getattr(loaded, field), expected)
    if file_format == "npz":
        pixels = np.load(path)["pixels"]
        assert pixels[IS_IMAGE].any(axis=(1, 2, 3)).all()
        assert not pixels[~IS_IMAGE].any()


def test_pictures_are_of_the_images_alone(tmp_path):
    synthetic = _make_set()
    pictures.write_folder(synthetic, str(tmp_path))
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert list(map(str, files)) == [
        *("cat/0.png", "cat/1.png"),
        *("dog/2.png", "dog/3.png", "dog/4.png"),
        "eel/5.png",
    ]
    pixels = set_file.set_pixels(synthetic)[IS_IMAGE]
    for file, expected in zip(files, pixels, strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / file), expected[..., 0])


def test_a_blank_slot_is_an_empty_cell(tmp_path):
    synthetic = _make_set(images=np.where(IS_IMAGE, -2, 0)[..., None, None, None] * 1.0)
    synthetic = synthetic.replace(
        images=np.broadcast_to(synthetic.images, (3, 3, 8, 8, 1)).astype(np.float32),
        class_names=("", "", ""),
    )
    image_grid.save_image_grid(tmp_path / "grid.png", synthetic)
    drawn = np.asarray(Image.open(tmp_path / "grid.png"))
    # Six black images of 64 by 64, and white.
    assert (drawn == 0).all(axis=-1).sum() == 6 * 64 * 64
    assert (drawn == 255).all(axis=-1).sum() == drawn[..., 0].size - 6 * 64 * 64
    # A gap of a pixel is between two.
    png = kept.snapshot(synthetic.replace(images=synthetic.images + 9.0))
    snapshot = np.asarray(Image.open(io.BytesIO(png)))
    cells = np.pad(snapshot[..., 0], ((0, 1), (0, 1))).reshape(3, 9, 3, 9)
    np.testing.assert_array_equal(cells.any(axis=(1, 3)), IS_IMAGE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.where(IS_IMAGE, LABELS, 0)}, "labels go from 0 to 2, exp"),
        ({"labels": LABELS[:, ::-1]}, "labels go from -1 to 2, exp.*index, 0 to 2, on"),
        ({"labels": np.full((3, 3), -1)}, "labels go from -1 to -1"),
        ({"labels": np.where(IS_IMAGE, LABELS, -2)}, "labels go from -2 to 2"),
        ({"labels": LABELS[::-1]}, "labels go from -1 to 2"),
        ({"images": np.ones((3, 3, 4, 5, 1), np.float32)}, "images are not 0 where"),
        ({"indices": np.zeros((3, 3))}, "indices go from 0"),
        ({"indices": LABELS - 1}, "indices go from -2"),
        ({"learning_rates": np.ones((2, 3), np.float32)}, "learning_rates need as m.*"),
    ],
)
def test_wrong_blank_slots_are_refused(tmp_path, changes, message):
    changes = {
        name: value if value.dtype == np.float32 else value.astype(np.int32)
        for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message) as error:
        set_file.save_synthetic_set(tmp_path / "set.npz", _make_set(**changes))
    assert "\n" not in str(error.value)


# The config and whole runs.


@pytest.mark.parametrize(
    ("arguments", "ipc"),
    [
        ([], 1),
        (["--config.ipc=10"], 10),
        (["--config.ipc", "10"], 10),
        (["--config.ipc=1,5,10"], (1, 5, 10)),
        (["--config.ipc=(1, 5, 10)"], (1, 5, 10)),
        (["--config.ipc=[1,5,10]"], [1, 5, 10]),
        (["--config.ipc=abc"], None),
        (["--config.ipc=1,,2"], None),
    ],
)
def test_the_command_line(monkeypatch, arguments, ipc):
    # Where flags of fields are looked for when the config is.
    monkeypatch.setattr("sys.argv", ["main", *arguments])
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict(
        "config", digits.get_config(), flag_values=values
    )
    monkeypatch.setattr(command_line.flags, "FLAGS", values)
    if ipc is None:
        with pytest.raises(SystemExit, match="must be a number, or one for each"):
            command_line.parse_flags(["main", *arguments])
    else:
        assert command_line.parse_flags(["main", *arguments]) == ["main"]
        assert config.value.to_dict()["ipc"] == ipc


def test_the_config_keeps_numbers_as_json_has_them():
    config = _config(ipc=[1, 5, 10])
    assert config.ipc == config.class_ipc(3) == (1, 5, 10)
    assert config.to_dict()["ipc"] == [1, 5, 10]
    assert type(config).create(config.to_dict()) == config
    assert _config(ipc=7).class_ipc(3) == (7, 7, 7)
    # By the mean, 16 / 3.
    assert config.mean_ipc == 5
    values = config.to_dict() | {"outer_loop": None, "inner_loop": None}
    assert type(config).create(values).loops() == (5, 100)
    values = values | {"method": "dm", "lr_img": None, "ipc": [99, 100, 101]}
    assert type(config).create(values).lr_img == 10


def test_a_wrong_number_of_numbers_is_refused(tmp_path):
    for method in ("dc", "random"):
        config = run_helpers.tiny_config(ipc=(1, 2), method=method)
        message = "^config.ipc must be one number, or 10, one for each class, got 2.$"
        with pytest.raises(ValueError, match=message):
            runner.condense(config, str(tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_the_numbers_do_not_matter_where_nothing_is_condensed():
    """For evaluation, and for `whole`."""
    check_memory(run_helpers.tiny_config(ipc=(1, 2)), load_dataset("digits"))


def test_dd_needs_as_many_images_of_each_class():
    _make_method("Tiny", method="dd", ipc=(2, 2, 2))
    with pytest.raises(ValueError, match=r"one number for dd, .* got \[2, 3, 1\]\.$"):
        _make_method("Tiny", method="dd")


_TEN = (1, 2, 3, 1, 2, 3, 1, 2, 3, 1)
_TEN_LABELS = make_labels(_TEN)


def _check_blank(images, labels):
    np.testing.assert_array_equal(labels, _TEN_LABELS)
    is_image = labels >= 0
    assert images[is_image].any(axis=(1, 2, 3)).all()
    assert not images[~is_image].any()


def test_a_coreset(tmp_path):
    changes = {"coreset.epochs": 1, "num_experiments": 1, "num_evaluations": 1}
    config = run_helpers.tiny_config(ipc=_TEN, method="herding", **changes)
    result = runner.condense(config, str(tmp_path))
    assert result["training_images"] == 19
    coreset, dataset = dc_jax.load_synthetic_set(tmp_path), load_dataset("digits")
    _check_blank(coreset.images, coreset.labels)
    is_image = coreset.labels >= 0
    chosen = coreset.indices[is_image]
    assert len(set(chosen.tolist())) == 19
    assert (coreset.indices[~is_image] == -1).all()
    np.testing.assert_array_equal(
        dataset.train_labels[chosen], coreset.labels[is_image]
    )


def test_a_class_that_is_too_small_for_a_coreset(tmp_path):
    config = run_helpers.tiny_config(ipc=(*_TEN[:8], 140, 1), method="random")
    message = "config.ipc must be at most 139, .* class 8, got 140"
    with pytest.raises(ValueError, match=message):
        runner.condense(config, str(tmp_path / "run"))


def test_a_run_that_goes_on_equals_one_that_never_stopped(tmp_path):
    for folder, iterations in (("a", 2), ("a", 4), ("b", 4)):
        config = run_helpers.tiny_config(
            ipc=_TEN, iterations=iterations, inner_loop=1, num_evaluations=1
        )
        runner.condense(config, str(tmp_path / folder))
    for mine, theirs in zip(
        *(run_helpers.load_images(tmp_path / folder) for folder in "ab"), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
        _check_blank(mine, _TEN_LABELS)


def test_the_command_on_digits(tmp_path):
    folder = tmp_path / "run"
    fields = {"ipc": ",".join(map(str, _TEN)), "num_experiments": 1, "inner_loop": 1}
    command = [*run_helpers.tiny_command(**fields), f"--workdir={folder}"]
    code, output = run_helpers.run(*command)
    assert code == 0, output
    assert "Condensing to 1 to 3 image(s) a class with method dc" in output
    assert "is chosen for their mean, 2." in output
    arrays = np.load(folder / "synthetic_set.npz")
    _check_blank(arrays["images"], arrays["labels"])
    assert json.loads(str(arrays["recipe"]))["ipc"] == list(_TEN)
    result = json.loads((folder / "result.json").read_text())
    assert result["training_images"] == 19
    assert "1 to 3 images per class" in (folder / "report.html").read_text()
    # The same command again finds the run, and evaluation the same accuracies.
    code, output = run_helpers.run(*command)
    assert code == 0, output
    assert "holds the finished run already" in output
    code, output = run_helpers.run(
        *run_helpers.tiny_command(), "--mode=evaluate", f"--set={folder}"
    )
    assert code == 0, output
    mean = 100 * result["accuracy_mean"]
    assert f"Test accuracy {mean:.2f}%" in output
