"""Derivation 23: linear auto-encoders and PCA, codes without a scale, and the limit of a small KL weight."""

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ppl_models import AE, PPCA, BetaVAE

D, Z = 8, 3


def data() -> Tensor:
    x = torch.randn(300, D) @ torch.randn(D, D)
    return x - x.mean(0)


def error(x: Tensor, encoder: Tensor, decoder: Tensor) -> Tensor:
    return ((x - x @ encoder.T @ decoder.T) ** 2).sum(1).mean()


def test_no_linear_auto_encoder_beats_the_principal_subspace(float64: None) -> None:
    x = data()
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    top, least = vectors[:, -Z:], values[:-Z].sum()
    assert_close(error(x, top.T, top), least)
    for _ in range(200):
        decoder = torch.randn(D, Z) if torch.rand(()) < 0.5 else top + 0.1 * torch.randn(D, Z)
        encoder = torch.linalg.pinv(decoder)  # the best one for this decoder
        assert error(x, encoder, decoder) > least


def test_ppca_shrinks_where_pca_projects(float64: None) -> None:
    x = data()
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    model = PPCA((1, 2, 4), z_dim=Z)
    model.solve(x.unflatten(1, (1, 2, 4)))
    loc, _ = model.exact_posterior(x)
    noise = values[:-Z].mean()
    shrunk = (vectors[:, -Z:] * (values[-Z:] - noise) / values[-Z:]) @ vectors[:, -Z:].T
    assert_close(model.decoder(loc).detach(), x @ shrunk, atol=1e-6, rtol=0)


def test_the_loss_does_not_fix_the_codes(float64: None) -> None:
    """An invertible linear map after the encoder, and its inverse before the decoder."""
    model = AE((1, 28, 28), z_dim=4).double()
    x = torch.rand(3, 1, 28, 28)
    before, codes = model.decoder(model.encoder(x)), model.encoder(x)
    loss = model.bound(x, {"z": codes}).objective
    f = 5 * torch.randn(4, 4)
    first = next(m for m in model.decoder.modules() if isinstance(m, nn.Linear))
    last = [m for m in model.encoder.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(f @ last.weight)
        last.bias.copy_(f @ last.bias + 100)
        first.bias.sub_(first.weight @ torch.linalg.solve(f, torch.full((4,), 100.0)))
        first.weight.copy_(first.weight @ torch.linalg.inv(f))
    assert_close(model.decoder(model.encoder(x)), before)
    assert_close(model.bound(x, {"z": model.encoder(x)}).objective, loss)
    assert (model.encoder(x) - codes).abs().mean() > 10


def test_the_loss_of_a_narrow_guide_tends_to_the_auto_encoder_s(float64: None) -> None:
    """Of `beta_vae` with scales of sqrt(beta) for the guide, in the course's units."""
    x, e = torch.rand(4, 1, 28, 28), torch.randn(4, 2)
    excess = []
    for beta in (1e-2, 1e-4, 1e-6):
        torch.manual_seed(1)  # the same networks
        model = BetaVAE((1, 28, 28), z_dim=2, beta=beta).double()
        last = [m for m in model.encoder.modules() if isinstance(m, nn.Linear)][-1]
        with torch.no_grad():
            last.weight[2:] = 0
            last.bias[2:] = 0.5 * torch.tensor(beta).log()
        loc = model.encoder(x)[:, :2]
        noisy = model.bound(x, {"z": loc + beta**0.5 * e})
        loss = noisy.metrics["mean_squared_error"] + beta * noisy.kl
        excess.append((loss - ((x - model.decoder(loc)) ** 2).mean((-1, -2, -3))).mean())
    assert excess[0] > 5 * excess[1].abs() > 25 * excess[2].abs()
