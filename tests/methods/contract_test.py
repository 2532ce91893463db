"""Every method of the package, and that of the documentation, keeps the contract."""

import runpy

import jax
import jax.numpy as jnp
import pytest
import run_helpers
from contract import CLASSES, DATASET, MethodContract
from toy import Tiny

from dc_jax.base import CondenseState, Method
from dc_jax.data.store import sample_classes
from dc_jax.data.stream import HostStore
from dc_jax.methods import METHODS
from dc_jax.run.compiled import compile_draws

BATCH_NORM = Tiny(CLASSES, has_batch_norm=True)


def _example():
    """What the example of the documentation defines; its name is forgotten again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "moments", None)
        path = run_helpers.ROOT / "docs" / "examples" / "my_method.py"
        return runpy.run_path(str(path))


class TestGradientMatching(MethodContract):
    make = staticmethod(METHODS["dc"])
    fields = {"method": "dc", "outer_loop": 2}
    network = BATCH_NORM
    is_by_class = False  # Networks are trained on all.


@pytest.mark.slow
class TestGradientMatchingWithPool(MethodContract):
    make = staticmethod(METHODS["dc"])
    fields = {"method": "dc", "outer_loop": 2, "pool.size": 4, "pool.updates": 6}
    is_by_class = False  # Networks are trained on all.


@pytest.mark.slow
class TestGradientMatchingOfExperts(MethodContract):
    make = staticmethod(METHODS["dc"])
    fields = {
        "method": "dc",
        "lr_img": 1.0,
        "network.begin": "experts",
        "experts.epochs": 2,
    }


@pytest.mark.slow
class TestDistributionMatchingOfExperts(MethodContract):
    make = staticmethod(METHODS["dm"])
    fields = {
        "method": "dm",
        "init": "noise",
        "augmentation": "none",
        "network.begin": "experts",
        "experts.epochs": 1,
    }


@pytest.mark.slow
class TestGradientMatchingWithLabels(MethodContract):
    make = staticmethod(METHODS["dc"])
    fields = {"method": "dc", "outer_loop": 2, "labels": "learned"}
    is_by_class = False  # Networks are trained on all.


@pytest.mark.slow
class TestSiamese(MethodContract):
    make = staticmethod(METHODS["dsa"])
    fields = {"method": "dsa", "init": "noise", "augmentation": "crop"}
    network = BATCH_NORM


@pytest.mark.slow
class TestRepresentativeMatching(MethodContract):
    make = staticmethod(METHODS["dc"])
    fields = {
        "method": "dc",
        "outer_loop": 2,
        "init": "kmeans",
        "sampler": "kmeans",
        "candidates": 12,
    }
    network = BATCH_NORM
    is_by_class = False  # Networks are trained on all.
    falls_to = 0.95  # Real images match better to begin with than noise.


class TestDistributionMatching(MethodContract):
    make = staticmethod(METHODS["dm"])
    fields = {"method": "dm", "init": "noise", "augmentation": "none"}


@pytest.mark.slow
class TestGradientMatchingOfParts(MethodContract):
    make = staticmethod(METHODS["dc"])
    fields = {"method": "dc", "outer_loop": 2, "formation.factor": 2}
    is_by_class = False  # Networks are trained on all.
    # Smooth parts cannot match noise; `matching_of_parts_test` has images of parts.
    test_the_loss_falls = None


@pytest.mark.slow
class TestDistributionMatchingOfParts(MethodContract):
    make = staticmethod(METHODS["dm"])
    fields = {
        "method": "dm",
        "init": "noise",
        "augmentation": "none",
        "formation.factor": 2,
    }
    iterations = 100


@pytest.mark.slow
class TestDistributionMatchingAtOnce(MethodContract):
    make = staticmethod(METHODS["dm"])
    fields = {"method": "dm", "augmentation": "color"}
    network = BATCH_NORM
    is_by_class = False  # The statistics are of all.


@pytest.mark.slow
class TestDistillation(MethodContract):
    make = staticmethod(METHODS["dd"])
    fields = {"method": "dd", "lr_img": 0.1, "distillation.lr": 3.0}
    iterations = 100
    falls_to = 0.9
    takes_differing_ipc = False


@pytest.mark.slow
class TestFeatureRegression(MethodContract):
    make = staticmethod(METHODS["frepo"])
    fields = {
        "method": "frepo",
        "init": "noise",
        "pool.size": 4,
        "lr_img": 0.1,
        "lr_net": 0.01,
    }
    # With fewer features than images the regression would magnify rounding.
    network = Tiny(CLASSES, units=16)
    is_by_class = False  # The regression is on all.


@pytest.mark.slow
class TestTrajectories(MethodContract):
    make = staticmethod(METHODS["mtt"])
    fields = {
        "method": "mtt",
        "init": "noise",
        "augmentation": "none",
        "lr_img": 30.0,
        "lr_net": 1.0,
        "trajectories.steps": 3,
        "trajectories.max_start": 1,
    }
    is_by_class = False  # Students are trained on all.
    iterations = 60
    falls_to = 0.95  # A walk that no images lead along.


@pytest.mark.slow
class TestTrajectoriesWithLabels(MethodContract):
    make = staticmethod(METHODS["mtt"])
    fields = {
        "method": "mtt",
        "labels": "learned",
        "augmentation": "crop",
        "lr_img": 30.0,
        "lr_net": 1.0,
        "trajectories.steps": 3,
        "trajectories.max_start": 2,
        "trajectories.growth": 1,
        "trajectories.threshold": 100.0,
        "trajectories.gradient": "tesla",
    }
    is_by_class = False  # Students are trained on all.
    # No images lead along a random walk; `trajectory_matching_test` has a training.
    test_the_loss_falls = None


@pytest.mark.slow
class TestCharacteristicFunctions(MethodContract):
    make = staticmethod(METHODS["ncfm"])
    fields = {
        "method": "ncfm",
        "init": "noise",
        "augmentation": "none",
        "lr_img": 0.05,
        "characteristic.frequencies": 64,
    }


@pytest.mark.slow
class TestCharacteristicFunctionsAtOnce(MethodContract):
    make = staticmethod(METHODS["ncfm"])
    fields = {
        "method": "ncfm",
        "init": "noise",
        "augmentation": "color",
        "lr_img": 0.05,
        "formation.factor": 2,
        "characteristic.frequencies": 64,
    }
    network = BATCH_NORM
    is_by_class = False  # The statistics are of all.
    iterations = 80


class TestExample(MethodContract):
    make = staticmethod(_example()["make"])
    fields = {"method": "moments", "lr_img": 1.0}
    takes_differing_ipc = False


def test_all_methods_are_here():
    tested = {contract.fields["method"] for contract in MethodContract.__subclasses__()}
    assert tested >= set(METHODS)


@pytest.mark.parametrize("depends", [False, True])
def test_offsets_must_not_depend_on_the_state(depends):
    def init(store, key):
        images, offsets = sample_classes(store, key, 1)
        return CondenseState(images, ()), offsets

    def step(state, store, key):
        moved = jnp.int32(state.images.sum() if depends else 0)
        images, offsets = sample_classes(store, jax.random.fold_in(key, moved), 1)
        return state.replace(images=images), {"loss": images.mean()}, offsets

    _, draws = compile_draws(Method(init, step), HostStore(DATASET).index)
    keys = jax.random.split(jax.random.key(0), 2)
    if depends:
        with pytest.raises(ValueError, match="must not depend on its state"):
            draws(keys, jnp.int32(0))
    else:
        assert draws(keys, jnp.int32(0)).shape == (CLASSES, 2)
