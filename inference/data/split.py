"""The split of data that come in one part."""

import numpy as np
import torch
from torch import Tensor

from inference.errors import UserError

TEST_FRACTION = 10  # one of so many data points is in the test set


def train_and_test(n: int, name: str) -> tuple[Tensor, Tensor]:
    """Chooses a tenth of n data points, at least one, as test set. The choice depends on n only.

    Args:
        n: the number of data points.
        name: what messages call the data.

    Returns:
        The indices of the training set and of the test set, each in increasing order.

    Raises:
        UserError: there are fewer than two data points.
    """
    if n < 2:
        raise UserError(f"{name} has {n} data point. Give at least two, one to train and one to test on.")
    order = torch.from_numpy(np.random.RandomState(0).permutation(n))
    tested = max(n // TEST_FRACTION, 1)
    return order[tested:].sort().values, order[:tested].sort().values
