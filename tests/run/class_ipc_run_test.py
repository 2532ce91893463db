"""Runs whose classes have different numbers of images: config, command, files."""

import json

import numpy as np
import pytest
import run_helpers
from absl import flags
from ml_collections import config_flags

import dc_jax
from configs import digits
from dc_jax.base import make_labels
from dc_jax.data.sources import load_dataset
from dc_jax.run import command_line, runner
from dc_jax.run.setup import check_memory


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
        with pytest.raises(SystemExit, match="must be a number"):
            command_line.parse_flags(["main", *arguments])
    else:
        assert command_line.parse_flags(["main", *arguments]) == ["main"]
        assert config.value.to_dict()["ipc"] == ipc


def test_the_config_keeps_numbers_as_json_has_them():
    config = run_helpers.tiny_config(ipc=[1, 5, 10])
    assert config.ipc == config.class_ipc(3) == (1, 5, 10)
    assert config.to_dict()["ipc"] == [1, 5, 10]
    assert type(config).create(config.to_dict()) == config
    assert run_helpers.tiny_config(ipc=7).class_ipc(3) == (7, 7, 7)
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


_TEN = (1, 2, 3, 1, 2, 3, 1, 2, 3, 1)
_TEN_LABELS = make_labels(_TEN)


def _check_blank(images, labels):
    np.testing.assert_array_equal(labels, _TEN_LABELS)
    is_image = labels >= 0
    assert images[is_image].any(axis=(1, 2, 3)).all()
    assert not images[~is_image].any()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_that_goes_on_equals_one_that_never_stopped(tmp_path):
    for folder, iterations in (("a", 2), ("a", 4), ("b", 4)):
        config = run_helpers.tiny_config(
            ipc=_TEN,
            iterations=iterations,
            outer_loop=1,
            num_evaluations=1,
            **{"network.name": "MLP"},
        )
        runner.condense(config, str(tmp_path / folder))
    for mine, theirs in zip(
        *(run_helpers.load_images(tmp_path / folder) for folder in "ab"), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
        _check_blank(mine, _TEN_LABELS)


@pytest.mark.slow
def test_the_command_on_digits(tmp_path):
    folder = tmp_path / "run"
    fields = {"ipc": ",".join(map(str, _TEN)), "num_experiments": 1, "outer_loop": 1}
    command = [*run_helpers.tiny_command(**fields), f"--workdir={folder}"]
    code, output = run_helpers.run(*command)
    assert code == 0, output
    assert "Condensing to 1 to 3 image(s) per class with method dc" in output
    assert "is chosen for their mean, 2." in output
    arrays = np.load(folder / "synthetic_set.npz")
    _check_blank(arrays["images"], arrays["labels"])
    assert json.loads(str(arrays["recipe"]))["ipc"] == list(_TEN)
    result = json.loads((folder / "result.json").read_text())
    assert result["training_images"] == 19
    assert "1 to 3 images per class" in (folder / "report.html").read_text()
