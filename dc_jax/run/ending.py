"""How a command ends that errors or signals end: with one line, on all processes."""

import contextlib
from collections.abc import Iterator

from absl import logging

from dc_jax.devices import processes
from dc_jax.errors import ERRORS, is_out_of_memory, one_line
from dc_jax.run.signals import Stopped


@contextlib.contextmanager
def ends_in_a_line() -> Iterator[None]:
    """Ends the command with a line where what is inside fails, or is stopped.

    A bug of the program keeps its traceback.
    """
    try:
        yield
    except ERRORS as error:
        logging.debug("The error in full:", exc_info=True)
        processes.fail(one_line(error))
    except Stopped as stopped:
        logging.info("%s", stopped)
        processes.leave(stopped.exit_code)
    except BaseException as error:
        if is_out_of_memory(error):
            processes.fail(
                f"not enough memory ({one_line(error)}): smaller config.ipc, "
                "config.batch_real, config.num_networks and config.num_experiments "
                "need less."
            )
        if not processes.are_several():
            raise
        logging.exception("The others end with this process:")
        processes.fail(repr(error))
