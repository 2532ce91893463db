"""What the commands share: flags of a config, and errors of one line."""

import sys

from absl import app, flags


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line, and returns what is left of it."""
    app.define_help_flags()
    try:
        return flags.FLAGS(argv)
    except (AttributeError, LookupError, TypeError) as error:
        sys.exit(f"error: no such field of the config: {one_line(error)}")
    except flags.Error as error:
        # Where the config's file raises an error, its traceback is in the message.
        sys.exit(f"error: {str(error).strip().splitlines()[-1].strip()}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """Returns the message of an error, without line breaks."""
    # ml_collections raises AttributeError(KeyError(text)) for an unknown field.
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = error.args[0] if isinstance(error, KeyError) else error
    return " ".join(str(text).split())
