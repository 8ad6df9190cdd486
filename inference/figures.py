"""The pictures of a run: curves, samples, reconstructions."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from inference.data import HeldOut
from inference.runs import Run
from ppl_models.base import LatentVariableModel

ROWS, COLUMNS = 10, 20  # of the samples


def draw_all(model: LatentVariableModel, test: HeldOut, run: Run) -> None:
    """Draw every picture that the model can give into the run's folder; torch's generator is left as it was found."""
    run.figures.mkdir(exist_ok=True)
    pass
