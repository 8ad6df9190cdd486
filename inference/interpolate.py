"""Interpolate between the same two images with the models of several runs.

python -m inference.interpolate AE_RUN BETA_VAE_RUN                        labels 1-7, 3-5 and 6-9
python -m inference.interpolate AE_RUN BETA_VAE_RUN --labels 0-1 --out zero_to_one.png

The seed chooses one training image per label. Each row shows, for one pair of labels and one run, the first
image, five decoded steps from its code to the code of the second, and the second image.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
from pathlib import Path

from inference.cli.entry import run_command
from inference.cli.parser import Parser, add_model_file
from inference.errors import UserError
from inference.plots import interpolations
from inference.rundir.kinds import SEED


def label_pair(text: str) -> tuple[int, int]:
    """Parses two labels, as in 1-7; an argparse type."""
    first, dash, second = text.partition("-")
    if not (dash and first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not a pair of labels, as in 1-7")
    return int(first), int(second)


def main(arguments: list[str]) -> int:
    """Draws the figure and prints its path.

    Raises:
        UserError: the runs do not fit together, or the file cannot be written.
    """
    parser = Parser(prog="python -m inference.interpolate", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN_DIR", help="runs on the same data, one per row")
    pairs = [(1, 7), (3, 5), (6, 9)]
    add("--labels", type=label_pair, nargs="+", default=pairs, metavar="A-B", help="(default: 1-7 3-5 6-9)")
    add("--seed", type=SEED.parse, default=0, metavar="N", help="chooses the images of a label (default: 0)")
    add("--data-dir", type=Path, metavar="DIR", help="where the data set is now (default: as in the run)")
    out = Path("interpolations.png")
    add("--out", type=Path, default=out, metavar="FILE", help=f"output file (default: {out})")
    add_model_file(parser)
    given = parser.parse_args(arguments)
    images, rows = interpolations.interpolate_runs(given.runs, given.labels, given.seed, given.data_dir)
    try:
        interpolations.draw(images, rows, given.out)
    except OSError as error:
        raise UserError(f"cannot write {given.out} ({error.strerror}). Name another with --out.") from None
    print(given.out)
    return 0


if __name__ == "__main__":
    run_command(main)
