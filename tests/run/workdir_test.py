"""Tests of whose a folder is, and when it holds a finished run."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import report_helpers
import run_helpers

from dc_jax.data.sources import load_dataset
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.run import finished, saving, workdir
from dc_jax.sets.make import make_set
from dc_jax.sets.set_file import load_synthetic_sets

_RESULT = {
    "accuracy_mean": 0.5,
    "accuracy_std": 0.25,
    "num_experiments": 2,
    "num_evaluations": 1,
    "accuracies": [[0.25], [0.75]],
}


def _with_epochs(config, epochs):
    evaluation = dataclasses.replace(config.evaluation, epochs=epochs)
    return dataclasses.replace(config, evaluation=evaluation)


def _save(config, folder, result):
    dataset = load_dataset("digits")
    protocol = make_protocol(
        config.evaluation, dataset_name="digits", network_name=config.network.name
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 10, 1, 8, 8, 1)).astype(np.float32)
    sets = [make_set(image, dataset) for image in images]
    saving.save_run(
        config, folder, dataset, protocol=protocol, sets=sets, result=result
    )


def test_each_set_has_its_recipe(tmp_path):
    config = run_helpers.tiny_config()
    _save(config, tmp_path, _RESULT)
    card = json.loads((tmp_path / "card.json").read_text())
    recipes = [json.loads(one.recipe) for one in load_synthetic_sets(tmp_path)]
    assert [recipe["accuracy_mean"] for recipe in recipes] == [0.25, 0.75]
    for recipe in recipes:
        assert recipe["training"] == card["protocol"]
        assert recipe["training"]["network"] == "ConvNetD1W8"
        assert (recipe["method"], recipe["dataset"]) == ("dc", "digits")
        assert "1 + 1 epochs of SGD" in recipe["training_in_words"]


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("folder", "/data/pets/", "pets"),
        ("npz", "shapes.npz", "shapes"),
        ("mnist", "/data/idx", "mnist"),
        ("arrays", None, "arrays"),
    ],
)
def test_a_recipe_names_your_own_data_as_their_folder(tmp_path, name, path, expected):
    config = run_helpers.tiny_config(**{"dataset.path": path})
    dataset = dataclasses.replace(load_dataset("digits"), name=name)
    synthetic = make_set(np.zeros((10, 1, 8, 8, 1)), dataset)
    protocol = report_helpers.PROTOCOL
    saved = saving.save_set(config, tmp_path / "a.npz", dataset, synthetic, protocol)
    assert json.loads(saved.recipe)["dataset"] == expected


def test_summarise_by_hand():
    summary = saving.summarise(np.array([[0.2, 0.4, 0.6], [0.2, 0.4, 0.6]]))
    assert summary["accuracy_mean"] == pytest.approx(0.4)
    # The variance is (0.04 + 0 + 0.04) / 3.
    assert summary["accuracy_std"] == pytest.approx(0.1632993)
    assert summary["num_experiments"] == 2
    assert summary["num_evaluations"] == 3
    assert summary["accuracies"] == [[0.2, 0.4, 0.6], [0.2, 0.4, 0.6]]


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_a_bucket_is_no_folder(address):
    with pytest.raises(ValueError, match="--workdir must be a folder, got"):
        workdir.check_name(pathlib.Path(address))


def _begin(config, folder):
    """A run that has begun to compute."""
    workdir.claim(config, folder)
    (folder / "metrics.jsonl").touch()


def test_claim_writes_the_config(tmp_path):
    config = run_helpers.tiny_config(seed=7)
    workdir.claim(config, tmp_path / "new" / "folder")
    written = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert written == config.to_dict()
    assert written["seed"] == 7
    assert written["network"]["name"] == "ConvNetD1W8"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("lr_img", 0.2),
        ("outer_loop", 3),
        ("network.name", "MLP"),
        ("coreset.epochs", 3),
    ],
)
def test_claim_refuses_another_runs_folder(tmp_path, field, value):
    _begin(run_helpers.tiny_config(), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=f"config.{field} = ") as error:
        workdir.claim(run_helpers.tiny_config(**{field: value}), tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_claim_takes_the_folder_of_a_run_that_kept_nothing(tmp_path):
    workdir.claim(run_helpers.tiny_config(), tmp_path)
    for name in (".lock", "log.txt"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    other = run_helpers.tiny_config(seed=1)
    workdir.claim(other, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == other.to_dict()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 9),
        ("num_evaluations", 5),
        ("eval_every", 3),
        ("checkpoint_minutes", 1.0),
        ("tensorboard", True),
        ("evaluation.epochs", 2),
        ("execution.network_loop", "vmap"),
        ("dataset.stream", True),
        ("coreset.networks", "elsewhere"),
    ],
)
def test_claim_lets_a_run_go_on_with_other_free_fields(tmp_path, field, value):
    _begin(run_helpers.tiny_config(), tmp_path)
    changed = run_helpers.tiny_config(**{field: value})
    workdir.claim(changed, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == changed.to_dict()


@pytest.mark.parametrize("method", ["dd", "frepo"])
def test_iterations_are_not_free_where_the_learning_rate_depends_on_them(
    tmp_path, method
):
    config = run_helpers.tiny_config(method=method)
    _begin(config, tmp_path)
    before = run_helpers.snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"4 config\.iterations, not 9, .*=4 --"):
        workdir.claim(dataclasses.replace(config, iterations=9), tmp_path)
    assert run_helpers.snapshot(tmp_path) == before
    workdir.claim(dataclasses.replace(config, num_evaluations=9), tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"\xff\xfe\x00"])
def test_damaged_config_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        workdir.claim(run_helpers.tiny_config(), tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == content


def test_no_result_in_an_empty_folder(tmp_path):
    assert finished.finished_result(run_helpers.tiny_config(), tmp_path) is None


def test_no_result_of_a_run_that_has_only_begun(tmp_path):
    config = run_helpers.tiny_config()
    workdir.claim(config, tmp_path)
    assert finished.finished_result(config, tmp_path) is None


def test_result_is_that_of_the_very_run(tmp_path):
    config = run_helpers.tiny_config()
    workdir.claim(config, tmp_path)
    _save(config, tmp_path, _RESULT)
    assert finished.finished_result(config, tmp_path) == _RESULT
    assert json.loads((tmp_path / "result.json").read_text()) == _RESULT
    for other in (
        dataclasses.replace(config, iterations=9),
        dataclasses.replace(config, seed=1),
        _with_epochs(config, 2),
    ):
        assert finished.finished_result(other, tmp_path) is None


def test_result_is_not_taken_for_that_of_a_longer_run_that_was_stopped(tmp_path):
    short = run_helpers.tiny_config(iterations=2)
    workdir.claim(short, tmp_path)
    _save(short, tmp_path, _RESULT)
    longer = run_helpers.tiny_config(iterations=4)
    workdir.claim(longer, tmp_path)  # And killed here.
    assert finished.finished_result(longer, tmp_path) is None


def test_every_experiment_is_saved_and_is_on_the_card(tmp_path):
    _save(run_helpers.tiny_config(), tmp_path, _RESULT)
    card = json.loads((tmp_path / "card.json").read_text())
    results = {
        *("synthetic_set.npz", "synthetic_set_1.npz", "images.png", "images_1.png"),
        "result.json",
    }
    assert set(card["files"]) == results
    assert card["accuracy"] == _RESULT
    names = {path.name for path in tmp_path.iterdir()}
    assert names == results | {"card.json"}
    first, second = run_helpers.load_images(tmp_path)
    assert (first != second).any()


def test_a_folder_is_one_process_s(tmp_path):
    with workdir.locked(tmp_path / "run"):
        with pytest.raises(ValueError, match="in use by another process") as error:
            workdir.locked(tmp_path / "run").__enter__()
        assert str(tmp_path) in str(error.value)
    with workdir.locked(tmp_path / "run"):
        pass


def test_a_run_whose_files_are_gone_or_changed_is_not_finished(tmp_path):
    config = run_helpers.tiny_config()
    _save(config, tmp_path, _RESULT)
    assert finished.finished_result(config, tmp_path) == _RESULT
    path = tmp_path / "synthetic_set.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    assert finished.finished_result(config, tmp_path) is None
    path.unlink()
    assert finished.finished_result(config, tmp_path) is None
    path.write_bytes(whole)
    assert finished.finished_result(config, tmp_path) == _RESULT
