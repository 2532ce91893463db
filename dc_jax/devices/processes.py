"""Several processes of one run, as on the hosts of a TPU pod.

All run the same program on the devices of all. The first alone reads and writes the
folder of the run, and tells the others what they need of it. If a process left, the
others would wait for it in the next sum over all devices. So all stop together: one
that fails tells the others, which have a thread each that waits for this.
"""

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from absl import logging
from flax.serialization import msgpack_restore, msgpack_serialize

# There is no public way to tell something to a process that waits for its devices.
from jax._src import distributed
from jax.experimental import multihost_utils

from dc_jax.config import Config
from dc_jax.errors import UserError

_FAILURE = "dc_jax/failure"
_FOREVER = 10**12  # Milliseconds.
_SHUTDOWN_SECONDS = 30  # For the last process to reach the end once the first has.


def initialize(config: Config) -> None:
    """Finds the other processes, if there are any, before JAX looks for devices.

    Raises:
      UserError: the config does not say where they are, or theirs is another.
    """
    fields = ("coordinator_address", "num_processes", "process_id")
    values = {name: getattr(config, name) for name in fields}
    if not config.distributed:
        given = [f"config.{name}" for name in fields if values[name] is not None]
        if given:
            raise UserError(f"{', '.join(given)} needs config.distributed=True.")
        return
    # It would take SIGTERM, which `signals.StopSignals` is there for.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**values, shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"config.distributed: {error}") from error
    if are_several():
        threading.Thread(target=_await_failure, daemon=True).start()
    check_same("the config", dataclasses.replace(config, process_id=None))


def are_several() -> bool:
    """Whether the run has more processes than this one."""
    return distributed.global_state.num_processes > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return distributed.global_state.process_id == 0


def on_first(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns on all what a function returns on the first: arrays and JSON's types."""
    result = function(*args, **kwargs) if is_first() else None
    if not are_several():
        return result
    data = np.frombuffer(msgpack_serialize({"result": result}), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = data if is_first() else np.zeros(size, np.uint8)
    data = np.asarray(multihost_utils.broadcast_one_to_all(data))
    return msgpack_restore(data.tobytes())["result"]


def largest(number: int) -> int:
    """Returns the largest of the processes' numbers."""
    if not are_several():
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_same(what: str, value: Any) -> None:
    """Checks that a value is the same on all processes.

    Raises:
      UserError: on those where it is another than on the first.
    """
    if repr(value) != on_first(repr, value):
        raise UserError(f"{what} must be the same as on the first process.")


def fail(text: str) -> NoReturn:
    """Ends all processes, each with this line."""
    if not are_several():
        _end_with(text)
    process = distributed.global_state.process_id
    text = f"on process {process}: {text}" if process else text
    # Another may have been faster.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        distributed.global_state.client.key_value_set(_FAILURE, text)
    threading.Event().wait()


def leave(code: int) -> NoReturn:
    """Ends this process once the others end, too; JAX would kill those left behind."""
    jax.distributed.shutdown()
    # Not sys.exit, which would wait for a step that is still computed.
    logging.flush()
    sys.stdout.flush()
    os._exit(code)


def _await_failure() -> None:
    client = distributed.global_state.client
    try:
        text = client.blocking_key_value_get(_FAILURE, _FOREVER)
    except jax.errors.JaxRuntimeError:
        return  # All leave without one.
    _end_with(text)


def _end_with(text: str) -> NoReturn:
    logging.error("error: %s", text)
    leave(1)
