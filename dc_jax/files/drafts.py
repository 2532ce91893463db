"""Drafts: files and folders that have another name until they are whole.

The name of a draft tells who writes it, so that those of processes that were killed can
be removed, and nobody else's.
"""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

# NAME.MACHINE-PROCESS-RANDOM.tmp; until version 0.1 it was NAME.PROCESS.tmp.
_NAME = re.compile(
    r"(.+)\.(?:(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}|(?P<old>\d+))\.tmp",
    re.DOTALL,
)
# Of the processes of a machine, not of a container.
_ALL_PROCESSES = "pid:[4026531836]"
# The drafts of this process.
_open: set[str] = set()


@contextlib.contextmanager
def draft(path: str | os.PathLike) -> Iterator[str]:
    """Lets a file or a folder be written so that nobody ever sees a part of it.

    Yields a path beside `path`, whose folder is made where needed. At the end what was
    written there replaces `path`; after an error it is removed instead. Drafts of the
    same path whose process was killed are removed, too.

    Raises:
      OSError: it cannot be written.
    """
    path = os.path.abspath(path)
    # Not `tempfile`, whose files nobody else may read. The random part is for two
    # containers, in which processes have the same numbers.
    temporary = f"{path}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    _open.add(temporary)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        name = os.path.basename(path)
        _remove_stale(os.path.dirname(path), lambda of, is_old: of == name)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = path  # A full disk does not name it.
        raise
    finally:
        _remove(temporary)
        _open.discard(temporary)


def remove_stale(folder: Path, is_old: Callable[[str], bool]) -> None:
    """Removes drafts of dead processes of this machine, in a folder and below.

    Drafts of earlier versions do not tell the machine. They are removed if they are of
    a name for which `is_old` is true.
    """
    for parent, _, _ in os.walk(folder):
        _remove_stale(parent, lambda name, is_of_old: not is_of_old or is_old(name))


def _remove_stale(folder: str, is_meant: Callable[[str, bool], bool]) -> None:
    """Removes stale drafts for which `is_meant(name, is_of_an_earlier_version)`."""
    paths = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        paths = [entry.path for entry in entries if entry.name.endswith(".tmp")]
    for path in paths:
        match = _NAME.fullmatch(os.path.basename(path))
        if match and is_meant(match[1], match["old"] is not None) and _is_stale(path):
            _remove(path)


def _is_stale(path: str) -> bool:
    """Whether a draft is of a process of this machine that has ended."""
    match = _NAME.fullmatch(os.path.basename(path))
    if match["machine"] not in (None, _machine()):
        return False
    process = int(match["process"] or match["old"])
    if process == os.getpid():
        return path not in _open
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # It is of another user.
    return False


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


@functools.cache
def _machine() -> str:
    """Returns 8 digits, the same where a number means the same process."""
    processes = ""
    with contextlib.suppress(OSError):  # Not on Linux.
        processes = os.readlink("/proc/self/ns/pid")
    # A machine knows its drafts after a restart; a container has no name of its own.
    path = Path("/proc/sys/kernel/random/boot_id")
    if processes == _ALL_PROCESSES:
        path = Path("/etc/machine-id")
    text = f"{socket.gethostname()} {processes}"
    with contextlib.suppress(OSError):
        text += path.read_text("utf-8")
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
