"""What to override where a run does not fit into the memory of a device."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from dc_jax.config import Config
from dc_jax.devices.layout import Layout, make_layout
from experiments import compiling
from experiments.chips import Chip
from experiments.compiling import Program


def find(
    config: Config, program: Program, devices: Sequence[Any], chip: Chip
) -> str | None:
    """Returns what to override so that a run fits, or None where nothing tried does.

    Args:
      config: a run that does not fit.
      program: of it.
      devices: of the topology.
      chip: that they are.
    """
    for advice, changed in smaller_configs(config, program, devices):
        smaller = compiling.make_program(changed, devices)
        if compiling.measure_memory(smaller, chip).fits:
            return advice
    return None


def smaller_configs(
    config: Config, program: Program, devices: Sequence[Any]
) -> Iterator[tuple[str, Config]]:
    """Yields runs that need less memory, and what to override for each.

    First those that compute the same: slices of fewer images, other meshes, networks
    one after another; then fewer networks, and one experiment.
    """
    num = program.slice_size
    slices = sorted({max(1, num // 4), max(1, num // 16)}, reverse=True)
    choices = [{"execution.slice_size": size} for size in slices]
    choices += [{"mesh.net": nets} for nets in _other_meshes(config, program, devices)]
    choices.append({"execution.network_loop": "map"})
    choices.append(
        {"execution.network_loop": "map", "execution.slice_size": slices[-1]}
    )
    networks = config.num_networks // 2
    while networks:
        choices.append({"num_networks": networks})
        networks //= 2
    if config.num_experiments > 1:
        choices.append({"num_experiments": 1})
    for changes in choices:
        advice = " ".join(f"--config.{name}={value}" for name, value in changes.items())
        yield advice, _replace(config, changes)


def _other_meshes(
    config: Config, program: Program, devices: Sequence[Any]
) -> Iterator[int]:
    """Yields values of `mesh.net` that leave ever fewer networks to a device."""
    fewest = _networks_a_device(config, program.layout)
    for nets in range(2, len(devices) + 1):
        changed = _replace(config, {"mesh.net": nets})
        try:
            layout = make_layout(changed, program.num_classes, devices)
        except ValueError:  # There is no such mesh.
            continue
        if _networks_a_device(config, layout) < fewest:
            fewest = _networks_a_device(config, layout)
            yield nets


def _networks_a_device(config: Config, layout: Layout) -> int:
    experiments = -(-config.num_experiments // layout.experiments.size)
    return experiments * -(-config.num_networks // layout.networks.size)


def _replace(config: Config, changes: dict[str, Any]) -> Config:
    """Returns a config with other values of fields such as `mesh.net`."""
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        if group:
            value = dataclasses.replace(getattr(config, group), **{field: value})
        config = dataclasses.replace(config, **{group or field: value})
    return config
