"""The VampPrior: it is the guide at the pseudo-inputs, for one and for two layers of latents."""

import math
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from inference import fit, svi
from inference.elbo.comparison import compare
from inference.elbo.estimators import Loss
from inference.errors import UserError
from ppl_models import VampVAE, densities
from ppl_models.nets.heads import loc_bounded_scale
from ppl_models.nets.mlp import GatedMLP
from ppl_models.programs import sample_latents

SHAPE = (1, 6, 6)
both_depths = pytest.mark.parametrize("layers", [1, 2])


def small(layers: int = 1, components: int = 7) -> VampVAE:
    """A small model, whose pseudo-inputs differ from each other."""
    model = VampVAE(SHAPE, layers=layers, z_dim=3, hidden=8, components=components)
    with torch.no_grad():
        model.pseudo_inputs.uniform_(0, 1)
    return model


@pytest.fixture
def x(float64: None) -> Tensor:
    return torch.rand(4, *SHAPE).bernoulli()


@both_depths
@pytest.mark.parametrize("estimator", VampVAE.estimators)
def test_by_hand_equals_pyro(layers: int, estimator: str, x: Tensor) -> None:
    """Before and after some steps, when each component has another loc and scale."""
    model = small(layers)
    assert compare(model, x, estimator)["agrees"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        Loss(model, estimator)(x=x).backward()
        optimizer.step()
    assert compare(model, x, estimator)["agrees"]


@both_depths
def test_a_pseudo_input_that_is_the_image_has_no_kl_term(layers: int, x: Tensor) -> None:
    model = small(layers, components=1)
    with torch.no_grad():
        model.pseudo_inputs.copy_(x[:1].flatten(1))
    kl = model.bound(x, sample_latents(model, x=x)).terms[f"kl_{model.top}"]
    assert_close(kl[0], torch.zeros(()))
    assert (kl[1:].abs() > 1e-3).all()


def test_with_one_pseudo_input_the_kl_term_is_that_of_two_normals(x: Tensor) -> None:
    model, copies = small(components=1), x[:1].expand(100_000, *SHAPE)
    with torch.no_grad():
        model.encoder.last.weight *= 4  # the two normals differ
        sampled = model.bound(copies, sample_latents(model, x=copies)).terms["kl_z"]
        q, p = (loc_bounded_scale(model.encoder(u)) for u in (x[:1].flatten(1), model.pseudo_inputs))
        exact = densities.kl_normals(*q, *p).item()
    assert sampled.mean().item() == pytest.approx(exact, abs=4 * sampled.std().item() / 100_000**0.5)
    assert exact > 0.1


@both_depths
def test_equal_pseudo_inputs_are_one(layers: int, x: Tensor) -> None:
    one, five = small(layers, components=1), small(layers, components=5)
    five.load_state_dict(one.state_dict() | {"pseudo_inputs": one.pseudo_inputs.expand(5, -1)})
    losses, gradients = [], []
    for model in (one, five):
        pyro.set_rng_seed(3)
        loss = Loss(model, "trace")(x=x)
        losses.append(loss)
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(dict(zip(dict(model.named_parameters()), found, strict=True)))
    assert_close(*losses)
    of_one, of_five = (gradient.pop("pseudo_inputs") for gradient in gradients)
    assert_close(of_five, of_one.expand(5, -1) / 5)
    assert of_one.abs().max() > 1e-3
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient)


def test_the_prior_of_all_images_is_the_aggregate_posterior(x: Tensor) -> None:
    """With the n images as pseudo-inputs the mean KL term is a mutual information, at most log n."""
    model = small(components=len(x))
    with torch.no_grad():
        model.pseudo_inputs.copy_(x.flatten(1))
        kl = []
        for sharpness in (1.0, 1e3):  # the second makes the posteriors disjoint
            model.encoder.last.weight[:3] *= sharpness
            latents = sample_latents(model, x=x.repeat(5_000, 1, 1, 1))
            kl.append(model.bound(x.repeat(5_000, 1, 1, 1), latents).terms["kl_z"])
    n = math.log(len(x))
    assert all((each <= n + 1e-9).all() for each in kl)  # even for each sample
    assert 0 < kl[0].mean() < n - 0.01
    assert_close(kl[1], torch.full_like(kl[1], n))


@both_depths
def test_samples_of_the_prior_come_from_the_guide_at_a_pseudo_input(layers: int, float64: None) -> None:
    model = small(layers, components=1)
    with torch.no_grad():
        (loc,), (scale,) = loc_bounded_scale(model.encoder(model.pseudo_inputs))
    z = model.prior(20_000)[model.top]
    assert_close(z.mean(0), loc, rtol=0, atol=4 * scale.max().item() / 20_000**0.5)
    assert_close(z.std(0), scale, rtol=0.03, atol=0)


def test_pseudo_inputs_are_limited_to_the_range_of_x(x: Tensor) -> None:
    outside, inside = small(), small()
    inside.load_state_dict(outside.state_dict())
    with torch.no_grad():
        outside.pseudo_inputs[0], outside.pseudo_inputs[1] = -3.0, 4.0
        inside.pseudo_inputs[0], inside.pseudo_inputs[1] = 0.0, 1.0
    latents = sample_latents(inside, x=x)
    assert_close(outside.bound(x, latents).negative_elbo, inside.bound(x, latents).negative_elbo)
    raw = VampVAE((1, 28, 28)).pseudo_inputs
    assert raw.shape == (500, 784)
    assert (raw.mean().item(), raw.std().item()) == pytest.approx((0.05, 0.01), rel=0.02)


def test_the_closed_kl_term_of_z1_has_the_same_mean(x: Tensor) -> None:
    model, copies = small(2), x[:1].expand(40_000, *SHAPE)
    latents = sample_latents(model, x=copies)
    closed, sampled = (model.bound(copies, latents, kl=kl).terms["kl_z1"] for kl in ("closed", "sampled"))
    difference = closed - sampled
    assert abs(difference.mean()) < 4 * difference.std() / 200
    assert closed.var() < sampled.var() and difference.std() > 0.1


def test_sizes_are_those_of_the_authors_code() -> None:
    """Without the 500 pseudo-inputs of 784 pixels."""
    count = [sum(p.numel() for p in VampVAE((1, 28, 28), layers=n).parameters()) for n in (1, 2)]
    assert [each - 500 * 784 for each in count] == [1_116_864, 2_431_024]


def test_a_gated_layer_of_two_inputs_takes_their_concatenation(float64: None) -> None:
    net, a, b = GatedMLP([3, 2], 4, 5), torch.randn(6, 3), torch.randn(7, 6, 2)

    def gated(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        value, gate = (h @ weight.T + bias).chunk(2, -1)
        return value / (1 + (-gate).exp())

    inputs = zip((a.expand(7, 6, 3), b), net.first, strict=True)
    parts = [gated(h, layer.weight, layer.bias) for h, layer in inputs]
    joint = torch.cat([layer.weight for layer in net.second], 1)
    expected = net.last(gated(torch.cat(parts, -1), joint, net.second[0].bias))
    assert_close(net(a, b), expected)
    wide = GatedMLP([300, 300], 300, 300)
    layers: list[nn.Linear] = [*wide.first, *wide.second]
    assert [round(layer.weight.var().item() * 300 / 2, 1) for layer in layers] == [1, 1, 0.5, 0.5]


def test_captured_steps_are_eager_steps(x: Tensor) -> None:
    trained = []
    for compiled in ("eager", "graph"):
        torch.manual_seed(0)
        model = small(2)
        fit(model, x, steps=4, batch_size=4, kl_warmup=2, compile=compiled, device="cpu", progress=False)
        trained.append(model.state_dict())
    for name, value in trained[0].items():
        assert_close(trained[1][name], value, rtol=1e-9, atol=1e-12)


def test_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    arguments = [
        "--model",
        "vamp_vae",
        "--layers",
        "3",
        "--data",
        "digits",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    with pytest.raises(UserError, match=r"cannot train vamp_vae: layers is 3\. Give 1 or 2\.$"):
        svi.main(arguments)
