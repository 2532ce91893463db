"""Calls from Python: the recipes of sets, and evaluations by them."""

import json

import numpy as np
import pytest

from configs import base
from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.run.overrides import NAME, make_evaluation_config, make_set_config

DSA = "dsa:color_crop"


def _set(**training):
    arrays = 4 * [np.zeros(1)]
    recipe = json.dumps({"training": training})
    return SyntheticSet(*arrays, class_names=("a", "b"), recipe=recipe)


@pytest.mark.parametrize("method", ["dc", "dsa", "dm", "random", "herding"])
def test_a_set_has_the_recipe_of_the_command(method):
    values = base.get_config().to_dict() | {"method": method}
    values["dataset"]["name"] = NAME
    config = make_set_config({"method": method}, None)
    assert config.evaluation == Config.create(values).evaluation


@pytest.mark.parametrize(
    ("augmentation", "overrides", "is_warned"),
    [
        (DSA, None, True),
        (DSA, {"evaluation.augmentation": DSA}, False),
        (DSA, {"evaluation.augmentation": "none"}, False),
        (DSA, {"evaluation.protocol": "paper"}, False),
        ("none", None, False),
    ],
)
def test_a_recipe_of_one_method_is_warned_of(
    augmentation, overrides, is_warned, caplog
):
    one = _set(network="MLP", epochs=9, augmentation=augmentation)
    config = make_evaluation_config(one, {}, overrides)
    is_by_recipe = "evaluation.protocol" not in (overrides or {})
    assert config.evaluation.epochs == (9 if is_by_recipe else None)
    assert ("for 9 epochs" in caplog.text) == is_warned
