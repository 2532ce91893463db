"""What the commands share: flags of a config, and errors of one line."""

import ast
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags


class _NumbersParser(flags.ArgumentParser):
    """Reads `config.ipc`: `10`, or one number a class, `1,5,10` or `(1, 5, 10)`."""

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument  # The default.
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            raise ValueError(
                "must be a number, or one for each class as in 1,5,10."
            ) from None


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line, and returns what is left of it."""
    app.define_help_flags()
    # The type of the only field that may hold values of two types.
    config_flags.register_flag_parser_for_type(object, _NumbersParser())
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
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
