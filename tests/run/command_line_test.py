"""Tests of what the command line says of mistakes, in this process."""

import logging

import pytest
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags
from run_helpers import ROOT

from dc_jax.run import command_line

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

DIGITS = f"--config={ROOT}/configs/digits.py"


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line with flags of its own; returns the error."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(command_line.app, "define_help_flags", lambda: None)
    monkeypatch.setattr(command_line.sys, "path", [*command_line.sys.path])

    def fail(*arguments):
        # Which fields are given is read there; and configs share a module's name.
        monkeypatch.setattr(command_line.sys, "argv", ["main", *arguments])
        command_line.sys.modules.pop("config_config", None)
        with pytest.raises(SystemExit) as error:
            command_line.parse_flags(["main", *arguments])
        line = str(error.value)
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    return fail


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--ipc=10", "did you mean --config.ipc=10?"),
        (
            "--config.iterations=5.5",
            ": --config.iterations=5.5 must be a whole number.",
        ),
        ("--config.dataset.image_size=", "image_size= must be a whole number."),
        ("--config.lr_img=fast", ": --config.lr_img=fast must be a number."),
        ("--config.tensorboard=maybe", "tensorboard=maybe must be true or false."),
        ("--network=MLP", "did you mean --config.network.name=MLP?"),
        ("--dataset.name=mnist", "did you mean --config.dataset.name=mnist?"),
        (
            "--lr=1",
            "--config.evaluation.lr or --config.experts.lr?",
        ),
        ("--config.network=MLP", "did you mean --config.network.name=MLP?"),
        ("--config.dataset=mnist", "did you mean --config.dataset.name=mnist?"),
        ("--config.mesh=2", "did you mean --config.mesh.classes or --config.mesh.net?"),
        ("--config.name=x", "--config.dataset.name or --config.network.name?"),
        ("--workdirs=x", "Did you mean: workdir"),
        ("--nothing_like_it=1", "Unknown command line flag 'nothing_like_it'"),
    ],
)
def test_a_field_that_was_meant_is_named(parse, argument, expected):
    assert expected in parse(DIGITS, argument)


def test_the_hint_is_not_of_another_field(parse):
    line = parse(DIGITS, "--config.network.name=MLP", "--config.zca=1")
    assert line.endswith("'zca': did you mean --config.dataset.zca=1?")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("config.no_such_field", "AttributeError: 'no_such_field'"),
        ("config.ipc.x.y", "AttributeError: 'int' object has no attribute 'x'"),
        ("{}['key']", "KeyError: key"),
        ("[][0]", "IndexError: list index out of range"),
        ("len(3)", "TypeError: object of type 'int' has no len()"),
        ("int('x')", "ValueError: invalid literal for int() with base 10: 'x'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("import nothing_here", "ModuleNotFoundError: No module named"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--config.ipc=2"]])
def test_a_bug_in_a_config_is_told_with_its_line(parse, tmp_path, line, expected, more):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dc_jax.configs import base\n\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        f"    {line}\n"
        "    return config\n"
    )
    assert f"{path}, line 5: {expected}" in parse(f"--config={path}", *more)


def test_a_bug_in_a_module_beside_a_config(parse, tmp_path):
    path = tmp_path / "beside_the_config.py"
    path.write_text("def fail():\n    return {}.x\n")
    (tmp_path / "mine.py").write_text(
        "import beside_the_config\n\ndef get_config():\n    beside_the_config.fail()\n"
    )
    assert f"{path}, line 2: AttributeError" in parse(f"--config={tmp_path}/mine.py")


def test_a_config_that_is_none(parse, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("")
    assert "get_config" in parse(f"--config={path}")
    assert "get_config() takes 0 positional arguments" in parse(f"{DIGITS}:small")


def test_lines_of_the_log_have_a_time_and_steer_no_terminal():
    handler = absl_logging.get_absl_handler().python_handler
    before = handler.formatter, absl_logging.get_verbosity()
    try:
        command_line.log_to_terminal()
        record = logging.LogRecord("", logging.INFO, "", 0, "of %s", ("\x1b[1m",), None)
        record.created = 0.0
        line = handler.format(record)
        record.levelno = logging.ERROR
        assert handler.format(record) == "of \\x1b[1m"
    finally:
        handler.setFormatter(before[0])
        absl_logging.set_verbosity(before[1])
    assert line.startswith(("1970-01-01 ", "1969-12-31 "))
    assert line.endswith(":00 of \\x1b[1m")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("must be positive", "must be positive (--config.ipc)"),
        ("flag --config.ipc=x: no", "flag --config.ipc=x: no"),
        ("flag --mode=x: should be y", "flag --mode=x: should be y"),
    ],
)
def test_fields_are_named_where_nothing_else_is(text, expected):
    assert command_line._naming_fields(text, ["--config.ipc=1"]) == expected
