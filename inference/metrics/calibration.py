"""Calibration: whether a classifier is right as often as its probabilities say."""

import torch
from torch import Tensor

from inference.data.held_out import HeldOut
from inference.metrics.codes import CHUNK
from ppl_models.base import LatentVariableModel

BINS = 15  # of equal width, between 0 and 1


def expected_calibration_error(q: Tensor, y: Tensor, bins: int = BINS) -> float:
    """Computes the expected calibration error of predicted classes.

    The confidence is the largest probability. Images are grouped into bins of confidence. The error is the
    mean over images of |accuracy - mean confidence| in the image's bin. It is 0 if the classifier is right as
    often as it says, bin by bin. Guo, Pleiss, Sun and Weinberger 2017 (arXiv 1706.04599), equation 3.

    Args:
        q: probabilities (n, classes).
        y: labels (n,).
        bins: the number of bins, of equal width.

    Returns:
        A number between 0 and 1.

    Example:
        >>> q = torch.tensor([[0.75, 0.25]] * 4)
        >>> expected_calibration_error(q, torch.tensor([0, 0, 0, 1]))  # right three times of four
        0.0
    """
    confidence, predicted = q.double().max(-1)
    excess = (predicted == y).double() - confidence
    index = (confidence * bins).long().clamp(max=bins - 1)
    return torch.zeros(bins, dtype=excess.dtype).index_add_(0, index, excess).abs().sum().item() / len(q)


@torch.no_grad()
def calibration(model: LatentVariableModel, test: HeldOut) -> dict[str, dict[str, float]]:
    """Computes the calibration error of q(y | x) on held-out images without noise.

    Args:
        model: the model.
        test: the held-out data.

    Returns:
        `calibration_error` with its `value`, a fraction. Empty if the model does not classify or the data
        have no labels.
    """
    was_training, found = model.training, []
    model.eval()
    for _, x, y in test.chunks(test.chunk_size(CHUNK)):
        logits = model.classify(x)
        if logits is None or y is None:
            break
        found.append((logits.softmax(-1).cpu(), y.cpu()))
    model.train(was_training)
    if not found:
        return {}
    q, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return {"calibration_error": {"value": expected_calibration_error(q, labels)}}
