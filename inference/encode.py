"""Encodes data with a trained model: means and standard deviations of the latents, one row per data point.

python -m inference.encode RUN                                        the run's test set, in latents.npz
python -m inference.encode RUN --data own.npz --out latents.csv       other data; also .parquet

RUN is a run folder, which is not changed, or a file that model.save wrote. Images are encoded without noise.
Labels of the data are in the column y. A model with a codebook gives the codes.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

from pathlib import Path

from inference.api import load
from inference.apply import encode
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.outputs import (
    TABLES,
    add_data,
    add_source,
    check_new_file,
    find_data,
    trained_model,
    write_table,
)
from inference.cli.parser import Parser


def main(arguments: list[str]) -> int:
    """Encodes the data and writes one file. Returns 0."""
    parser = Parser(prog="python -m inference.encode", description=(__doc__ or "").splitlines()[0])
    add_source(parser)
    add_data(parser)
    about = f"new file, with one of {', '.join(TABLES)} (default: latents.npz)"
    parser.add_argument("--out", type=Path, default=Path("latents.npz"), metavar="FILE", help=about)
    given = parser.parse_args(arguments)
    check_new_file(given.out, TABLES)
    source = trained_model(given)
    model = load(source)
    data, name = find_data(source, model, given.data, given.data_dir)
    found = encode(model, data, device=given.device).arrays()
    write_table(given.out, {key: value.numpy() for key, value in found.items()})
    n, *_ = (len(value) for value in found.values())
    print(f"{n} {data.kind.name} of {name}, {', '.join(found)}: {given.out}")
    return 0


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
