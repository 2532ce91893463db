"""The chips that a run can be planned for, each a file of `targets/`."""

import dataclasses
import importlib.util
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from dc_jax.errors import UserError, one_line

GIB = 2**30
_FOLDER = Path(__file__).parent / "targets"
NAMES = sorted(path.stem for path in _FOLDER.glob("*.toml"))
_PLUGINS = {
    "tpu": ("libtpu",),
    "cuda": ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"),
}


@dataclasses.dataclass(frozen=True)
class Launch:
    """What an operation takes that a GPU launches.

    Attributes:
      seconds: at least.
      bandwidth: bytes per second of its operands and results.
      flops: operations per second of matrix products and convolutions.
    """

    seconds: float
    bandwidth: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips of one kind.

    Attributes:
      name: as it was asked for, such as `v5e:2x4`.
      platform: `tpu` or `cuda`.
      grid: of the chips, such as `2x4`; of several GPUs it is their number.
      flops: published peak of a chip, operations per second.
      bandwidth: published, of its memory, in bytes per second.
      memory_bytes: what a program can use of its memory.
      options: of the compiler.
      clock: cycles per second of a TPU.
      launch: what a launch takes on a GPU.
    """

    name: str
    platform: str
    grid: str
    flops: float
    bandwidth: float
    memory_bytes: int
    options: dict[str, Any]
    clock: float | None = None
    launch: Launch | None = None


def load_target(name: str) -> Target:
    """Returns a target by its name, such as `v5e:2x4` or `h100`.

    Raises:
      UserError: there is no such chip, or not in this number.
    """
    match = re.fullmatch(r"(\w+)(?::(\d+(?:x\d+)*))?", name)
    if match is None or match[1] not in NAMES:
        raise UserError(
            f"--target must be one of {', '.join(NAMES)}, alone for one chip or with a "
            f"grid of chips or a number of GPUs as in v5e:2x4, v4:2x2x1 or h100:4, got "
            f"{name!r}."
        )
    values = tomllib.loads((_FOLDER / f"{match[1]}.toml").read_text(encoding="utf-8"))
    grid = match[2] or values.get("one", "1")
    most = values.get("max_devices")
    if most and (not grid.isdecimal() or not 1 <= int(grid) <= most):
        raise UserError(
            f"--target={name}: {match[1]} must be alone, or with a number of cards "
            f"from 1 to {most} as in {match[1]}:{most}."
        )
    launch = values.get("launch")
    return Target(
        name=name,
        platform=values["platform"],
        grid=grid,
        flops=values["flops"],
        bandwidth=values["bandwidth"],
        memory_bytes=int(values["memory_gib"] * GIB),
        options=values.get("options", {}),
        clock=values.get("clock"),
        launch=launch and Launch(**launch),
    )


def find_devices(target: Target) -> list[Any]:
    """Returns the devices of a target, which need not be there.

    Raises:
      UserError: its compiler is missing, or does not know the grid.
    """
    check_compiler(target)
    # Without these, libtpu asks the cloud which machine this is, and wants to be the
    # only one that uses its chips. Nothing runs on them here.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    chip, options = target.name.partition(":")[0], dict(target.options)
    if target.platform == "cuda":
        topology = f"1x1x{target.grid}"
        text = (_FOLDER / options.pop("target_config")).read_text(encoding="utf-8")
        options |= {"topology": topology, "target_config": text}
        name = chip
    else:
        name = f"{chip}:{target.grid}"
        if math.prod(map(int, target.grid.split("x"))) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(name, target.platform, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--target={target.name}: {one_line(error)}") from error


def check_compiler(target: Target) -> None:
    """Checks that this machine can compile for a target.

    Raises:
      UserError: the compiler is missing.
    """
    if not any(map(_is_there, _PLUGINS[target.platform])):
        package = {"tpu": "libtpu", "cuda": "jax-cuda12-plugin"}[target.platform]
        raise UserError(
            f"--target={target.name} needs the compiler in {package}, which is "
            'missing: pip install -e ".[plan]".'
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Not even the package of the module.
        return False
