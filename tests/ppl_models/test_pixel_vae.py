"""The VAE with a PixelCNN decoder: the information in z, free bits, binary and colour images."""

import math

import pytest
import torch
from torch.testing import assert_close

from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.elbo.comparison import compare
from inference.elbo.estimators import Loss
from inference.metrics.importance import importance_sample
from ppl_models import PixelVAE
from ppl_models.programs import sample_latents

GREY, COLOUR = (1, 8, 8), (3, 8, 4)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("estimator", ["mean_field", "trace"])
@pytest.mark.parametrize("free_bits", [0.0, 1e-3, 50.0])
def test_by_hand_equals_pyro_with_free_bits(
    shape: tuple[int, ...], estimator: str, free_bits: float, float64: None
) -> None:
    model = PixelVAE(shape, free_bits=free_bits).double()
    result = compare(model, example_inputs(model, 4), estimator)
    assert result["agrees"] and ("free_bits" in result["terms"]) == (free_bits > 0)


def test_free_bits_cost_nothing(float64: None) -> None:
    """Below so many nats the objective is the reconstruction and they; above it is the bound."""
    few, many = (PixelVAE(GREY, free_bits=nats).double() for nats in (1e-3, 50.0))
    many.load_state_dict(few.state_dict())
    inputs = example_inputs(few, 6)
    latents = sample_latents(few, **inputs)
    bound = few.bound(**inputs, latents=latents)
    assert 0.01 < bound.kl.mean() < 50
    assert_close(bound.objective, bound.negative_elbo.mean())
    objective = many.bound(**inputs, latents=latents).objective
    assert_close(objective, bound.terms["reconstruction"].mean() + 50)
    for elbo in ("iwae", "iwae_dreg"):
        with pytest.raises(ValueError, match=r"does not support penalties\. Set free bits to 0, not 50"):
            Loss(many, elbo)


def test_importance_weights_know_no_penalty(float64: None) -> None:
    x = torch.randint(256, (5, *GREY), dtype=torch.uint8)
    plain, held = PixelVAE(GREY).double().eval(), PixelVAE(GREY, free_bits=9.0).double().eval()
    held.load_state_dict(plain.state_dict())
    test = HeldOut(Dataset("random", x, None, x, None), PixelVAE, torch.device("cpu"))
    found = [importance_sample(model, test, [1, 10]).metrics["iwae_10"]["value"] for model in (plain, held)]
    assert found[0] == found[1]


def test_a_pixel_sees_its_field_and_z(float64: None) -> None:
    model = PixelVAE(GREY, receptive_field=2).double()
    x = torch.rand(1, *GREY).requires_grad_()
    z = torch.randn(1, model.z_dim, requires_grad=True)
    raw = model.pixelcnn(x, model.decoder(z))
    seen, by_z = torch.autograd.grad(raw[0, 0, 4, 4], [x, z])
    places = {(2, c) for c in range(2, 7)} | {(3, c) for c in range(2, 7)} | {(4, 2), (4, 3)}
    assert {tuple(place) for place in seen[0, 0].nonzero().tolist()} == places
    assert by_z.all()


def test_colours_are_levels_and_bits_are_of_them() -> None:
    model = PixelVAE(COLOUR).eval()
    assert (model.observation, PixelVAE(GREY).observation) == ("centred", "binary")
    x = example_inputs(model, 3)["x"]
    report = model.bound(x, sample_latents(model, x=x)).report()
    assert_close(report["bits_per_dim"], report["negative_elbo"] / (96 * math.log(2)))
    levels = (model.sample(2) + 1) * 255 / 2
    assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    with pytest.raises(
        ValueError,
        match="images of 8x6: pixel_vae needs height and width divisible by 4: resize to 8x4 or 8x8",
    ):
        PixelVAE((1, 8, 6))
