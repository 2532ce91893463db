"""How work is split over devices.

The mesh has three axes: experiments and networks need nothing of one another but a sum
of image gradients; classes share each step of training the networks. The synthetic
images are everywhere whole (they are few), the real images are split by class. What
runs is written for one device and asks an `Axis` for its part; `run.compiled` puts it
on a mesh. On one device there is no mesh and an axis does nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dc_jax.config import Config
from dc_jax.devices import processes
from dc_jax.errors import UserError

CLASS_AXIS = "class"
_EVERYWHERE = P()
_DAY = 24 * 60 * 60  # seconds


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of the mesh, for a function that runs on each of its devices."""

    name: str | tuple[str, ...] = ()  # Or names of several axes.
    size: int = 1  # Number of devices; with one, nothing is split.

    def part(self, num: int) -> tuple[jax.Array, jax.Array]:
        """Returns which of `num` elements are this device's, and whether each counts.

        Both are `[ceil(num / size)]`. Where `num` is no multiple of the axis, the last
        devices get the last element again, which does not count.
        """
        share = -(-num // self.size)
        begin = share * jax.lax.axis_index(self.name) if self.size > 1 else 0
        indices = begin + jnp.arange(share)
        return jnp.minimum(indices, num - 1), indices < num

    def sum(self, tree: Any) -> Any:
        """Returns the sum over the devices."""
        return jax.lax.psum(tree, self.name) if self.size > 1 else tree

    def gather(self, tree: Any, num: int) -> Any:
        """Returns all `num` elements along axis 0 from the `part` of each device."""
        if self.size == 1:
            return tree
        whole = jax.lax.all_gather(tree, self.name, tiled=True)
        return jax.tree.map(lambda leaf: leaf[:num], whole)


# Of a single device.
WHOLE = Axis()


@dataclasses.dataclass(frozen=True)
class Layout:
    """The devices of a run, and the axes that work is split over."""

    mesh: Mesh | None = None  # None for one device.
    experiments: Axis = WHOLE  # Of independent synthetic sets.
    networks: Axis = WHOLE  # Of the M networks.
    classes: Axis = WHOLE  # Of classes, and of training batches.

    @property
    def everything(self) -> Axis:
        """All devices as one axis."""
        if self.mesh is None:
            return WHOLE
        return Axis(self.mesh.axis_names, self.mesh.size)

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`."""
        if self.mesh is None:
            return jax.default_backend()
        return self.mesh.devices.flat[0].platform

    def spread(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any = _EVERYWHERE
    ) -> Callable[..., Any]:
        """Runs a function on each device; by default all have the same results."""
        if self.mesh is None:
            return function
        specs = {"in_specs": in_specs, "out_specs": out_specs}
        return jax.shard_map(function, mesh=self.mesh, **specs, check_vma=False)

    def put(self, array: np.ndarray, spec: P = _EVERYWHERE) -> jax.Array:
        """Puts an array that every process has whole on the devices."""
        if self.mesh is None:
            return jnp.asarray(array)
        sharding = NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    def __str__(self) -> str:
        if self.mesh is None:
            return f"one {self.platform} device"
        names = ("experiments", "networks", "classes")
        parts = ", ".join(f"{name} over {getattr(self, name).size}" for name in names)
        return f"{self.mesh.size} {self.platform} devices: {parts}"


ONE_DEVICE = Layout()


def make_layout(
    config: Config, num_classes: int, devices: Sequence[jax.Device] | None = None
) -> Layout:
    """Returns the mesh of the config, or the one that leaves least to a device.

    `devices` are those of all processes, by default all that JAX finds.

    Raises:
      UserError: there are none or too few, or some that a process would not use.
    """
    devices = list(devices or _find_devices())
    if jax.process_count() > 1 and not config.distributed:
        raise UserError("config.distributed must be True for several hosts.")
    sizes = _choose_sizes(config, num_classes, len(devices))
    num = int(np.prod(sizes))
    if num == 1 and devices[0] in jax.devices():
        return ONE_DEVICE
    names = ("experiment", "network", CLASS_AXIS)
    # Not Explicit, JAX's default, under which convolutions fail.
    types = (AxisType.Auto,) * 3
    mesh = Mesh(np.array(devices[:num]).reshape(sizes), names, axis_types=types)
    return Layout(mesh, *map(Axis, names, sizes))


def _find_devices() -> list[jax.Device]:
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:
        names = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")
        values = " and ".join(f"{name} = {os.environ.get(name)!r}" for name in names)
        raise UserError(
            f"JAX finds no devices; look at the environment's {values}. {error}"
        ) from error


def _choose_sizes(config: Config, num_classes: int, num: int) -> tuple[int, int, int]:
    """The devices along the axes of experiments, networks and classes."""
    nets, classes = config.mesh.net, config.mesh.classes
    if (nets or 1) * (classes or 1) > num:
        raise UserError(
            f"config.mesh.net x config.mesh.classes must be at most {num}, the number "
            f"of devices, got {nets or 1} x {classes or 1}."
        )

    def work(sizes: tuple[int, int, int]) -> float:
        """The most that one device has to do: matching, and training networks."""
        experiments, networks, classes = sizes
        rounds = -(-config.num_experiments // experiments)
        rounds *= -(-config.num_networks // networks)
        return rounds * (-(-num_classes // classes) / num_classes + 1 / classes)

    # Every process must have a part in a run: with several, all devices are used.
    total = num if processes.are_several() else None
    candidates = [
        (e, m, c)
        for e in range(1, min(config.num_experiments, num) + 1)
        for m in range(1, min(config.num_networks, num // e) + 1)
        for c in range(1, num // (e * m) + 1)
        if (nets is None or e * m == nets)
        and (classes is None or c == classes)
        and (total is None or e * m * c == total)
        and (total or classes or c <= num_classes)
    ]
    if total and not candidates:
        raise UserError(
            f"config.mesh must leave none of the {num} devices out when there are "
            f"several processes, got net = {nets}, classes = {classes}."
        )
    if not candidates:
        raise UserError(
            f"config.mesh.net must be at most, and made of factors of at most, "
            f"num_experiments = {config.num_experiments} times num_networks = "
            f"{config.num_networks}, got {nets}."
        )
    # Of equals the fewest devices, and those that need least of one another.
    return min(candidates, key=lambda sizes: (work(sizes), np.prod(sizes), sizes[::-1]))


def use_cpu_cores(most: int | None = None) -> None:
    """Makes each CPU core a device, `most` at most, unless the user has chosen devices.

    To be called before JAX looks for devices. On two cores the gradient of 256 images
    took 0.22 s with two devices of one thread, and 0.28 s with one of two.
    """
    wait_for_slow_devices()
    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in flags:
        return
    if hasattr(os, "sched_getaffinity"):  # Not on macOS and Windows.
        num = len(os.sched_getaffinity(0))
    else:
        num = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(num, most or num))


def wait_for_slow_devices() -> None:
    """Makes CPU devices wait for one another for a day, unless XLA_FLAGS say how long.

    XLA would end the process when one is 60 seconds behind, which happens where other
    programs use the cores, or where one device has more classes than another.
    """
    flags, call = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_collective_call"
    if call in flags:  # XLA never ends a process that it has not warned before.
        return
    for name in ("warn_stuck", "terminate"):
        flags += f" {call}_{name}_timeout_seconds={_DAY}"
    os.environ["XLA_FLAGS"] = flags.strip()
