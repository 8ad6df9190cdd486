"""Samples from a trained model, as a picture or as arrays.

python -m inference.sample RUN                                    100 samples in samples.png, or .txt, .npz
python -m inference.sample RUN --n 1000 --out samples.npz         levels 0..255 or points x, labels y, latents
python -m inference.sample RUN --labels 0,1,2 --same-latents      the same latents with each label
python -m inference.sample RUN --temperature 0.7                  closer to the modes
python -m inference.sample RUN --means                            means of x, without the noise of p(x | z)
python -m inference.sample --pretrained gmvae-mnist               a model of the repository, without data

RUN is a run folder, which is not changed, or a file that model.save wrote. The run of a code prior samples
codes, which its first stage decodes to mean images; so do a pretrained VQ-VAE and its prior.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
from pathlib import Path

import numpy as np

from inference.apply import sample
from inference.backend.files import write_whole
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.outputs import add_source, check_new_file, trained_model, write_table
from inference.cli.parser import Parser
from inference.errors import UserError
from inference.metrics.sampling import Samples
from inference.plots.images import save_grid
from inference.plots.points import draw_points
from inference.rundir.kinds import COUNT, POSITIVE, SEED, is_whole

ENDINGS = (".png", ".npz", ".txt")
MAX_COLUMNS = 30  # of a picture with one label per column


def labels(text: str) -> list[int]:
    """Parses labels, as in 0,1,2; an argparse type."""
    parts = text.split(",")
    if not all(part.isdecimal() and is_whole(int(part), 0, 10**6) for part in parts):
        raise argparse.ArgumentTypeError(f"{text:.40} is not a list of labels, as in 0,1,2")
    return [int(part) for part in parts]


def main(arguments: list[str]) -> int:
    """Samples and writes one file. Returns 0."""
    parser = Parser(prog="python -m inference.sample", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add_source(parser)
    add("--n", type=COUNT.parse, default=100, metavar="N", help="number of samples (default: 100)")
    about = "new .png, .npz or .txt file (default: samples.png; .txt for a text, .npz for what is not drawn)"
    add("--out", type=Path, metavar="FILE", help=about)
    about = "labels of the samples, in turn, for a model with a label (default: random)"
    add("--labels", type=labels, metavar="A,B", help=about)
    about = "factor of the standard deviations of the latents, and divisor of the logits of discrete latents "
    about += "and of an autoregressive x (default: 1)"
    add("--temperature", type=POSITIVE.parse, default=1.0, metavar="T", help=about)
    about = "the same latents in all samples, or in each round of labels: only the noise or the label varies"
    add("--same-latents", action="store_true", help=about)
    about = "the means of p(x | latents) instead of samples of x: images without the decoder's noise"
    add("--means", action="store_true", help=about)
    add("--seed", type=SEED.parse, default=0, metavar="N", help="seed of all random numbers (default: 0)")
    given = parser.parse_args(arguments)
    if given.out:
        check_new_file(given.out, ENDINGS)
    found = sample(
        trained_model(given),
        given.n,
        labels=given.labels,
        temperature=given.temperature,
        same_latents=given.same_latents,
        means=given.means,
        seed=given.seed,
        device=given.device,
    )
    if not given.out:
        given.out = Path("samples").with_suffix(usual_ending(found))
        check_new_file(given.out, ENDINGS)
    if given.out.suffix.lower() == ".npz":
        write_table(given.out, arrays(found))
    elif given.out.suffix.lower() == ".txt":
        write_lines(given.out, found)
    else:
        draw(found, given)
    print(given.out)
    return 0


def usual_ending(found: Samples) -> str:
    """Returns the ending of the file that shows samples best."""
    return ".txt" if found.lines else ".png" if is_drawn(found) else ".npz"


def is_drawn(found: Samples) -> bool:
    """Returns whether the samples can be drawn: images and points in the plane can."""
    return found.drawn == "images" or (found.drawn == "points" and found.x.shape[1:] == (2,))


def arrays(found: Samples) -> dict[str, np.ndarray]:
    """Returns x, the labels y if there are any, and the latents by name."""
    named = {"x": found.x} | found.latents | ({} if found.y is None else {"y": found.y})
    lines = {"lines": np.array(found.lines)} if found.lines else {}
    return {name: value.numpy() for name, value in named.items()} | lines


def write_lines(path: Path, found: Samples) -> None:
    """Writes the lines of a run on a text. Raises UserError if there are none."""
    if found.lines is None:
        raise UserError("these samples are not those of a run on a text. Use --out FILE.npz.")
    try:
        write_whole(path, "\n".join([*found.lines, ""]).encode())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}). Name another with --out.") from None


def draw(found: Samples, given: argparse.Namespace) -> None:
    """Draws a grid of images, with one label per column if they are in turn, or points in the plane.

    Raises:
        UserError: the samples cannot be drawn, or the file cannot be written.
    """
    in_turn = len(given.labels or ()) or (
        int(found.y.max()) + 1 if given.same_latents and found.y is not None else 1
    )
    columns = in_turn if 1 < in_turn <= MAX_COLUMNS else min(10 if given.n <= 100 else 20, given.n)
    title = f"{'means of ' if given.means else ''}{given.n} samples"
    title += f", temperature {given.temperature:g}" if given.temperature != 1 else ""
    title += ", the same latents" + (" in each row" if in_turn > 1 else "") if given.same_latents else ""
    if not is_drawn(found):
        other = f"FILE{usual_ending(found)}"
        raise UserError(f"these samples are neither images nor points in the plane. Use --out {other}.")
    try:
        if found.drawn == "images":
            save_grid(found.x / 255, columns, given.out, title)
        else:
            draw_points(found.x, given.out, title)
    except OSError as error:
        raise UserError(f"cannot write {given.out} ({error.strerror}). Name another with --out.") from None


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
