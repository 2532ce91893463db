"""What the command says of mistakes in a user's own method."""

import pytest
import run_helpers

_CONFIG = """
from dc_jax.configs import digits
from dc_jax.errors import UserError
from dc_jax.methods import METHODS


def make(config, network, execution):
    raise {error}("there is no such thing")


METHODS["mine"] = make


def get_config():
    config = digits.get_config()
    config.method = "mine"
    return config
"""


@pytest.mark.parametrize("error", ["ValueError", "UserError"])
def test_errors_keep_their_traceback_unless_they_are_of_the_user(tmp_path, error):
    (tmp_path / "my_config.py").write_text(_CONFIG.format(error=error))
    workdir = tmp_path / "run"
    code, output = run_helpers.run(
        f"--config={tmp_path / 'my_config.py'}", f"--workdir={workdir}"
    )
    assert code == 1
    last = output.splitlines()[-1]
    is_bug = error == "ValueError"
    assert last.startswith(f"{'ValueError' if is_bug else 'error'}: there is no such")
    assert ("Traceback" in output) == is_bug
    assert ("my_config.py" in output) == is_bug
    assert not workdir.exists()
