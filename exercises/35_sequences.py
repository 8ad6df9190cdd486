"""Exercise 35: sequences of different lengths.

Read docs/derivations/29-sequences.md. Then replace each TODO and run

    python -m exercises.check 35

A sequence of tokens has at most six places. Token 0 is padding, token 1 is the end of the sequence, token 2
is the unknown token, and tokens 3 to 6 are words. All places after the end are padding. A sequence of six
words is cut: it has no end.

    p(z)     = N(z; 0, I)                                                              z (batch, 3)
    p(x | z) = prod_i Categorical(x_i; logits = decoder(x_1, ..., x_{i-1}, z)_i)       x (batch, 6)
    q(z | x) = N(z; loc, diag scale^2)                                                 loc, scale (batch, 3)

The product ends with the end of the sequence. The decoder reads the token before each place, and padding
before the first place. Padding has no logit: logit k is the logit of token k + 1. You may use

    self.decoder(before, z)                    tokens (batch, 6) and z to logits (batch, 6, 6)
    densities.log_softmax(logits)              logits to log probabilities over the last axis
    densities.normal(x, loc, scale)            log N(x; loc, diag scale^2), summed over the last axis
    densities.kl_normal_standard(loc, scale)   KL(N(loc, diag scale^2) || N(0, I))
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from exercises import TODO
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
        # What the decoder reads, its log probabilities, those of the tokens, and which places have a factor:
        reconstruction = TODO  # -log p(x | z), (batch,)
        kl_z = TODO  # (batch,), closed or sampled
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)


def decoder_input(x: Tensor, u: Tensor, rate: float) -> Tensor:
    """Returns what the decoder reads with word dropout: the tokens before each place, (batch, 6).

    x: tokens (batch, 6). u: (batch, 6), uniform on [0, 1]. Token i is replaced by UNKNOWN if u_i < rate.
    """
    return TODO  # padding is never replaced


def nats_per_token(negative_elbo: Tensor, tokens: Tensor) -> Tensor:
    """Returns the nats per token of a test set, a scalar.

    negative_elbo: nats per sequence, (n,). tokens: the number of tokens of each sequence, (n,).
    """
    return TODO


def perplexity(log_w: Tensor, tokens: Tensor) -> Tensor:
    """Returns the perplexity per token of a test set, a scalar, estimated by importance weights.

    log_w: log p(x, z_k) / q(z_k | x), (samples, n). tokens: the number of tokens of each sequence, (n,).
    """
    return TODO  # the bound of all samples, then its exponential per token
