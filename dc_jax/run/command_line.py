"""How the commands read their flags, and tell errors in one line."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from dc_jax.errors import UserError, one_line
from dc_jax.paths import user_path


class _NumbersParser(flags.ArgumentParser):
    """Reads `config.ipc`: `10`, or a number per class, `1,5,10` or `(1, 5, 10)`."""

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument  # The default.
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            raise UserError(
                "must be a number, or a number per class as in 1,5,10."
            ) from None


_CONFIG_FILE = re.compile(r"(--?\w+=)?(configs/\w+\.py)((?::.*)?)", re.DOTALL)
# An argument that names the file of a config.
_OWN_FILE = re.compile(r"--?config=(.*?\.py)(?::.*)?", re.DOTALL)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; returns the arguments that are no flags."""
    app.define_help_flags()
    # `config.ipc` is declared as an object, the only field that may be of two types.
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
        # If the config's file raises an error, the message has a whole traceback.
        if "Traceback (most recent call last)" in text:
            text = text.splitlines()[-1]
        sys.exit(f"error: {_naming_fields(one_line(ValueError(text)), argv)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {_naming_fields(one_line(error), argv)}")
    # The config's file is a program and may raise anything.
    except Exception as error:
        sys.exit(f"error: {type(error).__name__} in --config: {one_line(error)}")


def _check_config_file(argv: list[str]) -> None:
    """Checks that the config's file exists, and lets it import modules beside it."""
    files = [match[1] for match in map(_OWN_FILE.fullmatch, argv) if match]
    # As with any flag that is given more than once, the last one counts.
    for path in map(Path, files[-1:]):
        if not path.is_file():
            sys.exit(f"error: --config={path}: there is no such file.")
        sys.path.append(str(path.parent.resolve()))


def _naming_fields(text: str, argv: list[str]) -> str:
    """Adds the fields that the command line sets, if the text names none of them."""
    flag = "--config."
    names = [a.removeprefix(flag).split("=")[0] for a in argv if a.startswith(flag)]
    parts = {repr(part) for name in names for part in name.split(".")}
    if not names or any(part in text for part in {*names, *parts}):
        return text
    return f"{text} ({', '.join(flag + name for name in names)})"


def find_config(argument: str) -> str:
    """Returns an argument, with the installed file in place of a missing one.

    A file of `configs/` need not be in the current folder: the package has it too.
    """
    own = _OWN_FILE.fullmatch(argument)
    if own and own[1].startswith("~"):
        return argument.replace(own[1], str(user_path(own[1], "--config")), 1)
    match = _CONFIG_FILE.fullmatch(argument)
    if match is None or Path(match[2]).exists():
        return argument
    installed = Path(__file__).parent.parent / match[2]
    return f"{match[1] or ''}{installed}{match[3]}" if installed.exists() else argument
