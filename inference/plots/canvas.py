"""Figures made without pyplot: no global state changes, and matplotlib is imported at the first figure."""

from typing import Any, Literal

FORMATS = (".png", ".svg", ".pdf")  # of figures whose file the user names


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    figsize: tuple[float, float],
    layout: Literal["constrained"] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Makes a figure and its axes, as `pyplot.subplots` does, but without pyplot's list of open figures.

    Args:
        rows: number of rows of axes.
        columns: number of columns of axes.
        figsize: width and height in inches.
        layout: layout engine; none by default.
        options: further arguments of `Figure.subplots`.

    Returns:
        The `Figure`, and its axes: one, or an array of them, as `Figure.subplots` returns them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout=layout)
    return figure, figure.subplots(rows, columns, **options)
