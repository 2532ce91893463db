"""Whole runs of the methods other than `dc`, whose are in runner_test.py."""

import json
import os
import signal

import numpy as np
import pytest
import run_helpers

from dc_jax.run import metrics, runner
from dc_jax.run.signals import Stopped
from dc_jax.sets import set_file

AUGMENTATION = "color_crop_cutout_scale_rotate"


def _condense(folder, **changes):
    config = run_helpers.tiny_config(**{"init": None} | changes)
    return runner.condense(config, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lr_img"), [("dsa", 0.1), ("dm", 1.0)])
def test_a_run_has_the_defaults_of_its_method(tmp_path, method, lr_img):
    changes = {"method": method, "iterations": 1, "num_experiments": 1}
    _condense(tmp_path, outer_loop=1, num_evaluations=1, **changes)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["method"] == card["config"]["method"] == method
    assert card["config"]["init"] == "real"
    assert card["config"]["lr_img"] == lr_img
    assert card["config"]["augmentation"] == AUGMENTATION
    assert card["protocol"]["augmentation"] == f"dsa:{AUGMENTATION}"


@pytest.mark.slow
def test_the_command_tells_what_the_method_chose(tmp_path):
    command = run_helpers.tiny_command(method="dm", num_experiments=1)
    code, output = run_helpers.run(*command, f"--workdir={tmp_path}")
    assert code == 0, output
    assert (
        "with method dm: 4 iterations from real images, learning rate 1, augmentation "
        f"{AUGMENTATION}" in output
    )
    assert "1 + 1 epochs of SGD" in output
    assert f"augmentation dsa:{AUGMENTATION}" in output
    assert "outer step" not in output


_DISTILLED = {"method": "dd", "ipc": 2, "network.name": "MLP", "distillation.lr": 0.5}


@pytest.mark.slow
def test_a_distilled_run_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    """Images and learning rates; `iterations` may not be changed on the way."""
    _condense(tmp_path / "whole", **_DISTILLED)
    write = metrics.Metrics.loss

    def write_and_stop(self, done, losses, layers):
        write(self, done, losses, layers)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.Metrics, "loss", write_and_stop)
        with pytest.raises(Stopped):
            _condense(tmp_path / "parts", **_DISTILLED)
    _condense(tmp_path / "parts", **_DISTILLED)
    sets = [
        set_file.load_synthetic_sets(tmp_path / name) for name in ("whole", "parts")
    ]
    for whole, parts in zip(*sets, strict=True):
        np.testing.assert_array_equal(whole.images, parts.images)
        np.testing.assert_array_equal(whole.learning_rates, parts.learning_rates)
        assert whole.learning_rates.shape == (3, 2)
        assert np.abs(whole.learning_rates - 0.5).min() > 1e-3
    with pytest.raises(ValueError, match=r"config\.iterations = 4, not 5"):
        _condense(tmp_path / "parts", iterations=5, **_DISTILLED)


@pytest.mark.slow
def test_a_distilled_set_is_evaluated_by_both_protocols(tmp_path, capfd):
    result = _condense(tmp_path, **_DISTILLED)
    own = result["own_protocol"]
    assert np.shape(own["accuracies"]) == np.shape(result["accuracies"]) == (2, 2)
    assert own["accuracy_mean"] == np.mean(own["accuracies"])
    assert json.loads((tmp_path / "result.json").read_text()) == result
    config = run_helpers.tiny_config(**_DISTILLED)
    (again,) = runner.evaluate(config, str(tmp_path), folder=str(tmp_path / "again"))
    assert again["own_protocol"] == own
    assert again["accuracies"] == result["accuracies"]
    (line,) = (tmp_path / "again" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line) == again
    # Batch norm is for matching only, unless one asks for it.
    config = run_helpers.tiny_config(**_DISTILLED | {"network.name": "ConvNetD1W8BN"})
    (without,) = runner.evaluate(config, str(tmp_path))
    assert without["protocol"]["network"] == "ConvNetD1W8"
    # Another network, whatever the set was made with.
    config = run_helpers.tiny_config(**{"evaluation.network": "ConvNetD1W8BN"})
    (other,) = runner.evaluate(config, str(tmp_path))
    assert other["own_protocol"]["accuracies"] != own["accuracies"]
    # Sets without learning rates have no protocol of their own.
    assert "own_protocol" not in _condense(tmp_path / "dc", num_experiments=1)


@pytest.mark.slow
def test_the_whole_set_is_learned_with_batch_norm(tmp_path):
    changes = {"network.name": "ConvNetD1W8BN", "num_evaluations": 1}
    result = _condense(tmp_path, method="whole", **changes)
    # The network that is trained, and in the report.
    assert result["protocol"]["network"] == "ConvNetD1W8BN"


@pytest.mark.slow
def test_a_method_with_experts_may_have_soft_labels(tmp_path):
    fields = {"method": "ncfm", "labels": "soft", "num_experiments": 1}
    fields |= {"experts.number": 2, "experts.epochs": 1, "coreset.epochs": 1}
    _condense(tmp_path, **fields, **{"characteristic.frequencies": 8})
    (synthetic,) = set_file.load_synthetic_sets(tmp_path)
    np.testing.assert_allclose(synthetic.soft_labels.sum(-1), 1, rtol=1e-5)
    pixels = synthetic.images * synthetic.std + synthetic.mean
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    # Two experts at two ages, and the network that labels.
    assert len([*(tmp_path / "networks").glob("*/*/epoch_*.npz")]) == 4
