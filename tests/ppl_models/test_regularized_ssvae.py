"""What is particular to the regularized semi-supervised model: its penalties, its step, grey levels."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, normalize
from torch.testing import assert_close

from inference import svi
from inference.data import observations
from inference.data.examples import example_inputs
from inference.elbo.comparison import compare
from inference.elbo.estimators import Loss
from ppl_models import RegularizedSSVAE, densities
from ppl_models.distributions import BernoulliImage, GreyBernoulliImage
from ppl_models.nets.heads import loc_scale
from ppl_models.programs import sample_latents
from ppl_models.regularized_ssvae import PROBE
from tests.support import TINY, checkpoint, same

SHAPE = (1, 8, 8)
PENALTIES = ("classification", "entropy", "balance", "smoothness")
LABELLED = ("x_labelled", "kl_z_labelled", "y_labelled")


def build(classes: int = 3, **options: float) -> RegularizedSSVAE:
    return RegularizedSSVAE(SHAPE, classes, z_dim=2, hidden=16, **options)


def bound_of(model: RegularizedSSVAE, inputs: dict[str, Tensor]):
    return model.bound(**inputs, latents=sample_latents(model, **inputs))


def test_the_objective_is_the_sum_that_the_docstring_states(float64: None) -> None:
    """Image by image and label by label, with nothing broadcast."""
    model = build(labelled_weight=0.3).eval()
    inputs = example_inputs(model, 4)
    x, x_labelled, y_labelled = inputs.values()
    latents = sample_latents(model, **inputs)
    bound = model.bound(**inputs, latents=latents)

    def given_label(image: Tensor, label: int, z: Tensor) -> Tensor:
        y = torch.eye(3)[label]
        loc, scale = loc_scale(model.encoder(image.flatten(), y))
        logits = model.decoder(z, y)
        log_p = (image.flatten() * logits - (1 + logits.exp()).log()).sum()
        return densities.kl_normal_standard(loc, scale) - log_p

    q = model.classify(x).softmax(-1)
    total = torch.zeros(())
    for i in range(4):
        each = torch.stack([given_label(x[i], y, latents["z"][y, i]) for y in range(3)])
        total += (q[i] * (each + (3 * q[i]).log())).sum() / 4
    assert_close(bound.negative_elbo.mean(), total)
    for i in range(6):
        each = given_label(x_labelled[i], int(y_labelled[i]), latents["z_labelled"][i]) + math.log(3)
        total += 0.3 * each / 6
    total += 100 * cross_entropy(model.classify(x_labelled), y_labelled)
    total += 20 * torch.special.entr(q).sum(-1).mean()
    total += 60 * (math.log(3) - torch.special.entr(q.mean(0)).sum())
    rows = torch.cat([x, x_labelled])
    moved = model.classify(rows + step_of(model, rows)).log_softmax(-1)
    total += 100 * kl_div(moved, model.classify(rows).softmax(-1), reduction="batchmean")
    assert_close(bound.objective, total)


def step_of(model: RegularizedSSVAE, rows: Tensor) -> Tensor:
    """The virtual adversarial step, written again."""
    start = normalize((rows.roll(1, 0) - rows).flatten(1)).view_as(rows)
    moved = (rows + PROBE * start).detach().requires_grad_()
    target = model.classify(rows).softmax(-1).detach()
    divergence = kl_div(model.classify(moved).log_softmax(-1), target, reduction="sum")
    (gradient,) = torch.autograd.grad(divergence, moved)
    return model.radius * normalize(gradient.flatten(1)).view_as(rows)


class LinearClassifier(nn.Module):
    """Logits that are linear in the image."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T

    @contextmanager
    def frozen_averages(self) -> Iterator[None]:
        yield


def test_the_step_of_a_linear_classifier_of_two_classes_is_known(float64: None) -> None:
    """All directions in which q(y | x) changes at all are multiples of w_1 - w_0, whatever the start."""
    model = build(classes=2, radius=1.5)
    weight = torch.randn(2, 64) / 8
    model.classifier = LinearClassifier(weight)
    x = torch.rand(5, *SHAPE)
    logits = model.classify(x)
    across = weight[1] - weight[0]
    towards = ((x.roll(1, 0) - x).flatten(1) @ across).sign()[:, None]  # the side on which the start lies
    moved = (x.flatten(1) + 1.5 * towards * across / across.norm()) @ weight.T
    assert_close(model._classify_perturbed(x, logits), moved)


def test_the_step_changes_the_classes_more_than_another_of_its_length(float64: None) -> None:
    model = build(classes=10, radius=0.5).eval()
    x = torch.rand(50, *SHAPE)
    logits = model.classify(x)

    def change(moved: Tensor) -> Tensor:
        return kl_div(moved.log_softmax(-1), logits.softmax(-1), reduction="batchmean")

    random = [0.5 * normalize(torch.randn(50, 64)).view_as(x) for _ in range(20)]
    most = max(change(model.classify(x + step)).item() for step in random)
    assert change(model._classify_perturbed(x, logits)) > 3 * most


def test_the_gradient_of_the_smoothness_treats_step_and_target_as_constants(float64: None) -> None:
    """Central differences of KL(q || q(y | x + r)) in the parameters, with q and r held fixed."""
    model = build(labelled_weight=0.0, class_weight=0.0, entropy_weight=0.0, balance_weight=0.0)
    inputs = example_inputs(model, 5)
    rows = torch.cat([inputs["x"], inputs["x_labelled"]])
    step, target = step_of(model, rows), model.classify(rows).softmax(-1).detach()
    penalty = bound_of(model, inputs).penalties["smoothness"]
    parameters = list(model.classifier.parameters())
    gradient = torch.autograd.grad(penalty, parameters)
    direction = [torch.randn_like(p) for p in parameters]
    ends = []
    for sign in (1, -2, 1):  # there, to the other side, and back
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * 1e-6 * d
            ends.append(kl_div(model.classify(rows + step).log_softmax(-1), target, reduction="batchmean"))
    slope = (ends[0] - ends[1]) / 2e-6
    assert_close(
        sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)), slope, rtol=1e-5, atol=0
    )
    assert_close(ends[2], penalty.detach())


def test_penalties_are_at_least_zero_and_known_where_the_classifier_is_constant(float64: None) -> None:
    model = build()
    inputs = example_inputs(model, 6)
    bound = bound_of(model, inputs)
    assert set(bound.penalties) == {*PENALTIES, *LABELLED}
    assert all(penalty > 0 for penalty in bound.penalties.values())
    assert bound.objective > bound.negative_elbo.mean()
    last = model.classifier[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    uniform = bound_of(model, inputs).penalties
    assert_close(uniform["entropy"], torch.tensor(math.log(3)))
    assert_close(uniform["classification"], torch.tensor(math.log(3)))
    assert_close(torch.stack([uniform["balance"], uniform["smoothness"]]), torch.zeros(2))
    with torch.no_grad():
        last.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    certain = bound_of(model, inputs).penalties
    assert_close(certain["balance"], torch.tensor(math.log(3)))  # of one class alone
    assert certain["entropy"] < 1e-12


WEIGHTS = ("labelled", "class", "entropy", "balance", "smooth")


@pytest.mark.parametrize("left_out", WEIGHTS)
def test_each_penalty_can_be_left_out(left_out: str, float64: None) -> None:
    model = build(**{f"{left_out}_weight": 0.0})
    inputs = example_inputs(model, 5)
    result = compare(model, inputs, "enum")
    gone = {"labelled": LABELLED, "class": ("classification",), "smooth": ("smoothness",)}
    expected = {*PENALTIES, *LABELLED} - set(gone.get(left_out, (left_out,)))
    assert result["agrees"] and set(result["terms"]) & {*PENALTIES, *LABELLED} == expected


@pytest.mark.parametrize("kept", [None, *WEIGHTS])
def test_one_weight_above_zero_is_enough_for_penalties(kept: str | None) -> None:
    model = build(**{f"{name}_weight": 0.5 * (name == kept) for name in WEIGHTS})
    assert model.has_penalties == (kept is not None)


def test_without_labelled_images_there_is_the_bound_alone(float64: None) -> None:
    model = build().eval()
    inputs = example_inputs(model, 5)
    alone = {"x": inputs["x"]}
    bound = bound_of(model, alone)
    assert bound.penalties == {}
    torch.manual_seed(3)
    loss = Loss(model, "enum")(**alone)
    torch.manual_seed(3)
    sampled = model.bound(**alone, latents=sample_latents(model, **alone), kl="sampled")
    assert_close(loss, sampled.negative_elbo.mean())
    with_labels = model.bound(**inputs, latents=sample_latents(model, **inputs))
    assert_close(with_labels.terms["kl_y"], bound.terms["kl_y"])


def test_batch_norm_averages_all_images_once(float64: None) -> None:
    """The passes of the step use the statistics of their own batch and leave no trace in the averages."""
    model = build()
    inputs = example_inputs(model, 5)
    rows = torch.cat([inputs["x"], inputs["x_labelled"]])
    with torch.no_grad(), poutine.trace():
        model.guide(**inputs)
    mean = model.classifier[1](model.classifier[0](rows)).mean((0, 2, 3)).detach()
    norm = model.classifier[2]
    assert_close(norm.running_mean, 0.1 * mean)
    assert all(m.num_batches_tracked == 1 for m in model.classifier if isinstance(m, nn.BatchNorm2d))
    assert all(m.track_running_stats for m in model.classifier if isinstance(m, nn.BatchNorm2d))


def test_the_step_does_not_need_gradients_to_be_enabled() -> None:
    model = build().eval()
    inputs = example_inputs(model, 5)
    latents = sample_latents(model, **inputs)
    with torch.no_grad():
        off = model.bound(**inputs, latents=latents).objective
    assert_close(off, model.bound(**inputs, latents=latents).objective.detach())


def test_images_whose_sides_are_not_multiples_of_four_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"images of 6x6: regularized_ssvae needs height and width divisible"
    ):
        RegularizedSSVAE((1, 6, 6), 3)


def test_grey_levels_average_the_log_density_of_binary_images(float64: None) -> None:
    x, logits = torch.rand(4), torch.randn(4)
    total = torch.zeros(())
    for pixels in itertools.product((0.0, 1.0), repeat=4):
        b = torch.tensor(pixels)
        chance = torch.where(b == 1, x, 1 - x).prod()
        total += chance * BernoulliImage(logits, (2, 2)).log_prob(b.view(2, 2))
    assert_close(GreyBernoulliImage(logits, (2, 2)).log_prob(x.view(2, 2)), total)
    assert_close(densities.bernoulli(x, logits), total)


def test_grey_levels_have_the_gradient_of_their_density(float64: None) -> None:
    x, logits = torch.rand(5, 2, 2), torch.randn(3, 5, 4, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: GreyBernoulliImage(h, (2, 2)).log_prob(x), logits)
    ones = torch.ones(1, 2, 2)
    assert_close(
        GreyBernoulliImage(logits, (2, 2)).log_prob(ones), BernoulliImage(logits, (2, 2)).log_prob(ones)
    )
    with pytest.raises(ValueError, match="support"):
        GreyBernoulliImage(logits, (2, 2), validate_args=True).log_prob(ones + 0.1)


def shifted_by(monkeypatch: pytest.MonkeyPatch, x: Tensor, down: float, right: float) -> Tensor:
    """Shifts images by pixels, with these values in place of random numbers."""
    shifts = iter([down, right])
    height, width = x.shape[-2:]
    sizes = iter([height, width])

    def rand(n: int, *_: int, **__: object) -> Tensor:
        fraction = next(shifts) / (next(sizes) * observations.MAX_SHIFT)
        return torch.full((n, 1, 1), (fraction + 1) / 2)

    with monkeypatch.context() as context:
        context.setattr(observations.torch, "rand", rand)
        return observations.shifted(x)


def test_shifts(monkeypatch: pytest.MonkeyPatch, float64: None) -> None:
    x = torch.randint(256, (3, 2, 28, 14), dtype=torch.uint8)
    levels = x / 255
    assert_close(shifted_by(monkeypatch, x, 0, 0), levels)
    moved = torch.zeros_like(levels)
    moved[..., 2:, :-1] = levels[..., :-2, 1:]
    assert_close(shifted_by(monkeypatch, x, 2, -1), moved)
    half = torch.zeros_like(levels)
    half[..., 1:, :] = 0.25 * levels[..., :-1, :]
    half += 0.75 * levels
    assert_close(shifted_by(monkeypatch, x, 0.25, 0), half)


def test_shifts_are_random_and_small() -> None:
    x = torch.zeros(2_000, 1, 28, 28, dtype=torch.uint8)
    x[:, :, 14, 14] = 255
    moved = observations.shifted(x)
    place = torch.arange(28.0)
    down, right = ((moved.sum((1, axis)) * place).sum(-1) - 14 for axis in (3, 2))
    for by in (down, right):
        assert by.abs().max() <= 2.0001
        assert by.mean().abs() < 4 * 2 / 6000**0.5 and abs(by.std().item() - 4 / 12**0.5) < 0.05
    assert torch.corrcoef(torch.stack([down, right]))[0, 1].abs() < 0.1
    assert moved.max() <= 1 and moved.min() >= 0


def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    """Shifts and steps included."""
    arguments = ["--model", "regularized_ssvae", *TINY, "--data", "digits", "--labels", "20"]
    arguments += ["--schedule", "constant", "--steps", "8", "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "whole")]) == 0
    assert svi.main([*arguments, str(tmp_path / "part"), "--steps", "4"]) == 0
    assert not same(checkpoint(tmp_path / "part"), checkpoint(tmp_path / "whole"))
    assert svi.main(["--resume", str(tmp_path / "part"), "--steps", "8"]) == 0
    assert same(checkpoint(tmp_path / "part"), checkpoint(tmp_path / "whole"))
