"""The documentation: its Python is run, its commands are parsed, its links followed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags
from run_helpers import ROOT

from dc_jax.config import Config

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "experiments" / "README.md",
    )
)
RUN = ("docs/python.md", "docs/tutorial.md", "docs/adding_a_method.md")
_COMMAND = re.compile(
    r"python -m ((?:dc_jax|experiments)\.\w+)((?: +| *\\\n *|\n *(?=--))[^`\n]*)*"
)
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


@pytest.mark.parametrize("page", RUN)
def test_the_python_of_a_page_runs(tmp_path, page):
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    (tmp_path / "page.py").write_text("\n".join(_blocks(page, "python")), "utf-8")
    output, _ = _run(tmp_path, "page.py")
    # What is printed are accuracies; by chance 10 %.
    for percent in re.findall(r"(?<!± )\b([\d.]+)%", output):
        assert float(percent) > 25, output


def _commands():
    """The commands of all pages: page, module, arguments."""
    for page in PAGES:
        text = _text(page)
        for match in _COMMAND.finditer(text):
            line = match[0].replace("\\\n", " ").replace("\n", " ")
            line = re.split(r"[>|&;]| with ", line)[0].rstrip('" ')
            _, _, module, *arguments = shlex.split(line)
            yield page, module, tuple(arguments)
        for fragment in re.findall(r"`(--(?:config|mode|set)[^`]*)`", text):
            arguments = shlex.split(fragment)
            if not arguments[0].startswith("--config="):
                arguments = ["--config=configs/base.py", *arguments]
            if page.startswith("experiments"):
                continue  # Of other commands.
            yield page, "dc_jax.main", tuple(arguments)


COMMANDS = sorted(set(_commands()))


def test_there_are_commands():
    assert len({page for page, _, _ in COMMANDS}) >= 6
    assert len({module for _, module, _ in COMMANDS}) >= 10


@pytest.mark.parametrize(("page", "module", "arguments"), COMMANDS)
def test_a_command_has_these_flags(page, module, arguments):
    source = _text(f"{module.replace('.', '/')}.py")
    if "sweep.main" in source:
        source += _text("experiments/sweep.py")
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
    source = _text(f"{module.replace('.', '/')}.py")
    default = re.search(r'"(configs/[\w/]+\.py)"', source)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", default and default[1], lock_config=True, flag_values=values
    )
    values(["program", *arguments])
    if module in ("dc_jax.main", "experiments.tpu_plan"):
        Config.create(config.value.to_dict())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", _text(page)):
        if "://" not in link:
            assert ((ROOT / page).parent / link).exists(), link


def test_names_of_the_glossary_are_in_the_code():
    text = _text("docs/glossary.md")
    fields = Config.__dataclass_fields__
    sources = {
        path.stem: path.read_text("utf-8") for path in (ROOT / "dc_jax").rglob("*.py")
    }
    names = re.findall(r"`([a-z_]+)\.(\w+)(?:\.\w+)?`", text)
    assert len(names) > 30
    for module, name in names:
        if module in fields:
            group = Config.__dataclass_fields__[module].type
            assert name in group.__dataclass_fields__, name
        elif module in sources:
            assert re.search(rf"\b{name}\b", sources[module]), f"{module}.{name}"


def test_a_method_from_outside_is_found_by_the_command(tmp_path):
    shutil.copy(ROOT / "docs" / "examples" / "my_method.py", tmp_path)
    *_, config = _blocks("docs/adding_a_method.md", "python")
    (tmp_path / "my_config.py").write_text(config, "utf-8")
    tiny = {
        "iterations": 2,
        "num_networks": 2,
        "num_evaluations": 1,
        "evaluation.epochs": 1,
        "network.name": "MLP",
    }
    images = []
    for stream in (False, True):
        _, output = _run(
            *(tmp_path, "-m", "dc_jax.main", "--config=my_config.py"),
            *(f"--config.{name}={value}" for name, value in tiny.items()),
            *(f"--config.dataset.stream={stream}", f"--workdir=run{stream}"),
        )
        assert "with method moments: 2 iterations" in output
        images.append((tmp_path / f"run{stream}" / "synthetic_set.npz").read_bytes())
    assert images[0] == images[1]


def test_the_configs_are_found_from_any_folder(tmp_path):
    _, output = _run(
        *(tmp_path, "-m", "dc_jax.main", "--config=configs/digits.py"),
        *("--workdir=run", "--config.method=random", "--config.num_evaluations=1"),
        *("--config.network.name=MLP", "--config.evaluation.epochs=1"),
    )
    assert "Dataset digits" in output
    assert Path(tmp_path / "run" / "card.json").exists()
