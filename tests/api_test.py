"""Tests of calls from Python: what they return, leave behind, refuse."""

import asyncio
import json
import os
import signal
import tempfile

import jax
import numpy as np
import pytest
import run_helpers
from data_helpers import run_python

import dc_jax
from dc_jax import api
from dc_jax.data.dataset import channel_statistics
from dc_jax.data.store import normalise
from dc_jax.methods import coresets
from dc_jax.run import evaluation, loop, metrics, runner
from dc_jax.sets.card import training_of

SMALL = {
    "batch_real": 8,
    "momentum_img": 0.5,
    "evaluation.epochs": 1,
    "coreset.epochs": 2,
    "mesh.net": 1,
    "mesh.classes": 1,
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _split(seed, num):
    """Images of three classes: noise on a square of their own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    images = rng.integers(0, 100, (num, 8, 8), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:4, 2 * label : 2 * label + 3] += 150
    return images, labels


IMAGES, LABELS = _split(0, 45)
TESTS, TEST_LABELS = _split(1, 12)


def _condense(*data, **changes):
    arguments = {"ipc": 2, "network": "MLP", "iterations": 3, "overrides": SMALL}
    return dc_jax.condense(*(data or (IMAGES, LABELS)), **arguments | changes)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The folder of what the command makes of the same images."""
    folder = tmp_path_factory.mktemp("command")
    np.savez(
        folder / "data.npz",
        train_images=IMAGES,
        train_labels=LABELS,
        test_images=TESTS,
        test_labels=TEST_LABELS,
    )
    fields = SMALL | {
        "dataset.name": "npz",
        "dataset.path": folder / "data.npz",
        "network.name": "MLP",
        "ipc": 2,
        "iterations": 3,
        "num_experiments": 1,
        "num_evaluations": 2,
    }
    code, output = run_helpers.run(
        "--config=configs/base.py",
        f"--workdir={folder / 'run'}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    )
    assert code == 0, output
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_condense_makes_the_images_of_the_command(command, stream):
    theirs = dc_jax.load_synthetic_set(command)
    ours = _condense(overrides=SMALL | {"dataset.stream": stream})
    np.testing.assert_array_equal(ours.images, theirs.images)
    for name in ("labels", "mean", "std", "class_names"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    theirs = json.loads(theirs.recipe)
    recipe = json.loads(ours.recipe)
    assert recipe.pop("dataset") == "arrays"
    assert recipe == {name: theirs[name] for name in recipe}
    assert "accuracy_mean" not in recipe


@pytest.mark.slow
def test_evaluate_trains_as_the_recipe_says(command):
    result = json.loads((command / "result.json").read_text())
    theirs = dc_jax.load_synthetic_set(command)
    ours = dc_jax.evaluate(
        *(theirs, TESTS, TEST_LABELS),
        num_networks=2,
        overrides={"mesh.net": 1, "mesh.classes": 1},
    )
    np.testing.assert_array_equal(ours, result["accuracies"][0])


@pytest.mark.slow
def test_another_evaluation_is_not_that_of_the_recipe(command, monkeypatch):
    seen = []

    def count_sets(config, evaluator, sets):
        seen.append(evaluator.protocol)
        return np.ones((1, 1, 10, 10))

    monkeypatch.setattr(api, "count_sets", count_sets)
    synthetic = dc_jax.load_synthetic_set(command)
    recipe = json.loads(synthetic.recipe) | {"dataset": "digits"}
    synthetic = synthetic.replace(recipe=json.dumps(recipe))
    for overrides in ({}, {"evaluation.protocol": "strong"}):
        dc_jax.evaluate(synthetic, TESTS, TEST_LABELS, overrides=overrides)
    own, strong = seen
    assert vars(own) == training_of(synthetic)
    assert (strong.network, strong.protocol) == (own.network, "strong")
    assert strong.epochs != own.epochs
    # The digits are not flipped: the recipe has the name of the dataset.
    assert strong.augmentation == "dsa:color_crop_cutout_scale_rotate"


@pytest.mark.slow
def test_evaluate_may_train_in_another_way(monkeypatch):
    texts = []
    monkeypatch.setattr(evaluation.logging, "info", lambda *args: texts.append(args))
    synthetic = _condense(iterations=1)
    changes = {"network": "ConvNetD1W8", "epochs": 2}
    given = dc_jax.evaluate(
        *(synthetic, TESTS, TEST_LABELS),
        num_networks=3,
        overrides={"evaluation.lr": 0.5},
        **changes,
    )
    assert given.shape == (3,)
    assert ((given >= 0) & (given <= 1)).all()
    assert "ConvNetD1W8, 2 + 1 epochs of SGD (lr 0.5" in str(texts[-1][-1])
    without = synthetic.replace(recipe=None)
    dc_jax.evaluate(without, TESTS, TEST_LABELS, network="MLP", epochs=1)
    assert "MLP, 1 + 1 epochs of SGD (lr 0.01" in str(texts[-1][-1])
    assert texts[-1][-2] == 5


@pytest.mark.parametrize(
    "method", ["random", pytest.param("herding", marks=pytest.mark.slow)]
)
def test_select_returns_real_images(method, temporary):
    chosen = dc_jax.select(
        *(IMAGES, LABELS),
        ipc=4,
        method=method,
        network="MLP",
        overrides=SMALL,
    )
    assert chosen.indices.shape == (3, 4)
    assert len(np.unique(chosen.indices)) == 12
    np.testing.assert_array_equal(LABELS[chosen.indices], chosen.labels)
    statistics = channel_statistics(IMAGES[..., None])
    expected = normalise(IMAGES[chosen.indices][..., None], *statistics)
    np.testing.assert_array_equal(chosen.images, expected)
    assert json.loads(chosen.recipe)["training"]["network"] == "MLP"
    assert not list(temporary.iterdir())


def test_kinds_of_arrays():
    """Colour, floats, JAX's arrays, lists; names of classes."""

    def select(images, labels, **changes):
        return dc_jax.select(
            images, labels, method="random", ipc=np.int64(2), **changes
        )

    of_bytes = select(IMAGES, LABELS)
    of_floats = select(
        jax.numpy.asarray(IMAGES / 255), LABELS.tolist(), class_names=["a", "b", "c"]
    )
    assert of_bytes.class_names == ("0", "1", "2")
    assert of_floats.class_names == ("a", "b", "c")
    np.testing.assert_allclose(of_floats.images, of_bytes.images, atol=1e-5)
    of_colours = select(np.stack([IMAGES] * 3, -1), LABELS[:, None])
    np.testing.assert_array_equal(of_colours.images[..., [1]], of_bytes.images)


@pytest.mark.slow
def test_nothing_is_left_behind(temporary, monkeypatch):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    first = _condense()
    np.testing.assert_array_equal(first.images, _condense().images)
    assert not (first.images == _condense(seed=1).images).any()

    def fail(*_):
        assert list(temporary.iterdir())
        raise FloatingPointError("as if")

    monkeypatch.setattr(metrics.Metrics, "loss", fail)
    with pytest.raises(FloatingPointError, match="as if"):
        _condense()
    assert not list(temporary.iterdir())
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_goes_to_its_own_handler(temporary, monkeypatch, number):
    write = metrics.Metrics.loss

    def interrupt(self, done, *args):
        write(self, done, *args)
        os.kill(os.getpid(), number)

    def handle(*_):
        assert not list(temporary.iterdir())
        raise KeyboardInterrupt("mine")

    monkeypatch.setattr(metrics.Metrics, "loss", interrupt)
    before = signal.signal(number, handle)
    try:
        with pytest.raises(KeyboardInterrupt, match="mine"):
            _condense()
        assert signal.getsignal(number) is handle
    finally:
        signal.signal(number, before)


def test_no_signal_kills_while_images_are_chosen(monkeypatch):
    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not interrupted")

    selection = coresets.Selection(interrupt, ("size",))
    monkeypatch.setitem(coresets.SELECTIONS, "random", selection)
    # Tests in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dc_jax.select(IMAGES, LABELS, ipc=1, method="random")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_workdir_is_gone_on_with(tmp_path, monkeypatch):
    whole = _condense(iterations=3)
    _condense(iterations=2, workdir=tmp_path / "run")
    assert dc_jax.load_synthetic_set(tmp_path / "run").recipe

    async def in_a_notebook():
        return _condense(iterations=3, workdir=tmp_path / "run")

    steps = []
    write = metrics.Metrics.loss
    monkeypatch.setattr(
        loop.Metrics, "loss", lambda *args: (steps.append(args[1]), write(*args))
    )
    parts = asyncio.run(in_a_notebook())
    assert steps == [3]
    np.testing.assert_array_equal(parts.images, whole.images)
    saved = dc_jax.load_synthetic_set(tmp_path / "run")
    np.testing.assert_array_equal(saved.images, whole.images)
    assert saved.recipe == parts.recipe
    with pytest.raises(ValueError, match="other images"):
        _condense(IMAGES[::-1], LABELS[::-1], workdir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"config\.seed = 0, not 1"):
        _condense(seed=1, workdir=tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ((IMAGES, LABELS[1:]), {}, "arrays: labels has 44 labels, must have 45"),
        ((IMAGES[0], LABELS), {}, r"images must be \[n, H, W\] or .* \[8, 8\]"),
        ((IMAGES.astype(int), LABELS), {}, "images must be uint8, or float .* int64"),
        ((IMAGES * 1.0, LABELS), {}, r"train_images must be in \[0, 1\]"),
        ((IMAGES, LABELS / 2), {}, "labels must be whole numbers"),
        ((IMAGES, LABELS - 1), {}, "labels must count from 0"),
        ((IMAGES, LABELS * 2), {}, "class 1 .* no training image: .* without gaps"),
        ((IMAGES, LABELS + 1), {}, "class 0 .* no training image: .* from 0 with"),
        ((IMAGES * np.nan, LABELS), {}, "train_images must be .* got NaN"),
        (
            (np.stack([IMAGES] * 3, 1), LABELS),
            {},
            "channels first: numpy.moveaxis",
        ),
        ((), {"class_names": "abc"}, "class_names must be several, got 'abc'"),
        ((), {"workdir": __file__}, "is a file, not a folder"),
        ((), {"class_names": ["a", "b"]}, "class_names must be 3 strings"),
        ((), {"method": "herding"}, "method must be one of dc, .*; see select"),
        ((), {"method": "no"}, "method must be one of dc, .* got 'no'"),
        ((), {"ipc": 0}, r"config\.ipc must be at least 1, got 0"),
        ((), {"network": "Net"}, r"config\.network\.name: .* got 'Net'"),
        ((), {"overrides": {"batch": 8}}, "'batch' is not a field of the config"),
        ((), {"overrides": {"bach_real": 8}}, "did you mean 'batch_real'"),
        ((), {"overrides": {"evaluation": 8}}, "'evaluation' is not a field"),
        ((), {"overrides": {"lr_img": "1"}}, r"config\.lr_img must be float"),
        ((), {"overrides": {"ipc": 8}}, "'ipc' is an argument of the call itself"),
        ((), {"overrides": {"dataset.name": "mnist"}}, "not for calls from Python"),
        ((), {"overrides": {"num_experiments": 2}}, "not for calls from Python"),
        ((), {"overrides": {"eval_every": 2}}, "not for calls from Python"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(temporary, data, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        _condense(*data, **changes)
    assert "\n" not in str(error.value)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 16}, r"config\.ipc must be at most 15"),
        ({"method": "dc"}, "method must be one of random, .*; see condense"),
    ],
)
def test_what_is_wrong_with_a_selection(changes, message):
    with pytest.raises(ValueError, match=message):
        dc_jax.select(IMAGES, LABELS, **changes)


def test_what_is_wrong_with_an_evaluation():
    chosen = dc_jax.select(IMAGES, LABELS, ipc=1, method="random", network="MLP")
    for images, labels, message in (
        (TESTS[:, 1:], TEST_LABELS, r"shape of the set.s images, \(8, 8, 1\)"),
        (TESTS, TEST_LABELS + 1, r"test_labels must be in \[0, 3\)"),
        (TESTS, TEST_LABELS[1:], "test_labels has 11 labels, must have 12"),
    ):
        with pytest.raises(ValueError, match=message):
            dc_jax.evaluate(chosen, images, labels)
    with pytest.raises(ValueError, match="must be a set of .* got 'runs/digits'"):
        dc_jax.evaluate("runs/digits", TESTS, TEST_LABELS)
    strange = chosen.replace(recipe='{"training": {"sharpness": 1}}')
    with pytest.raises(ValueError, match=r"config\.evaluation\.sharpness is not"):
        dc_jax.evaluate(strange, TESTS, TEST_LABELS)
    strange = chosen.replace(recipe='{"training": ["adam"]}')
    with pytest.raises(ValueError, match="recipe"):
        dc_jax.evaluate(strange, TESTS, TEST_LABELS)


@pytest.mark.parametrize("methods", ["dc", 3])
def test_methods_are_several(methods):
    with pytest.raises(
        ValueError, match=rf"methods must be several.*, got {methods!r}"
    ):
        dc_jax.compare(IMAGES, LABELS, TESTS, TEST_LABELS, methods=methods)


def test_not_inside_a_transformation():
    with pytest.raises(RuntimeError, match="cannot be called inside jit"):
        jax.jit(lambda: _condense())()
    with pytest.raises(RuntimeError, match="cannot be called inside jit"):
        jax.vmap(lambda label: _condense(IMAGES, label))(LABELS[None])


def test_the_names_of_the_package():
    assert callable(dc_jax.evaluate)
    assert runner.evaluate is not dc_jax.evaluate
    run_python(
        "import sys\n"
        "import dc_jax\n"
        "assert 'jax' not in sys.modules\n"
        "assert {'condense', 'evaluate', 'select'} <= set(dir(dc_jax))\n"
        "import dc_jax.run.runner\n"
        "assert callable(dc_jax.evaluate) and callable(dc_jax.condense)\n"
    )
