"""A toy in place of a method: a random walk that can go wrong in iteration three."""

import os
import signal

import flax.struct
import jax
import jax.numpy as jnp

from dc_jax.base import CondenseState, Method
from dc_jax.run import metrics

SHAPE = (10, 1, 8, 8, 1)


@flax.struct.dataclass
class ToyState:
    count: jax.Array
    is_fragile: jax.Array
    trace: jax.Array


def toy_method(goes_wrong=""):
    def init(store, key):
        del store
        images = jax.random.normal(key, SHAPE)
        fragile = images.mean() > 0
        toy = ToyState(jnp.int32(0), fragile, jnp.zeros_like(images))
        return CondenseState(images, toy), ()

    def step(state, store, key):
        del store
        toy = state.opt_state
        trace = 0.5 * toy.trace + jax.random.normal(key, SHAPE)
        images = state.images + trace
        loss = jnp.mean(images**2)
        is_bad = (toy.count == 2) & toy.is_fragile
        if goes_wrong == "loss":
            loss = jnp.where(is_bad, jnp.nan, loss)
        if goes_wrong == "images":
            images = images.at[3, 0, 2, 2, 0].set(jnp.where(is_bad, jnp.inf, 0.0))
        toy = ToyState(toy.count + 1, toy.is_fragile, trace)
        return CondenseState(images, toy), {"loss": loss}, ()

    return Method(init, step)


def stop_at(monkeypatch, iteration, number=signal.SIGTERM):
    """Sends a signal once this iteration's metrics are written."""
    write = metrics.Metrics.loss

    def write_and_signal(self, done, losses, layers):
        write(self, done, losses, layers)
        if done == iteration:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(metrics.Metrics, "loss", write_and_signal)
