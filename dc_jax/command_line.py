"""What the commands share: flags of a config, and errors of one line."""

import re
import sys
from pathlib import Path

from absl import app, flags

_CONFIG_FILE = re.compile(r"(--?\w+=)?(configs/\w+\.py)((?::.*)?)", re.DOTALL)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line, and returns what is left of it."""
    app.define_help_flags()
    try:
        return flags.FLAGS([find_config(argument) for argument in argv])
    except (AttributeError, KeyError) as error:
        sys.exit(f"error: no such field of the config: {one_line(error)}")
    except flags.Error as error:
        # Where the config's file raises an error, its traceback is in the message.
        sys.exit(f"error: {str(error).strip().splitlines()[-1].strip()}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")


def find_config(argument: str) -> str:
    """Returns an argument, perhaps with another path.

    A file of `configs/` that the current folder has not is the one that was installed.
    """
    match = _CONFIG_FILE.fullmatch(argument)
    if match is None or Path(match[2]).exists():
        return argument
    installed = Path(__file__).parent / match[2]
    return f"{match[1] or ''}{installed}{match[3]}" if installed.exists() else argument


def one_line(error: BaseException) -> str:
    """Returns the message of an error, without line breaks."""
    # ml_collections raises AttributeError(KeyError(text)) for an unknown field.
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = error.args[0] if isinstance(error, KeyError) else error
    return " ".join(str(text).split())
