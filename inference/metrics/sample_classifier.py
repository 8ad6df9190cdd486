"""Whether generated images can be read: a classifier learns the real ones, and is shown the generated."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm import trange

from inference.data.batches import OBSERVATIONS, unit
from inference.data.datasets import Dataset
from ppl_models.base import LatentVariableModel
from ppl_models.nets.conv import channels_last

EACH = 20  # images generated of each class
CHANNELS = (32, 64, 128)  # of the classifier's blocks, each of which halves the side
STEPS, BATCH, LR = 800, 128, 0.01  # of its training; the rate is the highest of one cycle
CHUNK = 1_000  # images read at a time


def conditional_sample_accuracy(model: LatentVariableModel, data: Dataset) -> dict[str, dict[str, float]]:
    """The share of generated images that a classifier of the real ones reads as the class asked for.

    `legible` is of mean images, 20 of each class, clamped to levels 0..1; `classifier_accuracy` is the
    same classifier's on the real test images. Each has a `value` and `se`, its binomial standard error. The
    data are as the model takes them, as `Run.restore` has them. Nothing comes back where the model has no
    label, or the data have none. torch's generator and the model's mode are left as they were found.
    """
    if not model.has_label or data.y_train is None or data.y_test is None:
        return {}
    device, was_training = next(model.parameters()).device, model.training
    y = torch.arange(data.classes, device=device).repeat_interleave(EACH)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        images = (
            OBSERVATIONS[model.observation].shown(model.eval().sample(len(y), y=y, noise=False)).clamp(0, 1)
        )
        classifier = train(data.x_train.to(device), data.y_train.to(device), data.classes)
    model.train(was_training)
    real = [_read(classifier, unit(part.to(device))) for part in data.x_test.split(CHUNK)]
    return {
        "legible": _share(_read(classifier, images) == y),
        "classifier_accuracy": _share(torch.cat(real).cpu() == data.y_test),
    }


def network(channels: int, classes: int) -> nn.Sequential:
    """Images (batch, channels, height, width) of any size, 0 to 1, to logits (batch, classes).

    Three blocks of two convolutions, the first of stride 2, then the mean over what is left of the image.
    """
    layers: list[nn.Module] = []
    for width in CHANNELS:
        for before, stride in ((channels, 2), (width, 1)):
            layers.append(nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def train(x: Tensor, y: Tensor, classes: int) -> nn.Sequential:
    """A classifier of images x (n, channels, height, width), uint8, by labels y (n,), in eval mode.

    So many steps whatever n is. Each shifts its batch, drawn with replacement, by up to a sixteenth of the
    side along either axis, and repeats the edge there. It draws from torch's generator.
    """
    classifier = network(x.shape[1], classes).to(x.device)
    optimizer = torch.optim.AdamW(classifier.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS)
    height, width = x.shape[2:]
    by = min(height, width) // 16
    for _ in trange(STEPS, unit="step", desc="a classifier of real images", disable=None, dynamic_ncols=True):
        index = torch.randint(len(x), (BATCH,), device=x.device)
        top, left = torch.randint(2 * by + 1, (2,)).tolist()
        padded = pad(unit(x[index]), [by] * 4, mode="replicate")
        logits = classifier(channels_last(padded[..., top : top + height, left : left + width]))
        optimizer.zero_grad()
        cross_entropy(logits, y[index]).backward()
        optimizer.step()
        cycle.step()
    return classifier.eval()


@torch.no_grad()
def _read(classifier: nn.Module, x: Tensor) -> Tensor:
    """The classes that images (n, channels, height, width), 0 to 1, are read as: (n,)."""
    return classifier(channels_last(x)).argmax(-1)


def _share(right: Tensor) -> dict[str, float]:
    """How many of so many are right, (n,), as a share, and its standard error."""
    share = right.double().mean().item()
    return {"value": share, "se": (share * (1 - share) / len(right)) ** 0.5}
