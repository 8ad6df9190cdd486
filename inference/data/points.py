"""Points in the plane, generated from a fixed seed: Gaussians and the smiley of Berkeley's CS294-158."""

import math

import numpy as np
import torch

from inference.data.dataset import Dataset

ROTATION = np.array([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2)

# 2024: mean, standard deviations along the axes, and whether the noise is then rotated.
GAUSSIANS = {
    "gauss-full-1": ((1, 2), (5, 1), True),
    "gauss-full-2": ((-1, 2), (1, 5), True),
    "gauss-diag-1": ((1, 2), (5, 1), False),
    "gauss-diag-2": ((-1, 2), (1, 5), False),
}
# 2019: 100,000 points, of which the last fifth is the test set.
GAUSSIANS_2019 = {"gauss-2019-diag": ((1, 2), (5, 1), False), "gauss-2019-full": ((1, 2), (5, 1), True)}
NAMES = (*GAUSSIANS, *GAUSSIANS_2019, "smiley")


def load(name: str) -> Dataset:
    """Returns points (n, 2), float32, with labels if the set has some.

    The test set of the 2024 data repeats the first 2,500 training points, as the course's own does: both are
    sampled from the same seed. `x_independent` holds 10,000 more points of the same distribution.

    Args:
        name: a name of `NAMES`.
    """
    if name in GAUSSIANS:
        train, test, independent = (
            _gaussian(n, seed, *GAUSSIANS[name]) for n, seed in ((10_000, 0), (2_500, 0), (10_000, 1))
        )
        return Dataset(name, train, None, test, None, independent)
    if name == "smiley":
        x, y = _smiley()
    else:
        x, y = _gaussian(100_000, 0, *GAUSSIANS_2019[name]), None
    end = int(0.8 * len(x))
    if y is None:
        return Dataset(name, x[:end], None, x[end:], None)
    return Dataset(name, x[:end], y[:end], x[end:], y[end:])


def _gaussian(
    n: int, seed: int, loc: tuple[float, float], scale: tuple[float, float], rotated: bool
) -> torch.Tensor:
    """Samples n points, (n, 2)."""
    noise = np.random.RandomState(seed).normal(size=(n, 2)) * scale
    return torch.from_numpy(loc + (noise @ ROTATION if rotated else noise)).float()


def _smiley() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples two eyes, labels 0 and 1, and a mouth, label 2: a third of the points each."""
    n, random = 100_000 // 3, np.random.RandomState(0)
    eyes = [np.array([side, 2.5]) + 0.2 * random.normal(size=(n, 2)) for side in (-1.5, 1.5)]
    t = np.linspace(0, np.pi, n)
    mouth = np.stack([2 * np.cos(t), -np.sin(t)], axis=1) + 0.2 * random.normal(size=(n, 2))
    x, y = np.concatenate([*eyes, mouth]), np.repeat([0, 1, 2], n)
    order = random.permutation(len(x))
    return torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
