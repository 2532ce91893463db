"""Any config and any override is taken, or ends in one line that names the field."""

import copy
import sys
import warnings
from unittest import mock

import bad_input
import pytest
import run_helpers
from absl import flags
from flax.traverse_util import flatten_dict
from hypothesis import example, given
from hypothesis import strategies as st
from ml_collections import config_flags

from configs import digits
from dc_jax.config import Config
from dc_jax.networks import make_network
from dc_jax.run.checks import check_names
from dc_jax.run.command_line import parse_flags

VALUES = digits.get_config().to_dict()
FIELDS = sorted(flatten_dict(VALUES, sep="."))
FILE = run_helpers.ROOT / "configs" / "digits.py"

HUGE = st.sampled_from([2**31, -(2**63), 2**64, 10**400, -(10**400), 10**4000])
# With what UTF-8 has not, and with names of the program.
TEXT = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Nd"]), max_size=4),
    st.sampled_from(["", "\n", "none", "dsa:", "dsa:crop", "cos", "HOST:9", "~x/y"]),
    st.lists(st.sampled_from(["crop", "", "color", "noise"])).map("_".join),
    st.from_regex(r"\AConvNet([DW]\d{1,9}|[A-Z]{2}){0,3}\Z"),
)
PLAIN = st.one_of(
    *(st.none(), st.booleans(), st.integers(-2, 300), HUGE, TEXT),
    *(st.floats(), st.complex_numbers(), st.binary(max_size=4), st.just(object)),
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner)
    ),
    max_leaves=4,
)


def _with(changes):
    values = copy.deepcopy(VALUES)
    for field, value in changes.items():
        *groups, name = field.split(".")
        place = values
        for group in groups:
            place = place[group]
        place[name] = value
    return values


def _create(values):
    config = Config.create(values)
    check_names(config)
    return config


@bad_input.cases(100)
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=3))
@example({"lr_img": 10**400})
@example({"num_evaluations": 2**31})
@example({"dataset.path": "\udcff"})
def test_values(changes):
    config = bad_input.ends_well(lambda: _create(_with(changes)), *changes)
    if config is None:
        return
    assert Config.create(config.to_dict()) == config
    bad_input.ends_well(
        lambda: make_network(config.network.name, 10, (8, 8, 1)), "network"
    )


@bad_input.cases(30)
@given(
    st.sampled_from(["", "dataset", "mesh", "evaluation"]),
    st.one_of(
        st.text(st.characters(categories=["L", "P"]), max_size=8),
        *(st.sampled_from(FIELDS), st.integers()),
    ),
    ANYTHING,
)
def test_structure(group, name, value):
    """Of a group that is something else, of names that are too many and too few."""
    values = copy.deepcopy(VALUES)
    (values[group] if group else values)[name] = value
    field = f"config.{group}.{name}" if group else f"config.{name}"
    bad_input.ends_well(lambda: _create(values), field)
    if group:
        values[group] = value
        bad_input.ends_well(lambda: _create(values), f"config.{group}")


NAMES = st.one_of(
    st.sampled_from(FIELDS),
    # Near misses: letters taken out or put in, deeper, parts of one.
    st.builds(
        lambda field, at, text: field[:at] + text + field[at + 1 :],
        *(st.sampled_from(FIELDS), st.integers(0, 20)),
        st.text("abz._-[]0 '", max_size=3),
    ),
    st.builds(
        "{}.{}".format,
        st.sampled_from([*FIELDS, *VALUES]),
        st.sampled_from(["x", "name", "upper", "0", "__class__", "keys", "lock", ""]),
    ),
    st.builds(
        "{}[{}]".format, st.sampled_from(FIELDS), st.sampled_from([0, -1, "'a'"])
    ),
    # What a ConfigDict has besides fields.
    st.sampled_from([*dir(digits.get_config()), *VALUES, "items.x", "update.__doc__"]),
    st.text(max_size=8),
)
WORDS = st.one_of(
    TEXT,
    PLAIN.map(lambda value: str(value) if not isinstance(value, int) else f"{value:x}"),
    st.sampled_from(
        ["1", "0.5", "nan", "1e999", "None", "(1,)", "[1]", "{}", "9" * 5000]
    ),
)


def _parse(*arguments):
    """Reads a command line as `main` does, with flags of its own."""
    argv = ["main", f"--config={FILE}", *arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", values, lock_config=True)
    with (
        mock.patch.object(flags, "FLAGS", values),
        mock.patch.object(sys, "argv", argv),
        warnings.catch_warnings(),
    ):
        # Of ml_collections, how it imports the file.
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.modules.pop("config_config", None)  # Where the file's names are.
        parse_flags(argv)
        return values.config


@bad_input.cases(100)
@given(st.lists(st.tuples(NAMES, WORDS), min_size=1, max_size=2))
@example([("dataset.name[0]", "x")])
@example([("ipc", "a\nb")])
@example([("items", "3")])
@example([("augmentation ", "crop")])
def test_overrides(pairs):
    names = [name.partition("=")[0] for name, _ in pairs]
    try:
        config = _parse(*(f"--config.{name}={word}" for name, word in pairs))
    except SystemExit as end:
        (line,) = str(end.code).splitlines()
        assert line.startswith("error: ")
        assert "Traceback" not in line
        # It is what could not be read that is named.
        parts = [part for name in names for part in name.split(".")]
        assert any(part in line or repr(part)[1:-1] in line for part in parts), line
        return
    changed = [name.replace("config.", "") for name in names]
    bad_input.ends_well(lambda: _create(config.to_dict()), *changed)


@pytest.mark.parametrize(
    "value",
    [
        *("", "nowhere.py", "README.md", "configs/digits.py:10", "configs"),
    ],
)
def test_config_files(value, monkeypatch):
    monkeypatch.chdir(run_helpers.ROOT)
    monkeypatch.setattr(f"{__name__}.FILE", value)
    with pytest.raises(SystemExit) as end:
        _parse("--config.ipc=3")
    (line,) = str(end.value.code).splitlines()
    assert line.startswith("error: ")
