"""The outputs of a finished sweep: means over seeds, a table, and one figure of all values."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.backend.files import save_figure
from inference.data.held_out import HeldOut
from inference.plots.images import grid
from inference.plots.labels import format_setting
from inference.rundir.restore import restore

SHOWN = 8  # test images and samples per row of the figure
Metrics = dict[str, dict[str, float]]  # `test` of results.json


def over_seeds(tests: list[Metrics]) -> dict[str, dict[str, float | None]]:
    """Returns mean and sample standard deviation of each metric over seeds.

    Leaves out a KL term that equals `kl`. The standard deviation of a single seed is None.
    """
    found = {}
    for name in dict.fromkeys(name for test in tests for name in test):
        values = [test[name]["value"] for test in tests if name in test]
        if name.startswith("kl_") and values == [test["kl"]["value"] for test in tests if "kl" in test]:
            continue
        sd = statistics.stdev(values) if len(values) > 1 else None
        found[name] = {"mean": statistics.mean(values), "sd": sd}
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Returns a Markdown table with one line per grid value: means over seeds ± sample standard deviation."""
    fullest_first = sorted((row["test"] for row in results), key=len, reverse=True)
    names = list(dict.fromkeys(name for test in fullest_first for name in test))
    lines = [[*results[0]["over"], "seeds", *map(_title, names)]]
    for row in results:
        settings = map(format_setting, row["over"].values())
        seeds = ", ".join(map(str, row["seeds"])) or "-"
        lines.append([*settings, seeds, *(_cell(row["test"].get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cell(metric: dict[str, float | None] | None) -> str:
    numbers = [number for number in (metric or {}).values() if number is not None]
    return " ± ".join(f"{number:#.4g}".rstrip(".") for number in numbers) or "-"


def words(test: Metrics) -> str:
    """Returns the metrics of one run in one line."""
    values = {_title(name): metric["value"] for name, metric in test.items() if not name.startswith("kl_")}
    return "  ".join(f"{title} {value:.4g}" for title, value in values.items())


def _title(name: str) -> str:
    return {"negative_elbo": "-ELBO", "kl": "KL"}.get(name, name.replace("kl_", "KL ").replace("_", " "))


def draw(runs: dict[Path, dict[str, Any]], path: Path, data_dir: Path | None = None) -> bool:
    """Draws reconstructions and samples side by side, one row per run, below the test images.

    Samples have the same seed in every row, and successive classes if the model has a label. Runs of models
    that generate nothing are left out.

    Args:
        runs: run folders, each with its swept settings.
        path: where the figure goes.
        data_dir: where the data set is; by default where the runs found it.

    Returns:
        Whether any run is left to draw.
    """
    labels: list[str] = []
    reconstructions, samples = [], []
    for folder, over in runs.items():
        run, config, data, model = restore(folder, data_dir)
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
        labels.append("\n".join(f"{key} = {format_setting(value)}" for key, value in over.items()))
    if not labels:
        return False
    caption = f"{config.model} on {Path(config.data).name}, first seed of each value.\n"
    caption += "Samples are mean images of p(x | z),\nwith the same seed in every row."
    _draw(inputs["x"], torch.cat(reconstructions), torch.cat(samples), labels, caption, path)
    return True


def _draw(
    x: Tensor, reconstructions: Tensor, samples: Tensor, labels: list[str], caption: str, path: Path
) -> None:
    """Draws test images `(n, *shape)` above the rows of reconstructions and samples."""
    from matplotlib.figure import Figure

    top, left, right = (grid(images, len(x)) for images in (x, reconstructions, samples))
    (height, width), below = top.shape[:2], len(top) * 7 // 4
    canvas = np.ones((below + len(left), 2 * width + height, 3), dtype=np.float32)
    canvas[:height, :width], canvas[below:, :width], canvas[below:, width + height :] = top, left, right
    scale = max(round(80 / height), 1) / 150  # inches per pixel: a whole number of dots
    figure = Figure(figsize=(canvas.shape[1] * scale, canvas.shape[0] * scale), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    middles = np.linspace(below, len(canvas) - height, len(labels)) + height / 2
    for middle, label in zip([height / 2, *middles], ["test images", *labels], strict=True):
        axes.text(-height / 4, middle, label, ha="right", va="center", fontsize=11)
    for at, title in ((width / 2, "reconstructions"), (1.5 * width + height, "samples")):
        axes.text(at, below - height / 5, title, ha="center", va="bottom", fontsize=12, weight="bold")
    axes.text(width + height, 0, caption, ha="left", va="top", fontsize=10, color="0.35")
    save_figure(figure, path, bbox_inches="tight", pad_inches=0.15)
