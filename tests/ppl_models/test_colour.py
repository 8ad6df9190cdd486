"""The models of colour images: the sizes that their courses state, and what is particular to each."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from inference.cli.train import configuration, parse
from inference.data.examples import example_inputs
from inference.data.load import find_dataset
from inference.errors import UserError
from ppl_models import FSVAE, HVAE, ConvVAE, GatedVAE
from ppl_models.gated_vae import MIN_SCALE
from ppl_models.nets.hierarchy import ChannelNorm, MapEncoder
from ppl_models.programs import sample_latents

SHAPE = (3, 32, 32)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_networks_have_the_sizes_that_the_courses_state() -> None:
    hvae = HVAE(SHAPE)
    assert parameters(ConvVAE(SHAPE)) == 981_411
    assert parameters(hvae.encoder1) == parameters(hvae.encoder2) == 148_056
    assert parameters(hvae.decoder) == 237_443
    assert parameters(FSVAE(SHAPE, 10)) == 3_602_092


def test_channels_are_normalised_at_each_pixel() -> None:
    norm, x = ChannelNorm(6), 3 + 2 * torch.randn(2, 6, 4, 5)
    pixel = x[1, :, 2, 3]
    by_hand = (pixel - pixel.mean()) / (pixel.var(correction=0) + 1e-5).sqrt()
    assert_close(norm(x)[1, :, 2, 3], by_hand)


def test_a_code_is_laid_on_the_image(float64: None) -> None:
    """Scaled up to its size by the nearest pixel; no code is a code of zeros; particles lead."""
    encoder, x, code = MapEncoder(3, 12, 24), torch.randn(2, 3, 32, 32), torch.randn(5, 2, 12, 2, 2)
    assert_close(encoder(x), encoder(x, torch.zeros(2, 12, 2, 2)))
    first = encoder[0]
    laid = torch.cat([x, F.interpolate(code[3], scale_factor=16, mode="nearest")], dim=1)
    seen = []
    first.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    out = encoder(x, code)
    assert out.shape == (5, 2, 24, 2, 2)
    assert torch.equal(seen[0].unflatten(0, (5, 2))[3], laid)
    assert_close(out[3], encoder(x, code[3]))


def test_the_second_divergence_is_of_a_residual(float64: None) -> None:
    """With a guide that says "as the prior expects" it is zero, whatever the prior expects."""
    model, x = HVAE(SHAPE), example_inputs(HVAE(SHAPE), 3)["x"]
    latents = sample_latents(model, x=x)
    assert (model.bound(x, latents).terms["kl_z2"] > 0.1).all()
    with torch.no_grad():
        for p in model.encoder2[-1].parameters():
            p.zero_()
    assert_close(model.bound(x, latents).terms["kl_z2"], torch.zeros(3))
    assert_close(model.bound(x, latents, kl="sampled").terms["kl_z2"], torch.zeros(3))
    assert model.prior_net(latents["z1"]).abs().max() > 0.01


def test_a_walk_goes_through_both_levels(float64: None) -> None:
    """Its ends are the reconstructions; between, z2 is what its prior expects of z1, and a residual."""
    model, x = HVAE(SHAPE), example_inputs(HVAE(SHAPE), 2)["x"]
    codes = model.encode(x)
    steps = model.interpolate(codes, torch.tensor([0.0, 0.5, 1.0]))
    ends = {name: z[[0, 2]] for name, z in steps.items()}
    assert_close(model.decode(ends), model.reconstruct(x))
    middle = codes["z1"].mean(0, keepdim=True)
    residual = (codes["z2"] - model.prior_net(codes["z1"])).mean(0, keepdim=True)
    assert_close(steps["z1"][1:2], middle)
    assert_close(steps["z2"][1:2], model.prior_net(middle) + residual)
    assert (steps["z2"][1] - codes["z2"].mean(0)).abs().max() > 1e-6  # which is not half way in z2


def test_a_sample_goes_through_both_levels() -> None:
    model = HVAE(SHAPE)
    with torch.no_grad():
        for p in model.prior_net.parameters():
            p.zero_()
        model.prior_net[-1].bias.fill_(50.0)
    assert abs(model.prior(100)["z2"].mean() - 50) < 0.2
    assert abs(model.prior(100)["z1"].mean()) < 0.2


def test_the_constant_of_a_tenth(float64: None) -> None:
    """-log p(x | y, z) = 5 squared error - 713.79 of 3072 values with a variance of 1/10."""
    model = FSVAE(SHAPE, 10)
    inputs = example_inputs(model, 4)
    latents = sample_latents(model, **inputs)
    error = ((inputs["x"] - model.decode(latents, inputs["y"])) ** 2).sum((1, 2, 3))
    constant = 1536 * math.log(0.2 * math.pi)
    assert constant == pytest.approx(-713.79, abs=5e-3)
    assert_close(model.bound(**inputs, latents=latents).terms["reconstruction"], 5 * error + constant)


def test_the_label_says_what_is_drawn(float64: None) -> None:
    """The same z with another label is another image, and a label that is not given is drawn evenly."""
    model = FSVAE((1, 4, 4), 5, hidden=8, z_dim=2)
    z = model.prior(1)
    images = [model.decode(z, torch.tensor([y])) for y in range(5)]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(images) for b in images[:i])
    site = model.generate(4_000, {"z": z["z"].expand(4_000, -1)}).nodes["x"]["fn"].mean
    shares = [(site - image).abs().flatten(1).amax(1).lt(1e-12).double().mean() for image in images]
    assert sum(shares) == 1 and max(abs(share - 0.2) for share in shares) < 0.03


def test_bits_are_of_levels(float64: None) -> None:
    """A density of 1/2 on all of [-1, 1] is what 256 equal levels have: 8 bits a value."""
    model = GatedVAE(SHAPE)
    x = example_inputs(model, 2)["x"]
    bound = model.bound(x, sample_latents(model, x=x))
    dims = math.prod(SHAPE)
    even = dims * math.log(2)  # nats of that density
    assert_close(bound.metrics["bits_per_dim"], 8 + (bound.negative_elbo - even) / even)


def test_no_value_makes_the_density_unbounded(float64: None) -> None:
    model = GatedVAE(SHAPE)
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(torch.tensor([0.5, 0.5, 0.5, -1e4, -1e4, -1e4]))
    trace = model.generate(2)
    assert_close(trace.nodes["x"]["fn"].base_dist.scale, torch.full((2, *SHAPE), MIN_SCALE))
    x = torch.full((2, *SHAPE), 0.5)
    best = model.bound(x, sample_latents(model, x=x)).terms["reconstruction"] / math.prod(SHAPE)
    assert_close(best, torch.full((2,), math.log(MIN_SCALE) + 0.5 * math.log(2 * math.pi)))


def test_a_bound_that_takes_no_weights_has_no_warm_up() -> None:
    """Its default is left out there, and what is asked for is refused when training begins."""
    data, _ = find_dataset("digits", Path())
    for elbo, warmup in (("mean_field", 100), ("iwae", 0)):
        given = parse(["--model", "hvae", "--elbo", elbo])
        assert configuration(given, data).kl_warmup == warmup
    assert configuration(parse(["--model", "hvae", "--kl-warmup", "0"]), data).kl_warmup == 0
    with pytest.raises(UserError, match="-1 is not a whole number"):
        parse(["--model", "hvae", "--kl-warmup", "-1"])
