"""How the algorithm is run on a backend; nothing here changes what is computed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.config import ExecutionConfig

# The largest activation of a slice of images, in bytes. On a CPU a slice should stay in
# its cache: two cores took 0.42 s for the gradient of the paper's ConvNet on 256 images
# of 28x28 in slices of 4, and 0.55 s in slices of 8. Elsewhere the bound is memory.
_SLICE_BYTES = {"cpu": 2**21}
_OTHER_SLICE_BYTES = 2**27


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to run a network.

    Attributes:
      network_loop: `vmap` or `map`, how an axis of networks is run.
      slice_size: images whose activations are held at once.
    """

    network_loop: str
    slice_size: int


def make_execution(
    config: ExecutionConfig, network: nn.Module, image_shape: tuple[int, int, int]
) -> Execution:
    """Returns what the config says, and the backend's better choice where it is None.

    Args:
      config: the choices.
      network: the module that will be run.
      image_shape: (H, W, D).
    """
    backend = jax.default_backend()
    loop = config.network_loop or ("map" if backend == "cpu" else "vmap")
    slice_size = config.slice_size
    if slice_size is None:
        budget = _SLICE_BYTES.get(backend, _OTHER_SLICE_BYTES)
        slice_size = max(1, budget // largest_activation(network, image_shape))
    return Execution(loop, slice_size)


def largest_activation(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Returns the bytes of the largest activation of one image in float32."""

    def activations(key: jax.Array):
        image = jnp.zeros((1, *image_shape))
        variables = network.init(key, image)
        return network.apply(
            variables, image, capture_intermediates=True, mutable=["intermediates"]
        )

    shapes = jax.eval_shape(activations, jax.random.key(0))
    return 4 * max(leaf.size for leaf in jax.tree.leaves(shapes))
