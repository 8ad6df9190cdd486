"""Models of points in the plane."""

import math

import torch
from pyro.distributions import transforms
from pyro.nn import DenseNN
from torch import Tensor, nn

from benchmarks.plain_torch.common import TorchModel, sample_and_kl_log_std


def vae2d() -> TorchModel:
    """A VAE with two latent dimensions and a normal likelihood with learned scales."""

    def net(outputs: int) -> nn.Sequential:
        layers = [nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs)]
        return nn.Sequential(*layers)

    encoder, decoder = net(4), net(4)

    def loss(x: Tensor) -> Tensor:
        z, kl = sample_and_kl_log_std(encoder(x))
        mean, log_std = decoder(z).chunk(2, -1)
        return (0.5 * ((x - mean) / log_std.exp()) ** 2 + log_std + 0.5 * math.log(2 * math.pi)).sum(
            -1
        ).mean() + kl.mean()

    return [encoder, decoder], loss


def flow() -> TorchModel:
    """A normalising flow of four spline couplings. It uses Pyro's splines, as the suite does."""
    splines = [
        transforms.SplineCoupling(2, 1, DenseNN(1, [64, 64], [16, 16, 15, 16]), 16, 4.0, identity=True)
        for _ in range(4)
    ]
    for spline in splines:
        del spline.lower_spline
    affine = nn.ParameterList([torch.zeros(2), torch.zeros(2)])

    def loss(x: Tensor) -> Tensor:
        loc, log_scale = affine
        e = (x - loc) * (-log_scale).exp()
        log_det = -log_scale.sum()
        for spline in splines:
            after = spline(e)
            log_det = log_det + spline.log_abs_det_jacobian(e, after)
            e = after.flip(-1)
        return (0.5 * (e**2).sum(-1) + math.log(2 * math.pi) - log_det).mean()

    return [nn.ModuleList(splines), affine], loss
