"""Whole runs of the methods other than `dc`, whose are in runner_test.py."""

import json

import numpy as np
import pytest
import run_helpers

from dc_jax import runner

AUGMENTATION = "color_crop_cutout_scale_rotate"


def _condense(folder, **changes):
    config = run_helpers.tiny_config(**{"init": None} | changes)
    return runner.condense(config, str(folder))


@pytest.mark.parametrize(("method", "lr_img"), [("dsa", 0.1), ("dm", 1.0)])
def test_a_run_has_its_defaults_and_is_resumed_bit_for_bit(tmp_path, method, lr_img):
    changes = {"method": method, "ipc": 2, "outer_loop": 1}
    _condense(tmp_path / "whole", **changes)
    card = json.loads((tmp_path / "whole" / "card.json").read_text())
    assert card["method"] == card["config"]["method"] == method
    assert card["config"]["init"] == "real"
    assert card["config"]["lr_img"] == lr_img
    assert card["config"]["augmentation"] == AUGMENTATION
    assert card["protocol"]["augmentation"] == f"dsa:{AUGMENTATION}"

    _condense(tmp_path / "parts", iterations=2, **changes)
    _condense(tmp_path / "parts", **changes)
    whole, parts = (
        run_helpers.load_images(tmp_path / name) for name in ("whole", "parts")
    )
    for mine, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


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
