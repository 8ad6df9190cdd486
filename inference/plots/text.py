"""Samples, reconstructions and interpolations of a run on a text, in words, as .txt files."""

import torch

from inference.backend.files import write_whole
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.data.vocabulary import Vocabulary
from inference.plots.images import draw_latents_by_label
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel

SAMPLES, LINES, PAIRS, STEPS = 30, 15, 5, 7


def vocabulary_of(test: HeldOut) -> Vocabulary:
    """Returns the vocabulary of the data, or for sequences without one the numbers of the tokens as words."""
    data = test.data
    if data.vocabulary:
        return data.vocabulary
    return Vocabulary("words", tuple(map(str, range(data.largest() + 1))), data.shape[0])


@torch.no_grad()
def write_text(model: LatentVariableModel, batches: Batches, test: HeldOut, run: Run) -> None:
    """Writes samples.txt, reconstructions.txt and interpolations.txt, and draws the latents."""
    words = vocabulary_of(test)

    def write(name: str, lines: list[str]) -> None:
        write_whole(run.figures / f"{name}.txt", "\n".join([*lines, ""]).encode())

    write("samples", words.decode(model.sample(SAMPLES)))
    if not len(test) or not model.has_latents:
        return
    inputs, _, _ = next(test.chunks(max(LINES, 2 * PAIRS)))
    x = inputs["x"][:LINES]
    pairs = zip(words.decode(x), words.decode(model.reconstruct(x)), strict=True)
    write("reconstructions", [line for pair in pairs for line in (pair[0], f"    {pair[1]}")])
    if len(inputs["x"]) >= 2 * PAIRS:
        ends = inputs["x"][: 2 * PAIRS]
        steps = model.interpolate(model.encode(ends), torch.linspace(0, 1, STEPS))
        decoded = words.decode(model.decode(steps))
        lines, given = [], words.decode(ends)
        for i in range(PAIRS):
            between = [f"    {line}" for line in decoded[i * STEPS : (i + 1) * STEPS]]
            lines += [given[i], *between, given[PAIRS + i], ""]
        write("interpolations", lines[:-1])
    draw_latents_by_label(model, test, run.figures / "latents.png")
