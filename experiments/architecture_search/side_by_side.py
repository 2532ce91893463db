"""ConvNets of one shape as one flax module, and their training side by side.

Such networks may differ in activation, and in which pooling they have. Their parameters
have the same shapes, so that one program trains all of them. The variables of the
module say which of the networks it is, see `set_member`.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dc_jax.devices.backend import batched
from dc_jax.evaluation.evaluator import Phase, Training, train_by_recipes
from dc_jax.networks import layers
from dc_jax.networks.convnet import ConvNet, ConvNetSpec, parse_convnet_name
from dc_jax.networks.registry import Network
from dc_jax.training.full_data import WholePhase, WholeState, WholeTraining
from dc_jax.training.train import Recipe, TrainState

# The collection of variables that holds the number of the network.
_MEMBER = "member"
# ASwish before AS, which begins it.
_SAME_PARAMETERS = re.compile("ASwish|AS|AL|AR|MP|AP")


def shape_name(name: str) -> str:
    """Returns the name without what leaves the shapes of the parameters as they are.

    That is the activation, and which pooling there is. Networks with one `shape_name`
    can be one module. Any but a ConvNet's is returned as it is.
    """
    if parse_convnet_name(name) is None:
        return name
    return _SAME_PARAMETERS.sub("", name)


class ConvNets(ConvNet):
    """Several ConvNets of one depth, width and norm, with the same parameters.

    Attributes:
      others: the second network and those after it; `spec` is the first.
    """

    others: tuple[ConvNetSpec, ...] = ()

    def end_block(self, x: jax.Array) -> jax.Array:
        """The activation and the pooling of the member, see `set_member`."""

        def end(spec: ConvNetSpec, x: jax.Array) -> jax.Array:
            return layers.pool(layers.ACTIVATIONS[spec.activation](x), spec.pooling)

        ends = [functools.partial(end, spec) for spec in (self.spec, *self.others)]
        member = self.get_variable(_MEMBER, "index", jnp.int32(0))
        return jax.lax.switch(member, ends, x)


def join(networks: Sequence[Network]) -> Network:
    """Returns networks of one `shape_name` as one module; a single one as it is."""
    first, *others = (network.features for network in networks)
    if not others:
        return networks[0]
    specs = tuple(other.spec for other in others)
    features = ConvNets(first.depth, first.spec, first.conv_fn, specs)
    return networks[0].clone(features=features)


def set_member(variables: dict[str, Any], index: jax.Array) -> dict[str, Any]:
    """Returns the variables of the network of an index, `[]`, of several in a module.

    Args:
      variables: of any of the networks; as initialised they are those of the first.
      index: of the network.
    """
    return {**variables, _MEMBER: {"features": {"index": jnp.int32(index)}}}


def train_member(recipes: Sequence[tuple[Recipe, int]]) -> Training:
    """Returns what `train_by_recipes` does, but its keys are `(key, index)`.

    The index is of the network, see `set_member`. Networks of one key begin with the
    same parameters, and train with the same batches.

    Args:
      recipes: of the module, with the epochs of each.
    """
    training = train_by_recipes(recipes)

    def init(data: Any, key: tuple[jax.Array, jax.Array]) -> TrainState:
        key, index = key
        state = training.init(data, key)
        return state._replace(variables=set_member(state.variables, index))

    def of_member(phase: Phase) -> Phase:
        def train(state: TrainState, data: Any, key: Any, *epochs: Any) -> TrainState:
            key, _ = key
            return phase.train(state, data, key, *epochs)

        return phase._replace(train=train)

    return Training(init, [of_member(phase) for phase in training.phases])


def train_side_by_side(training: WholeTraining, num: int, loop: str) -> WholeTraining:
    """Returns the training of all networks of a module, with the same batches.

    The leaves of its states are `[num, ...]`, and so are the results of tests.

    Args:
      training: of one network of the module.
      num: how many networks there are.
      loop: `vmap` or `map`, see `batched`.
    """

    def each(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(states: WholeState, *args: Any) -> Any:
            return batched(lambda state: function(state, *args), loop)(states)

        return run

    def init(key: jax.Array) -> WholeState:
        def init_one(index: jax.Array) -> WholeState:
            state = training.init(key)
            variables = set_member(state.network.variables, index)
            return state.replace(network=state.network._replace(variables=variables))

        return jax.vmap(init_one)(jnp.arange(num))

    phases = [
        WholePhase(each(phase.start), each(phase.update), phase.epochs)
        for phase in training.phases
    ]
    return WholeTraining(init, phases, each(training.test), each(training.read))
