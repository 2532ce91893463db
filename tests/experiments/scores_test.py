"""Scores: formulas by hand, resuming, what is compared with what."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import run_helpers
from matplotlib.figure import Figure
from PIL import Image
from toy import whitened

import dc_jax
from dc_jax.data.sources import load_dataset
from dc_jax.run.baselines import make_coreset
from dc_jax.sets import set_file
from experiments.scores import __main__ as scores
from experiments.scores import figure, formulas, measures, tables
from experiments.scores.rows import Row


def test_formulas_by_hand():
    """e^0.1 = 1.105171, e^0.3 = 1.349859; e - 1/e = 2.350402."""
    assert formulas.hard_label_recovery(0.9, 0.7) == pytest.approx(0.2)
    assert formulas.improvement_over_random(0.7, 0.4) == pytest.approx(0.3)
    assert (formulas.squash(-1), formulas.squash(1)) == (0, 1)
    assert formulas.squash(0) == pytest.approx(1 / (1 + math.e))
    assert formulas.label_robust_score(0.2, 0.4) == pytest.approx(0.313687, abs=1e-6)
    score = formulas.augmentation_robust_score(0.2, 0.4)
    assert score == pytest.approx(0.417792, abs=1e-6)


def _row(method, soft, **means):
    cells = {name: {"accuracy_mean": mean} for name, mean in means.items()}
    return {"method": method, "soft_labels": soft, "class_ipc": [1, 1], "cells": cells}


def test_what_is_compared_with_what():
    random = _row("random", False, strong=0.5, plain=0.4)
    random_soft = _row("random_soft", True, strong=0.6, plain=0.6, hard=0.5)
    hard = _row(None, False, strong=0.7, plain=0.5, **{"on MLP": 0.3, "on LeNet": 0.5})
    soft = _row(None, True, strong=0.9, hard=0.6)
    content = {"whole": 0.9, "networks": ["MLP", "LeNet"]}
    found = tables.score(hard, [hard, random, random_soft], content)
    expected = {"cross_architecture": 0.4, "hlr": 0.2, "ior": 0.2, "ior_plain": 0.1}
    expected |= {"lrs": formulas.squash(0), "ars": formulas.squash(0.15)}
    assert found == pytest.approx(expected)
    # Labels of a network are compared with labels of a network, where there are any.
    found = tables.score(soft, [soft, random, random_soft], content)
    assert found == pytest.approx({"hlr": 0.3, "ior": 0.3, "lrs": formulas.squash(0)})
    found = tables.score(soft, [soft, random], {"whole": None, "networks": []})
    assert found == pytest.approx({"ior": 0.4})


@pytest.fixture(name="count")
def _count(monkeypatch):
    """Replaces the training; returns the calls: protocol, number of sets, networks."""
    calls = []

    def count_sets(config, evaluator, sets):
        calls.append((evaluator.protocol, sets, config.num_evaluations))
        shape = (len(sets), config.num_evaluations, 1, 1)
        return np.broadcast_to(np.eye(10), (*shape[:2], 10, 10))

    monkeypatch.setattr(measures, "count_sets", count_sets)
    return calls


def _save_set(path, soft=False):
    indices = np.arange(20, dtype=np.int32).reshape(10, 2)
    synthetic = make_coreset(indices, load_dataset("digits")).replace(indices=None)
    synthetic = synthetic.replace(images=synthetic.images * 2)  # Outside of 8 bits.
    if soft:
        soft_labels = np.full((10, 2, 10), 0.1, np.float32)
        synthetic = synthetic.replace(soft_labels=soft_labels)
    set_file.save_synthetic_set(path, synthetic)
    return str(path)


def test_a_table_is_continued(tmp_path, count):
    path = _save_set(tmp_path / "soft.npz", soft=True)
    values = run_helpers.tiny_config(num_evaluations=3).to_dict()
    arguments = (values, tmp_path / "scores", [path])
    text = scores.run(*arguments, networks=["MLP"], whole=1.0)
    assert len(count) == 6 + 5  # Random images have no measure of hard labels.
    made = {(len(sets), num) for _, sets, num in count}
    assert made == {(1, 3), (3, 1)}
    assert sum(sets[0].soft_labels is not None for _, sets, _ in count) == 5
    by_8_bits = [sets[0] for _, sets, _ in count if len(sets) == 1][4]
    pixels = by_8_bits.images * by_8_bits.std + by_8_bits.mean
    assert -1e-6 < pixels.min() < pixels.max() < 1 + 1e-6
    np.testing.assert_allclose(pixels * 255, np.rint(pixels * 255), atol=1e-3)
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())
    soft, random = content["rows"]
    assert (soft["bytes"], random["bytes"]) == (20 * (64 + 40), 20 * 64)
    assert soft["scores"]["hlr"] == soft["scores"]["ior"] == 0
    for name in ("scores.md", "scores.html"):
        assert "0.269" in (tmp_path / "scores" / name).read_text()

    count.clear()
    assert scores.run(*arguments, networks=["MLP"], whole=1.0) == text
    assert not count
    # Another set at the same path is measured anew, and so is another evaluation.
    _save_set(tmp_path / "soft.npz")
    scores.run(*arguments, networks=[])
    assert len(count) == 4
    count.clear()
    values["evaluation"]["lr"] = 0.5
    scores.run(*arguments)
    assert len(count) == 8


def test_some_measures_now_and_the_others_later(tmp_path, count):
    path = _save_set(tmp_path / "soft.npz", soft=True)
    values, folder = run_helpers.tiny_config().to_dict(), tmp_path / "scores"
    # A network that needs larger images does not matter where it is not asked for, nor
    # does it matter how often a set is named.
    scores.run(values, folder, [path, path], networks=["LeNet"], kinds=["strong"])
    assert [protocol.network for protocol, _, _ in count] == (
        [values["network"]["name"]] * 2
    )
    with Image.open(folder / "scores.png") as picture:
        assert picture.format == "PNG"
    count.clear()
    scores.run(values, folder, [path], networks=["MLP"], kinds=["networks"])
    assert [protocol.network for protocol, _, _ in count] == ["MLP"] * 2
    scores.run(values, folder, [path], kinds=["paper"])
    content = json.loads((folder / "scores.json").read_text())
    kept = {"strong", "on MLP", "paper"}
    assert [set(row["cells"]) for row in content["rows"]] == [kept] * 2
    assert content["networks"] == ["MLP"]


def test_a_call_that_names_fewer_rows_loses_no_measure(tmp_path, count):
    paths = [_save_set(tmp_path / f"{name}.npz") for name in ("a", "b")]
    values, folder = run_helpers.tiny_config().to_dict(), tmp_path / "scores"
    all_rows = {"baselines": ["random_soft"], "kinds": ["strong"]}
    text = scores.run(values, folder, paths, **all_rows)
    assert len(count) == 4
    count.clear()
    for _ in range(2):
        fewer = scores.run(values, folder, paths[:1], kinds=["strong"])
        assert "b.npz" not in fewer
        assert "random_soft, " not in fewer
    assert scores.run(values, folder, paths, **all_rows) == text
    assert not count
    # What is kept is not what another set of this name is worth.
    scores.run(values, folder, paths[:1], kinds=["strong"])
    _save_set(tmp_path / "b.npz", soft=True)
    scores.run(values, folder, paths, kinds=["strong"])
    assert len(count) == 1


def test_every_row_has_a_bar_of_its_own():
    cell = {"accuracy_mean": 0.5, "accuracy_std": None}
    facts = {"method": None, "ipc": "1", "cells": {"strong": cell}}
    names = ["runs/a/synthetic_set.npz", "runs/b/synthetic_set.npz", "runs/lr_0.1"]
    rows = [facts | {"name": name} for name in names]
    assert [figure._label(row) for row in rows] == ["a", "b", "lr_0.1"]
    axes = Figure().subplots()
    figure._bars(axes, rows + rows)  # Even if they have the same name.
    assert [bar.get_y() + bar.get_height() / 2 for bar in axes.patches] == [*range(6)]
    assert figure.to_png([facts | {"name": "a", "cells": {}}]) is None


def test_the_fewest_images_are_on_top(monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "_bars", lambda _, rows: drawn.append(rows[0]["ipc"]))
    cells = {"strong": {"accuracy_mean": 0.5, "accuracy_std": 0.0}}
    sizes = {"10": [10, 10], "2": [2, 2], "1 to 3": [1, 3]}
    figure.to_png(
        [{"ipc": n, "class_ipc": s, "cells": cells} for n, s in sizes.items()]
    )
    assert drawn == ["2", "1 to 3", "10"]


def test_a_whitened_set_stays_one_in_8_bits():
    one = make_coreset(np.arange(20).reshape(10, 2), whitened(load_dataset("digits")))
    one = one.replace(images=one.images * 2)
    by_8_bits = measures._of_8_bits(one)
    pixels = by_8_bits.whitening.unwhiten(by_8_bits.images) * one.std + one.mean
    assert -1e-5 < pixels.min() < pixels.max() < 1 + 1e-5
    np.testing.assert_allclose(pixels * 255, np.rint(pixels * 255), atol=5e-3)
    assert np.abs(by_8_bits.images - one.images).mean() < np.abs(one.images).mean()
    plain = one.replace(whitening=None)
    assert Row("a", [one]).checksum() != Row("a", [plain]).checksum()
    assert Row("a", [one]).facts() == Row("a", [plain]).facts()


def test_bad_input_is_told_before_anything_is_measured(tmp_path, count):
    path, values = _save_set(tmp_path / "a.npz"), run_helpers.tiny_config().to_dict()
    for options, message in (
        ({"baselines": ["dc"]}, "--baselines must be among .*'dc'"),
        ({"kinds": ["strong", "weak"]}, "--measures must be among .*'weak'"),
        ({"kinds": []}, "--measures must name one"),
        ({"kinds": ["networks"]}, "--networks a network"),
        ({"networks": ["Net"], "kinds": ["strong"]}, "--networks: .*'Net'"),
        ({"networks": ["LeNet"]}, "--networks: .*16x16"),
    ):
        with pytest.raises(ValueError, match=message):
            scores.run(values, tmp_path / "scores", [path], **options)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        scores.run(values, tmp_path / "scores", [str(tmp_path / "nowhere.npz")])
    with pytest.raises(ValueError, match=r"--output is .*a\.npz is a file"):
        scores.run(values, tmp_path / "a.npz", [path])
    assert not count


def test_the_accuracy_of_all_images(tmp_path):
    assert scores.read_whole(None) is None
    assert scores.read_whole("0.9") == 0.9
    (tmp_path / "result.json").write_text('{"accuracy_mean": 0.8}')
    assert scores.read_whole(str(tmp_path)) == 0.8
    for text in ("93.5", "nan", "0", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="--whole must be a fraction"):
            scores.read_whole(text)


@pytest.mark.slow
def test_scores_of_digits(tmp_path):
    command = ["--config=configs/digits.py", "--set=docs/sets/digits_1_dc.npz"]
    command += [f"--output={tmp_path}", "--networks=MLP", "--baselines=random_soft"]
    fields = {"num_evaluations": 2, "coreset.epochs": 2, "evaluation.epochs": 20}
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "experiments.scores", *command]
    subprocess.run(command, cwd=run_helpers.ROOT, check=True, timeout=300)
    content = json.loads((tmp_path / "scores.json").read_text())
    condensed, random, _ = content["rows"]
    assert condensed["scores"]["ior"] > 0 == random["scores"]["ior"]
    assert dc_jax.load_synthetic_set(next(tmp_path.glob("baselines/random_soft-*")))
