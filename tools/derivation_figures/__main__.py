"""Draws the pictures of the derivations into docs/derivations/figures.

python -m tools.derivation_figures             all
python -m tools.derivation_figures 04 17       those of pages 4 and 17
"""

from inference.cli.entry import exit_on_interrupt

exit_on_interrupt()

from inference.cli.entry import run_command  # noqa: E402
from inference.cli.parser import Parser  # noqa: E402
from inference.errors import UserError  # noqa: E402
from tools.derivation_figures import FIGURES, write  # noqa: E402


def main(arguments: list[str]) -> int:
    """Draws the pictures of the pages whose numbers are given, or all."""
    parser = Parser(prog="python -m tools.derivation_figures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="NN", help="numbers of pages; default: all")
    numbers = parser.parse_args(arguments).pages
    for number in numbers:
        if not any(page.startswith(f"{number}-") for page in FIGURES):
            raise UserError(f"page {number} has no picture. Give a number from 01 to {len(FIGURES):02}.")
    for page in sorted(FIGURES):
        if not numbers or page[:2] in numbers:
            print(write(page))
    return 0


if __name__ == "__main__":
    run_command(main)
