"""The folder of the user that keeps what can be made again: see docs/command.md."""

import os
from pathlib import Path

_VARIABLE = "DC_JAX_CACHE"


def cache_folder() -> Path | None:
    """Returns the folder, which may not exist yet; None: the user wants none.

    That is `DC_JAX_CACHE`, where the environment has it, or `dc_jax` among the caches
    of all programs.
    """
    named = os.environ.get(_VARIABLE)
    if named == "off":
        return None
    if named:
        return Path(named).expanduser().absolute()
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None  # There is no home.
    return Path(caches).absolute() / "dc_jax"
