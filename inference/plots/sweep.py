"""What a sweep leaves when its runs are done: means over seeds, a table, and one picture of every value."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.cli.options import plain
from inference.data.batches import HeldOut
from inference.plots.images import grid
from inference.rundir.files import save_figure
from inference.rundir.run import Run

SHOWN = 8  # test images a row of the picture, and samples
Figures = dict[str, dict[str, float]]  # results.json's `test`


def over_seeds(tests: list[Figures]) -> dict[str, dict[str, float | None]]:
    """Each figure's mean and sample standard deviation. A latent's divergence that equals kl is left out."""
    figures = {}
    for name in dict.fromkeys(name for test in tests for name in test):
        values = [test[name]["value"] for test in tests if name in test]
        if name.startswith("kl_") and values == [test["kl"]["value"] for test in tests if "kl" in test]:
            continue
        sd = statistics.stdev(values) if len(values) > 1 else None
        figures[name] = {"mean": statistics.mean(values), "sd": sd}
    return figures


def table(results: list[dict[str, Any]]) -> str:
    """One line a grid value, in Markdown: means over seeds ± their sample standard deviation."""
    fullest_first = sorted((row["test"] for row in results), key=len, reverse=True)
    names = list(dict.fromkeys(name for test in fullest_first for name in test))
    lines = [[*results[0]["over"], "seeds", *map(_title, names)]]
    for row in results:
        settings, seeds = map(plain, row["over"].values()), ", ".join(map(str, row["seeds"])) or "-"
        lines.append([*settings, seeds, *(_cell(row["test"].get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cell(figure: dict[str, float | None] | None) -> str:
    numbers = [number for number in (figure or {}).values() if number is not None]
    return " ± ".join(f"{number:#.4g}".rstrip(".") for number in numbers) or "-"


def words(test: Figures) -> str:
    """The figures of one run in one line."""
    figures = {_title(name): figure["value"] for name, figure in test.items() if not name.startswith("kl_")}
    return "  ".join(f"{title} {value:.4g}" for title, value in figures.items())


def _title(name: str) -> str:
    return {"negative_elbo": "-ELBO", "kl": "KL"}.get(name, name.replace("kl_", "KL ").replace("_", " "))


def draw(runs: dict[Path, dict[str, Any]], path: Path, data_dir: Path | None = None) -> bool:
    """Draw reconstructions and samples side by side, a row a run, below the test images.

    `runs` are folders with the settings swept. Samples are drawn with the same seed in every row, of one
    class after another where x has one. Runs that generate nothing are left out; returns whether any is left.
    """
    from matplotlib.figure import Figure

    labels: list[str] = []
    reconstructions, samples = [], []
    for folder, over in runs.items():
        run, config, data, model = Run.restore(folder, data_dir)
        if "reconstruction" not in run.results()["test"]:
            continue  # a classifier alone
        if not labels:
            inputs, _, _ = next(HeldOut(data, type(model), torch.device("cpu")).chunks(SHOWN))
        n = len(inputs["x"])
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            y = torch.arange(n) % model.classes if model.has_label else None
            samples.append(model.sample(n, y=y, noise=False))
        reconstructions.append(model.reconstruct(**inputs))
        labels.append("\n".join(f"{key} = {plain(value)}" for key, value in over.items()))
    if not labels:
        return False
    top, left, right = (grid(torch.cat(rows), n) for rows in ([inputs["x"]], reconstructions, samples))
    (height, width), below = top.shape[:2], len(top) * 7 // 4
    canvas = np.ones((below + len(left), 2 * width + height, 3), dtype=np.float32)
    canvas[:height, :width], canvas[below:, :width], canvas[below:, width + height :] = top, left, right
    scale = max(round(80 / height), 1) / 150  # inches a pixel: a whole number of dots
    figure = Figure(figsize=(canvas.shape[1] * scale, canvas.shape[0] * scale), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    middles = np.linspace(below, len(canvas) - height, len(labels)) + height / 2
    for middle, label in zip([height / 2, *middles], ["test images", *labels], strict=True):
        axes.text(-height / 4, middle, label, ha="right", va="center", fontsize=11)
    for at, title in ((width / 2, "reconstructions"), (1.5 * width + height, "samples")):
        axes.text(at, below - height / 5, title, ha="center", va="bottom", fontsize=12, weight="bold")
    caption = f"{config['model']} on {Path(config['data']).name}, first seed of each value.\n"
    caption += "Samples are mean images of p(x | z),\ndrawn with the same seed in every row."
    axes.text(width + height, 0, caption, ha="left", va="top", fontsize=10, color="0.35")
    save_figure(figure, path, bbox_inches="tight", pad_inches=0.15)
    return True
