"""How the commands read their flags, and tell errors in one line."""

import ast
import contextlib
import difflib
import logging as std_logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dc_jax.errors import UserError, one_line, printable
from dc_jax.files.paths import user_path


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
# An argument that sets a field.
_FIELD = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)
# What Python and absl say of values, and what would be right.
_WANTED = {
    r"invalid literal for int\(\)": "a whole number",
    "could not convert string to float": "a number",
    r"\('Non-boolean argument": "true or false",
}
_PACKAGE = Path(__file__).resolve().parent.parent
# An argument that names the file of a config.
_OWN_FILE = re.compile(r"--?config=(.*?\.py)(?::.*)?", re.DOTALL)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; returns the arguments that are no flags."""
    app.define_help_flags()
    # `config.ipc` is declared as an object, the only field that may be of two types.
    config_flags.register_flag_parser_for_type(object, _NumbersParser())
    argv = [find_config(argument) for argument in argv]
    _check_config_file(argv)
    try:
        return flags.FLAGS(argv)
    # The config's file is a program and may raise anything.
    except Exception as error:
        refuse(_explain(error, argv))


class _Formatter(std_logging.Formatter):
    """The time and the message; errors, the last line of a command, have no time."""

    def format(self, record: std_logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno < std_logging.ERROR:
            line = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {line}"
        return printable(line)


def log_to_terminal() -> None:
    """Makes `absl.logging` print lines at level INFO, with their times."""
    logging.set_verbosity(max(logging.INFO, logging.get_verbosity()))
    logging.get_absl_handler().setFormatter(_Formatter())
    # JAX tells at this level which accelerators it did not find.
    std_logging.getLogger("jax").setLevel(std_logging.WARNING)


def end_on_signals(text: str, *, cleans: bool = False) -> None:
    """Lets a signal end a command with one line, where nothing else handles it.

    These are Ctrl-C, SIGTERM, and SIGHUP unless nohup keeps it away. `text` says in a
    sentence what became of the work. With `cleans`, what has begun to be written is
    removed on the way out. Not while modules are imported: some swallow the exception,
    or crash.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        name = signal.Signals(number).name
        # The terminal of a SIGHUP is closed.
        with contextlib.suppress(OSError):
            os.write(2, f"Stopped by {name}. {text}\n".encode("utf-8", "replace"))
        if cleans:
            raise SystemExit(128 + number)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def begin(text: str = "Nothing was begun, or all is saved.") -> None:
    """Begins a command: its lines go to the terminal, for `text` see above."""
    log_to_terminal()
    end_on_signals(text)


def refuse(text: str) -> NoReturn:
    """Ends the program with a line."""
    sys.exit(f"error: {printable(text)}")


def _explain(error: Exception, argv: list[str]) -> str:
    """Returns what is wrong with the command line, or with the config's file."""
    place = _find_in_config_file(error, argv)
    if place:
        return place
    if isinstance(error, flags.UnrecognizedFlagError):
        _, _, value = error.flagvalue.partition("=")
        hint = _did_you_mean(error.flagname, value)
        # Of a flag that is nearly right, absl says so.
        return f"{one_line(error)}{'' if 'Did you mean' in str(error) else hint}"
    groups = [match for match in map(_FIELD.fullmatch, argv) if match]
    for match in groups:
        if match[1] in _group_names():
            hint = _did_you_mean(match[1], match[2])
            return f"--config.{match[1]} is a group of fields{hint}"
    if isinstance(error, flags.Error):
        text = str(error).strip()
        for reason, wanted in _WANTED.items():
            # The value may be any text.
            if match := re.fullmatch(rf"flag (--.*): {reason}.*", text, re.DOTALL):
                return f"{one_line(match[1], 200)} must be {wanted}."
        # If the call of the config's file fails, the message has a whole traceback.
        if "Traceback (most recent call last)" in text:
            text = f"--config: {text.splitlines()[-1]}"
        return _naming_fields(one_line(text), argv)
    if "get_config" in str(error):
        return f"{' '.join(_config_flags(argv)[-1:])}: {one_line(error)}"
    text = _naming_fields(one_line(error), argv)
    if isinstance(error, AttributeError | LookupError | TypeError):
        known = _field_names()
        hints = [_did_you_mean(m[1], m[2]) for m in groups if m[1] not in known]
        hint = "" if "Did you mean" in text else "".join(hints[:1])
        return f"no such field of the config: {text}{hint}"
    if isinstance(error, OSError | ValueError):
        return text
    return f"{type(error).__name__} in --config: {text}"


def _find_in_config_file(error: BaseException, argv: list[str]) -> str | None:
    """Returns an error and its place, if the config's file has raised it.

    That is the innermost line in the file, or in a module beside it.
    """
    matches = [match for match in map(_OWN_FILE.fullmatch, argv) if match]
    folders = [Path(match[1]).resolve().parent for match in matches[-1:]]
    while error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames]
        text = one_line(error)
        if isinstance(error, SyntaxError):
            places.append((error.filename or "", error.lineno))
            text = error.msg
        for name, line in reversed(places):
            path = Path(name).resolve()
            is_own = not path.is_relative_to(_PACKAGE) or path.parent.name == "configs"
            if path.parent in folders and is_own:
                return f"{name}, line {line}: {type(error).__name__}: {text}"
        # The parser of flags raises another error because of this one.
        error = error.__cause__ or error.__context__
    return None


def _did_you_mean(name: str, value: str) -> str:
    """Returns a question that names the fields a user may have meant, or nothing."""
    fields = _field_names()
    of_group = [one for one in fields if one.startswith(f"{name}.")]
    meant = [one for one in of_group if one.endswith(".name")] or of_group
    meant = meant or [one for one in fields if name in (one, one.rpartition(".")[2])]
    meant = meant or difflib.get_close_matches(name, fields, 1)
    end = f"={value}" if value and len(meant) == 1 else ""
    flag_names = " or ".join(f"--config.{one}{end}" for one in meant)
    return f": did you mean {flag_names}?" if meant else ""


def _field_names() -> list[str]:
    """Returns the dotted names of all fields."""
    from dc_jax.configs import base  # Only where it is used: it is a file for users.

    def names(config: ConfigDict, prefix: str) -> Iterator[str]:
        for name, value in config.items():
            if isinstance(value, ConfigDict):
                yield from names(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    # In the order of the file.
    return list(names(base.get_config(), ""))


def _group_names() -> set[str]:
    return {one.rpartition(".")[0] for one in _field_names()} - {""}


def _config_flags(argv: list[str]) -> list[str]:
    return [one for one in argv if one.lstrip("-").startswith("config=")]


def _check_config_file(argv: list[str]) -> None:
    """Checks that the config's file exists, and lets it import modules beside it."""
    files = [match[1] for match in map(_OWN_FILE.fullmatch, argv) if match]
    # As with any flag that is given more than once, the last one counts.
    for path in map(Path, files[-1:]):
        if not path.is_file():
            refuse(f"--config={path}: there is no such file.")
        sys.path.append(str(path.parent.resolve()))


def _naming_fields(text: str, argv: list[str]) -> str:
    """Adds the fields that the command line sets, if the text names none of them."""
    flag = "--config."
    names = [a.removeprefix(flag).split("=")[0] for a in argv if a.startswith(flag)]
    parts = {repr(part) for name in names for part in name.split(".")}
    is_of_field = not text.startswith("flag --") or text.startswith(f"flag {flag}")
    if not names or not is_of_field or any(part in text for part in {*names, *parts}):
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
