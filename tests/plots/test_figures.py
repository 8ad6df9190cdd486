"""Figures of runs: images at their places, rows as in the titles, and curves."""

from pathlib import Path

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest
import torch

from inference.plots import curves, points
from inference.plots import images as image_plots
from ppl_models import MODELS, SSVAE


def test_grid_places_images_row_by_row() -> None:
    images = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 1, 3, 2)
    canvas = image_plots.grid(images, 3)
    assert canvas.shape == (3 + 1 + 3, 2 + 1 + 2 + 1 + 2, 3)
    shades = [canvas[top, left, 0] for top in (0, 4) for left in (0, 3, 6)]
    np.testing.assert_allclose(shades, np.linspace(0, 1, 6), atol=1e-6)
    np.testing.assert_allclose(canvas[3], 0.55, atol=1e-6)  # the line between the rows


def test_pairs_touch() -> None:
    canvas = image_plots.grid(torch.rand(4, 1, 3, 2), 4, pair=True)
    assert canvas.shape[1] == 2 + 2 + 2 + 2 + 2  # four images of two columns, and one double line
    np.testing.assert_allclose(canvas[:, 4:6], 0.55, atol=1e-6)


def test_channels_come_last() -> None:
    image = torch.rand(1, 3, 4, 5)
    np.testing.assert_allclose(image_plots.grid(image, 1), image[0].permute(1, 2, 0).numpy())


def test_rows_are_classes_and_columns_are_styles(tmp_path: Path, monkeypatch) -> None:
    saved = {}
    monkeypatch.setattr(
        image_plots, "save_grid", lambda images, columns, path, title, pair: saved.update(locals())
    )
    torch.manual_seed(0)
    model = SSVAE((1, 4, 4), 10, z_dim=2, hidden=8)
    with torch.no_grad():  # make the decoder write the label into its first pixel
        for layer in model.decoder.layers:
            layer.weight.zero_(), layer.bias.zero_()
        first, second, last = model.decoder.layers
        first.weight[0, 2:] = torch.arange(10.0)
        second.weight[0, 0] = last.weight[0, 0] = 1.0
        first.weight[1, 0] = second.weight[1, 1] = last.weight[1, 1] = 1.0  # and z into its second pixel
    image_plots.draw_samples(model, tmp_path / "x.png", noise=False)
    images = saved["images"].unflatten(0, (10, saved["columns"]))
    assert saved["columns"] == 20 and "one class per row" in saved["title"]
    label, style = images.flatten(2)[..., 0].logit(), images.flatten(2)[..., 1]
    torch.testing.assert_close(label, torch.arange(10.0)[:, None].expand(10, 20), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(style, style[:1].expand(10, 20))
    assert len(style[0].unique()) == 20


def test_curves_of_points_have_axes_in_nats_and_in_bits(tmp_path: Path, monkeypatch) -> None:
    """For points in two dimensions, 2 ln 2 nats are one bit per dimension."""
    saved = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, **_: saved.append(self))
    metrics = [
        {"step": step, "split": "test", "seconds": 1.0, "negative_elbo": 4.0, "bits_per_dim": 2.885}
        for step in range(0, 50, 5)
    ]
    curves.draw_curves(metrics, tmp_path / "curves.png", "point", dims=2)
    (panel,) = saved[0].axes
    (axis,) = panel.child_axes
    assert (panel.get_ylabel(), axis.get_ylabel()) == ("nats per point", "bits per dimension")
    low, high = panel.get_ylim()
    saved[0].draw_without_rendering()
    np.testing.assert_allclose(axis.get_ylim(), (low / (2 * np.log(2)), high / (2 * np.log(2))))


def test_the_validation_set_has_its_own_curve(tmp_path: Path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, **_: saved.append(self))
    levels = {"train": 3.0, "test": 2.0, "validation": 1.0}
    for splits in (list(levels)[:2], list(levels)):
        metrics = [
            {"step": step, "split": split, "seconds": 1.0, "negative_elbo": levels[split]}
            for step in (0, 5)
            for split in splits
        ]
        curves.draw_curves(metrics, tmp_path / "curves.png")
        (panel,), (legend,) = saved[-1].axes, saved[-1].legends
        assert [line.get_ydata()[0] for line in panel.lines] == [levels[split] for split in splits]
        assert len({line.get_color() for line in panel.lines}) == len(splits)
        names = ["training, single minibatches", "test set", "validation set"][: len(splits)]
        assert [text.get_text() for text in legend.get_texts()] == names
        colours = [handle.get_color() for handle in legend.legend_handles]
        assert colours == [line.get_color() for line in panel.lines]


def test_curves_are_drawn(tmp_path: Path) -> None:
    metrics = [
        {"step": step, "split": split, "seconds": 1.0, "negative_elbo": 100.0 - step, "kl_z": 3.0 + step}
        for step in range(0, 50, 5)
        for split in ("train", "test")
    ]
    curves.draw_curves(metrics, tmp_path / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "curves.png")
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 0.05


def test_a_figure_shows_each_curve_once(tmp_path: Path, monkeypatch) -> None:
    """The course's loss of a VQ-VAE, and its squared error + KL, take the place of the bound."""
    line = {"step": 0, "split": "test", "seconds": 1.0, "negative_elbo": 500.0, "reconstruction": 190.0}
    codes = {
        "kl": 310.0,
        "kl_z": 310.0,
        "mean_squared_error": 0.1,
        "loss": 0.2,
        "codebook": 0.1,
        "commitment": 0.1,
    }
    assert curves.figure_metrics([line | codes, line | codes | {"loss": 0.1}]) == [
        "mean_squared_error",
        "loss",
        "commitment",
    ]
    levels = {"kl": 5.0, "kl_z1": 2.0, "kl_z2": 3.0, "squared_error": 9.0, "squared_error_and_kl": 14.0}
    lines = [line | levels, line | {name: value + 1 for name, value in levels.items()}]
    assert curves.figure_metrics(lines) == list(levels)
    bits = [line | {"bits_per_dim": 3.0}]
    assert curves.figure_metrics(bits) == ["reconstruction", "bits_per_dim"]
    assert curves.figure_metrics(bits, dims=2) == ["negative_elbo", "reconstruction"]
    prior = {"step": 0, "split": "test", "negative_log_p": 128.0, "nats_per_code": 2.0}
    assert curves.figure_metrics([prior]) == ["nats_per_code"]


@pytest.mark.parametrize(("first", "place"), [(900.0, "top"), (-900.0, "bottom")])
def test_a_first_value_out_of_range_is_written_into_the_panel(
    first: float, place: str, tmp_path: Path, monkeypatch
) -> None:
    saved = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, **_: saved.append(self))
    metrics = [
        {"step": step, "split": "test", "seconds": 1.0, "negative_elbo": first if step == 0 else 100.0 - step}
        for step in range(0, 50, 5)
    ]
    curves.draw_curves(metrics, tmp_path / "curves.png")
    (panel,) = saved[0].axes
    (text,) = panel.texts
    assert text.get_text() == f"step 0: {first:g}" and text.get_va() == place
    assert panel.get_ylim()[1] < 200 and panel.get_ylim()[0] > -200


def test_samples_of_a_narrow_cloud_have_square_panels(tmp_path: Path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, **_: saved.append(self))
    x = torch.randn(100, 2) * torch.tensor([1.0, 50.0])
    points.draw_samples(MODELS["vae2d"]((2,)).eval(), x, tmp_path / "samples.png")
    for panel in saved[0].axes:
        (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        assert right - left == pytest.approx(top - bottom) and top - bottom > 150
        assert (
            left < x[:, 0].min() and right > x[:, 0].max() and bottom < x[:, 1].min() and top > x[:, 1].max()
        )
