"""`sample`, `encode`, `score` and `diagnose`, of the public API: what can be done with a trained model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from inference.api import held_out, load
from inference.backend.device import choose_device, fast_float32
from inference.data.dataset import Columns
from inference.data.tables import original_units
from inference.errors import UserError
from inference.metrics.diagnostics import Diagnostics, diagnose_model
from inference.metrics.encoding import Encoded, encode_points
from inference.metrics.sampling import Samples, raw_values, sample_model
from inference.metrics.scores import Scores, score_points
from inference.rundir.kinds import COUNT, WHOLE
from inference.rundir.pretrained import code_stages
from inference.rundir.run import Run
from inference.training.code_prior import decode_codes, first_stage
from ppl_models.base import LatentVariableModel


@contextmanager
def _on_device(source: LatentVariableModel | str | Path, device: str) -> Iterator[LatentVariableModel]:
    """Yields a model, or the one of a file or a run folder, on a device; a model is moved back afterwards."""
    model, where = source if isinstance(source, LatentVariableModel) else load(source), choose_device(device)
    before = next(model.parameters()).device
    try:
        with fast_float32(where):
            yield model.to(where)
    finally:
        model.to(before)


def sample(
    source: LatentVariableModel | str | Path,
    n: int,
    *,
    labels: Sequence[int] | None = None,
    temperature: float = 1.0,
    same_latents: bool = False,
    means: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> Samples:
    """Samples x from a trained model, as raw values of a data set.

    The run of a code prior samples codes, which the model of its first stage decodes to mean images. So does
    the name of a pretrained VQ-VAE or of its prior.

    Args:
        source: a model, a file that `model.save` wrote, a run folder, or the name of a pretrained model.
        n: the number of samples.
        labels: the labels of the samples, in turn, for a model with a label; by default they are random.
        temperature: T multiplies the standard deviations of the latents and of a flow's noise, and divides
            the logits of discrete latents. It applies to the factors of an autoregressive p(x) too, but not
            to the noise of a decoder with a mean.
        same_latents: whether all samples have the same latents, so that only the noise of x varies. With
            several labels each round of labels has latents of its own; all labels are used by default.
        means: whether x is the mean of p(x | latents) instead of a sample of it.
        seed: the seed of all random numbers. The RNG state is preserved.
        device: "auto", "cpu" or "cuda".

    Returns:
        `x`: images (n, channels, height, width) as levels 0..255, uint8; points (n, d), of a run on a table
        in the units of its columns; or sequences of tokens (n, length); `y`, labels (n,) or None; `latents`
        by name, (n, *event); and `lines`, the words of a run on a text.

    Raises:
        UserError: the model cannot be sampled so.

    Example:
        >>> from ppl_models import VAE
        >>> from inference import sample
        >>> sample(VAE((1, 8, 8)), 5).x.shape
        torch.Size([5, 1, 8, 8])
    """
    folder = None if isinstance(source, LatentVariableModel) else Path(source)
    run = Run.open(folder) if folder and folder.is_dir() else None
    stages = code_stages(folder) if folder else None
    with _on_device(stages[0] if stages else source, device) as model:
        if stages or (run and run.config.stage1_run):
            first = load(stages[1]) if stages else first_stage(cast(Run, run))
            return _sample_codes(model, first, n, labels, temperature, same_latents, seed)
        found = sample_model(model, n, labels, temperature, same_latents, seed, means)
        if run and run.config.tokens:
            found = found._replace(lines=run.config.tokens.decode(found.x))
        if run and run.config.columns:
            found = found._replace(x=original_units(found.x, Columns(**run.config.columns)))
        return found


def _sample_codes(
    prior: LatentVariableModel,
    first: LatentVariableModel,
    n: int,
    labels: Sequence[int] | None,
    temperature: float,
    same_latents: bool,
    seed: int,
) -> Samples:
    """Samples codes from a prior, and decodes them by the model of the first stage."""
    if same_latents:
        raise UserError(f"{prior.registered_name} has no latents. Leave out same_latents.")
    device = next(prior.parameters()).device
    index = sample_model(prior, n, labels, temperature, seed=seed).x[:, 0]
    images = decode_codes(first.to(device), index.to(device))
    return Samples(raw_values(first, images).cpu(), None, {"codes": index}, drawn="images")


def encode(source: LatentVariableModel | str | Path, data: Any, *, device: str = "auto") -> Encoded:
    """Computes the means and standard deviations of the guide's latents for each data point.

    Images are encoded without noise. A latent that depends on others is conditioned on their modes.

    Args:
        source: a model, a file that `model.save` wrote, a run folder, or the name of a pretrained model.
        data: in one of the forms that `fit` takes; of a `Dataset` of the suite the test part.
        device: "auto", "cpu" or "cuda".

    Returns:
        `mean` and `std` by name of the latent, (n, *event), `y`, the labels (n,) or None, and for a model
        with a codebook `codes`, (n, height, width).

    Raises:
        UserError: the data cannot be used, or the model has no latents.

    Example:
        >>> import torch
        >>> from ppl_models import VAE
        >>> from inference import encode
        >>> encode(VAE((1, 8, 8), z_dim=3), torch.rand(5, 8, 8)).mean["z"].shape
        torch.Size([5, 3])
    """
    with _on_device(source, device) as model:
        return encode_points(model, held_out(model, data, next(model.parameters()).device))


def score(
    source: LatentVariableModel | str | Path, data: Any, particles: int = 100, *, device: str = "auto"
) -> Scores:
    """Computes a negated bound on log p(x) for each data point, for the detection of outliers.

    It is the importance-weighted bound -IWAE-m, -ELBO for a model without importance weights, or the exact
    -log p(x) of a model without latents. A high value means an unlikely data point. The values depend on the
    position of an image in the data, since the noise of its observation does.

    Simple images can have lower values than the training data. Nalisnick, Matsukawa, Teh, Gorur and
    Lakshminarayanan 2019, Do Deep Generative Models Know What They Don't Know? (arXiv 1810.09136).

    Args:
        source: a model, a file that `model.save` wrote, a run folder, or the name of a pretrained model.
        data: in one of the forms that `fit` takes; of a `Dataset` of the suite the test part.
        particles: m, samples of the latents per data point.
        device: "auto", "cpu" or "cuda".

    Returns:
        `metric`, the name of the bound; `values` and their Monte Carlo errors `mc_se`, in nats, (n,); and
        `y`, the labels (n,) or None.

    Raises:
        UserError: the data cannot be used, or the model has no bound.

    Example:
        >>> import torch
        >>> from ppl_models import VAE
        >>> from inference import score
        >>> score(VAE((1, 8, 8)), torch.rand(5, 8, 8)).values.shape
        torch.Size([5])
    """
    COUNT.check("particles", particles)
    with _on_device(source, device) as model:
        return score_points(model, held_out(model, data, next(model.parameters()).device), particles)


def diagnose(
    source: LatentVariableModel | str | Path,
    data: Any,
    images: int = 100,
    *,
    particles: int = 5_000,
    aggregate_images: int = 1_000,
    simulations: int = 1_000,
    annealing: int = 0,
    device: str = "auto",
) -> Diagnostics:
    """Diagnoses the posterior of a trained model.

    It measures the amortisation gap and the approximation gap, the active latent dimensions, the mismatch of
    the aggregate posterior with the prior, and the calibration of the guide on data that the model generates.
    The bounds are those without KL weight, for any beta. `docs/howto/diagnose.md` explains each number.

    Args:
        source: a model, a file that `model.save` wrote, a run folder, or the name of a pretrained model.
        data: in one of the forms that `fit` takes; of a `Dataset` of the suite the test part.
        images: how many data points, the first ones, the gaps are measured on.
        particles: samples of the latents per data point of the bounds.
        aggregate_images: how many data points, the first ones, make up the aggregate posterior.
        simulations: how many data points the model generates for the calibration, at least 100.
        annealing: temperatures of annealed importance sampling of log p(x); 0 means importance sampling.
        device: "auto", "cpu" or "cuda".

    Returns:
        The diagnostics, which print as a table: `result.metrics["amortization_gap"]["value"]` in nats,
        `result.dimensions["z"]["kl"]`, and `result.undefined`, what the model does not have and why.

    Raises:
        UserError: the data cannot be used, or the model has no posterior to diagnose.

    Example:
        >>> import torch
        >>> from ppl_models import VAE
        >>> from inference import diagnose
        >>> x = torch.rand(5, 8, 8)
        >>> result = diagnose(VAE((1, 8, 8), z_dim=2), x, 2, particles=100, simulations=100)
        >>> sorted(result.dimensions["z"])
        ['kl', 'rank_p_value', 'variance_of_means']
    """
    counts = {"images": images, "aggregate_images": aggregate_images, "simulations": simulations}
    for name, value in (counts | {"particles": particles}).items():
        COUNT.check(name, value)
    WHOLE.check("annealing", annealing)
    with _on_device(source, device) as model:
        return diagnose_model(
            model,
            held_out(model, data, next(model.parameters()).device),
            images,
            particles=particles,
            aggregate_images=aggregate_images,
            simulations=simulations,
            annealing=annealing,
        )
