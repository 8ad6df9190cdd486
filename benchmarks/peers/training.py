"""A whole training in NumPyro: shuffling, binarisation, ELBO and Adam in one compiled program per evaluation.

python training.py MODEL DATA.npz STEPS EVERY TARGET ACCURACY

`lax.scan` runs EVERY steps in one call, as NumPyro's `SVI.run` does. After each call the bound of the test
set is printed, and the accuracy if the model classifies. Training ends at STEPS, or when the bound is at most
TARGET and the accuracy at least ACCURACY. The last line has the milliseconds per step, from the end of the
first call on, without the evaluations. `benchmarks.time_to_result` writes DATA.npz.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from steps import MLP, SQUARED_ERROR, Training

CHUNK = 500  # test images at a time


class Evaluation:
    """Evaluates the test set.

    Args:
        training: the training.
    """

    def __init__(self, training: Training):
        self.training, self.data, self.svi = training, training.data, training.svi
        self.bound, self.accuracy = jax.jit(self._bound), jax.jit(self._accuracy)

    def _bound(self, state):
        """The negative ELBO of the test set, in nats per image; of `conv_vae` squared error + KL."""
        x_test, labelled = self.data["x_test"].astype(jnp.float32), {}
        if self.training.labelled:
            labelled = {"x_labelled": self.data["x_labelled"] / 255, "y_labelled": self.data["y_labelled"]}
        chunks = x_test.reshape(-1, CHUNK, *x_test.shape[1:])
        losses = jax.lax.map(lambda x: self.svi.evaluate(state, x=x, **labelled), chunks)
        bound = losses.sum() / len(x_test)
        if self.training.labelled:  # the loss has the classification term, which is not part of the bound
            log_q = jax.nn.log_softmax(self._logits(state, labelled["x_labelled"]))
            bound += 100 * jnp.take_along_axis(log_q, self.data["y_labelled"][:, None], 1).mean()
        return bound - (SQUARED_ERROR if self.training.name == "conv_vae" else 0.0)

    def _logits(self, state, x):
        params = {"params": self.svi.get_params(state)["classifier$params"]}
        return MLP((300, 300, 10), jax.nn.relu).apply(params, x)

    def _accuracy(self, state):
        """The fraction of test images that are classified correctly."""
        return (self._logits(state, self.data["levels_test"] / 255).argmax(-1) == self.data["y_test"]).mean()


def main(name: str, file: str, steps: int, every: int, target: float, accuracy: float) -> None:
    """Trains and prints."""
    with np.load(file) as found:
        data = {key: jnp.asarray(value) for key, value in found.items()}
    if name == "conv_vae":  # flax puts channels last
        data |= {key: data[key].transpose(0, 2, 3, 1) for key in ("x_train", "x_test")}
    training = Training(name, data)
    evaluation, times = Evaluation(training), []
    for made in range(every, steps + 1, every):
        times.append(training.run(every))
        state = training.carry[0]
        bound = float(evaluation.bound(state))
        correct = float(evaluation.accuracy(state)) if training.labelled else 1.0
        print(made, f"{bound:.4f}", f"{correct:.4f}", flush=True)
        if bound <= target and correct >= accuracy:
            break
    print("ms per step", f"{np.mean(times[1:]) if times[1:] else np.nan:.4f}", flush=True)


if __name__ == "__main__":
    name, file, steps, every, *goals = sys.argv[1:]
    main(name, file, int(steps), int(every), float(goals[0]), float(goals[1]))
