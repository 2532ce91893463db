"""What the commands share: flags of a config, and errors of one line."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from dc_jax.errors import UserError, one_line


class _NumbersParser(flags.ArgumentParser):
    """Reads `config.ipc`: `10`, or one number a class, `1,5,10` or `(1, 5, 10)`."""

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument  # The default.
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            raise UserError(
                "must be a number, or one for each class as in 1,5,10."
            ) from None


_CONFIG_FILE = re.compile(r"(--?\w+=)?(configs/\w+\.py)((?::.*)?)", re.DOTALL)
# Any file of a config, as one argument.
_OWN_FILE = re.compile(r"--?config=(.*?\.py)(?::.*)?", re.DOTALL)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line, and returns what is left of it."""
    app.define_help_flags()
    # The type of the only field that may hold values of two types.
    config_flags.register_flag_parser_for_type(object, _NumbersParser())
    try:
        argv = [find_config(argument) for argument in argv]
        _check_config_file(argv)
        return flags.FLAGS(argv)
    except (AttributeError, LookupError, TypeError) as error:
        text = _naming_fields(one_line(error), argv)
        sys.exit(f"error: no such field of the config: {text}")
    except flags.Error as error:
        text = str(error).strip()
        # Where the config's file raises an error, its traceback is in the message.
        if "Traceback (most recent call last)" in text:
            text = text.splitlines()[-1]
        sys.exit(f"error: {_naming_fields(one_line(ValueError(text)), argv)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {_naming_fields(one_line(error), argv)}")
    # The config's file is a program, which may raise anything.
    except Exception as error:
        sys.exit(f"error: {type(error).__name__} in --config: {one_line(error)}")


def _check_config_file(argv: list[str]) -> None:
    """Checks that the config is there, and lets it import what is beside it."""
    files = [match[1] for match in map(_OWN_FILE.fullmatch, argv) if match]
    # Of several the last one counts, as of all flags.
    for path in map(Path, files[-1:]):
        if not path.is_file():
            sys.exit(f"error: --config={path}: there is no such file.")
        sys.path.append(str(path.parent.resolve()))


def _naming_fields(text: str, argv: list[str]) -> str:
    """Adds the fields that the command line overrides, if the text has none of them."""
    flag = "--config."
    names = [a.removeprefix(flag).split("=")[0] for a in argv if a.startswith(flag)]
    parts = {repr(part) for name in names for part in name.split(".")}
    if not names or any(part in text for part in {*names, *parts}):
        return text
    return f"{text} ({', '.join(flag + name for name in names)})"


def find_config(argument: str) -> str:
    """Returns an argument, perhaps with another path.

    A file of `configs/` that the current folder has not is the one that was installed.
    """
    match = _CONFIG_FILE.fullmatch(argument)
    if match is None or Path(match[2]).exists():
        return argument
    installed = Path(__file__).parent.parent / match[2]
    return f"{match[1] or ''}{installed}{match[3]}" if installed.exists() else argument
