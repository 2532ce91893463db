"""Tests of whole runs in this process.

Some are of the real method on the smallest problem; where only the host's side matters,
a toy stands for the method and the evaluation.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers

from dc_jax.base import CondenseState, Method
from dc_jax.data.sources import load_dataset
from dc_jax.devices import processes
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.evaluation.evaluator import Evaluator, accuracies
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.run import compiled, loop, metrics, runner
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.evaluation import count_sets, make_evaluator
from dc_jax.run.signals import Stopped
from dc_jax.sets import formats, set_file
from dc_jax.sets.make import make_set

_SHAPE = (10, 1, 8, 8, 1)
_fields = dataclasses.fields


def _condense(folder, **changes):
    return runner.condense(run_helpers.tiny_config(**changes), str(folder))


def _snapshot(folder):
    """Every file's content and time of writing."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _assert_same_images(folder, other):
    images, others = run_helpers.load_images(folder), run_helpers.load_images(other)
    assert len(images) == len(others) == 2
    for mine, theirs in zip(images, others, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# The real method.


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
        _condense(folder)
    return folder, len(traces)


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(whole, tmp_path):
    whole, _ = whole
    _condense(tmp_path, iterations=2)
    first, second = run_helpers.load_images(tmp_path)
    assert (first != second).any()
    assert (first != run_helpers.load_images(whole)[0]).any()

    _condense(tmp_path)
    _assert_same_images(tmp_path, whole)
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
    evaluation = runner.evaluate(config, path, folder=str(tmp_path / "new"))
    result = json.loads((whole / "result.json").read_text())
    assert evaluation["accuracies"] == [result["accuracies"][0]]
    assert evaluation["num_experiments"] == 1
    (line,) = (tmp_path / "new" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line) == evaluation
    assert evaluation["protocol"]["network"] == "ConvNetD1W8"
    assert evaluation["set"] == path
    # Of a folder all sets, each with the networks that it had.
    evaluation = runner.evaluate(config, str(whole))
    assert evaluation["accuracies"] == result["accuracies"]
    # Of several paths the sets follow one another.
    evaluation = runner.evaluate(config, str(whole), path)
    assert evaluation["accuracies"][:2] == result["accuracies"]
    assert evaluation["num_experiments"] == 3
    assert evaluation["set"] == f"{whole},{path}"
    # Other formats too; that the recipe has other training is said.
    copy = str(tmp_path / "set.safetensors")
    formats.export(set_file.load_synthetic_set(path), copy, "safetensors")
    config = run_helpers.tiny_config(**{"evaluation.network": "MLP"})
    with caplog.at_level("INFO", logger="absl"):
        runner.evaluate(config, copy)
    assert f"The recipe of {copy} has network ConvNetD1W8." in caplog.text


@pytest.mark.parametrize("init", ["noise", "real"])
def test_a_streamed_run_is_the_same_bit_for_bit(tmp_path, init):
    changes = {"iterations": 3, "outer_loop": 2, "inner_loop": 1, "init": init}
    for name, stream in (("memory", False), ("stream", True)):
        _condense(tmp_path / name, **changes, **{"dataset.stream": stream})
    _assert_same_images(tmp_path / "stream", tmp_path / "memory")
    cards = [json.loads((f / "card.json").read_text()) for f in tmp_path.iterdir()]
    assert cards[0]["dataset"] == cards[1]["dataset"]
    assert cards[0]["accuracy"]["accuracies"] == cards[1]["accuracy"]["accuracies"]


def test_a_run_may_go_on_streaming(whole, tmp_path):
    _condense(tmp_path, iterations=2)
    _condense(tmp_path, **{"dataset.stream": True})
    _assert_same_images(tmp_path, whole[0])


def test_a_dataset_in_memory_is_condensed_as_one_with_a_name(whole, tmp_path):
    config = run_helpers.tiny_config()
    dataset = load_dataset("digits")
    result = runner.condense(config, str(tmp_path), dataset=dataset)
    _assert_same_images(tmp_path, whole[0])
    cards = [json.loads((f / "card.json").read_text()) for f in (tmp_path, whole[0])]
    assert cards[0]["dataset"] == cards[1]["dataset"]
    assert cards[0]["accuracy"]["accuracies"] == cards[1]["accuracy"]["accuracies"]
    before = _snapshot(tmp_path)
    assert runner.condense(config, str(tmp_path), dataset=dataset) == result
    assert _snapshot(tmp_path) == before

    # Of other images it is another run, whether this one is finished or not.
    other = dataclasses.replace(dataset, train_images=dataset.train_images[::-1].copy())
    for changes in ({}, {"iterations": 5}):
        config = run_helpers.tiny_config(**changes)
        with pytest.raises(ValueError, match="a run on other images than those of sci"):
            runner.condense(config, str(tmp_path), dataset=other)


@pytest.mark.parametrize("method", ["random", "dm"])
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
    unused = {(type(config), "unused"), (type(config.evaluation), "unused")}
    groups = [config, config.dataset, config.network, config.evaluation]
    groups.append(config.execution)
    expected = {(type(g), field.name) for g in groups for field in _fields(g)}
    # These are for other methods.
    expected -= {(type(config), "coreset"), (type(config), "distillation")}
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
        _condense(tmp_path, lr_img=1e38)
    assert re.search(r"in iteration [12];", str(error.value))


@pytest.mark.slow
def test_the_loop_over_networks_does_not_change_what_is_computed(whole, tmp_path):
    whole, _ = whole
    _condense(tmp_path, **{"execution.network_loop": "vmap"})
    for mine, theirs in zip(
        run_helpers.load_images(tmp_path), run_helpers.load_images(whole), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


# The toy: a random walk that can be told to go wrong in the third iteration.


@flax.struct.dataclass
class _ToyState:
    count: jax.Array
    is_fragile: jax.Array
    trace: jax.Array


def _toy_method(goes_wrong=""):
    def init(store, key):
        del store
        images = jax.random.normal(key, _SHAPE)
        fragile = images.mean() > 0
        return CondenseState(
            images, _ToyState(jnp.int32(0), fragile, jnp.zeros_like(images))
        )

    def step(state, store, key):
        del store
        toy = state.opt_state
        trace = 0.5 * toy.trace + jax.random.normal(key, _SHAPE)
        images = state.images + trace
        loss = jnp.mean(images**2)
        is_bad = (toy.count == 2) & toy.is_fragile
        if goes_wrong == "loss":
            loss = jnp.where(is_bad, jnp.nan, loss)
        if goes_wrong == "images":
            images = images.at[3, 0, 2, 2, 0].set(jnp.where(is_bad, jnp.inf, 0.0))
        toy = _ToyState(toy.count + 1, toy.is_fragile, trace)
        return CondenseState(images, toy), {"loss": loss}

    def draw_nothing(store, key):
        del key
        return jnp.zeros((store.num_classes, 0), jnp.int32)

    return Method(init, step, draw_nothing, draw_nothing)


@pytest.fixture
def toy(monkeypatch):
    """Replaces method and evaluation; the list gets an element for each evaluation."""
    evaluations = []

    def make_toy_evaluator(config, dataset, layout):
        protocol = make_protocol(
            config.evaluation, dataset_name=dataset.name, network_name="toy"
        )

        def train_and_test(data, test_images, test_labels, keys):
            images, _ = data
            del test_images, test_labels
            evaluations.append(images)
            uniform = jax.vmap(jax.random.uniform)(keys)
            accuracy = 0.5 * uniform + 0.5 * jax.nn.sigmoid(images.mean())
            rows = jnp.stack([accuracy, 1 - accuracy], axis=-1)
            return jnp.stack([rows, rows[:, ::-1]], axis=-1)

        return Evaluator(
            dataset.test_images, dataset.test_labels, protocol, train_and_test
        )

    monkeypatch.setattr(runner, "make_evaluator", make_toy_evaluator)
    monkeypatch.setattr(runner, "make_method", lambda *_: _toy_method())
    return evaluations


def _stop_at(monkeypatch, iteration, number=signal.SIGTERM):
    """Sends a signal once this iteration's metrics are written."""
    write = metrics.Metrics.loss

    def write_and_signal(self, done, losses, layers):
        write(self, done, losses, layers)
        if done == iteration:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(metrics.Metrics, "loss", write_and_signal)


def test_the_toy_can_be_resumed_after_every_iteration(toy, tmp_path):
    _condense(tmp_path / "whole", iterations=5)
    for iteration in (1, 2, 3, 4, 5):
        _condense(tmp_path / "parts", iterations=iteration)
    _assert_same_images(tmp_path / "parts", tmp_path / "whole")
    metrics = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4, 5]


def test_a_stopped_run_continues_from_where_it_was_stopped(toy, tmp_path, monkeypatch):
    # None but the checkpoint that the signal asks for.
    changes = {"iterations": 5, "checkpoint_minutes": 60.0}
    _condense(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        _stop_at(patch, 3, signal.SIGINT)
        with pytest.raises(Stopped, match=r"SIGINT; iteration 3") as stopped:
            _condense(tmp_path / "parts", **changes)
    assert stopped.value.exit_code == 130
    assert (tmp_path / "parts" / "checkpoints" / "00000003.ckpt").exists()
    assert not (tmp_path / "parts" / "result.json").exists()
    _condense(tmp_path / "parts", **changes)
    _assert_same_images(tmp_path / "parts", tmp_path / "whole")
    metrics = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4, 5]


def test_images_that_cannot_be_loaded_end_the_run(toy, tmp_path, monkeypatch):
    load, loads = loop.HostStore.load, []

    def fail(self, offsets):
        loads.append(offsets)
        # One for the beginning, then one for each iteration.
        if len(loads) == 4:
            raise OSError("the disk is gone")
        return load(self, offsets)

    monkeypatch.setattr(loop.HostStore, "load", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        _condense(tmp_path, **{"dataset.stream": True})
    assert [line["iteration"] for line in run_helpers.read_metrics(tmp_path)] == [1, 2]


def test_checkpoints_are_as_rare_as_the_config_says(toy, tmp_path, monkeypatch):
    saved = []
    save = Checkpointer.save

    def save_and_note(self, step, state, meta):
        saved.append(step)
        save(self, step, state, meta)

    monkeypatch.setattr(Checkpointer, "save", save_and_note)
    _condense(tmp_path / "often", checkpoint_minutes=0.0)
    assert sorted(set(saved)) == [1, 2, 3, 4]
    saved.clear()
    _condense(tmp_path / "rare", checkpoint_minutes=60.0)
    assert saved == [4]


def test_a_finished_run_is_not_done_again(toy, tmp_path, monkeypatch):
    result = _condense(tmp_path)
    before = _snapshot(tmp_path)
    assert len(toy) == 2
    with monkeypatch.context() as patch:
        patch.setattr(runner, "load", None)
        assert _condense(tmp_path) == result
    assert len(toy) == 2
    assert _snapshot(tmp_path) == before


def test_a_finished_run_is_evaluated_anew_with_more_networks(toy, tmp_path):
    _condense(tmp_path / "whole")
    _condense(tmp_path / "again")
    result = _condense(tmp_path / "again", num_evaluations=3)
    assert result["num_evaluations"] == 3
    assert np.array(result["accuracies"]).shape == (2, 3)
    _assert_same_images(tmp_path / "again", tmp_path / "whole")
    assert len(run_helpers.read_metrics(tmp_path / "again")) == 4


def test_a_longer_run_that_is_stopped_is_not_taken_for_finished(
    toy, tmp_path, monkeypatch
):
    _condense(tmp_path, iterations=2)
    with monkeypatch.context() as patch:
        _stop_at(patch, 3)
        with pytest.raises(Stopped):
            _condense(tmp_path, iterations=4)
    assert _condense(tmp_path, iterations=4)["iterations"] == 4


def test_fewer_iterations_than_are_done_are_refused(toy, tmp_path):
    result = _condense(tmp_path)
    images = run_helpers.load_images(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"config\.iterations .*least 4") as error:
            _condense(tmp_path, iterations=3)
        assert "\n" not in str(error.value)
        assert "got 3" in str(error.value)
    np.testing.assert_array_equal(images, run_helpers.load_images(tmp_path))
    assert _condense(tmp_path) == result


def test_another_run_does_not_touch_the_folder(toy, tmp_path):
    _condense(tmp_path)
    before = _snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"config\.lr_img = 0\.1, not 0\.3") as error:
        _condense(tmp_path, lr_img=0.3)
    assert "\n" not in str(error.value)
    assert _snapshot(tmp_path) == before


def test_a_run_does_not_go_on_with_other_images(toy, tmp_path, monkeypatch):
    _condense(tmp_path, iterations=2)
    dataset = load_dataset("digits")
    other = dataclasses.replace(dataset, train_images=1 - dataset.train_images)
    monkeypatch.setattr(runner, "load", lambda config: other)
    with pytest.raises(ValueError, match="a run on other images") as error:
        _condense(tmp_path, iterations=4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("iterations", "expected"), [(4, [2]), (5, [2, 4]), (2, []), (1, [])]
)
def test_accuracy_on_the_way(toy, tmp_path, iterations, expected):
    _condense(tmp_path, iterations=iterations, eval_every=2)
    metrics = run_helpers.read_metrics(tmp_path)
    accuracies = [line for line in metrics if "accuracy_mean" in line]
    assert [line["iteration"] for line in accuracies] == expected
    assert all(0 < line["accuracy_mean"] < 1 for line in accuracies)
    assert len(metrics) == iterations + len(expected)
    assert len(toy) == 2 * (len(expected) + 1)


def test_accuracy_on_the_way_is_that_of_a_run_that_ends_there(toy, tmp_path):
    _condense(tmp_path / "long", iterations=3, eval_every=2)
    result = _condense(tmp_path / "short", iterations=2)
    (line,) = (
        line
        for line in run_helpers.read_metrics(tmp_path / "long")
        if "accuracy_mean" in line
    )
    assert line["accuracy_mean"] == result["accuracy_mean"]
    assert line["accuracy_std"] == result["accuracy_std"]


def test_accuracy_on_the_way_is_there_once_after_a_stop(toy, tmp_path, monkeypatch):
    changes = {"iterations": 5, "eval_every": 2, "checkpoint_minutes": 60.0}
    _condense(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        _stop_at(patch, 2)
        with pytest.raises(Stopped):
            _condense(tmp_path / "parts", **changes)
    _condense(tmp_path / "parts", **changes)
    parts, whole = (
        [
            {name: value for name, value in line.items() if name != "seconds"}
            for line in run_helpers.read_metrics(tmp_path / name)
        ]
        for name in ("parts", "whole")
    )
    assert parts == whole
    assert [line["iteration"] for line in whole] == [1, 2, 2, 3, 4, 4, 5]


def test_a_signal_may_kill_an_evaluation_since_all_is_saved(toy, tmp_path, monkeypatch):
    seen = []

    def note_and_count(*args):
        steps = {int(path.stem) for path in (tmp_path / "checkpoints").iterdir()}
        handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
        seen.append((steps, handlers))
        return count_sets(*args)

    for module in (runner, loop):
        monkeypatch.setattr(module, "count_sets", note_and_count)
    before = signal.getsignal(signal.SIGTERM)
    _condense(tmp_path, iterations=3, eval_every=2, checkpoint_minutes=60.0)
    killed = [signal.SIG_DFL, signal.SIG_DFL]
    assert seen == [({2}, killed), ({2, 3}, killed)]
    assert signal.getsignal(signal.SIGTERM) == before


def test_every_evaluated_network_has_its_own_key(toy):
    config = run_helpers.tiny_config(num_evaluations=3)
    dataset = load_dataset("digits")
    synthetic = make_set(np.zeros(_SHAPE), dataset)
    evaluator = make_evaluator(config, dataset, ONE_DEVICE)
    results = accuracies(count_sets(config, evaluator, [synthetic, synthetic]))
    assert results.shape == (2, 3)
    assert len(np.unique(results)) == 6
    # More sets or networks leave the first as they are.
    again = accuracies(count_sets(config, evaluator, [synthetic]))
    np.testing.assert_array_equal(again, results[:1])


@pytest.mark.parametrize("goes_wrong", ["loss", "images"])
def test_not_finite_stops_the_run_and_keeps_what_was(
    toy, tmp_path, monkeypatch, goes_wrong
):
    changes = {"iterations": 5, "checkpoint_minutes": 60.0, "seed": 3}
    monkeypatch.setattr(runner, "make_method", lambda *_: _toy_method(goes_wrong))
    with pytest.raises(FloatingPointError, match=r"in iteration 3;") as error:
        _condense(tmp_path, **changes)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert [line["iteration"] for line in run_helpers.read_metrics(tmp_path)] == [1, 2]
    assert not (tmp_path / "synthetic_set.npz").exists()

    config = run_helpers.tiny_config(**changes)
    init_keys, step_keys, _ = jax.vmap(
        lambda experiment: compiled.experiment_keys(config, experiment)
    )(jnp.arange(2)).T
    method = _toy_method(goes_wrong)
    state = jax.vmap(lambda key: method.init(None, key))(init_keys)
    # Either experiment is enough.
    assert sorted(state.opt_state.is_fragile.tolist()) == [False, True]
    for iteration in (0, 1):
        keys = jax.vmap(lambda key, i=iteration: jax.random.fold_in(key, i))(step_keys)
        state, _ = jax.vmap(lambda state, key: method.step(state, None, key))(
            state, keys
        )
    restored = Checkpointer(tmp_path / "checkpoints").restore(state)
    assert restored.step == 2
    assert jnp.isfinite(restored.state.images).all()
    np.testing.assert_allclose(restored.state.images, state.images, rtol=1e-5)


def test_every_checkpoint_damaged_is_an_error_of_one_line(toy, tmp_path):
    _condense(tmp_path, iterations=2)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in .* is intact") as error:
        _condense(tmp_path, iterations=4)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_the_newest_checkpoint_damaged_goes_back_one(toy, tmp_path):
    _condense(tmp_path / "whole", iterations=4)
    _condense(tmp_path / "parts", iterations=3)
    (tmp_path / "parts" / "checkpoints" / "00000003.ckpt").write_bytes(b"")
    _condense(tmp_path / "parts", iterations=4)
    _assert_same_images(tmp_path / "parts", tmp_path / "whole")
    metrics = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4]


def test_experiments_do_not_depend_on_how_many_there_are(toy, tmp_path):
    _condense(tmp_path / "two", num_experiments=2)
    _condense(tmp_path / "one", num_experiments=1)
    two, one = (run_helpers.load_images(tmp_path / name) for name in ("two", "one"))
    assert (len(two), len(one)) == (2, 1)
    # The programs differ, so the last bit may.
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5, atol=1e-6)


def test_seeds_differ(toy, tmp_path):
    _condense(tmp_path / "a", iterations=1)
    _condense(tmp_path / "b", iterations=1, seed=1)
    (a, _), (b, _) = (run_helpers.load_images(tmp_path / name) for name in "ab")
    assert (a != b).any()


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
        _condense(tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_set_of_other_images_is_refused(tmp_path):
    config = run_helpers.tiny_config()
    dataset = load_dataset("digits")
    synthetic = make_set(np.zeros((10, 1, 4, 4, 1)), dataset)
    set_file.save_synthetic_set(tmp_path / "small.npz", synthetic)
    with pytest.raises(ValueError, match=r"small\.npz has images of shape \(4, 4, 1\)"):
        runner.evaluate(config, str(tmp_path / "small.npz"))

    names = ("a", *dataset.class_names[1:])
    renamed = make_set(np.zeros(_SHAPE), dataset).replace(class_names=names)
    set_file.save_synthetic_set(tmp_path / "named.npz", renamed)
    with pytest.raises(ValueError, match=r"named\.npz has the classes a, "):
        runner.evaluate(config, str(tmp_path / "named.npz"))


def test_compiled_step_is_the_methods_step_with_the_iterations_key():
    method = _toy_method()
    keys = jax.random.split(jax.random.key(5), 2)
    for how in ("vmap", "map"):
        init, step = compiled.compile_method(method, Execution(how, slice_size=1))
        state, metrics = step(init(None, keys), None, keys, jnp.int32(7))
        assert metrics["is_finite"].tolist() == [True, True]
        for experiment in range(2):
            key = keys[experiment]
            expected, expected_metrics = method.step(
                method.init(None, key), None, jax.random.fold_in(key, 7)
            )
            np.testing.assert_allclose(
                state.images[experiment], expected.images, rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(
                metrics["loss"][experiment], expected_metrics["loss"], rtol=1e-5
            )
