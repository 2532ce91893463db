"""Tests of whole runs in this process.

Some are of the real method on the smallest problem; where only the host's side matters,
a toy stands for the method and the evaluation.
"""

import dataclasses
import json
import re
import shutil
import sys

import numpy as np
import pytest
import run_helpers
import toy_run

from dc_jax.data.sources import load_dataset
from dc_jax.devices import processes
from dc_jax.files.content import write_json
from dc_jax.run import runner, setup
from dc_jax.run.checks import check_fit
from dc_jax.sets import formats, set_file
from dc_jax.sets.make import make_set

_fields = dataclasses.fields


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed run, and how often its step was traced."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    traces = []
    make_method = runner.make_method

    def make_counting_method(*args):
        method = make_method(*args)

        def step(*args):
            traces.append(args)
            return method.step(*args)

        return method._replace(step=step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "make_method", make_counting_method)
        run_helpers.condense(folder)
    return folder, len(traces)


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(whole, tmp_path):
    whole, _ = whole
    run_helpers.condense(tmp_path, iterations=2)
    first, second = run_helpers.load_images(tmp_path)
    assert (first != second).any()
    assert (first != run_helpers.load_images(whole)[0]).any()

    run_helpers.condense(tmp_path)
    run_helpers.assert_same_images(tmp_path, whole)
    metrics, expected = (run_helpers.read_metrics(f) for f in (tmp_path, whole))
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4]
    assert [line["losses"] for line in metrics] == [line["losses"] for line in expected]
    assert [len(line["losses"]) for line in metrics] == [2, 2, 2, 2]
    results = [json.loads((f / "result.json").read_text()) for f in (tmp_path, whole)]
    assert results[0]["accuracies"] == results[1]["accuracies"]


def test_the_step_is_compiled_once(whole):
    _, num_traces = whole
    assert num_traces == 1


def test_result_file(whole):
    folder, _ = whole
    result = json.loads((folder / "result.json").read_text())
    accuracies = np.array(result["accuracies"])
    assert accuracies.shape == (2, 2)
    assert ((accuracies >= 0) & (accuracies <= 1)).all()
    # Fractions of the 360 test images.
    np.testing.assert_allclose(accuracies * 360, np.rint(accuracies * 360), atol=1e-4)
    assert result["accuracy_mean"] == pytest.approx(accuracies.mean())
    assert result["accuracy_std"] == pytest.approx(accuracies.std())
    assert result["num_experiments"] == 2
    assert result["num_evaluations"] == 2
    assert result["iterations"] == 4
    assert result["training_images"] == 10
    assert result["seconds"] >= result["seconds_condense"] > 0


def test_the_images_saved_are_the_images_evaluated(whole, tmp_path, caplog):
    whole, _ = whole
    path = str(whole / "synthetic_set.npz")
    config = run_helpers.tiny_config()
    (evaluation,) = runner.evaluate(config, path, folder=str(tmp_path / "new"))
    result = json.loads((whole / "result.json").read_text())
    assert evaluation["accuracies"] == [result["accuracies"][0]]
    assert evaluation["num_experiments"] == 1
    (line,) = (tmp_path / "new" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line) == evaluation
    assert evaluation["protocol"]["network"] == "ConvNetD1W8"
    assert evaluation["set"] == path
    # Of a folder all sets, each with the networks that it had.
    (evaluation,) = runner.evaluate(config, str(whole))
    assert evaluation["accuracies"] == result["accuracies"]
    # Of several paths each has its own result.
    both = runner.evaluate(config, str(whole), path)
    assert [one["set"] for one in both] == [str(whole), path]
    assert both[0]["accuracies"] == result["accuracies"]
    assert both[1]["accuracies"] == [result["accuracies"][0]]
    # Other formats too; that the recipe has other training is said.
    copy = str(tmp_path / "set.safetensors")
    formats.export(set_file.load_synthetic_set(path), copy, "safetensors")
    config = run_helpers.tiny_config(**{"evaluation.network": "MLP"})
    with caplog.at_level("INFO", logger="absl"):
        runner.evaluate(config, copy)
    assert f"The recipe of {copy} has network ConvNetD1W8." in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("init", ["noise", "real"])
def test_a_streamed_run_is_the_same_bit_for_bit(tmp_path, init):
    changes = {"iterations": 3, "outer_loop": 2, "inner_loop": 1, "init": init}
    changes |= {"network.name": "MLP", "evaluation.random_baseline": True}
    for name, stream in (("memory", False), ("stream", True)):
        run_helpers.condense(tmp_path / name, **changes, **{"dataset.stream": stream})
    run_helpers.assert_same_images(tmp_path / "stream", tmp_path / "memory")
    cards = [json.loads((f / "card.json").read_text()) for f in tmp_path.iterdir()]
    assert cards[0]["dataset"] == cards[1]["dataset"]
    for of in (
        [card["accuracy"] for card in cards],
        [c["accuracy"]["random"] for c in cards],
    ):
        assert of[0]["accuracies"] == of[1]["accuracies"]


@pytest.mark.slow
def test_a_run_may_go_on_streaming(whole, tmp_path):
    run_helpers.condense(tmp_path, iterations=2)
    run_helpers.condense(tmp_path, **{"dataset.stream": True})
    run_helpers.assert_same_images(tmp_path, whole[0])


def test_a_dataset_in_memory_is_condensed_as_one_with_a_name(whole, tmp_path):
    config = run_helpers.tiny_config()
    dataset = load_dataset("digits")
    result = runner.condense(config, str(tmp_path), dataset=dataset)
    run_helpers.assert_same_images(tmp_path, whole[0])
    cards = [json.loads((f / "card.json").read_text()) for f in (tmp_path, whole[0])]
    assert cards[0]["dataset"] == cards[1]["dataset"]
    assert cards[0]["accuracy"]["accuracies"] == cards[1]["accuracy"]["accuracies"]
    before = run_helpers.snapshot(tmp_path)
    assert runner.condense(config, str(tmp_path), dataset=dataset) == result
    assert run_helpers.snapshot(tmp_path) == before

    # Of other images it is another run, whether this one is finished or not.
    other = dataclasses.replace(dataset, train_images=dataset.train_images[::-1].copy())
    for changes in ({}, {"iterations": 5}):
        config = run_helpers.tiny_config(**changes)
        with pytest.raises(ValueError, match="a run on other images than those of sci"):
            runner.condense(config, str(tmp_path), dataset=other)


@pytest.mark.parametrize(
    "method", ["random", pytest.param("dm", marks=pytest.mark.slow)]
)
def test_some_classes_of_a_dataset_are_condensed(method, tmp_path):
    digits = load_dataset("digits")
    kept = digits.train_labels < 3
    dataset = dataclasses.replace(
        digits,
        train_images=digits.train_images[kept],
        train_labels=digits.train_labels[kept],
        test_images=digits.test_images[digits.test_labels < 3],
        test_labels=digits.test_labels[digits.test_labels < 3],
        class_names=("zero", "one", "two"),
    )
    config = run_helpers.tiny_config(method=method, iterations=1, num_experiments=1)
    runner.condense(config, str(tmp_path), dataset=dataset)
    synthetic = set_file.load_synthetic_set(tmp_path)
    assert synthetic.images.shape == (3, 1, 8, 8, 1)
    assert synthetic.class_names == ("zero", "one", "two")


def _with_unused_field(value):
    """A dataclass's value as one of a subclass that has a field more."""
    extended = dataclasses.make_dataclass(
        "Extended", [("unused", int, 0)], bases=(type(value),), frozen=True
    )
    fields = {field.name: getattr(value, field.name) for field in _fields(value)}
    return extended(**fields)


def test_every_field_of_the_config_is_read(whole, tmp_path, monkeypatch):
    # The continuation of a run: nearly all of it is done.
    config = run_helpers.tiny_config(iterations=5)
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "checkpoints")
    # Two that are not read, to see that this test can fail.
    config = _with_unused_field(
        dataclasses.replace(config, evaluation=_with_unused_field(config.evaluation))
    )
    # So that the folder is that of the run.
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    unused = {(type(config), "unused"), (type(config.evaluation), "unused")}
    write_json(tmp_path / "config.json", config.to_dict())
    groups = [config, config.dataset, config.network, config.evaluation]
    groups.append(config.execution)
    expected = {(type(g), field.name) for g in groups for field in _fields(g)}
    # These are for other methods, or for labels that are learned.
    others = ("characteristic", "coreset", "distillation", "experts", "lr_label")
    others = (*others, "trajectories")
    expected -= {(type(config), name) for name in others}
    read = set()

    def make_recorder(kind):
        def record(self, name):
            # `dataclasses.asdict` reads all of them, to save them.
            if sys._getframe(1).f_globals["__name__"] != "dataclasses":
                read.add((kind, name))
            return object.__getattribute__(self, name)

        return record

    for group in groups:
        recorder = make_recorder(type(group))
        monkeypatch.setattr(type(group), "__getattribute__", recorder)
    # To tell of a field is not to use it.
    monkeypatch.setattr(runner, "log_choices", lambda *_: None)
    processes.initialize(config)
    runner.condense(config, str(tmp_path))
    assert expected - read == unused


@pytest.mark.slow
def test_images_that_overflow_are_an_error(tmp_path):
    with pytest.raises(FloatingPointError, match=r"lr_img than 1e\+38") as error:
        run_helpers.condense(tmp_path, lr_img=1e38)
    assert re.search(r"in iteration [12];", str(error.value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "no"}, "config.method must be one of dc, .* whole, got 'no'"),
        ({"augmentation": "crop_flop"}, "config.augmentation: .* got 'crop_flop'"),
        ({"network.name": "ConvNetX"}, "got 'ConvNetX'"),
        ({"evaluation.network": "Conv"}, "got 'Conv'"),
        ({"evaluation.augmentation": "crop_flop"}, "flop"),
        ({"dataset.name": "no_such_set"}, "no_such_set"),
    ],
)
def test_unusable_config_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        run_helpers.condense(tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_set_with_numbers_fits_a_dataset_with_names():
    """As the sets of the authors' code have them."""
    digits = load_dataset("digits")
    synthetic = make_set(np.zeros(toy_run.SHAPE), digits)
    named = dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    check_fit(synthetic, named, "set.npz")


@pytest.mark.parametrize(("apart", "is_told"), [(0.005, False), (0.15, True)])
@pytest.mark.parametrize("field", ["mean", "std"])
def test_a_set_of_another_dataset_is_told(caplog, field, apart, is_told):
    """As a set of MNIST on FashionMNIST: the same shape, and numbers as names."""
    digits = load_dataset("digits")
    synthetic = make_set(np.zeros(toy_run.SHAPE), digits)
    other = dataclasses.replace(digits, **{field: getattr(digits, field) + apart})
    with caplog.at_level("WARNING", logger="absl"):
        check_fit(synthetic, other, "set.npz")
    assert ("set.npz" in caplog.text) == is_told


def test_a_set_of_other_images_is_refused(tmp_path):
    config = run_helpers.tiny_config()
    dataset = load_dataset("digits")
    synthetic = make_set(np.zeros((10, 1, 4, 4, 1)), dataset)
    set_file.save_synthetic_set(tmp_path / "small.npz", synthetic)
    with pytest.raises(ValueError, match=r"small\.npz has images of shape \(4, 4, 1\)"):
        runner.evaluate(config, str(tmp_path / "small.npz"))

    names = ("a", *dataset.class_names[1:])
    renamed = make_set(np.zeros(toy_run.SHAPE), dataset).replace(class_names=names)
    set_file.save_synthetic_set(tmp_path / "named.npz", renamed)
    with pytest.raises(ValueError, match=r"named\.npz has the classes a, "):
        runner.evaluate(config, str(tmp_path / "named.npz"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "distillation characteristic trajectories experts pool"),
        ({"pool.size": 2}, "distillation characteristic trajectories experts"),
        ({"network.begin": "experts"}, "distillation characteristic trajectories pool"),
        ({"method": "own"}, ""),
    ],
)
def test_groups_that_a_run_does_not_use(changes, expected):
    config = run_helpers.tiny_config(**changes)
    assert setup._find_unused(config) == expected.split()
