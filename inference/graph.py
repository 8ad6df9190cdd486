"""Draw plate diagrams of a model and its guide, side by side.

python -m inference.graph --model ssvae                    writes ssvae.png
python -m inference.graph --model ssvae --out ssvae.svg    or .pdf
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

from pathlib import Path

from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError, unknown
from inference.plots.canvas import FORMATS
from inference.plots.graph import draw
from ppl_models import MODELS


def main(arguments: list[str]) -> int:
    """Draws the diagram of a model into a file.

    Raises:
        UserError: the model is unknown, or the file cannot be written.
    """
    parser = Parser(prog="python -m inference.graph", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, metavar="NAME", help=f"one of {', '.join(MODELS)}")
    about = f"output file, with one of {', '.join(FORMATS)} (default: NAME.png)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)
    given = parser.parse_args(arguments)
    if given.model not in MODELS:
        raise unknown("model", given.model, MODELS)
    out = given.out or Path(f"{given.model}.png")
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"{out} has an unknown ending. Use one of {', '.join(FORMATS)}.")
    cls = MODELS[given.model]
    try:
        draw(cls(cls.padded(cls.example_shape), 10).eval(), out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}). Name another with --out.") from None
    print(out)
    return 0


if __name__ == "__main__":
    run_command(main)
