"""`python -m dc_jax`, and the command `dc-jax`: the same as `python -m dc_jax.main`."""

import runpy


def run() -> None:
    """Runs `dc_jax.main` as a program."""
    runpy.run_module("dc_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run()
