"""A whole training in NumPyro: shuffling, binarisation, ELBO and Adam in one compiled program per evaluation.

python training.py MODEL DATA.npz STEPS EVERY TARGET

`lax.scan` runs EVERY steps in one call, as NumPyro's `SVI.run` does. After each call the negative ELBO of the
test set is printed. Training ends at STEPS, or when it is at most TARGET. The last line has the milliseconds
per step, from the end of the first call on, without the evaluations.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import SVI
from steps import BATCH, MODELS

CHUNK = 500  # test images at a time


def main(name: str, file: str, steps: int, every: int, target: float) -> None:
    """Trains and prints."""
    with np.load(file) as data:
        x_train, x_test = jnp.asarray(data["x_train"]), jnp.asarray(data["x_test"], jnp.float32)
    model, guide, elbo, _ = MODELS[name]()
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), elbo)
    n = len(x_train)
    per_epoch = n // BATCH

    def step(carry, number):
        state, order, key = carry
        key, shuffle, noise = jax.random.split(key, 3)
        order = jax.lax.cond(
            number % per_epoch == 0, lambda: jax.random.permutation(shuffle, n), lambda: order
        )
        index = jax.lax.dynamic_slice(order, (number % per_epoch * BATCH,), (BATCH,))
        levels = x_train[index].astype(jnp.float32)
        x = (255 * jax.random.uniform(noise, levels.shape) < levels).astype(jnp.float32)
        state, _ = svi.update(state, x=x)
        return (state, order, key), None

    @jax.jit
    def block(carry, first):
        return jax.lax.scan(step, carry, first + jnp.arange(every))[0]

    @jax.jit
    def evaluate(state):
        losses = jax.lax.map(lambda x: svi.evaluate(state, x=x), x_test.reshape(-1, CHUNK, x_test.shape[1]))
        return losses.sum() / len(x_test)

    state = svi.init(jax.random.PRNGKey(0), x=jnp.zeros((BATCH, x_train.shape[1])))
    carry = (state, jnp.arange(n), jax.random.PRNGKey(1))
    spent, made = 0.0, 0
    for first in range(0, steps, every):
        began = time.perf_counter()
        carry = jax.block_until_ready(block(carry, first))
        if first:
            spent, made = spent + time.perf_counter() - began, made + every
        value = float(evaluate(carry[0]))
        print(first + every, f"{value:.3f}", flush=True)
        if value <= target:
            break
    if made:
        print("ms per step", f"{spent / made * 1e3:.4f}", flush=True)


if __name__ == "__main__":
    name, file, *numbers = sys.argv[1:]
    main(name, file, int(numbers[0]), int(numbers[1]), float(numbers[2]))
