"""Solution of exercise 35: sequences of different lengths."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.distributions import TokenSequence
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.recurrent import SequenceDecoder, SequenceEncoder

PAD, END, UNKNOWN = 0, 1, 2


class SeqVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x), for sequences of tokens."""

    estimators = ("mean_field", "trace")

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder = SequenceEncoder(7, embedding=4, hidden=5, outputs=2 * 3)
        self.decoder = SequenceDecoder(7, z_dim=3, embedding=4, hidden=5)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", TokenSequence(self.decoder, z, 6), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*loc_scale(self.encoder(x))).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "closed") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        log_p = densities.log_softmax(self.decoder(before, z))  # (batch, 6, 6)
        index = (x.long() - 1).clamp(min=0)
        each = log_p.gather(-1, index[..., None])[..., 0]  # of each place, (batch, 6)
        real = x != PAD
        log_q, log_p_z = densities.normal(z, loc, scale), densities.normal(z, 0.0, 1.0)
        reconstruction = -(each * real).sum(-1)
        kl_z = densities.kl_normal_standard(loc, scale) if kl == "closed" else log_q - log_p_z
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)


def decoder_input(x: Tensor, u: Tensor, rate: float) -> Tensor:
    """Returns what the decoder reads with word dropout: the tokens before each place, (batch, 6).

    x: tokens (batch, 6). u: (batch, 6), uniform on [0, 1]. Token i is replaced by UNKNOWN if u_i < rate.
    """
    read = torch.where((u < rate) & (x != PAD), UNKNOWN, x)
    return torch.cat([torch.zeros_like(x[:, :1]), read[:, :-1]], 1)


def nats_per_token(negative_elbo: Tensor, tokens: Tensor) -> Tensor:
    """Returns the nats per token of a test set, a scalar.

    negative_elbo: nats per sequence, (n,). tokens: the number of tokens of each sequence, (n,).
    """
    return negative_elbo.sum() / tokens.sum()


def perplexity(log_w: Tensor, tokens: Tensor) -> Tensor:
    """Returns the perplexity per token of a test set, a scalar, estimated by importance weights.

    log_w: log p(x, z_k) / q(z_k | x), (samples, n). tokens: the number of tokens of each sequence, (n,).
    """
    log_p = log_w.logsumexp(0) - math.log(len(log_w))
    return (-log_p.sum() / tokens.sum()).exp()
