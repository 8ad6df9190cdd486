"""`evaluate`, `compare` and `load`, of the public API; see also `inference.fitting` and `inference.apply`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inference.backend.device import choose_device, fast_float32
from inference.backend.files import load_plain, read_regular
from inference.data.convert import as_dataset
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.labels import needs_labels
from inference.data.observations import OBSERVATIONS
from inference.elbo.comparison import Comparison
from inference.elbo.comparison import compare as compare_bounds
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.metrics.importance import importance_sample
from inference.metrics.run_evaluation import why_no_importance_weights
from inference.rundir.pretrained import checksums, others, pretrained
from inference.rundir.restore import no_larger_than, restore_model
from inference.rundir.run import Run
from inference.rundir.run_config import IN_MEMORY
from inference.training.setup import check_data, check_values
from ppl_models import from_saved
from ppl_models.base import LatentVariableModel


class Metric(NamedTuple):
    """A measured value with its errors.

    Attributes:
        value: the mean over the data, in the unit of the metric; bounds in nats per data point.
        se: standard error over the data points; None for a single one, or if it does not apply.
        mc_se: Monte Carlo standard error; None if nothing is sampled.
    """

    value: float
    se: float | None = None
    mc_se: float | None = None

    def __str__(self) -> str:
        error = "" if self.se is None else f" ± {self.se:.4f}"
        return f"{self.value:.4f}{error}"


def evaluate(
    model: LatentVariableModel,
    data: Any,
    particles: Sequence[int] = (1, 100),
    *,
    samples: int | None = None,
    device: str = "auto",
) -> dict[str, Metric]:
    """Evaluates a model: the negative ELBO and its terms, and importance-weighted bounds.

    The numbers are those of `python -m inference.evaluate`. The model's mode and device, the RNG state and
    torch's settings are preserved.

    Args:
        model: the model.
        data: in one of the forms that `fit` takes; of a `Dataset` of the suite the test part.
        particles: the numbers m of importance samples of the bounds -IWAE-m.
        samples: of the latents per data point for the ELBO; by default 10, or 100 for points.
        device: "auto", "cpu" or "cuda".

    Returns:
        Metrics by name: `negative_elbo`, `reconstruction`, `kl`, one term per latent, `accuracy` if the model
        classifies and the data have labels, `iwae_1`, `iwae_100`, and `k_hat_above_0.7`, the fraction of data
        points whose importance weights have a heavy tail. Negated bounds, in nats per data point.

    Raises:
        UserError: the data cannot be used.
    """
    where = choose_device(device)
    before = next(model.parameters()).device
    test = held_out(model, data, where)
    samples = samples or OBSERVATIONS[model.observation].data.samples
    try:
        with fast_float32(where):
            metrics = evaluate_bounds(model.to(where), test, samples)
            if particles and not why_no_importance_weights(model, test.data, metrics):
                metrics |= importance_sample(model, test, sorted(set(particles))).metrics
    finally:
        model.to(before)
    return {name: Metric(**metric) for name, metric in metrics.items()}


def held_out(model: LatentVariableModel, data: Any, device: torch.device) -> HeldOut:
    """Returns data as a model observes them.

    Args:
        model: the model.
        data: in one of the forms that `fit` takes; of a `Dataset` of the suite the test part.
        device: where they are kept.

    Raises:
        UserError: they are empty, or do not fit the model.
    """
    cls = type(model)
    found = data if isinstance(data, Dataset) else as_dataset(data, data, model=model, name=IN_MEMORY)
    if not isinstance(data, Dataset) and found.class_names and needs_labels(cls):
        raise UserError(f"the labels are not class numbers 0 to {model.classes - 1}. Give such numbers.")
    check_data(cls, model.constructor_options, found)
    check_values(model, found)
    found = found.padded(cls)
    if found.shape != model.shape:
        raise UserError(
            f"the data have shape {found.shape}, and the model is built for {model.shape}. Give data of this "
            "shape, or build a model for the data."
        )
    test = HeldOut(found, cls, device)
    if not len(test):
        raise UserError("the data set has no test part. Give the data to evaluate on.")
    if "y" in cls.inputs and test.y is not None and int(test.y.max()) >= model.classes:
        raise UserError(
            f"the data have label {int(test.y.max())}, and the model has {model.classes} classes. "
            f"Give labels from 0 to {model.classes - 1}."
        )
    return test


def compare(model: LatentVariableModel, inputs: Any, estimator: str | None = None) -> Comparison:
    """Compares the hand-derived bound of a model with Pyro's estimator: each term, in value and gradient.

    Both see the same noise: Pyro's estimator runs the guide, and the bound is computed from its samples.
    They agree to rounding in float64. A model or inputs in another precision are copied and compared in it.

    Args:
        model: the model.
        inputs: observations x, (batch, *shape), or a dict of the inputs of `model.model`.
        estimator: one of `model.estimators`; by default the first.

    Returns:
        The comparison, which prints as a table: `result["agrees"]`, `result["terms"]`.

    Raises:
        UserError: the estimator does not apply, or the inputs are not what the model observes.

    Example:
        >>> import torch
        >>> from ppl_models import VAE
        >>> from inference import compare
        >>> x = torch.rand(7, 1, 8, 8, dtype=torch.float64).round()
        >>> compare(VAE((1, 8, 8)).double(), x)["agrees"]
        True
    """
    try:
        return compare_bounds(model, inputs, estimator)
    except ValueError as error:
        if "within the support" not in str(error):
            raise
        kind, _, _ = OBSERVATIONS[model.observation].label.partition(":")
        raise UserError(
            f"the inputs are not observations of {type(model).__name__}, which are {kind}. Convert them."
        ) from None


def load(path: str | Path) -> LatentVariableModel:
    """Loads a model, in evaluation mode on the CPU. No data set is needed, and no code of the file is run.

    A model that is in half precision in its file is in float32 after loading.

    Args:
        path: a file that `model.save` wrote, a run folder, or the name of a pretrained model, such as
            "gmvae-mnist" (`runs/published/weights/README.md` lists them).

    Raises:
        UserError: it is none of these, or its class is not registered.
    """
    path = Path(path)
    if path.is_dir():
        return restore_model(Run.open(path))
    if str(path) in checksums() and not path.exists():
        path = pretrained(str(path))
    try:
        content = load_plain(read_regular(path), path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}). {others()}") from None
    saved = content.get("parameters") if isinstance(content, dict) else None
    try:
        with no_larger_than(saved if isinstance(saved, dict) else {}):
            model = from_saved(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return model.float() if any(p.dtype == torch.float16 for p in model.parameters()) else model
