"""Exercise 12: the VQ-VAE.

Read docs/derivations/12-vq-vae.md. Then replace each TODO and run

    python -m exercises.check 12

A codebook has K = 8 entries of 4 numbers. The encoder gives a vector e at each of 2 x 3 positions; c is the
nearest entry. The model and the guide are

    p(z)     = 1/K at each position                    z (batch, 4, 2, 3), an entry at each position
    p(x | z) = N(x; decoder(z), I / (2 pi))            x (batch, 6)
    q(z | x) = the nearest entries, with certainty

With this variance -log p(x | z) has no constant. Two penalties are minimised in addition to the bound. They
are means over batch, dimensions and positions:

    codebook   = mean (c - sg e)^2          commitment = mean (sg c - e)^2

sg(t) = t.detach() is a value whose gradient is stopped. Use torch only.
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from exercises import TODO
from ppl_models import ELBOTerms, LatentVariableModel
from ppl_models.distributions import UniformCodes
from ppl_models.nets.codebook import Codebook

SCALE = 1 / math.sqrt(2 * math.pi)  # of x


def straight_through(e: Tensor, c: Tensor) -> Tensor:
    """Returns z: its value is c, its gradient with respect to e is the identity, and c gets no gradient."""
    return TODO  # write it with detach()


def on_a_grid(e: Tensor) -> Tensor:
    """Returns z of finite scalar quantization with 5 levels per dimension, (batch, d), straight-through.

    e: between -1 and 1, (batch, d). The levels are -1, -1/2, 0, 1/2 and 1.
    """
    return TODO  # round, then straight through


class VQVAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)."""

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 4 * 2 * 3), nn.Linear(4 * 2 * 3, 6)
        self.codebook = Codebook(8, 4)

    def encode_map(self, x: Tensor) -> Tensor:
        """Returns the vectors e of the positions, (batch, 4, 2, 3)."""
        return self.encoder(x).unflatten(-1, (4, 2, 3))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", UniformCodes(self.codebook, (2, 3)))
            pyro.sample("x", dist.Normal(self.decoder(z.flatten(-3)), SCALE).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            e = self.encode_map(x)
            c = self.codebook(e)
            pyro.factor("codebook", ((c - e.detach()) ** 2).mean((-1, -2, -3)), has_rsample=True)
            pyro.factor("commitment", ((c.detach() - e) ** 2).mean((-1, -2, -3)), has_rsample=True)
            pyro.sample("z", dist.Delta(e + (c - e).detach(), event_dim=3))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "sampled") -> ELBOTerms:
        z, e = latents["z"], self.encode_map(x)  # (batch, 4, 2, 3)
        c, mean = self.codebook(e), self.decoder(z.flatten(-3))
        reconstruction = TODO  # -log p(x | z), (batch,)
        kl_z = TODO  # KL(q(z | x) || p(z)), (batch,)
        codebook = TODO  # moves the entries, ()
        commitment = TODO  # moves the encoder, ()
        penalties = {"codebook": codebook, "commitment": commitment}
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z, penalties=penalties)
