"""Where JAX keeps compiled programs, so that the same command compiles nothing twice.

JAX looks programs up by all that goes into them, also its version and the instructions
that a CPU has. Where a process is killed while it writes, a part of an entry stays. JAX
would warn of it in every later run and never write it again.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import jax
from absl import logging

# There is no public way to tell whether an entry is whole.
from jax._src.compilation_cache import decompress_executable

from dc_jax.config import ExecutionConfig
from dc_jax.errors import UserError
from dc_jax.files.cache import cache_folder
from dc_jax.files.content import read_json, write_json

OFF = "off"
# The bytes of all entries in the user's cache; the oldest go first.
_MOST = 4 * 2**30
# The sizes of entries that were found whole, by name.
_CHECKED = "dc_jax_checked.json"


def use_compilation_cache(config: ExecutionConfig) -> None:
    """Lets JAX keep compiled programs in the config's folder, or in the user's cache.

    To be called before anything is compiled. Without a folder in the config, JAX's own
    setting goes first, `JAX_COMPILATION_CACHE_DIR`. Entries that are not whole are
    removed.

    Raises:
      UserError: the folder of the config cannot be made or written.
    """
    given = config.compilation_cache
    if given == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if given is None:
        caches = cache_folder()
        folder = jax.config.jax_compilation_cache_dir
        is_ours = not folder and caches is not None
        folder = str(caches / "compiled") if is_ours else folder
    else:
        folder, is_ours = os.path.abspath(os.path.expanduser(given)), False
    if not folder or "://" in folder:
        return  # Nothing is kept, or in a bucket.
    try:
        os.makedirs(folder, exist_ok=True)
        # JAX would only warn, once for each program.
        tempfile.TemporaryFile(dir=folder).close()
        _remove_damaged(Path(folder), _MOST if is_ours else None)
    except OSError as error:
        if given is None:
            text = "Compiled programs are not kept: %s cannot be written (%s)."
            logging.info(text, folder, error.strerror)
            return
        raise UserError(
            f"config.execution.compilation_cache must be a folder that can be written, "
            f"or '{OFF}', got '{given}' ({error.strerror})."
        ) from error
    if given is None and not is_ours:
        return  # All of it is set.
    jax.config.update("jax_compilation_cache_dir", folder)
    # By default JAX keeps only what takes a second or more to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _remove_damaged(folder: Path, most: int | None) -> None:
    """Removes entries that are not whole, and the oldest beyond `most` bytes.

    Only entries are read that are new since the last time, or of another size.
    """
    try:
        checked = read_json(folder / _CHECKED) or {}
    except UserError:
        checked = {}
    sizes, times = {}, {}
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # Another process is faster.
            status = path.stat()
            sizes[path.name], times[path.name] = status.st_size, status.st_mtime
    unknown = [name for name, size in sizes.items() if checked.get(name) != size]
    damaged = [name for name in unknown if not _is_whole(folder / name)]
    held = sum(sizes.values())
    for name in sorted(times, key=times.get):
        is_old = most is not None and held > most
        if is_old or name in damaged:
            (folder / name).unlink(missing_ok=True)
            held -= sizes.pop(name)
    if damaged:
        text = "%s: %d damaged program(s) removed; they are compiled again."
        logging.info(text, folder, len(damaged))
    if sizes != checked:
        write_json(folder / _CHECKED, sizes)


def _is_whole(path: Path) -> bool:
    try:
        decompress_executable(path.read_bytes())
    except OSError:
        return True  # It is gone, or cannot be read now: no reason to remove it.
    # Whatever the library raises that JAX compresses with.
    except Exception:
        return False
    return True
