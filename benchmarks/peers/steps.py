"""Training in NumPyro, written as in its tutorials, which `benchmarks.step` times.

This script runs in an environment of its own, without the suite's packages. It reads requests from stdin, one
per line, and answers each with a number on stdout. `NAME` or `NAME BATCH` builds the step of a model. A
number runs that many steps in one compiled call and answers with milliseconds per step. `product` answers
with the floating-point operations per second of a matrix product.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import linen as nn
from flow import Flow
from numpyro.contrib.module import flax_module
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

BATCH, BATCHES = 97, 50  # images per step, and steps per epoch
SQUARED_ERROR = 3072 / 2 * np.log(np.pi)  # -log p(x | z) of `conv_vae` less the squared error
Program = Callable[..., Any]
Parts = tuple[Program, Program, Any, tuple[int, ...]]  # model, guide, ELBO, shape of an image


class MLP(nn.Module):
    """An MLP; the last width is the number of outputs."""

    widths: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array] = nn.elu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *hidden, out = self.widths
        for width in hidden:
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(out)(x)


def loc_scale(h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits a network's output into locations and scales."""
    loc, raw = jnp.split(h, 2, -1)
    return loc, jnp.sqrt(nn.softplus(raw) + 1e-8)


def vae() -> Parts:
    """A VAE with a Bernoulli likelihood."""

    def model(x: jax.Array) -> None:
        decoder = flax_module("decoder", MLP((300, 300, 784)), input_shape=(1, 10))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encoder = flax_module("encoder", MLP((300, 300, 20)), input_shape=(1, 784))
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(*loc_scale(encoder(x))).to_event(1))

    return model, guide, TraceMeanField_ELBO(), (784,)


def iwae() -> Parts:
    """The same VAE with the importance-weighted bound of 50 samples per image."""
    model, guide, _, shape = vae()
    return model, guide, RenyiELBO(0.0, 50), shape


def gmvae() -> Parts:
    """A VAE with a mixture of 500 normals as its prior."""
    _, guide, _, shape = vae()

    def model(x: jax.Array) -> None:
        decoder = flax_module("decoder", MLP((300, 300, 784)), input_shape=(1, 10))
        initial = jax.random.normal(jax.random.PRNGKey(0), (500, 20)) / np.sqrt(5000)
        loc, scale = loc_scale(numpyro.param("components", initial))
        mixture = dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.zeros(500)), dist.Normal(loc, scale).to_event(1)
        )
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", mixture)
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    return model, guide, Trace_ELBO(), shape


def ssvae() -> Parts:
    """A semi-supervised VAE; the label of unlabelled images is enumerated."""

    def classifier() -> Callable[[jax.Array], jax.Array]:
        return flax_module("classifier", MLP((300, 300, 10), nn.relu), input_shape=(1, 784))

    def model(x: jax.Array, x_labelled: jax.Array, y_labelled: jax.Array) -> None:
        decoder = flax_module("decoder", MLP((300, 300, 784)), input_shape=(1, 74))
        with numpyro.plate("labelled", 100), numpyro.handlers.scale(scale=100 * len(x) / 100):
            numpyro.sample(
                "classification", dist.Categorical(logits=classifier()(x_labelled)), obs=y_labelled
            )
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", dist.Categorical(logits=jnp.zeros(10)))
            z = numpyro.sample("z", dist.Normal(jnp.zeros(64), 1.0).to_event(1))
            one_hot = jnp.broadcast_to(jax.nn.one_hot(y, 10), (*z.shape[:-1], 10))
            logits = decoder(jnp.concatenate([z, one_hot], -1))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jax.Array, x_labelled: jax.Array, y_labelled: jax.Array) -> None:
        encoder = flax_module("encoder", MLP((300, 300, 128)), input_shape=(1, 794))
        with numpyro.plate("data", len(x)):
            q_y = dist.Categorical(logits=classifier()(x))
            y = numpyro.sample("y", q_y, infer={"enumerate": "parallel"})
            one_hot = jax.nn.one_hot(y, 10)
            batch = jnp.broadcast_shapes(one_hot.shape[:-1], x.shape[:-1])
            x_y = [jnp.broadcast_to(x, (*batch, 784)), jnp.broadcast_to(one_hot, (*batch, 10))]
            numpyro.sample("z", dist.Normal(*loc_scale(encoder(jnp.concatenate(x_y, -1)))).to_event(1))

    return model, guide, TraceEnum_ELBO(max_plate_nesting=1), (784,)


def ppca() -> Parts:
    """Probabilistic PCA with a full-covariance guide."""

    def model(x: jax.Array) -> None:
        decoder = flax_module("decoder", nn.Dense(784), input_shape=(1, 10))
        scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
            numpyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encoder = flax_module("encoder", nn.Dense(10), input_shape=(1, 784))
        tril = numpyro.param("tril", jnp.eye(10), constraint=dist.constraints.lower_cholesky)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.MultivariateNormal(encoder(x), scale_tril=tril))

    return model, guide, Trace_ELBO(), (784,)


def vae2d() -> Parts:
    """A VAE of points in the plane."""

    def normal(h: jax.Array) -> Any:
        loc, log_scale = jnp.split(h, 2, -1)
        return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)

    def model(x: jax.Array) -> None:
        decoder = flax_module("decoder", MLP((128, 128, 4), nn.relu), input_shape=(1, 2))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.sample("x", normal(decoder(z)), obs=x)

    def guide(x: jax.Array) -> None:
        encoder = flax_module("encoder", MLP((128, 128, 4), nn.relu), input_shape=(1, 2))
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", normal(encoder(x)))

    return model, guide, TraceMeanField_ELBO(), (2,)


def flow() -> Parts:
    """A normalising flow of points in the plane, trained by maximum likelihood."""

    def model(x: jax.Array) -> None:
        e, log_det = flax_module("flow", Flow(), input_shape=(1, 2))(x)
        with numpyro.plate("data", len(x)):
            numpyro.factor("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1).log_prob(e) + log_det)

    return model, lambda x: None, Trace_ELBO(), (2,)


class Encoder(nn.Module):
    """The encoder of `conv_vae`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # (batch, 32, 32, 3): flax puts channels last
        for width, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
            x = nn.relu(nn.Conv(width, (3, 3), strides=stride)(x))
        return nn.Dense(32)(x.reshape(len(x), -1))


class Decoder(nn.Module):
    """The decoder of `conv_vae`."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(2048)(z)).reshape(-1, 4, 4, 128)
        for width in (128, 64, 32):
            x = nn.relu(nn.ConvTranspose(width, (4, 4), strides=(2, 2))(x))
        return nn.Conv(3, (3, 3))(x)


def conv_vae() -> Parts:
    """A convolutional VAE of colour images of 32 x 32."""

    def model(x: jax.Array) -> None:
        decoder = flax_module("decoder", Decoder(), input_shape=(1, 16))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(16), 1.0).to_event(1))
            numpyro.sample("x", dist.Normal(decoder(z), 0.5**0.5).to_event(3), obs=x)

    def guide(x: jax.Array) -> None:
        encoder = flax_module("encoder", Encoder(), input_shape=(1, 32, 32, 3))
        with numpyro.plate("data", len(x)):
            loc, log_scale = jnp.split(encoder(x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide, TraceMeanField_ELBO(), (32, 32, 3)


class Masked(nn.Module):
    """A linear layer whose weights are multiplied by a mask, (inputs, outputs)."""

    mask: np.ndarray

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), self.mask.shape)
        return x @ (kernel * self.mask) + self.param("bias", nn.initializers.zeros, self.mask.shape[1:])


class MADENetwork(nn.Module):
    """The network of `made`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        order, degrees = np.arange(1, 785), np.random.RandomState(0).randint(1, 784, 500)
        h = nn.relu(Masked(degrees[None] >= order[:, None])(x))
        return Masked(order[None] > degrees[:, None])(h)


def made() -> Parts:
    """A MADE with one hidden layer and the pixels in raster order."""

    def model(x: jax.Array) -> None:
        network = flax_module("network", MADENetwork(), input_shape=(1, 784))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Bernoulli(logits=network(x)).to_event(1), obs=x)

    return model, lambda x: None, Trace_ELBO(), (784,)


MODELS = {
    "vae": vae,
    "iwae": iwae,
    "gmvae": gmvae,
    "ssvae": ssvae,
    "ppca": ppca,
    "vae2d": vae2d,
    "flow": flow,
    "conv_vae": conv_vae,
    "made": made,
}


Carry = tuple[Any, jax.Array, jax.Array]  # state of SVI, order of the images, random key


class Training:
    """A training, of which many steps are one compiled call, as in NumPyro's `SVI.run`.

    A step takes its batch from the images in an order that is new in every epoch, samples zeros and ones with
    the images' levels as probabilities, and updates the parameters by Adam.

    Args:
        name: of the model.
        data: `x_train`; `batch_size`; whether the images are `noisy`, that is, levels to sample from; and
            `x_labelled` and `y_labelled` if the model takes them.
    """

    def __init__(self, name: str, data: dict[str, Any]):
        self.data, self.size, self.name = data, int(data["batch_size"]), name
        self.noisy, self.labelled = bool(data["noisy"]), "x_labelled" in data
        model, guide, elbo, _ = MODELS[name]()
        self.svi = SVI(model, guide, numpyro.optim.Adam(1e-3), elbo)
        first = self.batch(jnp.arange(self.size), jax.random.PRNGKey(2))
        state = self.svi.init(jax.random.PRNGKey(0), **first)
        self.carry: Carry = (state, jnp.arange(len(data["x_train"])), jax.random.PRNGKey(1))
        self.block = jax.jit(self._block, static_argnums=2, donate_argnums=0)
        self.number = 0

    def batch(self, index: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """The inputs of the model."""
        levels = self.data["x_train"][index]
        if not self.noisy:
            return {"x": levels.astype(jnp.float32)}
        inputs = {"x": binarize(key, levels)}
        if self.labelled:
            again = jax.random.split(key)[0]
            inputs["x_labelled"] = binarize(again, self.data["x_labelled"])
            inputs["y_labelled"] = self.data["y_labelled"]
        return inputs

    def _step(self, carry: Carry, number: jax.Array) -> tuple[Carry, None]:
        state, order, key = carry
        per_epoch = len(order) // self.size
        key, shuffle, noise = jax.random.split(key, 3)
        order = jax.lax.cond(
            number % per_epoch == 0, lambda: jax.random.permutation(shuffle, len(order)), lambda: order
        )
        index = jax.lax.dynamic_slice(order, (number % per_epoch * self.size,), (self.size,))
        state, _ = self.svi.update(state, **self.batch(index, noise))
        return (state, order, key), None

    def _block(self, carry: Carry, first: jax.Array, count: int) -> Carry:
        return jax.lax.scan(self._step, carry, first + jnp.arange(count))[0]

    def run(self, count: int) -> float:
        """Makes steps and returns their duration in milliseconds per step."""
        start = time.perf_counter()
        self.carry = jax.block_until_ready(self.block(self.carry, self.number, count))
        self.number += count
        return (time.perf_counter() - start) / count * 1e3


def binarize(key: jax.Array, levels: jax.Array) -> jax.Array:
    """Samples zeros and ones, with probability level / 255."""
    return (255 * jax.random.uniform(key, levels.shape) < levels.astype(jnp.float32)).astype(jnp.float32)


def random_training(name: str, batch: int = BATCH) -> Training:
    """Returns a training on random images, `batch` of them per step."""
    shape = MODELS[name]()[-1]
    noise = np.random.RandomState(0)
    noisy = shape == (784,)
    size = (BATCHES * batch, *shape)
    data: dict[str, Any] = {"batch_size": batch, "noisy": noisy}
    if noisy:
        data["x_train"] = jnp.asarray(noise.randint(256, size=size), jnp.uint8)
    else:
        data["x_train"] = jnp.asarray(noise.normal(size=size), jnp.float32)
    if name == "ssvae":
        data["x_labelled"] = data["x_train"][:100]
        data["y_labelled"] = jnp.asarray(np.arange(100) % 10)
    return Training(name, data)


def matrix_product_rate() -> float:
    """Returns the floating-point operations per second of a 1024 x 1024 matrix product, best of 10."""
    a = jnp.asarray(np.random.RandomState(0).normal(size=(1024, 1024)), jnp.float32)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(5):
            last = multiply(a)
        last.block_until_ready()
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * 1024**3 / best


def main() -> None:
    """Answers requests until stdin is closed."""
    run: Callable[[int], float] = float
    for line in sys.stdin:
        request = line.strip()
        if request.isdecimal():
            answer = run(int(request))
        elif request == "product":
            answer = matrix_product_rate()
        else:
            name, *batch = request.split()
            run, answer = random_training(name, *map(int, batch)).run, 0.0
        print(answer, flush=True)


if __name__ == "__main__":
    main()
