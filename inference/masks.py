"""Draw the masks of a small MADE: units with their numbers, connections, and which output sees which input.

python -m inference.masks                                         writes masks.png: 4 pixels, two layers of 6
python -m inference.masks --order random --masks 3 --out masks.svg

The masks are those of the network that `python -m inference.svi --model made` trains at this size with the
same `--seed`.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

from pathlib import Path
from typing import get_args

import torch

from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError, unknown
from inference.plots.canvas import FORMATS
from inference.plots.masks import draw
from inference.rundir.kinds import COUNT, SEED
from ppl_models import MADE

ORDERS = get_args(get_args(MADE.options()["order"].annotation)[0])


def main(arguments: list[str]) -> int:
    """Draws the masks of a MADE into a file.

    Raises:
        UserError: an option is unknown, or the file cannot be written.
    """
    given = _parser().parse_args(arguments)
    if given.order not in ORDERS:
        raise unknown("order", given.order, ORDERS)
    if given.out.suffix.lower() not in FORMATS:
        raise UserError(f"{given.out} has an unknown ending. Use one of {', '.join(FORMATS)}.")
    size = {"hidden": given.hidden, "layers": given.layers, "order": given.order, "masks": given.masks}
    with torch.random.fork_rng([]):
        torch.manual_seed(given.seed)
        network = MADE((1, 1, given.pixels), **size).network
    try:
        draw(network, given.out)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {given.out} ({reason}). Name another with --out.") from None
    print(given.out)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m inference.masks", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    for name, default, about in (
        ("pixels", 4, "inputs and outputs"),
        ("hidden", 6, "width of each hidden layer"),
        ("layers", 2, "number of hidden layers"),
        ("masks", 1, "sets of masks, one per row"),
    ):
        words = f"{about} (default: {default})"
        add(f"--{name}", type=COUNT.parse, default=default, metavar="N", help=words)
    words = f"order of the pixels: {', '.join(ORDERS)} (default: {ORDERS[0]})"
    add("--order", default=ORDERS[0], metavar="NAME", help=words)
    words = "seed of the orders and of the hidden units' numbers (default: 0)"
    add("--seed", type=SEED.parse, default=0, metavar="N", help=words)
    words = f"output file, with one of {', '.join(FORMATS)} (default: masks.png)"
    add("--out", type=Path, default=Path("masks.png"), metavar="FILE", help=words)
    return parser


if __name__ == "__main__":
    run_command(main)
