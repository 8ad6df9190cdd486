"""Measures how well the scores of a run tell its test images from other images.

python -m tools.outliers RUN_DIR                        AUROC of the first 1,000 test images against each kind
python -m tools.outliers RUN_DIR --images 200 --json    of fewer images, as JSON

The AUROC is the fraction of pairs in which the other image has the higher score. It is 1 for a perfect
detector, 0.5 for chance, and below 0.5 if the model finds the other images more likely than its own data.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
from pathlib import Path

import torch
from torch import Tensor

from inference import load, score
from inference.cli.entry import run_command
from inference.cli.parser import Parser, add_model_file
from inference.data.observations import IMAGES
from inference.errors import UserError
from inference.rundir.kinds import COUNT
from inference.rundir.restore import load_data
from inference.rundir.run import Run


def main(arguments: list[str]) -> int:
    """Prints the AUROC and the mean score of each kind of image."""
    parser = Parser(prog="python -m tools.outliers", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="a run on images")
    add("--images", type=COUNT.parse, default=1_000, metavar="N", help="images of each kind (default: 1000)")
    add("--particles", type=COUNT.parse, default=100, metavar="M", help="samples per image (default: 100)")
    add("--data-dir", type=Path, metavar="DIR", help="folder of the data set (default: the run's)")
    add("--json", action="store_true", help="print JSON")
    add_model_file(parser)
    given = parser.parse_args(arguments)
    data, model = load_data(Run.open(given.run), given.data_dir), load(given.run)
    if data.kind is not IMAGES or "y" in model.inputs:
        raise UserError("this comparison is of images without labels. Name another run.")
    x = data.x_test[: given.images]
    usual = score(model, x, given.particles).values
    found = {"test images": {"auroc": None, "mean_score": usual.mean().item()}}
    for name, images in outliers(x).items():
        values = score(model, images, given.particles).values
        found[name] = {"auroc": auroc(usual, values), "mean_score": values.mean().item()}
    print(json.dumps(found, indent=2) if given.json else table(found))
    return 0


def outliers(x: Tensor) -> dict[str, Tensor]:
    """Returns images that are not like the data, by name.

    Args:
        x: test images, levels 0..255 (n, channels, height, width).

    Returns:
        The images moved by a quarter of their width, around the edge; inverted; independent uniform levels;
        black images with one white pixel each; and images of one level.
    """
    n, _, height, width = x.shape
    generator = torch.Generator().manual_seed(0)
    pixel = torch.zeros_like(x)
    place = torch.randint(height * width, (n,), generator=generator)
    pixel.flatten(2)[torch.arange(n), :, place] = 255
    level = (torch.arange(n) * 255 // max(n - 1, 1)).to(torch.uint8)
    return {
        "shifted": x.roll(width // 4, -1),
        "inverted": 255 - x,
        "uniform noise": torch.randint(256, x.shape, generator=generator, dtype=torch.uint8),
        "one white pixel": pixel,
        "constant levels": level.view(n, 1, 1, 1).expand_as(x).clone(),
    }


def auroc(usual: Tensor, others: Tensor) -> float:
    """Returns the fraction of pairs in which the second score is higher; ties count half."""
    difference = others[:, None] - usual
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()


def table(found: dict[str, dict[str, float | None]]) -> str:
    """Formats the measurements, one kind of image per line."""
    lines = [f"{'images':16} {'AUROC':>7} {'mean score':>11}"]
    for name, values in found.items():
        area = "" if values["auroc"] is None else f"{values['auroc']:.4f}"
        lines.append(f"{name:16} {area:>7} {values['mean_score']:11.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
