"""The documentation: its Python is run, its commands are parsed, its links followed."""

import collections
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags
from run_helpers import ROOT

import dc_jax
from configs import base
from dc_jax import api, methods
from dc_jax.config import Config
from dc_jax.run import command_line, comparison

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "experiments" / "README.md",
    )
)
_COMMAND = re.compile(r"python -m ((?:dc_jax|experiments)(?:\.\w+)+)([^`\n]*)")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_DEFINED = re.compile(r'(?:DEFINE_\w+|add_argument)\(\s*"(?:--)?(\w+)"')


def _blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", _text(page), re.DOTALL | re.M)


def _text(page):
    return (ROOT / page).read_text("utf-8")


def _run(folder, *arguments):
    """Runs Python elsewhere than in the repository; returns its two streams."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("docs/python.md", marks=pytest.mark.slow),
        pytest.param("docs/tutorial.md", marks=pytest.mark.slow),
        pytest.param("docs/adding_a_method.md", marks=pytest.mark.slow),
    ],
)
def test_the_python_of_a_page_runs(tmp_path, page):
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    (tmp_path / "page.py").write_text("\n".join(_blocks(page, "python")), "utf-8")
    output, _ = _run(tmp_path, "page.py")
    accuracies = re.findall(r"(?:^|: )([\d.]+)%", output, re.MULTILINE)
    # By chance 10 %.
    assert all(float(percent) > 25 for percent in accuracies), output


def _commands():
    """The commands of all pages: page, module, arguments."""
    for page in PAGES:
        text = _text(page).replace("\\\n", " ")
        text = _CODE.sub(lambda match: match[0].replace("\n", " "), text)
        for module, rest in _COMMAND.findall(text):
            # Of a line of the shell; or of one that is quoted in another.
            yield page, module, tuple(shlex.split(re.split('[>|&;"]', rest)[0]))
        for fragment in _CODE.findall(text):
            arguments = shlex.split(fragment) if fragment.startswith("--config") else ()
            if not arguments or page.startswith("experiments") or "FIELD" in fragment:
                continue  # No command, or of another program.
            if not arguments[0].startswith("--config="):
                arguments = ["--config=configs/base.py", *arguments]
            yield page, "dc_jax.main", tuple(arguments)


COMMANDS = sorted(set(_commands()))


def test_there_are_commands():
    assert len({page for page, _, _ in COMMANDS}) >= 6
    assert len({module for _, module, _ in COMMANDS}) >= 10


def _source(module):
    """The text of what `python -m` runs."""
    path = ROOT / module.replace(".", "/")
    return (
        path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    ).read_text("utf-8")


# Of ml_collections.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(("page", "module", "arguments"), COMMANDS)
def test_a_command_has_these_flags(page, module, arguments):
    source = _source(module)
    for shared in ("experiment", "command"):
        if f"{shared}.main(" in source:
            source += _text(f"experiments/sweep/{shared}.py")
    known = set(_DEFINED.findall(source))
    configs = []
    for argument in arguments:
        assert argument.startswith("--"), argument
        name = argument.removeprefix("--").partition("=")[0]
        assert name.split(".")[0] in known, f"{page}: {module} has no --{name}"
        if name.split(".")[0] == "config":
            configs.append(argument)
    if configs and "my_config.py" not in configs[0]:
        _check_config(module, configs)


def _check_config(module, arguments):
    """Parses the flags of a config as the program does."""
    source = _source(module)
    default = re.search(r'"(configs/[\w/]+\.py)"', source)
    # A field that is only named has any value.
    named = {a.removeprefix("--config.") for a in arguments if "=" not in a}
    assert named <= set(flatten_dict(base.get_config().to_dict(), sep=".")), named
    command = ["program", *(a for a in arguments if "=" in a)]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        *("config", default and default[1]),
        lock_config=True,
        flag_values=values,
        sys_argv=command,
    )
    values(command)
    if module in ("dc_jax.main", "experiments.plan"):
        Config.create(config.value.to_dict())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", _text(page)):
        if "://" not in link:
            assert ((ROOT / page).parent / link).exists(), link


def test_names_of_the_glossary_are_in_the_code():
    fields = Config.__dataclass_fields__
    sources = collections.defaultdict(str)  # Two packages may have one of a name.
    for path in (ROOT / "dc_jax").rglob("*.py"):
        sources[path.stem] += path.read_text("utf-8")
    sources["CondenseState"] = sources["base"]
    names = re.findall(r"`(\w+)\.(\w+)(?:\.(\w+))?`", _text("docs/glossary.md"))
    assert len(names) > 40
    for module, name, attribute in names:
        # A module may have the name of a group, or of a field.
        group = fields[module].type if module in fields else None
        if name not in getattr(group, "__dataclass_fields__", ()):
            assert module in sources, f"no module {module}, for {name}"
            defined = rf"^(?: {{4}})?(?:def |class )?{name}\b"
            assert re.search(defined, sources[module], re.M), f"{module}.{name}"
            assert attribute in sources[module]


def test_where_to_look_is_where_it_is():
    rows = re.findall(
        r"^\| .*\| \[.*\]\((.*)\) \| `(\w+)` \|$", _text("docs/architecture.md"), re.M
    )
    assert len(rows) > 10
    for path, name in rows:
        source = (ROOT / "docs" / path).read_text("utf-8")
        assert re.search(rf"^(?:def |class )?{name}\b", source, re.M), f"{path}: {name}"


@pytest.mark.slow
def test_a_method_from_outside_is_found_by_the_command(tmp_path):
    shutil.copy(ROOT / "docs" / "examples" / "my_method.py", tmp_path)
    blocks = _blocks("docs/adding_a_method.md", "python")
    (config,) = [block for block in blocks if "def get_config" in block]
    (tmp_path / "my_config.py").write_text(config, "utf-8")
    tiny = {
        "iterations": 2,
        "num_evaluations": 1,
        "evaluation.epochs": 1,
        "network.name": "MLP",
    }
    _, output = _run(
        *(tmp_path, "-m", "dc_jax.main", "--config=my_config.py", "--workdir=run"),
        *(f"--config.{name}={value}" for name, value in tiny.items()),
    )
    assert "with method moments: 2 iterations" in output
    assert (tmp_path / "run" / "card.json").exists()


@pytest.fixture
def my_method(monkeypatch):
    """The example is known by its name for the time of a test."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    for module in (api, comparison):
        monkeypatch.setattr(module, "METHODS", methods.METHODS)
    module = importlib.import_module("my_method")
    # Only the first import in a process does this itself.
    methods.METHODS["moments"] = module.make


@pytest.mark.slow
@pytest.mark.usefixtures("my_method")
def test_the_example_gives_the_same_images_when_streamed():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 4
    whole, streamed = (
        dc_jax.condense(
            *(images, labels),
            method="moments",
            network="MLP",
            ipc=2,
            iterations=2,
            overrides={
                "batch_real": 5,
                "num_networks": 2,
                "init": "real",
                "dataset.stream": stream,
            },
        )
        for stream in (False, True)
    )
    np.testing.assert_array_equal(whole.images, streamed.images)


@pytest.mark.usefixtures("my_method")
def test_the_example_refuses_classes_of_different_sizes():
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    with pytest.raises(ValueError, match=r"config\.ipc must be one number for moments"):
        dc_jax.condense(images, labels, method="moments", network="MLP", ipc=[1, 3])


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    installed = str(ROOT / "dc_jax" / "configs" / "digits.py")
    monkeypatch.chdir(tmp_path)
    for before, after in (("", ""), ("--config=", ""), ("-config=", ":small:er")):
        argument = f"{before}configs/digits.py{after}"
        assert command_line.find_config(argument) == f"{before}{installed}{after}"
    for argument in ("--config=configs/digit.py", "--workdir=configs", "digits.py"):
        assert command_line.find_config(argument) == argument
    monkeypatch.chdir(ROOT)
    argument = "--config=configs/digits.py"
    assert command_line.find_config(argument) == argument
