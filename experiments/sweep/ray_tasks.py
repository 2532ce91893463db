"""Cells as tasks of a Ray cluster."""

import importlib
from collections.abc import Iterator
from typing import Any

from dc_jax.errors import UserError, load_package
from experiments.sweep.cells import MAIN, ROOT, Cell
from experiments.sweep.mirror import Mirror


def run_on_ray(
    cells: list[Cell], output: Mirror, *, address: str, resources: list[str]
) -> Iterator[tuple[Cell, str | None]]:
    """Runs cells as tasks of Ray; yields each as it ends, as `run_here` does.

    If the worker of a task dies, another worker takes the task over. It goes on from
    the last checkpoint; on another machine that shares only a bucket it starts again.

    Args:
      cells: ordered so that sets come before their evaluations.
      output: a folder that all machines share, or a bucket.
      address: of a cluster, `auto`, or `local`.
      resources: of a task, each as NAME=NUMBER.

    Raises:
      UserError: a resource has another form, Ray is missing, or there is no such
        cluster.
    """
    ray = load_package("ray", "ray")
    options = _task_options(resources)
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    try:
        ray.init(address=address, runtime_env=environment)
    except (ValueError, OSError) as error:
        raise UserError(
            f"--ray={address} cannot be reached: it must be 'local', HOST:PORT, or "
            "'auto' on a machine where `ray start` has run."
        ) from error
    task = ray.remote(max_retries=3, max_calls=1, **options)(run_cell)
    cores = max(1, int(options.get("num_cpus", 1)))
    try:
        tasks: dict[str, Any] = {}
        for cell in cells:
            before = [tasks[c.name] for c in cell.evaluates if c.name in tasks]
            tasks[cell.name] = task.remote(cell, output, cores, *before)
        waiting = dict(zip(tasks.values(), cells, strict=True))
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            cell = waiting.pop(done)
            try:
                ray.get(done)
                output.pull(cell.name)
                yield cell, None
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                yield cell, str(cause).strip().splitlines()[-1]
    finally:
        ray.shutdown()


def _task_options(resources: list[str]) -> dict[str, Any]:
    names = {"CPU": "num_cpus", "GPU": "num_gpus"}
    options: dict[str, Any] = {"resources": {}}
    for resource in resources:
        name, _, number = resource.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise UserError(
                f"--ray_resources: must be NAME=NUMBER, got {resource!r}."
            ) from None
        if name in names:
            options[names[name]] = value
        else:
            options["resources"][name] = value
    return options


def run_cell(cell: Cell, output: Mirror, cores: int, *_: Any) -> None:
    """Runs a cell in this process, so that its end frees the lock of the workdir."""
    from dc_jax.config import Config
    from dc_jax.devices import layout
    from dc_jax.run import runner

    layout.use_cpu_cores(cores)
    if output.address:  # This machine may have its cache elsewhere.
        output = Mirror.open(output.address)
    if cell.evaluates:
        output.pull(*(other.name for other in cell.evaluates))
    values, own = cell.values(), str(output.folder / cell.name)
    sets = [str(output.folder / other.name) for other in cell.evaluates]
    if cell.module != MAIN:
        importlib.import_module(cell.module).run(values, own, *sets)
    elif sets:
        runner.evaluate(Config.create(values), *sets, folder=own)
    else:
        runner.condense(Config.create(values), own)
    cell.finish(output.folder)
    output.push(cell.name)
