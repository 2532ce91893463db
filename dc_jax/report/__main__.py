"""Makes the report of a run again: python -m dc_jax.report --workdir=runs/digits."""

import argparse
import sys
from pathlib import Path

from dc_jax import report
from dc_jax.errors import ERRORS, one_line, printable


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dc_jax.report", description="Makes the report of a run."
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    try:
        print(printable(str(report.write(Path(parser.parse_args().workdir)))))
    except ERRORS as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
