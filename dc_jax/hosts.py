"""Several processes of one run, as on the hosts of a TPU pod.

All run the same program on the devices of all. The first alone has the folder of the
run, writes to it and tells of it. What only one process can know, such as what is in
that folder or that a signal came, is told to all before they act on it: a process that
left the others would leave them waiting in the next sum over all devices.
"""

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dc_jax.config import Config

# Bytes of an error that the other processes get to see.
_LONGEST = 1000
# For the last process to reach the end once the first has.
_SHUTDOWN_SECONDS = 60


def initialize(config: Config) -> None:
    """Finds the other processes, if there are any.

    To be called before JAX looks for devices.

    Raises:
      ValueError: the config does not say where they are, or they are not there.
    """
    fields = ("coordinator_address", "num_processes", "process_id")
    values = {name: getattr(config, name) for name in fields}
    if not config.distributed:
        given = [f"config.{name}" for name in fields if values[name] is not None]
        if given:
            raise ValueError(f"{', '.join(given)} needs config.distributed=True.")
        return
    # It would take SIGTERM, which `progress.StopSignals` is there for.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**values, shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"config.distributed: {error}") from error
    check_same("the config", lambda: dataclasses.replace(config, process_id=None))


def are_several() -> bool:
    """Whether the run has more processes than this one."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_first(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function on the first process; all get its result, or its error.

    Raises:
      ValueError: on the other processes, with the text of what the first one raised.
    """
    if not are_several():
        return function(*args, **kwargs)
    result = error = None
    if is_first():
        result, error = _attempt(function, *args, **kwargs)
    result, text = _from_first((result, error and str(error)))
    if text is not None:
        raise error or ValueError(text)
    return result


def on_all(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function on every process; each gets its own result, all any error.

    Raises:
      ValueError: with the text of what another process raised.
    """
    if not are_several():
        return function(*args)
    result, error = _attempt(function, *args)
    text = (str(error) or repr(error)).encode() if error else b""
    padded = np.frombuffer(text[:_LONGEST].ljust(_LONGEST, b"\0"), np.uint8)
    texts = [
        row.tobytes().rstrip(b"\0").decode(errors="replace")
        for row in multihost_utils.process_allgather(padded)
    ]
    if error is not None:
        raise error
    for process, text in enumerate(texts):
        if text:
            raise ValueError(f"on process {process}: {text}")
    return result


def largest(number: int) -> int:
    """Returns the largest of the processes' numbers."""
    if not are_several():
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_same(what: str, function: Callable[[], Any]) -> None:
    """Checks that a function returns the same on all processes.

    Raises:
      ValueError: this one or another has not.
    """
    if not are_several():
        return
    first = on_first(function)

    def check() -> None:
        if function() != first:
            raise ValueError(f"{what} must be the same as on the first process.")

    on_all(check)


def leave() -> None:
    """Waits for the other processes, all of which must be at their end as well.

    Else the first could end before another has told what happened, and JAX kills those
    that are left.
    """
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _attempt(
    function: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, Exception | None]:
    try:
        return function(*args, **kwargs), None
    # Whatever it is, the others must not wait in vain; it is raised again.
    except Exception as error:
        return None, error


def _from_first(value: Any) -> Any:
    """Returns the first process's value, on all."""
    data = np.frombuffer(pickle.dumps(value) if is_first() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int64(data.size)))
    data = data if is_first() else np.zeros(size, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)))
