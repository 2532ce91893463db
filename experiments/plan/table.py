"""The plans of all cells of the paper's table 1, kept in a file as they are made."""

import dataclasses
import importlib
import importlib.metadata
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dc_jax.config import Config
from dc_jax.files.content import append_json_line, read_json_lines
from experiments.plan import planning
from experiments.plan.planning import Plan, gib
from experiments.plan.target import load_target

# The datasets and the images per class of the paper's table 1.
PAPER = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
PAPER_IPC = (50, 10, 1)

HEAD = """\
| dataset | images per class | target | devices used | memory per device | fits | \
TFLOPs per iteration | seconds at the published peak | seconds, estimate | \
hours per cell, estimate |
|---|---|---|---|---|---|---|---|---|---|"""


def run_table(
    names: Sequence[str], targets: Sequence[str], path: Path
) -> Iterator[str]:
    """Yields the table line by line; what `path` holds is not compiled again.

    Cells with the most images per class come first, because they need the most memory.

    Args:
      names: of files of configs/.
      targets: each is planned for every file.
      path: JSON lines, one per cell; created where needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {row["cell"]: Plan(**row["plan"]) for row in read_json_lines(path)}
    yield HEAD
    for target, ipc, name in itertools.product(targets, PAPER_IPC, names):
        values = importlib.import_module(f"configs.{name}").get_config()
        values.ipc = ipc
        config = Config.create(values.to_dict())
        cell = _cell_name(config, target)
        if cell not in done:
            began = time.process_time()
            done[cell] = planning.make_plan(config, target)
            row = {
                "cell": cell,
                "plan": dataclasses.asdict(done[cell]),
                "cpu_seconds_to_plan": round(time.process_time() - began, 1),
            }
            append_json_line(path, row)
        yield table_row(name, ipc, done[cell])


def table_row(name: str, ipc: int, plan: Plan) -> str:
    """Returns a row of the table `HEAD`."""
    limit = planning.limit(plan, load_target(plan.target))
    return (
        f"| {name} | {ipc} | {plan.target} | {plan.num_devices} "
        f"| {gib(plan.memory_bytes)} | {'yes' if plan.fits else 'no'} "
        f"| {plan.flops / 1e12:.3g} | {limit:.2g} "
        f"| {_number(plan.seconds)} | {_number(plan.hours)} |"
    )


def _number(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.2g}"


def _cell_name(config: Config, target: str) -> str:
    """Returns all that a plan follows from, except the code."""
    packages = ("jax", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
    versions = {name: _version(name) for name in packages}
    values = {"config": dataclasses.asdict(config), "target": target, **versions}
    return json.dumps(values, sort_keys=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
