"""Tests of the command line: what it says of mistakes."""

import subprocess
import sys

import pytest
import run_helpers
from data_helpers import run_python
from run_helpers import ROOT

_CONFIG = "--config=configs/digits.py"


def _fail(*arguments):
    """Runs a command that must fail, and returns what it printed."""
    code, output = run_helpers.run(*arguments)
    assert code == 1, output
    assert "Traceback" not in output
    return run_helpers.without_progress(output)


def test_help_names_the_flags_and_what_is_saved():
    code, output = run_helpers.run("--help")
    # As every program of absl.
    assert code in (0, 1)
    for text in ("--config", "--workdir", "--mode", "--set", "synthetic_set.npz"):
        assert text in output
    assert "Traceback" not in output


def test_command_line_is_read_without_jax():
    run_python(
        "import sys\n"
        "import dc_jax.main\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )


def test_a_config_is_needed(tmp_path):
    (line,) = _fail(f"--workdir={tmp_path / 'run'}").splitlines()
    assert line.startswith("error: ")
    assert "--config" in line


def test_a_workdir_is_needed():
    (line,) = _fail(_CONFIG).splitlines()
    assert line.startswith("error: --workdir=FOLDER is needed")


@pytest.mark.parametrize(
    "arguments", [["--mode=evaluate"], ["--set=synthetic_set.npz", "--workdir=x"]]
)
def test_evaluation_and_its_set_go_together(arguments):
    (line,) = _fail(_CONFIG, *arguments).splitlines()
    assert line == "error: --mode=evaluate and --set=PATH go together."


def test_an_argument_that_is_no_flag(tmp_path):
    (line,) = _fail(_CONFIG, f"--workdir={tmp_path / 'run'}", "ipc=3").splitlines()
    assert "'ipc=3'" in line


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.ipcc=3", "'ipcc' Did you mean \"ipc\""),
        ("--config.dataset.nam=mnist", "'nam'"),
        ("--config.data.name=mnist", "'data'"),
        ("--ipc=3", "did you mean --config.ipc=3?"),
        ("--config.network=MLP", "did you mean --config.network.name=MLP?"),
        ("--config.mesh.class=2", "mesh.class"),
        ("--config.ipc.name=mnist", "ipc.name"),
        ("--config.ipc=abc", "--config.ipc=abc"),
        ("--config.lr_img=fast", "--config.lr_img=fast"),
        ("--config.outer_loop=2.5", "--config.outer_loop=2.5"),
        # These are found by the program, not by the parser of the command line.
        ("--config.ipc=0", "error: config.ipc must be at least 1, got 0."),
        ("--config.evaluation.lr=-1", "config.evaluation.lr must be positive, got -1"),
        ("--config.coordinator_address=host", "must be HOST:PORT, got 'host'"),
        ("--config.process_id=1", "config.process_id needs config.distributed=True."),
    ],
)
def test_a_field_or_value_that_is_wrong(tmp_path, argument, expected):
    folder = tmp_path / "run"
    (line,) = _fail(_CONFIG, f"--workdir={folder}", argument).splitlines()
    assert expected in line
    assert not folder.exists()


@pytest.mark.parametrize("module", ["dc_jax", "dc_jax.main"])
def test_the_package_is_the_command(module):
    command = [sys.executable, "-m", module, _CONFIG]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --workdir=FOLDER is needed")


@pytest.mark.parametrize("more", [[], ["--config.ipc=3"]])
def test_a_config_file_that_is_not_there(tmp_path, more):
    arguments = ["--config=configs/digit.py", f"--workdir={tmp_path / 'run'}", *more]
    (line,) = _fail(*arguments).splitlines()
    assert line == "error: --config=configs/digit.py: there is no such file."


def test_a_config_may_import_what_is_beside_it(tmp_path):
    (tmp_path / "my_fields.py").write_text("IPC = 0\n")
    (tmp_path / "my_config.py").write_text(
        "import my_fields\n"
        "from dc_jax.configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.ipc = my_fields.IPC\n"
        "    return config\n"
    )
    workdir = tmp_path / "run"
    (line,) = _fail(
        f"--config={tmp_path / 'my_config.py'}", f"--workdir={workdir}"
    ).splitlines()
    assert "config.ipc must be at least 1, got 0" in line


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "file/run"):
        (line,) = _fail(_CONFIG, f"--workdir={tmp_path / name}").splitlines()
        assert line.endswith(f"{tmp_path / 'file'} is a file, not a folder.")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.dataset.name=digit", "'digit'"),
        ("--config.network.name=ConvNetX", "got 'ConvNetX'"),
        (
            "--config.method=no",
            "config.method must be one of dc, dsa, dm, dd, frepo, ncfm, ",
        ),
    ],
)
def test_a_name_that_is_wrong(tmp_path, argument, expected):
    folder = tmp_path / "run"
    lines = _fail(_CONFIG, f"--workdir={folder}", argument).splitlines()
    (error,) = (line for line in lines if line.startswith("error: "))
    assert error == lines[-1]
    assert expected in error
    assert not folder.exists()


@pytest.mark.parametrize("place", ["file", "file/folder", "/proc"])
def test_a_compilation_cache_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    place, folder = tmp_path / place, tmp_path / "run"
    argument = f"--config.execution.compilation_cache={place}"
    (line,) = _fail(_CONFIG, f"--workdir={folder}", argument).splitlines()
    field = "config.execution.compilation_cache"
    assert line.startswith(f"error: {field} must be a folder that can be written")
    assert f"got '{place}' (" in line
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_PLATFORMS", "cuda"), ("JAX_NUM_CPU_DEVICES", "0")]
)
def test_no_device(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    line = _fail(_CONFIG, f"--workdir={tmp_path / 'run'}").splitlines()[-1]
    assert line.startswith("error: JAX finds no devices")
    assert f"{name} = '{value}'" in line


def test_a_set_that_is_not_there(tmp_path):
    path = tmp_path / "none.npz"
    (line,) = _fail(_CONFIG, "--mode=evaluate", f"--set={path}").splitlines()
    assert line.startswith(f"error: no synthetic set at {path}")
