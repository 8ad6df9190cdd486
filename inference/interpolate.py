"""The same two images joined by the codes of several runs: what lies between them, as each model sees it.

python -m inference.interpolate AE_RUN BETA_VAE_RUN                        labels 1-7, 3-5 and 6-9
python -m inference.interpolate AE_RUN BETA_VAE_RUN --labels 0-1 --out zero_to_one.png

For each pair of labels one training image of each is drawn by seed; each run has a row: the first image, five
decodings on the way from its code to that of the second, and the second image.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.cli.options import Parser, seed
from inference.data.batches import OBSERVATIONS
from inference.data.datasets import Dataset
from inference.errors import UserError, run_command
from inference.plots.images import save_grid
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel

STEPS = torch.linspace(0, 0.8, 5)  # the second image's own decoding is left out, as the course does


def label_pair(text: str) -> tuple[int, int]:
    """An argparse type: two labels, as in 1-7."""
    first, dash, second = text.partition("-")
    if not (dash and first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not two labels, as in 1-7")
    return int(first), int(second)


def main(arguments: list[str]) -> int:
    """Draw the figure and say where it is."""
    parser = Parser(prog="python -m inference.interpolate", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN_DIR", help="runs on the same data, a row each")
    pairs = [(1, 7), (3, 5), (6, 9)]
    add("--labels", type=label_pair, nargs="+", default=pairs, metavar="A-B", help="(default: 1-7 3-5 6-9)")
    add("--seed", type=seed, default=0, metavar="N", help="which images of a label (default: 0)")
    add("--data-dir", type=Path, metavar="DIR", help="where the data set is now (default: where it was)")
    out = Path("interpolations.png")
    add("--out", type=Path, default=out, metavar="FILE", help=f"the picture (default: {out})")
    given = parser.parse_args(arguments)
    restored = [Run.restore(folder, given.data_dir) for folder in given.runs]
    rows, names = [], []
    for folder, (_, config, data, model) in zip(given.runs, restored, strict=True):
        if config["checksum"] != restored[0][1]["checksum"]:
            raise UserError(f"{folder} has other data than {given.runs[0]}: give runs on the same data")
        if model.has_label:
            raise UserError(
                f"{folder} is a run of {config['model']}: half way between two labels is no image"
            )
        beta = config["options"].get("beta")
        names.append(config["model"] + ("" if beta is None else f", beta {beta:g}"))
        rows.append([walk(model, data, pair, given.seed) for pair in given.labels])
    images = [images for pair in zip(*rows, strict=True) for images in pair]  # pair by pair, run by run
    labels = [f"{a} to {b}: {name}" for a, b in given.labels for name in names]
    title = "an image, five decodings on the way to another, and the other"
    try:
        save_grid(torch.cat(images), len(STEPS) + 2, given.out, title, rows=labels)
    except OSError as error:
        raise UserError(f"cannot write {given.out} ({error.strerror}): name another with --out") from None
    print(given.out)
    return 0


def walk(model: LatentVariableModel, data: Dataset, pair: tuple[int, int], number: int) -> Tensor:
    """An image of each label, drawn by the seed `number`, and five decodings between, 0 to 1: (7, *shape).

    Raises UserError where the data have no such labels.
    """
    if data.y_train is None:
        raise UserError(f"{data.name} has no labels to choose images by: give runs on labelled data")
    generator, labels = np.random.RandomState(number), data.y_train.numpy()
    ends = []
    for label in pair:
        members = np.flatnonzero(labels == label)
        if not len(members):
            raise UserError(
                f"{data.name} has no training image of label {label}: choose others with --labels"
            )
        ends.append(data.x_train[generator.choice(members)])
    x = OBSERVATIONS[model.observation].test(torch.stack(ends)).to(torch.get_default_dtype())
    decoded = model.decode(model.interpolate(model.encode(x), STEPS))
    return OBSERVATIONS[model.observation].shown(torch.cat([x[:1], decoded, x[1:]]))


if __name__ == "__main__":
    run_command(main)
