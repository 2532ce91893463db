"""What the tests of whole runs share: the smallest run, and its command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from configs import digits
from dc_jax.config import Config
from dc_jax.run import runner

ROOT = Path(__file__).parent.parent
_PROGRESS = re.compile(r": after \d+ \w+\.$", re.MULTILINE)

# Two experiments and momentum, so that a state is more than one set of images.
TINY = {
    "iterations": 4,
    "num_experiments": 2,
    "num_evaluations": 2,
    "momentum_img": 0.5,
    "batch_real": 8,
    "checkpoint_minutes": 0.0,
    "network.name": "ConvNetD1W8",
    "evaluation.epochs": 1,
    "evaluation.random_baseline": False,
    "mesh.net": 1,
    "mesh.classes": 1,
}


def tiny_config(**changes) -> Config:
    """The run, with other values of some fields."""
    config = digits.get_config()
    config.update_from_flattened_dict(TINY | changes)
    return Config.create(config.to_dict())


def tiny_command(**changes) -> list[str]:
    """The command line of the run, but for the workdir."""
    fields = [f"--config.{name}={value}" for name, value in (TINY | changes).items()]
    return ["--config=configs/digits.py", *fields]


def start(*arguments: str) -> subprocess.Popen:
    """Starts the program; its two streams are one."""
    return subprocess.Popen(
        [sys.executable, "-m", "dc_jax.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: str) -> tuple[int, str]:
    """Runs the program; returns its exit code and all that it printed."""
    with start(*arguments) as process:
        output, _ = process.communicate(timeout=300)
    return process.returncode, output


def without_progress(output: str) -> str:
    """What a command printed but the lines of a busy machine that tell it goes on."""
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if not _PROGRESS.search(line))


def load_images(folder: Path) -> list[np.ndarray]:
    """The condensed images of every experiment in the folder of a run."""
    paths = sorted(Path(folder).glob("synthetic_set*.npz"))
    return [np.load(path, allow_pickle=False)["images"] for path in paths]


def read_metrics(folder: Path) -> list[dict]:
    """The lines of `metrics.jsonl`."""
    text = (Path(folder) / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def condense(folder, **changes):
    """Runs in this process."""
    return runner.condense(tiny_config(**changes), str(folder))


def snapshot(folder):
    """Every file's content and time of writing."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_same_images(folder, other):
    """The sets of two runs are the same to the last bit."""
    for mine, theirs in zip(load_images(folder), load_images(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
