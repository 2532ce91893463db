"""What a config may hold, and how everything else is refused."""

import dataclasses
import importlib
import typing
from pathlib import Path

import pytest
from data_helpers import run_python

from configs import base
from dc_jax.config import Config
from dc_jax.defaults import default_loops
from dc_jax.methods import METHODS

FILES = sorted(path.stem for path in Path(base.__file__).parent.glob("[a-z]*.py"))
_BEST = Path(base.__file__).parent / "best"
BEST = sorted(path.stem for path in _BEST.glob("[a-z]*.py"))
PUBLISHED = {
    1: (1, 1),
    10: (10, 50),
    20: (20, 25),
    30: (30, 20),
    40: (40, 15),
    50: (50, 10),
}


def _values(**fields):
    """The defaults as plain values, with changes; `group__field` is in a group."""
    values = base.get_config().to_dict()
    for name, value in fields.items():
        *groups, name = name.split("__")
        (values[groups[0]] if groups else values)[name] = value
    return values


def _refusal(values):
    with pytest.raises(ValueError, match="^config") as error:
        Config.create(values)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_a_run(name):
    values = importlib.import_module(f"configs.{name}").get_config().to_dict()
    config = Config.create(values)
    assert config.method in METHODS
    if name != "base":
        assert config.dataset.name == name


@pytest.mark.parametrize("name", BEST)
def test_every_best_recipe_is_a_run(name):
    module = importlib.import_module(f"configs.best.{name}")
    config = Config.create(module.get_config().to_dict())
    assert name == f"{config.dataset.name}_{config.ipc}"


def test_config_imports_neither_jax_nor_a_method():
    run_python(
        "import sys\n"
        "import dc_jax.config\n"
        "assert not {'jax', 'flax', 'dc_jax.methods'} & set(sys.modules)\n"
    )


def test_every_field_is_in_the_base_config_and_the_other_way_round():
    values = base.get_config().to_dict()
    assert set(values) == {field.name for field in dataclasses.fields(Config)}
    for group, cls in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(cls):
            names = {field.name for field in dataclasses.fields(cls)}
            assert set(values[group]) == names


def test_values_are_taken_over():
    config = Config.create(
        _values(ipc=3, outer_loop=None, dataset__path="/data", execution__slice_size=7)
    )
    assert (config.ipc, config.outer_loop) == (3, None)
    assert (config.dataset.path, config.execution.slice_size) == ("/data", 7)


def test_an_integer_is_taken_for_a_float():
    config = Config.create(_values(lr_img=1, evaluation__weight_decay=0))
    assert (config.lr_img, config.evaluation.weight_decay) == (1.0, 0.0)
    assert type(config.lr_img) is type(config.evaluation.weight_decay) is float


def test_edges_are_allowed():
    edges = {
        "momentum_img": 0.0,
        "eval_every": 0,
        "checkpoint_minutes": 0.0,
        "tensorboard": True,
        "inner_loop": 1,
        "distance": "cos",
        "init": "real",
        "execution__network_loop": "vmap",
        "execution__convolution": "native",
        "execution__dtype": "bfloat16",
        "evaluation__epochs": 0,
        "dataset__zca": True,
    }
    for seed in (0, 2**32 - 1):
        Config.create(_values(seed=seed, **edges))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        # Of a wrong type.
        ("ipc", True, "config.ipc must be int or a list of int, got True."),
        ("ipc", "10", "config.ipc must be int or a list of int, got '10'."),
        ("ipc", 1.0, "config.ipc must be int or a list of int, got 1.0."),
        ("ipc", 2**31, "config.ipc must be below 2147483648, got 2147483648."),
        ("outer_loop", 2.5, "config.outer_loop must be int or None, got 2.5."),
        ("lr_img", False, "config.lr_img must be float or None, got False."),
        ("augmentation", "", "config.augmentation must be a name, got ''."),
        ("momentum_net", None, "config.momentum_net must be float, got None."),
        ("dataset__path", 1, "config.dataset.path must be str or None, got 1."),
        ("evaluation__lr", [1], "config.evaluation.lr must be float or None, got [1]."),
        ("ipc", [], "config.ipc must be int or a list of int, got []."),
        ("ipc", [1, "2"], "config.ipc[1] must be int, got '2'."),
        ("dataset__zca", 1, "config.dataset.zca must be bool, got 1."),
        # A group is not a value.
        ("network", "MLP", "config.network must be a group of fields, got 'MLP'."),
        ("dataset", None, "config.dataset must be a group of fields, got None."),
        # Not a number, infinite, out of range.
        ("lr_img", float("nan"), "config.lr_img must be positive, got nan."),
        ("lr_img", float("inf"), "config.lr_img must be positive, got inf."),
        ("lr_img", 0.0, "config.lr_img must be positive, got 0.0."),
        ("lr_net", -0.1, "config.lr_net must be positive, got -0.1."),
        ("momentum_img", 1.0, "config.momentum_img must be in [0, 1), got 1.0."),
        (
            "evaluation__weight_decay",
            float("nan"),
            "config.evaluation.weight_decay must be at least 0, got nan.",
        ),
        ("ipc", 0, "config.ipc must be at least 1, got 0."),
        ("ipc", (1, 0), "config.ipc[1] must be at least 1, got 0."),
        ("eval_every", -1, "config.eval_every must be at least 0, got -1."),
        ("seed", -1, "config.seed must be in [0, 2**32), got -1."),
        ("seed", 2**32, f"config.seed must be in [0, 2**32), got {2**32}."),
        # Not one of the choices.
        (
            "init",
            "zeros",
            "config.init must be one of noise, real, kmeans, got 'zeros'.",
        ),
        (
            "distance",
            "Ours",
            "config.distance must be one of ours, mse, cos, got 'Ours'.",
        ),
        (
            "execution__dtype",
            "float16",
            "config.execution.dtype must be one of float32, bfloat16, got 'float16'.",
        ),
        (
            "evaluation__network",
            "",
            "config.evaluation.network must be a name, got ''.",
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_line(field, value, message):
    assert _refusal(_values(**{field: value})) == message


def test_an_integer_too_long_to_print_is_refused():
    for field, kind in (("ipc", "int"), ("lr_img", "float")):
        message = f"config.{field} must be {kind}, got an integer of 16610 bits."
        assert _refusal(_values(**{field: 10**5000})) == message


@pytest.mark.parametrize("field", ["ipcs", "dataset__nme"])
def test_an_unknown_field_is_refused(field):
    message = _refusal(_values(**{field: 1}))
    assert message.startswith(f"config.{field.replace('__', '.')} is not a field; ")
    assert (
        "dataset.name, dataset.path" if "__" in field else "seed, method"
    ) in message


def test_a_missing_field_is_refused():
    for name in _values():
        values = _values()
        del values[name]
        assert _refusal(values) == f"config.{name} is missing."


def test_a_missing_field_of_a_group_is_refused():
    values = _values()
    del values["evaluation"]["lr"]
    assert _refusal(values) == "config.evaluation.lr is missing."


def test_it_is_frozen_and_hashable():
    config = Config.create(_values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ipc = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dataset.name = "svhn"
    assert hash(config) == hash(Config.create(_values()))
    assert config != Config.create(_values(network__name="MLP"))


def test_published_loops():
    assert {ipc: default_loops(ipc) for ipc in PUBLISHED} == PUBLISHED


def test_loops_of_every_other_number_of_images():
    for ipc in set(range(1, 51)) - set(PUBLISHED):
        outer, inner = default_loops(ipc)
        assert outer == ipc
        assert abs(inner - 500 / ipc) <= 0.5  # To the nearest integer.
    for ipc in (51, 100, 1250):
        assert default_loops(ipc) == (50, 10)


@pytest.mark.parametrize(
    ("fields", "loops"),
    [
        ({}, (10, 50)),
        ({"outer_loop": 3}, (3, 50)),
        ({"inner_loop": 4}, (10, 4)),
        ({"outer_loop": 3, "inner_loop": 4}, (3, 4)),
    ],
)
def test_loops_may_be_given(fields, loops):
    assert Config.create(_values(ipc=10, **fields)).loops() == loops


@pytest.mark.parametrize(
    ("method", "size", "pool", "loops"),
    [
        ("frepo", None, (10, 100), None),
        ("frepo", 3, (3, 100), None),
        ("dc", None, (None, 500), (10, 50)),
        ("dsa", 4, (4, 500), (1, 10)),
    ],
)
def test_the_pool_follows_the_method(method, size, pool, loops):
    config = Config.create(_values(method=method, ipc=10, pool__size=size))
    assert (config.pool.size, config.pool.updates) == pool
    assert loops is None or config.loops() == loops


@pytest.mark.parametrize(
    ("fields", "epochs", "loops"),
    [
        ({"method": "mtt"}, 21, None),
        ({"method": "mtt", "trajectories__expert_epochs": 5}, 24, None),
        ({"method": "ncfm"}, 60, None),
        ({"method": "dsa", "network__begin": "experts"}, 2, (1, 10)),
    ],
)
def test_experts_follow_the_method(fields, epochs, loops):
    config = Config.create(_values(ipc=10, **fields))
    assert config.experts.epochs == epochs
    assert loops is None or config.loops() == loops


@pytest.mark.parametrize(
    ("ipc", "labels", "values"),
    [
        (1, "hard", (50, 2, 0, None, 1e-7)),
        (10, "hard", (30, 20, 0, None, 1e-5)),
        (10, "learned", (80, 20, 1000, 1.0, 1e-5)),
        (50, "learned", (80, 40, 1000, 1.0, 1e-5)),
    ],
)
def test_trajectories_follow_images_and_labels(ipc, labels, values):
    config = Config.create(_values(method="mtt", ipc=ipc, labels=labels))
    of = config.trajectories
    assert (of.steps, of.max_start, of.growth, of.threshold, of.lr_lr) == values
    assert config.lr_img == (1000 if ipc == 50 else 100)
    assert config.lr_label == (5 if ipc == 1 else 2)


def test_to_dict_is_what_create_takes():
    given = {"iterations": 7, "init": "noise", "lr_img": 0.5, "augmentation": "flip"}
    given |= {
        "batch_train": 8,
        "lr_net": 0.5,
        "batch_real": 9,
        "labels": "hard",
        "lr_label": 2.0,
    }
    values = _values(**given, candidates=8, evaluation__augmentation="none")
    values["pool"]["updates"] = 5
    values["mesh"]["classes"] = 3
    values["coreset"]["epochs"] = 7
    values["experts"]["epochs"] = 7
    values["trajectories"] |= {"steps": 3, "max_start": 4, "growth": 5, "lr_lr": 0.5}
    config = Config.create(values)
    assert config.to_dict() == values
    assert config.mesh.classes == 3


SIAMESE = "color_crop_cutout_flip_scale_rotate"


@pytest.mark.parametrize(
    ("method", "iterations", "init", "lr_img", "augmentation"),
    [
        ("dc", 1000, "noise", 0.1, "none"),
        ("dsa", 1000, "real", 0.1, SIAMESE),
        ("dm", 20000, "real", 1.0, SIAMESE),
        ("ncfm", 20000, "real", 1e-3, SIAMESE),
        # A method without defaults of its own.
        ("new", 1000, "noise", 0.1, "none"),
    ],
)
def test_defaults_follow_the_method(method, iterations, init, lr_img, augmentation):
    values = _values(method=method, dataset__name="cifar10")
    config = Config.create(values)
    assert (config.iterations, config.init) == (iterations, init)
    assert (config.lr_img, config.augmentation) == (lr_img, augmentation)
    expected = None if augmentation == "none" else f"dsa:{augmentation}"
    assert config.evaluation.augmentation == expected
    assert Config.create(config.to_dict()) == config


def test_what_is_given_wins_over_the_methods_defaults():
    given = {"iterations": 7, "init": "noise", "lr_img": 0.5, "augmentation": "flip"}
    config = Config.create(_values(method="dm", **given))
    assert given.items() <= config.to_dict().items()
    assert config.evaluation.augmentation == "dsa:flip"
    config = Config.create(_values(method="dsa", evaluation__augmentation="none"))
    assert config.evaluation.augmentation == "none"
    config = Config.create(_values(method="dm", augmentation="none"))
    assert (config.augmentation, config.evaluation.augmentation) == ("none", None)


def test_a_named_evaluation_does_not_follow_the_method():
    for protocol, expected in (("paper", f"dsa:{SIAMESE}"), ("strong", None)):
        values = _values(method="dm", dataset__name="cifar10")
        values["evaluation"]["protocol"] = protocol
        assert Config.create(values).evaluation.augmentation == expected


@pytest.mark.parametrize(
    ("ipc", "epochs"), [(1, 20), (3, 31), (10, 44), (50, 128), (500, 128)]
)
def test_who_labels_images_is_stopped_early(ipc, epochs):
    """At 3 images, log 3 / log 10 = 0.477 of the way from 20 to 44."""
    config = Config.create(_values(method="random_soft", ipc=ipc))
    assert config.coreset.epochs == epochs
    assert Config.create(_values(method="herding", ipc=ipc)).coreset.epochs == 20


@pytest.mark.parametrize(("ipc", "lr_img"), [(1, 1), (99, 1), (100, 10), (1250, 10)])
def test_dm_takes_larger_steps_for_many_images(ipc, lr_img):
    assert Config.create(_values(method="dm", ipc=ipc)).lr_img == lr_img


@pytest.mark.parametrize("method", ["dsa", "dm"])
def test_digits_are_not_flipped(method):
    config = Config.create(_values(method=method, dataset__name="svhn"))
    assert config.augmentation == "color_crop_cutout_scale_rotate"
    assert config.evaluation.augmentation == f"dsa:{config.augmentation}"
