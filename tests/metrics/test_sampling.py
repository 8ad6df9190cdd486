"""Samples with labels, a temperature and shared latents, and the distributions that a temperature gives."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference import sample
from inference.errors import UserError
from inference.metrics.tempering import tempered
from ppl_models import (
    AE,
    AFVAE,
    FSVAE,
    HVAE,
    MADE,
    MODELS,
    SSVAE,
    VAE,
    VAE2D,
    VQVAE,
    CodePixelCNN,
    Flow,
    PixelVAE,
)
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import BernoulliImage, LogisticMixtureImage, MixtureOfNormals
from ppl_models.distributions.logistic_mixture import num_outputs


def small(
    cls: type[LatentVariableModel], shape: tuple[int, ...] = (1, 6, 6), **options: int
) -> LatentVariableModel:
    torch.manual_seed(0)
    return cls(shape, 3, **options).eval()


def test_temperature_one_is_a_plain_sample() -> None:
    """The raw values of `model.sample` with the same seed, for the same labels, for every kind of data."""
    for name in ("vae", "ssvae", "fsvae", "hvae", "af_vae", "vae2d", "flow", "code_pixelcnn"):
        cls = MODELS[name]
        model = small(cls, cls.padded(cls.example_shape))
        found = sample(model, 2, seed=5)
        torch.manual_seed(5)
        if "y" in model.inputs:
            torch.randint(3, (2,))  # the labels
        x = model.sample(2, y=found.y if "y" in model.inputs else None)
        if found.x.dtype == torch.uint8 and found.drawn:
            low = -1 if model.observation in ("centred", "dequantised") else 0
            x = ((x - low) / (1 - low) * 255).clamp(0, 255)
            assert (found.x - x).abs().max() <= 0.5 + 1e-4, name
        else:
            torch.testing.assert_close(found.x.to(x), x)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_multiplies_the_standard_deviation_of_latents(temperature: float) -> None:
    z = sample(small(VAE, z_dim=4, hidden=8), 2_000, temperature=temperature).latents["z"]
    assert z.std().item() == pytest.approx(temperature, rel=0.03)
    plain = sample(small(VAE, z_dim=4, hidden=8), 2_000).latents["z"]
    torch.testing.assert_close(z[:500], temperature * plain[:500])  # the same noise


def test_a_temperature_scales_both_levels_of_a_hierarchy_and_not_the_prior_mean() -> None:
    model = small(HVAE, (3, 32, 32))
    found = sample(model, 30, temperature=0.1).latents
    assert found["z1"].std().item() == pytest.approx(0.1, rel=0.1)
    residual = found["z2"] - model.prior_net(found["z1"])
    assert residual.std().item() == pytest.approx(0.1, rel=0.1)


def test_a_temperature_scales_the_noise_of_flows() -> None:
    flow, t = small(Flow, (2,)), 0.3
    x = sample(flow, 1_000, temperature=t).x
    for layer in flow.chain():
        x = layer(x)
    assert x.std().item() == pytest.approx(t, rel=0.05)
    prior = small(AFVAE, (3, 32, 32), z_channels=2)
    z = sample(prior, 20, temperature=t).latents["z"]
    from ppl_models.distributions import AutoregressiveMap

    e, _ = AutoregressiveMap(list(prior.flows), prior.z_shape).to_noise(z)
    assert e.std().item() == pytest.approx(t, rel=0.05)


def power(log_p: Tensor, t: float) -> Tensor:
    """log of p^(1/T), normalised over the first dimension."""
    return (log_p / t).log_softmax(0)


@pytest.mark.parametrize("t", [0.5, 3.0])
def test_discrete_distributions_are_powers(t: float) -> None:
    values = torch.eye(4)
    fn = dist.OneHotCategorical(logits=torch.randn(4))
    torch.testing.assert_close(tempered(fn, t).log_prob(values), power(fn.log_prob(values), t))
    every = torch.tensor([[i >> k & 1 for k in range(3)] for i in range(8)], dtype=torch.float32).view(
        8, 1, 1, 3
    )
    image = BernoulliImage(torch.randn(3), (1, 1, 3))
    torch.testing.assert_close(tempered(image, t).log_prob(every), power(image.log_prob(every), t))


@pytest.mark.parametrize("t", [0.5, 3.0])
def test_each_factor_of_an_autoregressive_distribution_is_a_power(t: float) -> None:
    """The last factor of MADE and of a code prior, given the positions before."""
    made = small(MADE, (1, 1, 4), hidden=9)
    both = torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 1]]).view(2, 1, 1, 4)
    fn = made.generate(2).nodes["x"]["fn"]
    torch.testing.assert_close(tempered(fn, t).log_prob(both).log_softmax(0), power(fn.log_prob(both), t))
    prior = small(CodePixelCNN, (1, 2, 2), codes=5, width=8)
    maps = torch.tensor([2.0, 0, 4, 0]).repeat(5, 1)
    maps[:, -1] = torch.arange(5)
    maps = maps.view(5, 1, 2, 2)
    fn = prior.generate(5).nodes["x"]["fn"]
    torch.testing.assert_close(tempered(fn, t).log_prob(maps).log_softmax(0), power(fn.log_prob(maps), t))


def test_mixtures_keep_their_means() -> None:
    loc, scale = torch.randn(3, 2) * 9, torch.rand(3, 2) + 0.5
    fn = tempered(MixtureOfNormals(loc, scale), 0.01)
    z = fn.sample((200,))
    assert (z[:, None] - loc).abs().amax(-1).amin(-1).max() < 0.1
    raw = torch.randn(num_outputs(1, 4), 1, 1)
    plain, cold = LogisticMixtureImage(raw, 1, 4), tempered(LogisticMixtureImage(raw, 1, 4), 0.5)
    torch.testing.assert_close(cold.log_scale, plain.log_scale + math.log(0.5))
    torch.testing.assert_close(cold.logits, 2 * plain.logits)
    torch.testing.assert_close(cold.loc, plain.loc)


def test_a_low_temperature_gives_the_mode_of_an_autoregressive_image() -> None:
    made = small(MADE, (1, 2, 3), hidden=9)
    x = sample(made, 50, temperature=1e-4).x
    assert (x == x[0]).all()
    assert not (sample(made, 50).x == x[0]).all()


def test_the_decoder_noise_has_no_temperature() -> None:
    """Of a model with a mean; the PixelCNN of a model without one has a temperature."""
    model = small(AE, (1, 28, 28), z_dim=2)
    noise = [
        found.x.float() / 255 - model.decode(found.latents)
        for found in (sample(model, 40, temperature=t) for t in (0.01, 1.0))
    ]
    assert noise[0].std().item() == pytest.approx(noise[1].std().item(), rel=0.02)
    pixels = sample(small(PixelVAE, (1, 8, 8), width=4), 30, temperature=1e-4, same_latents=True).x
    assert (pixels == pixels[0]).all()


def test_means_have_no_noise() -> None:
    """They are the decoder's output for the same latents, as levels, and MADE has none."""
    model = small(FSVAE, z_dim=2, hidden=8)
    found, noisy = (sample(model, 9, labels=[2, 0], means=means) for means in (True, False))
    assert torch.equal(found.latents["z"], noisy.latents["z"]) and torch.equal(found.y, noisy.y)
    mean = model.decoder(found.latents["z"], torch.eye(3)[found.y]).detach().view(9, 1, 6, 6)
    assert torch.equal(found.x, (255 * mean).round().clamp(0, 255).to(torch.uint8))
    assert not torch.equal(found.x, noisy.x)
    with pytest.raises(UserError, match=r"^MADE has no means of p\(x \| latents\)\. Leave out means\.$"):
        sample(small(MADE, hidden=8), 3, means=True)


def test_labels_are_in_turn_and_latents_are_shared() -> None:
    for cls in (FSVAE, SSVAE):
        model = small(cls, z_dim=2, hidden=8)
        found = sample(model, 7, labels=[2, 0], same_latents=True)
        assert found.y.tolist() == [2, 0, 2, 0, 2, 0, 2]
        z = found.latents["z"]
        assert torch.equal(z[:6:2], z[1:7:2]) and len(z.unique(dim=0)) == 4
        one = sample(model, 6, labels=[1], same_latents=True)
        assert set(one.y.tolist()) == {1} and len(one.latents["z"].unique(dim=0)) == 1
        assert len(one.x.unique(dim=0)) == 6  # the noise varies
        every = sample(model, 6, same_latents=True)
        assert every.y.tolist() == [0, 1, 2, 0, 1, 2] and len(every.latents["z"].unique(dim=0)) == 2
        assert set(sample(model, 60).y.tolist()) == {0, 1, 2}
    assert len(sample(small(VAE2D, (2,), hidden=8), 600, same_latents=True).latents["z"].unique(dim=0)) == 1


def test_what_makes_no_sense_is_refused() -> None:
    vae, fsvae = small(VAE, hidden=8), small(FSVAE, hidden=8)
    with pytest.raises(UserError, match=r"^VAE has no label\. Leave out the labels\.$"):
        sample(vae, 3, labels=[1])
    with pytest.raises(UserError, match=r"^label 3 is none of this model's\. Give labels from 0 to 2\.$"):
        sample(fsvae, 3, labels=[0, 3])
    with pytest.raises(UserError, match="no label is given"):
        sample(fsvae, 3, labels=[])
    with pytest.raises(UserError, match=r"^MADE has no latents to share"):
        sample(small(MADE, hidden=8), 3, same_latents=True)
    with pytest.raises(UserError, match=r"^a temperature does not change this model\. Its prior is uniform"):
        sample(small(VQVAE, (1, 32, 32)), 3, temperature=0.5)
    with pytest.raises(UserError, match=r"^SSVAE has no p\(x\) with these options"):
        sample(small(SSVAE, hidden=8, gen_weight=0), 3)
    for wrong in ({"n": 0}, {"n": 3, "temperature": 0.0}, {"n": 3, "temperature": math.nan}):
        with pytest.raises(UserError, match="above zero"):
            sample(vae, **wrong)


def test_the_model_and_the_generator_are_preserved() -> None:
    model = small(VAE, hidden=8).train()
    before = torch.get_rng_state()
    sample(model, 3, seed=1)
    assert model.training and torch.equal(torch.get_rng_state(), before)
    assert torch.equal(sample(model, 3, seed=1).x, sample(model, 3, seed=1).x)
    assert not torch.equal(sample(model, 3, seed=1).x, sample(model, 3, seed=2).x)
