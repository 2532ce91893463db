"""Calls from Python: the sets of all methods are evaluated alike."""

import json

import numpy as np
import pytest

from dc_jax.base import SyntheticSet
from dc_jax.run.overrides import make_evaluation_config, make_set_config

DSA = "dsa:color_crop"


def _set(**training):
    arrays = 4 * [np.zeros(1)]
    recipe = json.dumps({"training": training})
    return SyntheticSet(*arrays, class_names=("a", "b"), recipe=recipe)


@pytest.mark.parametrize("network", ["ConvNetBN", "MLP"])
def test_sets_of_all_methods_have_one_recipe(network, caplog):
    caplog.set_level("INFO", logger="absl")
    methods = ("dc", "dsa", "dm", "random", "herding")
    configs = [
        make_set_config({"method": method, "network.name": network}, None)
        for method in methods
    ]
    (evaluation,) = {config.evaluation for config in configs}
    assert evaluation.network == network.removesuffix("BN")
    assert [config.augmentation != "none" for config in configs] == [
        method in ("dsa", "dm") for method in methods
    ]
    # How the authors train is told, once for each method that differs.
    assert caplog.text.count("'evaluation.augmentation': 'dsa:") == 2


def test_the_recipe_is_what_the_call_says(caplog):
    caplog.set_level("INFO", logger="absl")
    fields = {"method": "dm", "network.name": "MLP"}
    given = {"evaluation.augmentation": DSA, "evaluation.epochs": 7}
    evaluation = make_set_config(fields, given).evaluation
    assert (evaluation.augmentation, evaluation.epochs) == (DSA, 7)
    assert not caplog.records
    with pytest.raises(ValueError, match=r"config\.evaluation\.augmentation: .*flop"):
        make_set_config(fields, {"evaluation.augmentation": "flop"})


@pytest.mark.parametrize(
    ("augmentation", "overrides", "is_warned"),
    [
        (DSA, None, True),
        (DSA, {"evaluation.augmentation": DSA}, False),
        (DSA, {"evaluation.augmentation": "none"}, False),
        ("none", None, False),
    ],
)
def test_a_recipe_of_one_method_is_warned_of(
    augmentation, overrides, is_warned, caplog
):
    one = _set(network="MLP", epochs=9, augmentation=augmentation)
    config = make_evaluation_config(one, {}, overrides)
    assert config.evaluation.epochs == 9
    assert ("epochs=9 and overrides" in caplog.text) == is_warned
