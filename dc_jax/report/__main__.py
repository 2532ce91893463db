"""Makes the report of a run again: python -m dc_jax.report --workdir=runs/digits."""

import argparse
import sys

from dc_jax import report
from dc_jax.errors import ERRORS, one_line
from dc_jax.paths import user_path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dc_jax.report", description="Makes the report of a run."
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    try:
        folder = user_path(parser.parse_args().workdir, "--workdir")
        print(report.write(folder))
    except ERRORS as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
