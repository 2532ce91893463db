"""What random real images are worth is told with every run, and lost by none."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
import toy

from dc_jax.evaluation import evaluator
from dc_jax.run import random_baseline
from dc_jax.run.baselines import choose_sets
from dc_jax.run.evaluation import count_sets, make_evaluator
from dc_jax.run.setup import make_setup
from dc_jax.sets.make import make_set

pytestmark = pytest.mark.usefixtures("quick_compile")

ON = {"evaluation.random_baseline": True}


def test_random_images_are_in_the_result_and_on_the_page(toy, tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"):
        result = run_helpers.condense(tmp_path, **ON, num_evaluations=6)
    random = result["random"]
    assert np.shape(random["accuracies"]) == (5, 1)
    assert random["accuracy_mean"] == pytest.approx(np.mean(random["accuracies"]))
    assert len(toy) == 2 + 5
    # As many images as the run makes, and others in every draw.
    draws = np.stack(toy[2:])
    assert draws.shape == (5, 10, 8, 8, 1)
    assert len(np.unique(draws, axis=0)) == 5
    for name, field in (("result.json", "random"), ("card.json", "accuracy")):
        content = json.loads((tmp_path / name).read_text())[field]
        assert content.get("random", content) == random
    mean = random["accuracy_mean"]
    assert f"random real images {mean:.2%}" in caplog.text
    page = (tmp_path / "report.html").read_text()
    assert f"{100 * mean:.1f} ± " in page
    assert f"{100 * (result['accuracy_mean'] - mean):+.1f} points" in page
    assert run_helpers.condense(tmp_path, **ON, num_evaluations=6) == result
    assert len(toy) == 2 + 5


def test_what_is_lost_with_random_images_is_only_these(toy, tmp_path, monkeypatch):
    whole = run_helpers.condense(tmp_path / "whole", **ON)

    def fail(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(random_baseline, "choose_sets", fail)
        with pytest.raises(MemoryError):
            run_helpers.condense(tmp_path / "run", **ON)
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["accuracy"]["accuracies"] == whole["accuracies"]
    toy.clear()
    result = run_helpers.condense(tmp_path / "run", **ON)
    assert len(toy) == 2
    assert result["random"] == whole["random"]
    assert (tmp_path / "run" / "report.html").exists()
    # Once it is there, the run is finished.
    before = run_helpers.snapshot(tmp_path / "run")
    assert run_helpers.condense(tmp_path / "run", **ON) == result
    assert run_helpers.snapshot(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_evaluations": 20}, 5),
        ({"num_evaluations": 1, "method": "herding"}, 1),
        ({"method": "random"}, 0),
        ({"method": "whole"}, 0),
        ({"evaluation.random_baseline": False}, 0),
    ],
)
def test_how_many_draws(changes, expected):
    config = run_helpers.tiny_config(**ON | changes)
    assert random_baseline.num_draws(config) == expected


@pytest.mark.usefixtures("quick_compile")
def test_random_images_need_no_program_of_their_own(monkeypatch):
    traces, train = [], evaluator.train

    def counting(*args, **kwargs):
        traces.append(args)
        return train(*args, **kwargs)

    monkeypatch.setattr(evaluator, "train", counting)
    dataset = toy.random_dataset((5, 5), (4, 4, 1))
    config = run_helpers.tiny_config(**ON | {"network.name": "MLP"})
    setup = make_setup(config, dataset)
    trained = make_evaluator(setup)
    images = np.zeros((2, 1, 4, 4, 1), np.float32)
    count_sets(config, trained, [make_set(images, dataset)])
    assert len(traces) == 2  # Each of the two phases, once.
    random = random_baseline.evaluate_random(setup, trained, None)
    assert np.shape(random["accuracies"]) == (2, 1)
    assert len(traces) == 2


def test_small_classes_give_an_image_more_than_once():
    dataset = toy.random_dataset((5, 2), (4, 4, 1))
    config = run_helpers.tiny_config(
        **{"ipc": 4, "network.name": "MLP", "method": "random", "num_experiments": 3}
    )
    sets, _ = choose_sets(make_setup(config, dataset), None, first=2)
    for one in sets:
        assert [len(set(places)) for places in one.indices] == [4, 2]
        assert (dataset.train_labels[one.indices] == [[0], [1]]).all()
    assert not jnp.array_equal(sets[0].indices, sets[1].indices)
    again, _ = choose_sets(make_setup(config, dataset), None, first=3)
    np.testing.assert_array_equal(again[0].indices, sets[1].indices)


def test_an_evaluation_is_in_as_many_calls_as_devices_need():
    setup = make_setup(run_helpers.tiny_config())
    one_device = make_evaluator(setup)
    assert [one_device.calls(num) for num in (1, 20)] == [1, 20]
