"""Steps on whitened images: devices and streaming change nothing."""

import contract
import numpy as np
import pytest
from contract import DATASET, MethodContract
from toy import whitened

from dc_jax.methods import METHODS


class Matching(MethodContract):
    """Runs the method; its own tests, of images as they are, are not collected."""

    make = staticmethod(METHODS["dm"])
    fields = {"method": "dm", "init": "real", "augmentation": "none"}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
class TestWhitenedImages:
    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, quick_compile):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contract, "DATASET", whitened(DATASET))
            yield Matching.run()

    def test_streamed_is_in_memory_bit_for_bit(self, whole):
        Matching.check_equal(Matching.run(stream=True), whole)

    def test_several_devices_equal_one(self, whole):
        layout = Matching.make_layout(net=1, classes=2)
        Matching.check_same(Matching.run(layout=layout), whole)

    def test_it_is_another_run_than_that_of_plain_images(self, whole, monkeypatch):
        monkeypatch.setattr(contract, "DATASET", DATASET)
        plain = Matching.run()
        expected = whitened(DATASET).whitening.whiten(plain.states[0].images)
        np.testing.assert_allclose(whole.states[0].images, expected, atol=1e-5)
        assert np.abs(expected - plain.states[0].images).max() > 0.1
        losses = [run.metrics[0]["loss"] for run in (whole, plain)]
        assert np.abs(losses[0] - losses[1]).min() > 1e-3
