"""Draws the picture of each derivation page, with numpy and the suite's own functions.

Each picture is 760 pixels wide, with text that can be read at half that width, on a white background.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.plots.canvas import subplots

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "derivations" / "figures"
WIDTH, DPI = 3.8, 200  # inches, and dots per inch
GREY = "0.45"
STYLE: dict[str, Any] = {
    **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7.5},
    **{"xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.frameon": False, "axes.grid": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.5},
}
FIGURES: dict[str, Callable[[], Any]] = {}  # by the stem of the page


def figure_of(page: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a function that draws and returns the figure of a page."""

    def register(draw: Callable[[], Any]) -> Callable[[], Any]:
        FIGURES[page] = draw
        return draw

    return register


def canvas(rows: int = 1, columns: int = 1, height: float = 2.2, **options: Any) -> tuple[Any, Any]:
    """Makes a figure of the common width and its axes."""
    return subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **options)


def write(page: str, folder: Path = FOLDER) -> Path:
    """Draws the figure of a page as a PNG file with a palette, and returns its path."""
    from io import BytesIO

    import matplotlib
    from PIL import Image

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure, buffer = FIGURES[page](), BytesIO()
        figure.savefig(buffer, dpi=DPI, facecolor="white", metadata={"Software": None})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{page}.png"
    image = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    return path


from tools.derivation_figures import (  # noqa: E402  (they register)
    bounds,  # noqa: F401
    densities,  # noqa: F401
    gradients,  # noqa: F401
    latents,  # noqa: F401
    sequences,  # noqa: F401
)
