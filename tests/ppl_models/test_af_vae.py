"""The flow over a map as a prior: its determinant, its way back, and what it is without it."""

import pytest
import torch
from torch.testing import assert_close

from inference.data.examples import example_inputs
from ppl_models import AFVAE, GatedVAE
from ppl_models.distributions import AutoregressiveMap
from ppl_models.nets.pixelcnn import PixelCNN
from ppl_models.programs import sample_latents

SHAPE = (2, 3, 4)


def flows(number: int) -> AutoregressiveMap:
    networks = [PixelCNN(2, 5, 4, receptive_field=2).double() for _ in range(number)]
    with torch.no_grad():
        for p in (p for network in networks for p in network.parameters()):
            p.mul_(2)
    return AutoregressiveMap(networks, SHAPE)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_determinant_is_the_jacobian_s(number: int, float64: None) -> None:
    fn, z = flows(number), torch.randn(3, *SHAPE)
    _, log_det = fn.to_noise(z)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: fn.to_noise(one.view(1, *SHAPE))[0].flatten(), z[row].flatten()
        )
        assert_close(log_det[row], jacobian.slogdet().logabsdet)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(fn.to_noise(z)[0]).sum((1, 2, 3))
    assert_close(fn.log_prob(z), normal + log_det)
    assert log_det.abs().min() > 0.1


def test_flows_go_there_and_back(float64: None) -> None:
    fn, e = flows(3), torch.randn(5, *SHAPE)
    z = fn.from_noise(e)
    assert (fn.to_noise(z)[0] - e).abs().max() < 1e-6 and (z - e).abs().max() > 0.1
    assert fn.expand([4]).sample((2,)).shape == (2, 4, *SHAPE)


def test_the_second_flow_goes_backwards(float64: None) -> None:
    """One flow's noise sees the places before alone; with a second, the places after are seen too."""
    for number, later in ((1, False), (2, True)):
        fn, z = flows(number), torch.randn(1, *SHAPE, requires_grad=True)
        e = fn.to_noise(z)[0] if number == 2 else fn.to_noise(z)[0].flip(-1, -2)
        (seen,) = torch.autograd.grad(e[0, :, 1, 1].sum(), z)
        assert bool(seen[0, :, 2].any()) == later


def test_with_the_identity_for_a_flow_it_is_the_gated_vae(float64: None) -> None:
    gated, af = GatedVAE((3, 32, 32)).double(), AFVAE((3, 32, 32)).double()
    af.load_state_dict(gated.state_dict(), strict=False)
    with torch.no_grad():
        for flow in af.flows:
            for p in flow.head[-1].parameters():
                p.zero_()
    inputs = example_inputs(gated, 3)
    latents = sample_latents(gated, **inputs)
    for mine, theirs in zip(
        af.bound(**inputs, latents=latents).report().items(),
        gated.bound(**inputs, latents=latents, kl="sampled").report().items(),
        strict=True,
    ):
        assert mine[0] == theirs[0]
        # with an even number of flows the map comes out the way it went in
        assert_close(mine[1], theirs[1])


def test_training_moves_the_prior(float64: None) -> None:
    """Towards the aggregate of codes: a flow fitted to correlated maps is better than the standard normal."""
    torch.manual_seed(0)
    network = PixelCNN(1, 8, 2, receptive_field=2).double()
    fn = AutoregressiveMap([network], (1, 3, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    root = torch.linalg.cholesky(0.8 * torch.ones(9, 9) + 0.2 * torch.eye(9))
    for _ in range(300):
        z = (torch.randn(200, 9) @ root.T).view(-1, 1, 3, 3)
        optimizer.zero_grad()
        (-fn.log_prob(z).mean()).backward()
        optimizer.step()
    entropy = torch.distributions.MultivariateNormal(torch.zeros(9), scale_tril=root).entropy()
    z = (torch.randn(5_000, 9) @ root.T).view(-1, 1, 3, 3)
    found = -fn.log_prob(z).mean()
    assert entropy - 0.2 < found < entropy + 0.6 < 12.7  # of a standard normal: 9 / 2 log(2 pi e)
