"""Write the report of a run, or an index of a folder of runs.

python -m inference.report RUN_DIR       RUN_DIR/report.html, and the report of a code prior inside it
python -m inference.report runs/         runs/index.html: all runs below, to sort, filter and compare

Training writes the report of its run, and a sweep also writes an index; this command writes them again.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

from contextlib import ExitStack
from pathlib import Path

from inference.cli.entry import run_command
from inference.cli.parser import Parser, add_model_file
from inference.errors import UserError
from inference.html import index
from inference.html.report import NAME, gather, stages_in, write
from inference.rundir.run import Run


def main(arguments: list[str]) -> int:
    """Writes the report or the index, and prints its path.

    Raises:
        UserError: the folder is not a directory, or a run cannot be read.
    """
    parser = Parser(prog="python -m inference.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="a run, or a folder of runs")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set of a run is now")
    add_model_file(parser)
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        raise UserError(f"{given.folder} is not a directory. Give a run folder or its parent.")
    if not (given.folder / "config.json").exists():
        print(index.write(given.folder))
        return 0
    folders = [given.folder, *stages_in(given.folder)]
    with ExitStack() as held:
        for folder in folders:  # lock all of them before writing anything
            held.enter_context(Run.open(folder))
        for folder in folders:
            write(gather(folder, given.data_dir))
            print(folder / NAME)
    return 0


if __name__ == "__main__":
    run_command(main)
