"""Variational auto-encoder of short sequences, such as lines of text."""

from collections.abc import Mapping
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import TokenSequence
from ppl_models.distributions.token_sequence import PAD, UNKNOWN
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.recurrent import SequenceDecoder, SequenceEncoder


class SeqVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                                       z (batch, z_dim)
    p(x | z) = prod_i Categorical(x_i; logits = decoder(x_1, ..., x_{i-1}, z))      x (batch, length), tokens
    q(z | x) = N(z; loc(x), diag scale(x)^2)                    loc, scale (batch, z_dim)

    -ELBO(x)  = -log p(x | z) + KL(q(z | x) || p(z)),           z ~ q(z | x)
    objective = -log p(x | z) + beta KL(q(z | x) || p(z))

    Encoder and decoder are GRUs. The product over i ends with the token `<end>`. Later places are padding
    and contribute zero. In teacher forcing the decoder reads the data, not its own samples.

    Word dropout replaces a token that the decoder reads, not the one that it predicts, by `<unk>` with the
    probability `word_dropout`, so that more of the information about x has to come from z. It applies in
    training mode only. The model then has the latent `dropout`, u (batch, length), uniform on [0, 1], in p
    and in q: token i is replaced if u_i < word_dropout. KL(q(u) || p(u)) = 0, and the objective with beta = 1
    bounds the mixture over all u, log E_u p(x | u). It does not bound the model without dropout, which
    evaluation mode uses and whose bound is the one above. The guide samples u after z, so that Pyro's
    estimator and `bound` see the same u.

    `decode` is greedy: it takes the most probable token at each place.

    Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio 2016, Generating Sentences from a Continuous Space
    (arXiv 1511.06349). Here z is an input of each step of the decoder, not its first state.
    """

    estimators = ("mean_field", "trace", "iwae")
    observation, example_shape = "tokens", (12,)
    has_kl_weight, has_mean, has_tokens = True, False, True
    values_option = "vocabulary"
    defaults = {"steps": 5_000, "batch_size": 64, "lr": 2e-3, "kl_warmup": 2_500, "clip": 5.0}
    # A captured step has a copy of the GRUs for each place: it is not faster, and takes minutes to compile.
    defaults |= {"compile": "eager"}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        vocabulary: Annotated[int, "number of different tokens, which the data decide"] = 50,
        z_dim: Annotated[int, "dimensions of the latent z"] = 32,
        embedding: Annotated[int, "dimensions of the embedding of a token"] = 64,
        hidden: Annotated[int, "dimensions of the state of each GRU"] = 128,
        word_dropout: Annotated[
            float, "fraction of the decoder's inputs replaced by <unk> in training"
        ] = 0.3,
        beta: Annotated[float, "weight of the KL term in the objective"] = 1.0,
    ):
        super().__init__(shape, classes)
        if word_dropout > 1:
            raise ValueError(f"word_dropout is {word_dropout:g}. Give a fraction from 0 to 1.")
        self.vocabulary, self.z_dim, self.word_dropout, self.beta = vocabulary, z_dim, word_dropout, beta
        self.encoder = SequenceEncoder(vocabulary, embedding, hidden, 2 * z_dim)
        self.decoder = SequenceDecoder(vocabulary, z_dim, embedding, hidden)

    @property
    def levels(self) -> int:
        """The number of tokens."""
        return self.vocabulary

    def dropped(self, x: Tensor) -> Tensor | None:
        """Samples the latent `dropout`; returns the places whose token is replaced, None in evaluation."""
        if not (self.training and self.word_dropout):
            return None
        u = pyro.sample("dropout", dist.Uniform(x.new_zeros(self.shape), 1.0).to_event(1))
        return u < self.word_dropout

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            dropped = self.dropped(x)
            pyro.sample("x", TokenSequence(self.decoder, z, self.shape[0], dropped), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x))
            with scale_kl(self.beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            self.dropped(x)

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z, read = latents["z"], x
        if "dropout" in latents:
            read = torch.where((latents["dropout"] < self.word_dropout) & (x != PAD), UNKNOWN, x)
        before = torch.cat([torch.zeros_like(read[..., :1]), read[..., :-1]], dim=-1)
        log_p = densities.log_softmax(self.decoder(before, z))  # (..., batch, length, vocabulary - 1)
        index = (x.long() - 1).clamp(min=0).expand(log_p.shape[:-1]).unsqueeze(-1)
        real = (x != PAD).to(log_p)
        reconstruction = -(log_p.gather(-1, index).squeeze(-1) * real).sum(-1)
        loc, scale = loc_scale(self.encoder(x))
        closed = densities.kl_normal_standard(loc, scale)
        dropout: Any = {"kl_dropout": torch.zeros_like(reconstruction)} if "dropout" in latents else {}
        return ELBOTerms(
            reconstruction=reconstruction,
            kl_z=closed
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0),
            **dropout,
            weights={"kl_z": self.beta},
            metrics={"tokens": real.sum(-1).expand_as(reconstruction)},
        )

    @torch.no_grad()
    def sample(
        self, n: int, y: Tensor | None = None, latents: Mapping[str, Tensor] | None = None, noise: bool = True
    ) -> Tensor:
        if noise or y is not None:
            return super().sample(n, y, latents, noise)
        z = (latents or {}).get("z", self.prior(n)["z"])
        return TokenSequence(self.decoder, z, self.shape[0]).greedy()
