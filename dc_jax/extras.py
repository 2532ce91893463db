"""Packages that only some runs and formats need."""

import importlib
import types


def load_package(name: str, extra: str) -> types.ModuleType:
    """Imports a module of a package that need not be installed.

    Args:
      name: of the module.
      extra: of this package, that installs it.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{name.partition('.')[0]} cannot be imported ({error}): pip install "
            f'-e ".[{extra}]".'
        ) from error
