"""What sets each model of the MNIST family apart: sizes, weights, and the identities that join them."""

import math

import pyro
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from inference.data.examples import example_inputs
from inference.elbo.estimators import Loss
from ppl_models import AE, GMVAE, HVAE, MODELS, PPCA, VAE, BetaVAE, ConvVAE
from ppl_models.base import LatentVariableModel
from ppl_models.nets.heads import loc_log_scale, loc_scale
from ppl_models.programs import sample_latents


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_the_courses() -> None:
    assert count(VAE((1, 28, 28))) == 661_404
    assert count(GMVAE((1, 28, 28))) == 671_404
    ae = AE((1, 28, 28))
    assert (count(ae.encoder), count(ae.decoder)) == (419_744, 419_745)
    assert count(ConvVAE((3, 32, 32))) == 981_411


def test_options_are_the_courses() -> None:
    usual = {
        name: {key: p.default for key, p in cls.options().items() if key != "likelihood"}
        for name, cls in MODELS.items()
    }
    assert usual["vae"] == {"z_dim": 10, "hidden": 300, "activation": "elu", "beta": 1.0}
    assert usual["gmvae"] == {"z_dim": 10, "hidden": 300, "components": 500, "beta": 1.0}
    weights = {"gen_weight": 1.0, "class_weight": 100.0}
    assert usual["ssvae"] == {"z_dim": 64, "hidden": 300, "labels": 100, **weights}
    assert usual["ae"] == {"z_dim": 64} and usual["beta_vae"] == {"z_dim": 64, "beta": 1e-4}
    assert usual["conv_vae"] == {"z_dim": 16} and usual["ppca"] == {"z_dim": 10, "guide": "full"}
    assert BetaVAE((1, 28, 28)).beta == 1e-4 and PPCA((1, 28, 28)).z_dim == 10  # and that is what one gets


def test_images_shrink_and_grow_as_the_courses_say() -> None:
    def sides(net: nn.Module, x: torch.Tensor) -> list[int]:
        found: list[int] = []
        hooks = [
            layer.register_forward_hook(lambda layer, inputs, output: found.append(output.shape[-1]))
            for layer in net
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        ]
        net.eval()(x)
        for hook in hooks:
            hook.remove()
        return found

    ae, conv = AE((1, 28, 28)), ConvVAE((1, 32, 32))
    assert sides(ae.encoder, torch.rand(2, 1, 28, 28)) == [14, 7, 3, 1]
    assert sides(ae.decoder, torch.rand(2, 64)) == [3, 7, 14, 28]
    assert sides(conv.encoder, torch.rand(2, 1, 32, 32)) == [32, 16, 8, 4]
    assert sides(conv.decoder, torch.rand(2, 16)) == [8, 16, 32, 32]


@pytest.mark.parametrize("cls", [AE, ConvVAE])
def test_convolutions_take_any_leading_dimensions(cls: type[LatentVariableModel]) -> None:
    model = cls((3, cls.smallest_size, cls.smallest_size)).eval()
    x, z = torch.rand(2, 3, 3, cls.smallest_size, cls.smallest_size), torch.randn(2, 3, model.z_dim)
    assert_close(model.encoder(x)[1, 2], model.encoder(x[1, 2:])[0], rtol=1e-4, atol=1e-5)
    assert_close(model.decoder(z)[1, 2], model.decoder(z[1, 2:])[0], rtol=1e-4, atol=1e-5)


def test_heads() -> None:
    h = torch.tensor([0.5, -1.0, 0.0, -3.0])
    assert_close(loc_scale(h)[1] ** 2, torch.tensor([math.log(2), math.log1p(math.exp(-3))]))
    assert_close(loc_log_scale(h)[1], torch.tensor([1.0, math.exp(-3)]))


def test_a_mixture_of_one_standard_normal_is_the_vae(float64: None) -> None:
    vae, gmvae = VAE((1, 8, 8)), GMVAE((1, 8, 8), components=1)
    gmvae.load_state_dict(vae.state_dict(), strict=False)
    with torch.no_grad():
        gmvae.components[:, :10] = 0
        gmvae.components[:, 10:] = math.log(math.expm1(1 - 1e-8))  # softplus of it, and 1e-8, are 1
    inputs = example_inputs(vae, 6)
    losses = []
    for model in (vae, gmvae):
        pyro.set_rng_seed(2)
        losses.append(Loss(model, "trace")(**inputs))
    assert_close(*losses)
    latents = sample_latents(vae, **inputs)
    assert_close(
        gmvae.bound(**inputs, latents=latents).kl, vae.bound(**inputs, latents=latents, kl="sampled").kl
    )


def test_the_prior_of_a_gmvae_starts_as_the_course_s() -> None:
    raw = GMVAE((1, 8, 8)).components
    assert raw.shape == (500, 20)
    assert raw.std().item() == pytest.approx(1 / math.sqrt(5_000), rel=0.05)
    _, scale = loc_scale(raw)
    assert (scale**2).mean().item() == pytest.approx(math.log(2), abs=0.01)


@pytest.mark.parametrize("estimator", ["mean_field", "trace"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_whole_divergence_and_nothing_else(
    beta: float, estimator: str, float64: None
) -> None:
    plain, scale_kl = VAE((1, 8, 8), beta=1.0), VAE((1, 8, 8), beta=beta)
    scale_kl.load_state_dict(plain.state_dict())
    inputs = example_inputs(plain, 6)
    losses, kinds = [], {"mean_field": "closed", "trace": "sampled"}
    for model in (plain, scale_kl):
        pyro.set_rng_seed(2)
        losses.append(Loss(model, estimator)(**inputs))
    pyro.set_rng_seed(2)
    latents = sample_latents(plain, **inputs)
    bound = scale_kl.bound(**inputs, latents=latents, kl=kinds[estimator])
    assert_close(losses[1] - losses[0], (beta - 1) * bound.kl.mean())
    # the bound itself is never weighted
    assert_close(
        bound.negative_elbo, plain.bound(**inputs, latents=latents, kl=kinds[estimator]).negative_elbo
    )


def test_the_auto_encoder_minimises_the_mean_squared_error(float64: None) -> None:
    model = AE((1, 28, 28))
    x = example_inputs(model, 6)["x"]
    loss = Loss(model, "trace")(x=x)
    error = ((model.decoder(model.encoder(x)) - x) ** 2).mean()
    assert_close(loss, error)
    for a, b in zip(*(torch.autograd.grad(f, list(model.parameters())) for f in (loss, error)), strict=True):
        assert_close(a, b)
    aside = model.bound(x, sample_latents(model, x=x)).metrics["mean_squared_error"]
    assert aside.shape == (6,)
    assert_close(aside.mean(), error)
    assert model.prior(2_000)["z"].std().item() == pytest.approx(1, abs=0.01)  # what samples are drawn from


@pytest.mark.parametrize("beta", [0.0, 1e-4, 10.0])
def test_beta_vae_minimises_the_mean_squared_error_and_beta_times_the_divergence(
    beta: float, float64: None
) -> None:
    model = BetaVAE((1, 28, 28), beta=beta)
    x = example_inputs(model, 6)["x"]
    pyro.set_rng_seed(2)
    loss = Loss(model, "mean_field")(x=x)
    pyro.set_rng_seed(2)
    loc, scale = loc_log_scale(model.encoder(x))
    z = loc + scale * torch.randn(6, 64)
    kl = 0.5 * (loc**2 + scale**2 - 1).sum(-1) - scale.log().sum(-1)
    course = ((model.decoder(z) - x) ** 2).mean() + beta * kl.mean()
    grads = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True) for f in (loss, course)]
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=1e-6, atol=1e-12)
    bound = model.bound(x, {"z": z})
    assert_close(bound.metrics["mean_squared_error"].mean(), course - beta * kl.mean())
    if beta > 0:  # the bound itself, times beta, of a decoder with the scale that beta stands for
        assert model.scale == pytest.approx(math.sqrt(392 * beta))
        assert_close(loss, beta * bound.negative_elbo.mean())
        assert f"scale {model.scale:.4g}" in (model.note() or "")
    else:
        assert (
            bound.kl is not None
            and (model.note() or "") == "beta 0 corresponds to no scale of a Gaussian decoder"
        )
        assert 2 * math.pi * model.scale**2 == pytest.approx(1)  # -log p has no constant


@pytest.mark.parametrize("cls", [ConvVAE, HVAE])
def test_the_course_s_number_is_beside_the_bound(cls: type[LatentVariableModel], float64: None) -> None:
    model = cls((3, 32, 32))
    x = example_inputs(model, 2)["x"]
    bound = model.bound(x, sample_latents(model, x=x))
    constant = 1536 * math.log(math.pi)  # 1758.31 nats
    assert constant == pytest.approx(1758.31, abs=0.01)
    assert_close(bound.metrics["squared_error_and_kl"] + constant, bound.negative_elbo)
    assert bound.metrics["squared_error"].shape == (2,)
    assert model.decode(sample_latents(model, x=x)).shape == x.shape
