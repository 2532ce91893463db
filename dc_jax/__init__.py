"""Dataset condensation in JAX: a few synthetic images per class."""

__version__ = "0.1.0"

# Public name -> the module that defines it. Imported on first use, so that
# `import dc_jax` and `python -m dc_jax.main --help` do not wait for JAX.
_EXPORTS = {
    "SyntheticSet": "dc_jax.base",
    "compare": "dc_jax.api",
    "condense": "dc_jax.api",
    "evaluate": "dc_jax.api",
    "load_synthetic_set": "dc_jax.sets.formats",
    "select": "dc_jax.api",
}

__all__ = [
    "SyntheticSet",
    "__version__",
    "compare",
    "condense",
    "evaluate",
    "load_synthetic_set",
    "select",
]


def __getattr__(name: str):
    """Imports the module behind a public name when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dc_jax' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
