"""Learns a sequence of tasks with a memory of condensed or chosen images.

  python -m experiments.continual_learning.run --workdir=runs/continual \
      --config=configs/experiments/continual_run.py --config.condense.method=herding

The same command continues a run that was stopped, after the last task that it learned.
The workdir holds the networks after each task, memory_1 and so on (each the folder of a
run of `dc_jax.main`), and result.json.
"""

from pathlib import Path
from typing import Any

from dc_jax.errors import UserError
from experiments.sweep import command


def check(values: dict[str, Any], folder: Path) -> None:
    """Checks the values of a config, and that the folder holds no other run.

    Raises:
      UserError: a value is bad, or the folder holds another run.
    """
    from dc_jax.run import workdir
    from experiments.continual_learning.config import ContinualConfig

    workdir.check_is_ours(ContinualConfig.create(values), folder)


def run(values: dict[str, Any], folder: str, *sets: str) -> dict[str, Any]:
    """Learns all tasks; see `continual.run`.

    Raises:
      UserError: as there, or there is more than one folder of memories.
    """
    if len(sets) > 1:
        raise UserError(f"--set must be one folder, got {', '.join(sets)}.")
    # Imported here so that `--help` does not wait for JAX.
    from experiments.continual_learning import continual

    return continual.run(values, folder, sets=sets[0] if sets else None)


if __name__ == "__main__":
    command.main(
        run,
        "configs/experiments/continual_run.py",
        sets="Workdir of a finished run whose memories are used.",
    )
