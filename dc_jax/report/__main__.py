"""Makes the report of a run again: python -m dc_jax.report --workdir=runs/digits."""

import argparse
import sys

from dc_jax.errors import ERRORS, one_line, printable
from dc_jax.files.paths import user_path
from dc_jax.progress import Progress
from dc_jax.run.command_line import end_on_signals


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dc_jax.report", description="Makes the report of a run."
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    given = parser.parse_args().workdir
    try:
        folder = user_path(given, "--workdir")
        as_it_was = f"The report of {printable(str(folder))} is as it was."
        end_on_signals(as_it_was)
        with Progress("Starting"):
            from dc_jax.report.page import write  # Not before: it takes seconds.
        end_on_signals(as_it_was, cleans=True)
        with Progress("Writing the report"):
            path = write(folder)
        print(printable(str(path)))
    except ERRORS as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
