"""The inputs of the golden values, and the way from PyTorch's layout to ours.

The golden files (tests/golden/README.md) hold results of the authors' code and the
seeds of its inputs, not the inputs. They are drawn here again, in PyTorch's order and
layout: channels first, kernels `[O, D, h, w]` and `[O, F]`.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]


def parameter_shapes(
    module: nn.Module, image_shape: tuple[int, int, int]
) -> dict[Path, tuple[int, ...]]:
    """The parameters of a network in the order of their creation, PyTorch's order.

    Args:
      module: from `make_network`.
      image_shape: `(H, W, D)`.

    Returns:
      From the path of each parameter to its shape in flax's layout.
    """
    shapes = {}

    def init():
        variables = module.init(jax.random.key(0), jnp.zeros((1, *image_shape)))
        # Read here because whatever leaves a traced function comes back sorted by name.
        for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items():
            shapes[path] = leaf.shape
        return variables

    jax.eval_shape(init)
    return shapes


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter in PyTorch, of which `shape` is flax's."""
    if len(shape) == 4:  # [h, w, D, O] -> [O, D, h, w]
        return (shape[3], shape[2], shape[0], shape[1])
    if len(shape) == 3:  # layer norm, [H, W, D] -> [D, H, W]
        return (shape[2], shape[0], shape[1])
    return shape[::-1]  # [F, O] -> [O, F]


def draw_parameters(
    module: nn.Module, image_shape: tuple[int, int, int], seed: int
) -> dict[str, Any]:
    """Draws the parameters that a golden file was computed with.

    Args:
      module: from `make_network`.
      image_shape: `(H, W, D)`; square.
      seed: the file's.

    Returns:
      The tree `params` of the module, float64 arrays (rounded through float32).
    """
    random = np.random.RandomState(seed)
    params = {}
    channels = image_shape[-1]
    is_flat = False
    for path, shape in parameter_shapes(module, image_shape).items():
        value = random.standard_normal(torch_shape(shape))
        if len(shape) in (2, 4):
            value = value / math.sqrt(math.prod(value.shape[1:]))
        elif path[-1] == "scale":
            value = 1 + 0.1 * value
        else:
            value = 0.1 * value
        value = value.astype(np.float32).astype(np.float64)
        if len(shape) == 4:
            channels = shape[-1]
            value = value.transpose(2, 3, 1, 0)
        elif len(shape) == 3:
            value = value.transpose(1, 2, 0)
        elif len(shape) == 2:
            value = value.T if is_flat else _first_linear(value, channels)
            is_flat = True
        assert value.shape == shape
        params[path] = value
    return flax.traverse_util.unflatten_dict(params)


def _first_linear(weight: np.ndarray, channels: int) -> np.ndarray:
    """The layer that reads a flattened map: PyTorch flattens D, H, W, we H, W, D."""
    outputs, inputs = weight.shape
    side = math.isqrt(inputs // channels)
    assert channels * side * side == inputs
    weight = weight.reshape(outputs, channels, side, side)
    return weight.transpose(2, 3, 1, 0).reshape(inputs, outputs)


def draw_images(
    seed: int, shapes: Sequence[tuple[int, ...]], skip: Sequence[int] = ()
) -> list[np.ndarray]:
    """Draws the images that a golden file was computed with.

    Args:
      seed: the file's; images are drawn from the next one.
      shapes: of the arrays in the order of drawing, channels first `[..., D, H, W]`.
      skip: sizes of permutations that were drawn after the first array.

    Returns:
      An array for each shape, `[..., H, W, D]` float64 (rounded through float32).
    """
    random = np.random.RandomState(seed + 1)
    arrays = [random.standard_normal(shapes[0])]
    for size in skip:
        random.permutation(size)
    arrays += [random.standard_normal(shape) for shape in shapes[1:]]
    return [
        np.moveaxis(array.astype(np.float32).astype(np.float64), -3, -1)
        for array in arrays
    ]


def leaves_in_order(tree: Any, paths: Sequence[Path]) -> list[jax.Array]:
    """The leaves of a tree like `params` at these paths (`parameter_shapes`)."""
    flat = flax.traverse_util.flatten_dict(tree)
    return [flat[path] for path in paths]
