"""Tests of the command, from its first line to the files it leaves."""

import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import run_helpers


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    code, output = run_helpers.run(
        *run_helpers.tiny_command(), f"--workdir={folder}", "--config.eval_every=2"
    )
    assert code == 0, output
    return folder, output


def test_the_run_tells_data_progress_and_accuracy(finished):
    _, output = finished
    assert "Dataset digits from scikit-learn digits: 1437 training and 360" in output
    assert "ConvNetD1W8, 1 + 1 epochs of SGD" in output
    assert "Chosen for cpu: config.execution.convolution winograd, network" in output
    assert "Iteration 2: accuracy" in output
    assert "mean and standard deviation of 4 networks" in output
    assert "Warning" not in output
    assert "Traceback" not in output


def test_the_files_of_a_run(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        *("synthetic_set.npz", "synthetic_set_1.npz", "images.png", "images_1.png"),
        *("card.json", "config.json", "metrics.jsonl", "result.json", "checkpoints"),
        *("report.html", "snapshots", "confusion.csv", "neighbours.npz", ".lock"),
    }


def test_the_report(finished):
    folder, output = finished
    assert f"Report: {folder / 'report.html'}." in output
    text = (folder / "report.html").read_text("utf-8")
    (folder / "report.html").unlink()
    command = [sys.executable, "-m", "dc_jax.report", f"--workdir={folder}"]
    subprocess.run(command, cwd=run_helpers.ROOT, check=True, capture_output=True)
    assert (folder / "report.html").read_text("utf-8") == text

    command[-1] = f"--workdir={folder / 'checkpoints'}"
    done = subprocess.run(command, cwd=run_helpers.ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = run_helpers.without_progress(done.stderr).splitlines()
    assert line.startswith(f"error: {folder / 'checkpoints'} holds no run")


@pytest.mark.parametrize("name", ["synthetic_set.npz", "synthetic_set_1.npz"])
def test_the_condensed_images(finished, name):
    folder, _ = finished
    arrays = dict(np.load(folder / name, allow_pickle=False))
    recipe = json.loads(str(arrays.pop("recipe")))
    assert recipe["training"]["network"] == "ConvNetD1W8"
    assert {key: (arrays[key].shape, arrays[key].dtype.name) for key in arrays} == {
        "images": ((10, 1, 8, 8, 1), "float32"),
        "pixels": ((10, 1, 8, 8, 1), "uint8"),
        "labels": ((10, 1), "int32"),
        "class_names": ((10,), "str32"),
        "mean": ((1,), "float32"),
        "std": ((1,), "float32"),
    }
    assert np.isfinite(arrays["images"]).all()
    np.testing.assert_array_equal(arrays["labels"], np.arange(10)[:, None])
    assert arrays["class_names"].tolist() == list("0123456789")
    unit = arrays["images"] * arrays["std"] + arrays["mean"]
    expected = np.clip(unit, 0, 1) * 255
    np.testing.assert_allclose(arrays["pixels"], expected, atol=0.501)


def test_the_picture_is_a_png(finished):
    folder, _ = finished
    for name in ("images.png", "images_1.png"):
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        height, width = matplotlib.image.imread(folder / name).shape[:2]
        assert height >= 80
        assert width >= 8


def test_the_card_and_the_result(finished):
    folder, _ = finished
    card = json.loads((folder / "card.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    assert card["accuracy"] == result
    assert result["iterations"] == 4
    assert card["method"] == "dc"
    assert card["seed"] == 0
    assert card["dataset"]["name"] == "digits"
    assert card["protocol"]["epochs"] == 1
    config = run_helpers.tiny_config(eval_every=2).to_dict()
    assert card["config"] == json.loads((folder / "config.json").read_text()) == config


def test_the_metrics(finished):
    folder, _ = finished
    lines = run_helpers.read_metrics(folder)
    assert [line["iteration"] for line in lines] == [1, 2, 2, 3, 4]
    assert ["loss" in line for line in lines] == [True, True, False, True, True]
    assert ["accuracy_mean" in line for line in lines].index(True) == 2


def test_evaluation_of_the_saved_set(finished, tmp_path):
    folder, _ = finished
    code, output = run_helpers.run(
        *run_helpers.tiny_command(),
        "--mode=evaluate",
        f"--set={folder / 'synthetic_set.npz'}",
        f"--workdir={tmp_path}",
    )
    assert code == 0, output
    assert "mean and standard deviation of 2 networks" in output
    (line,) = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    result = json.loads((folder / "result.json").read_text())
    assert json.loads(line)["accuracies"] == result["accuracies"][:1]


def test_the_confusion_matrix_is_that_of_the_networks_in_the_result(finished):
    folder, _ = finished
    counts = np.loadtxt(folder / "confusion.csv", delimiter=",")
    result = json.loads((folder / "result.json").read_text())
    assert counts.sum() == 360 * 4
    assert np.trace(counts) / counts.sum() == pytest.approx(result["accuracy_mean"])
