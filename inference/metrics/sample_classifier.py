"""Conditional sample accuracy: whether a classifier of real images recognises generated ones."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm import trange

from inference.data.dataset import Dataset
from inference.data.observations import OBSERVATIONS, unit
from ppl_models.base import LatentVariableModel
from ppl_models.nets.conv import channels_last

PER_CLASS = 20  # generated images of each class
CHANNELS = (32, 64, 128)  # of the classifier's blocks, each of which halves height and width
STEPS, BATCH, LR = 800, 128, 0.01  # of the classifier's training; LR is the maximum of one cycle
CHUNK = 1_000  # images classified at a time


def conditional_sample_accuracy(model: LatentVariableModel, data: Dataset) -> dict[str, dict[str, float]]:
    """Computes the fraction of generated images that a classifier of real images assigns to their class.

    The classifier is trained on the training images. The generated images are mean images, 20 of each class,
    clamped to 0..1. The RNG state and the model's mode are preserved.

    Args:
        model: the model.
        data: the data as the model takes them, see `Run.restore`.

    Returns:
        `conditional_sample_accuracy`, and `classifier_accuracy` of the same classifier on the real test
        images, each a `value` and `se`, its binomial standard error. Empty if the model or the data have no
        labels, or the data are not images.
    """
    if not model.has_label or data.y_train is None or data.y_test is None or data.kind.drawn != "images":
        return {}
    device, was_training = next(model.parameters()).device, model.training
    y = torch.arange(data.classes, device=device).repeat_interleave(PER_CLASS)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        images = (
            OBSERVATIONS[model.observation].shown(model.eval().sample(len(y), y=y, noise=False)).clamp(0, 1)
        )
        classifier = train(data.x_train[:].to(device), data.y_train.to(device), data.classes)
    model.train(was_training)
    real = [_classify(classifier, unit(part.to(device))) for part in data.x_test[:].split(CHUNK)]
    return {
        "conditional_sample_accuracy": _accuracy(_classify(classifier, images) == y),
        "classifier_accuracy": _accuracy(torch.cat(real).cpu() == data.y_test),
    }


def network(channels: int, classes: int) -> nn.Sequential:
    """Builds a network from images (batch, channels, height, width) of any size, 0 to 1, to logits.

    It has three blocks of two convolutions, the first of stride 2, and averages over the remaining positions.
    The logits are (batch, classes).
    """
    layers: list[nn.Module] = []
    for width in CHANNELS:
        for before, stride in ((channels, 2), (width, 1)):
            layers.append(nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def train(x: Tensor, y: Tensor, classes: int) -> nn.Sequential:
    """Trains a classifier of images.

    The number of steps does not depend on the number of images. Each step samples a batch with replacement,
    from torch's generator, and shifts it by up to a sixteenth of the height and width, with repeated edges.

    Args:
        x: images (n, channels, height, width), uint8.
        y: labels (n,).
        classes: the number of classes.

    Returns:
        The classifier in eval mode.
    """
    classifier = network(x.shape[1], classes).to(x.device)
    optimizer = torch.optim.AdamW(classifier.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS)
    height, width = x.shape[2:]
    shift = min(height, width) // 16
    for _ in trange(STEPS, unit="step", desc="classifier of real images", disable=None, dynamic_ncols=True):
        index = torch.randint(len(x), (BATCH,), device=x.device)
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        padded = pad(unit(x[index]), [shift] * 4, mode="replicate")
        logits = classifier(channels_last(padded[..., top : top + height, left : left + width]))
        optimizer.zero_grad()
        cross_entropy(logits, y[index]).backward()
        optimizer.step()
        cycle.step()
    return classifier.eval()


@torch.no_grad()
def _classify(classifier: nn.Module, x: Tensor) -> Tensor:
    """Returns the classes (n,) of images (n, channels, height, width), 0 to 1."""
    return classifier(channels_last(x)).argmax(-1)


def _accuracy(correct: Tensor) -> dict[str, float]:
    """Returns the fraction of correct answers (n,) and its binomial standard error."""
    accuracy = correct.double().mean().item()
    return {"value": accuracy, "se": (accuracy * (1 - accuracy) / len(correct)) ** 0.5}
