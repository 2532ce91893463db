"""A finished run for the tests of the report."""

import shutil

import pytest
from report_helpers import make_run


@pytest.fixture(scope="package")
def finished(tmp_path_factory):
    """The folder of a run with two sets; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    make_run(folder, num_sets=2)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(finished, tmp_path / "run")
