"""Checks exercises, term by term, in value and in gradient.

python -m exercises.check                   list the exercises and which of them you have solved
python -m exercises.check 04                check exercises/04_elbo.py
python -m exercises.check 04 my_file.py     check your answer in another file
python -m exercises.check 04 --solution     print our solution, and check it

The exit status is 0 if the answer is right, 1 if it is not yet right, and 2 if the input is bad.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

from pathlib import Path

from exercises.checking import files
from exercises.checking.run import check
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError


def main(arguments: list[str]) -> int:
    """Prints the table of one exercise, or the list of all. Returns 0 if the answer is right, else 1."""
    parser = Parser(prog="python -m exercises.check", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("number", nargs="?", metavar="NN", help="the number of the exercise (default: list all)")
    add(
        "path",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="the file with your answer (default: exercises/NN_*)",
    )
    add("--solution", action="store_true", help="print our solution and check it")
    given = parser.parse_args(arguments)
    if given.number is None:
        if given.solution:
            raise UserError("--solution needs a number. Give the number of the exercise.")
        return _list()
    if given.solution and given.path:
        raise UserError("--solution and a file exclude each other. Leave one of them out.")
    path = files.solution(given.number) if given.solution else given.path
    if given.solution:
        print(path.read_text("utf-8"))
    result = check(given.number, path)
    print(result)
    return 0 if result.solved else 1


def _list() -> int:
    """Prints one line per exercise. Returns 0."""
    solved = 0
    for number in files.numbers():
        result = check(number)
        solved += result.solved
        print(f"{number}  {'solved ' if result.solved else 'not yet'}  {result.title}")
    print(f"{solved} of {len(files.numbers())} solved")
    return 0


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
