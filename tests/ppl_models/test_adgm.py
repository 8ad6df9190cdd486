"""The auxiliary deep generative model: its objective, its bounds on log p(x), and the auxiliary latent."""

import math
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence
from torch.testing import assert_close

from inference import svi
from inference.data.examples import example_inputs
from inference.elbo.comparison import compare
from inference.elbo.importance_weighted import ImportanceWeighted
from inference.metrics.sampling import sample_model
from inference.testing import check_model
from ppl_models import ADGM
from ppl_models.nets.heads import loc_scale
from ppl_models.programs import sample_latents
from tests.support import TINY, checkpoint, same

SHAPE, CLASSES = (1, 8, 8), 3
LABELLED = {"x_labelled", "kl_a_labelled", "kl_z_labelled", "y_labelled"}
both_variants = pytest.mark.parametrize("variant", ["adgm", "sdgm"])


def build(
    variant: str = "adgm", shape: tuple[int, ...] = SHAPE, noise: float = 0.1, **options: float
) -> ADGM:
    """A small model whose biases are not zero."""
    sizes = {"z_dim": 2, "a_dim": 3, "hidden": 16}
    model = ADGM(shape, CLASSES, variant=variant, **(sizes | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model


def normal(h: Tensor) -> Independent:
    return Independent(Normal(*loc_scale(h)), 1)


def given_label(model: ADGM, x: Tensor, y: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """The bracket of the docstring at one image, label, a and z, with distributions of torch."""
    x = x.flatten()
    q_z = normal(model.encoder(torch.cat([x, a, y])))
    if model.skip:
        p_a, logits = model.auxiliary_decoder(torch.cat([z, y])), model.decoder(torch.cat([z, y, a]))
    else:
        p_a, logits = model.auxiliary_decoder(torch.cat([z, y, x])), model.decoder(torch.cat([z, y]))
    kl_z = kl_divergence(q_z, Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
    log_ratio = normal(model.auxiliary_encoder(x)).log_prob(a) - normal(p_a).log_prob(a)
    return log_ratio + kl_z - Bernoulli(logits=logits).log_prob(x).sum()


@both_variants
def test_the_objective_is_the_sum_that_the_docstring_states(variant: str, float64: None) -> None:
    """Image by image and label by label, with nothing broadcast."""
    model = build(variant, class_weight=7.0)
    inputs = example_inputs(model, 4)
    x, x_labelled, y_labelled = inputs.values()
    latents = sample_latents(model, **inputs)
    bound = model.bound(**inputs, latents=latents)
    one_hot, total = torch.eye(CLASSES), torch.zeros(())
    for i in range(4):
        a = latents["a"][i]
        q = Categorical(logits=model.classifier(torch.cat([x[i].flatten(), a])))
        each = [given_label(model, x[i], one_hot[y], a, latents["z"][y, i]) for y in range(CLASSES)]
        total += ((q.probs * torch.stack(each)).sum() + math.log(CLASSES) - q.entropy()) / 4
    assert_close(bound.negative_elbo.mean(), total)
    for i, y in enumerate(y_labelled.tolist()):
        a, z = latents["a_labelled"][i], latents["z_labelled"][i]
        total += (given_label(model, x_labelled[i], one_hot[y], a, z) + math.log(CLASSES)) / 6
        q = Categorical(logits=model.classifier(torch.cat([x_labelled[i].flatten(), a])))
        total -= 7 * q.log_prob(y_labelled[i]) / 6
    assert_close(bound.objective, total)
    assert bound.penalties.keys() == {*LABELLED, "classification"}


@pytest.mark.parametrize(("variant", "class_weight"), [("adgm", 0.0), ("sdgm", 7.0), ("sdgm", 0.0)])
def test_by_hand_equals_pyro(variant: str, class_weight: float, float64: None) -> None:
    """The contract tests compare the other case. Without labelled images there is the bound alone."""
    model = build(variant, class_weight=class_weight)
    inputs = example_inputs(model, 5)
    result = compare(model, inputs)
    assert result["agrees"], result
    assert ("classification" in result["terms"]) == (class_weight > 0)
    assert result["terms"].keys() >= LABELLED
    x = inputs["x"]
    assert model.bound(x, sample_latents(model, x=x)).penalties == {}


@both_variants
def test_the_contract_of_both_variants(variant: str) -> None:
    check_model(ADGM, SHAPE, variant=variant, z_dim=2, a_dim=3, hidden=16)


def grid(points: int = 81) -> tuple[Tensor, Tensor]:
    """Points of a standard normal variable and the logarithms of their probabilities."""
    z = torch.linspace(-6, 6, points)
    return z[:, None], Normal(0.0, 1.0).log_prob(z).log_softmax(0)


def log_joint(model: ADGM, x: Tensor) -> Tensor:
    """log p(x, y) of each label by a sum over a grid of z, and of noise of a for sdgm, `(batch, classes)`.

    In adgm a is not needed: p(a | y, z, x) integrates to one.
    """
    z, log_p = grid()
    found = []
    for y in torch.eye(CLASSES):
        label = y.expand(len(z), -1)
        if model.skip:
            loc, scale = loc_scale(model.auxiliary_decoder(z, label))
            a = loc[:, None] + scale[:, None] * z  # (z, noise, 1)
            sizes = (len(z), len(z), -1)
            inputs = (z[:, None].expand(sizes), label[:, None].expand(sizes), a)
            logits, weights = model.decoder(*inputs).flatten(0, 1), (log_p[:, None] + log_p).flatten()
        else:
            logits, weights = model.decoder(z, label), log_p
        log_x = Bernoulli(logits=logits).log_prob(x.flatten(1)[:, None]).sum(-1)  # (batch, points)
        found.append((log_x + weights).logsumexp(-1) - math.log(CLASSES))
    return torch.stack(found, -1)


@both_variants
def test_weights_average_to_p_and_the_bound_is_below_log_p(variant: str, float64: None) -> None:
    """All samples of the guide have weights whose mean is p(x): no factor of p or q is missing."""
    pyro.set_rng_seed(0)
    model, n = build(variant, (1, 2, 3), noise=0.02, z_dim=1, a_dim=1), 40_000
    x = example_inputs(model, 3)["x"]
    with torch.no_grad():
        exact = log_joint(model, x)
        samples = ImportanceWeighted(n).sample(model.model, model.guide, x)
        ratio = (samples.log_weights - exact.logsumexp(-1)).exp()  # (samples, images)
        assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / n**0.5).all()
        assert (ratio.std(0) / n**0.5 < 0.05).all()
        copies, y = x[:1].expand(n, -1, -1, -1), torch.ones(n, dtype=torch.long)
        inputs = {"x": copies, "x_labelled": copies, "y_labelled": y}
        for kl in ("closed", "sampled"):
            bound = model.bound(**inputs, latents=sample_latents(model, **inputs), kl=kl)
            loss = bound.negative_elbo
            gap = loss.mean() + exact[0].logsumexp(-1)
            assert 4 * loss.std() / n**0.5 < gap  # -ELBO(x) is above -log p(x)
            assert sum(bound.penalties[name] for name in LABELLED) + exact[0, 1] > 0.01


class Posterior(nn.Module):
    """Logits log p(x | y) of a decoder that depends on y only, in the place of q(y | x, a)."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return Bernoulli(logits=self.logits).log_prob(x[:, None]).sum(-1) + 0 * a[:, :1]


def test_both_bounds_are_exact_where_the_guide_is_the_posterior(float64: None) -> None:
    """A decoder of y alone, q(z | x, a, y) = p(z), and p(a | y, z, x) = q(a | x), which depends on x."""
    model = build(a_dim=2)
    with torch.no_grad():
        model.decoder.layers[0].weight[:, :2] = 0  # of z
        last = model.encoder.layers[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 0.0, *[math.log(math.e - 1)] * 2]))  # softplus(.) = 1
        first = model.auxiliary_decoder.layers[0].weight
        model.auxiliary_decoder.load_state_dict(
            model.auxiliary_encoder.state_dict() | {"layers.0.weight": torch.zeros_like(first)}
        )
        first[:, 2 + CLASSES :] = model.auxiliary_encoder.layers[0].weight  # of x, after z and y
        logits = model.decoder(torch.zeros(CLASSES, 2), torch.eye(CLASSES))
    model.classifier = Posterior(logits)
    inputs = example_inputs(model, 4)
    log_p = model.classifier(inputs["x"].flatten(1), torch.zeros(4, 1)) - math.log(CLASSES)
    of_labelled = model.classifier(inputs["x_labelled"].flatten(1), torch.zeros(6, 1)) - math.log(CLASSES)
    for _ in range(2):
        latents = sample_latents(model, **inputs)
        bound = model.bound(**inputs, latents=latents)
        assert_close(bound.negative_elbo, -log_p.logsumexp(-1), rtol=1e-7, atol=1e-7)
        joint = of_labelled.gather(-1, inputs["y_labelled"][:, None]).mean()
        total = sum(bound.penalties[name] for name in LABELLED)
        assert_close(total, -joint, rtol=1e-7, atol=1e-7)
        assert latents["a"].std() > 0.1  # a is not constant


def test_the_label_given_to_the_decoders_decides_the_image() -> None:
    for variant in ("adgm", "sdgm"):
        model = build(variant)
        found = sample_model(model, 6, labels=[0, 1, 2], same_latents=True)
        z, a = found.latents["z"], found.latents["a"]
        assert torch.equal(z[0], z[1]) and torch.equal(z[1], z[2]) and not torch.equal(z[2], z[3])
        assert not torch.equal(a[0], a[1])  # a depends on the label: it is not shared
        y = torch.eye(CLASSES)
        h = (z[:3], y, a[:3]) if model.skip else (z[:3], y)
        latents = {"z": z[:3], "a": a[:3]}
        means = model.sample(3, torch.arange(3), latents, noise=False)
        assert_close(means, model.decoder(*h).sigmoid().view(3, *SHAPE))


def test_the_prior_of_a_is_that_of_samples_of_x(float64: None) -> None:
    """In adgm a is generated from x: its mean under the prior is the mean over images that are sampled."""
    model = build()
    with torch.no_grad():  # a is the mean pixel
        for layer in model.auxiliary_decoder.layers:
            layer.weight.zero_()
            layer.bias.zero_()
        model.auxiliary_decoder.layers[0].weight[0, 2 + CLASSES :] = 1 / 64
        model.auxiliary_decoder.layers[1].weight[0, 0] = model.auxiliary_decoder.layers[2].weight[0, 0] = 1
    n = 20_000
    a = model.prior(n)["a"]
    assert a.shape == (n, 3)
    mean = model.sample(n).mean()
    assert abs(a[:, 0].mean() - mean) < 5 * a[:, 0].std() / n**0.5 and mean > 0.2


def test_the_classifier_is_evaluated_at_the_mean_of_a(float64: None) -> None:
    model = build()
    x = example_inputs(model, 5)["x"]
    loc, _ = loc_scale(model.auxiliary_encoder(x.flatten(1)))
    assert_close(model.classify(x), model.classifier(torch.cat([x.flatten(1), loc], 1)))
    assert_close(model.classify(x).softmax(-1), model.posterior(x)["y"].probs)


def test_sizes_are_those_of_the_paper() -> None:
    """Two layers of 500 units in each network, a and z of 100 dimensions; SDGM has them elsewhere."""
    inputs = {"adgm": (784, 884, 894, 110, 894), "sdgm": (784, 884, 894, 210, 110)}
    outputs = 200 + 10 + 200 + 784 + 200
    for variant, widths in inputs.items():
        count = sum(p.numel() for p in ADGM((1, 28, 28), 10, variant=variant).parameters())
        assert count == sum((width + 1) * 500 + 501 * 500 for width in widths) + 501 * outputs


def test_training_starts_at_the_mean_of_the_data(float64: None) -> None:
    model, x = ADGM((1, 4, 4), 3, hidden=8), torch.rand(20, 1, 4, 4)
    x[:, :, 0], x[:, :, 1] = 0, 1
    with torch.no_grad():
        model.initialize(x)
    assert_close(model.decoder.output_bias.sigmoid(), x.mean(0).flatten().clamp(0.001, 0.999))
    before = model.decoder.output_bias.clone()
    model.initialize(torch.rand(5, 1, 4, 4))  # a trained model keeps its bias
    assert torch.equal(model.decoder.output_bias, before)


def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    arguments = ["--model", "adgm", *TINY, "--a-dim", "2", "--data", "digits", "--labels", "20"]
    arguments += ["--variant", "sdgm", "--compile", "eager", "--steps", "8", "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "whole")]) == 0
    assert svi.main([*arguments, str(tmp_path / "part"), "--steps", "4"]) == 0
    assert svi.main(["--resume", str(tmp_path / "part"), "--steps", "8"]) == 0
    assert same(checkpoint(tmp_path / "part"), checkpoint(tmp_path / "whole"))
