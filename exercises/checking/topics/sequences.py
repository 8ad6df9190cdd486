"""Exercise 35: sequences of different lengths."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from exercises.checking.bounds import bound_rows
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bounds import KL_Z, head, standard
from exercises.checking.topics.densities import leaf, positive
from ppl_models import densities
from ppl_models.distributions.token_sequence import END, PAD, UNKNOWN

PER_TOKEN = "The latent belongs to the whole sequence. Its KL term is not divided by the number of tokens."
# Ended sequences of one to six tokens, and one that is cut: it has no end.
X = [[1, 0, 0, 0, 0, 0], [3, 1, 0, 0, 0, 0], [6, 2, 1, 0, 0, 0], [4, 4, 5, 1, 0, 0], [5, 3, 6, 4, 1, 0]]
X += [[3, 5, 2, 6, 4, 1], [6, 4, 3, 3, 2, 5]]


def shift(x: Tensor) -> Tensor:
    """Returns the tokens before each place."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def each(m: Any, i: Any, z: Any, before: Tensor | None = None) -> Tensor:
    """Returns -log p of the token at each place, (batch, 6); padding has the value of END."""
    log_p = densities.log_softmax(m.decoder(shift(i["x"]) if before is None else before, z))
    return -log_p.gather(-1, (i["x"].long() - 1).clamp(min=0)[..., None])[..., 0]


def tokens(x: Tensor) -> Tensor:
    """Returns the number of tokens of each sequence, (batch,)."""
    return (x != PAD).sum(-1)


def total(m: Any, i: Any, z: Any, before: Tensor | None = None) -> Tensor:
    """Returns the sum over tokens, (batch,)."""
    return (each(m, i, z, before) * (i["x"] != PAD)).sum(-1)


def without_first(m: Any, i: Any, z: Any) -> Tensor:
    """Returns -log p(x | x_1, z) by a decoder that starts with x_1."""
    log_p = densities.log_softmax(m.decoder(i["x"][:, :-1], z["z"]))
    later = i["x"][:, 1:].long()
    return -(log_p.gather(-1, (later - 1).clamp(min=0)[..., None])[..., 0] * (later != PAD)).sum(-1)


def not_normalised(m: Any, i: Any, z: Any) -> Tensor:
    """Returns minus the sum of the tokens' logits."""
    index = (i["x"].long() - 1).clamp(min=0)[..., None]
    logits = m.decoder(shift(i["x"]), z["z"]).gather(-1, index)[..., 0]
    return -(logits * (i["x"] != PAD)).sum(-1)


def sampled_kl(m: Any, i: Any, z: Any) -> Tensor:
    """Returns log q(z | x) - log p(z)."""
    return densities.normal(z["z"], *head(m, i["x"])) - standard(z["z"])


RECONSTRUCTION = {
    "Padding has no factor. You added the places after the end.": lambda m, i, z: each(m, i, z["z"]).sum(-1),
    "This is a mean over tokens. The probability of a sequence is a product, so its logarithm is a "
    "sum.": lambda m, i, z: total(m, i, z["z"]) / tokens(i["x"]),
    "The end of a sequence is a token too: its factor is missing.": lambda m, i, z: (
        each(m, i, z["z"]) * (i["x"] > END)
    ).sum(-1),
    "The decoder reads the token that it predicts. Shift its input by one place.": lambda m, i, z: total(
        m, i, z["z"], i["x"]
    ),
    "The factor of the first token is missing. The decoder reads padding before it.": without_first,
    "Before the first place the decoder reads padding, not the last token.": lambda m, i, z: total(
        m, i, z["z"], i["x"].roll(1, 1)
    ),
    "The decoder reads padding everywhere. It needs the token before each place.": lambda m, i, z: total(
        m, i, z["z"], 0 * i["x"]
    ),
    "The logits are not normalised. Each place needs a log-softmax.": not_normalised,
    "The decoder needs the sample z, not loc.": lambda m, i, z: total(m, i, head(m, i["x"])[0]),
}
PER_TOKEN_KL = {
    PER_TOKEN: lambda m, i, z: densities.kl_normal_standard(*head(m, i["x"])) / tokens(i["x"]),
    f"{PER_TOKEN} This holds for the sample too.": lambda m, i, z: sampled_kl(m, i, z) / tokens(i["x"]),
    "The latent is sampled once per sequence. You counted its KL term once per token.": lambda m, i, z: (
        densities.kl_normal_standard(*head(m, i["x"])) * tokens(i["x"])
    ),
}


@exercise(
    "35",
    "sequences of different lengths",
    "29-sequences.md",
    "bound",
    "decoder_input",
    "nats_per_token",
    "perplexity",
)
def sequences(given: Any) -> Iterator[Row]:
    """The bound of a VAE of sequences against Pyro, word dropout, and both measures per token."""
    mistakes = {"reconstruction": RECONSTRUCTION, "kl_z": KL_Z | PER_TOKEN_KL}
    sizes = {"places": 6, "dimensions of z": 3}
    yield from bound_rows(given, {"x": torch.tensor(X).double()}, mistakes, sizes)
    yield dropout_row(given)
    count = torch.tensor([150.0, 260.0, 190.0, 120.0, 310.0, 240.0, 170.0])
    yield row(
        "nats per token",
        lambda nats: given.nats_per_token(nats, count),
        ((600 * positive(7).detach()).requires_grad_(),),
        lambda nats: torch.dot(nats, torch.ones(7)) / torch.dot(count, torch.ones(7)),
        {
            "This is the mean of the ratios, which gives tokens of short sequences more weight. Divide the "
            "sums.": lambda nats: (nats / count).mean(),
            "These are bits per token. Nats are needed.": lambda nats: nats.sum() / count.sum() / math.log(2),
            "These are nats per sequence. Divide by the number of tokens.": lambda nats: nats.mean(),
            "You divided the mean of the nats by the number of all tokens.": lambda nats: (
                nats.mean() / count.sum()
            ),
            "This is the perplexity. Its logarithm is needed.": lambda nats: (nats.sum() / count.sum()).exp(),
        },
    )
    yield perplexity_row(given, count)


def dropout_row(given: Any) -> Row:
    """Returns the row of the decoder's input with word dropout, from a loop over sequences and places."""
    x = torch.tensor(X).double()
    u, rate = torch.rand(x.shape), 0.4

    def truth(x: Tensor, u: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        for n, i in torch.cartesian_prod(torch.arange(len(x)), torch.arange(1, x.shape[1])).tolist():
            lost = u[n, i - 1] < rate and x[n, i - 1] != PAD
            found[n, i] = UNKNOWN if lost else x[n, i - 1]
        return found

    def replaced(x: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, UNKNOWN, x)

    return row(
        "decoder's input",
        lambda x, u: given.decoder_input(x, u, rate),
        (x, u),
        truth,
        {
            "The decoder would read the token that it predicts. Shift by one place.": lambda x, u: replaced(
                x, (u < rate) & (x != PAD)
            ),
            "Padding is never replaced, neither after the end nor before the first place.": lambda x, u: (
                replaced(shift(x), u < rate)
            ),
            "Padding is never replaced. Yours is, after the end.": lambda x, u: shift(replaced(x, u < rate)),
            "u_i belongs to token i. You took the u of the place that reads it.": lambda x, u: replaced(
                shift(x), (u < rate) & (shift(x) != PAD)
            ),
            "A token is replaced if u is below the rate. You kept these.": lambda x, u: shift(
                replaced(x, (u >= rate) & (x != PAD))
            ),
            "No token is replaced.": lambda x, u: shift(x),
            "A token is replaced by UNKNOWN, not by padding.": lambda x, u: shift(x * (u >= rate)),
        },
    )


def perplexity_row(given: Any, count: Tensor) -> Row:
    """Returns the row of the perplexity, where the weights themselves are zero in floating point."""

    def nats(log_w: Tensor) -> Tensor:
        return 800 - (log_w + 800).exp().mean(0).log()

    return row(
        "perplexity",
        lambda log_w: given.perplexity(log_w, count),
        ((leaf(5, 7).detach() - 800).requires_grad_(),),
        lambda log_w: (nats(log_w).sum() / count.sum()).exp(),
        {
            "This is a mean of logarithms, the perplexity of the ELBO. The mean of the weights must be "
            "inside the logarithm.": lambda log_w: (-log_w.mean(0).sum() / count.sum()).exp(),
            "The number of samples is missing: this is the logarithm of a sum.": lambda log_w: (
                -log_w.logsumexp(0).sum() / count.sum()
            ).exp(),
            "The exponential of a mean of ratios gives tokens of short sequences more weight. Divide the "
            "sums.": lambda log_w: (nats(log_w) / count).mean().exp(),
            "This is the mean of the perplexities of the sequences. Divide the sums, then take the "
            "exponential.": lambda log_w: (nats(log_w) / count).exp().mean(),
            "These are nats per token. Their exponential is needed.": lambda log_w: (
                nats(log_w).sum() / count.sum()
            ),
            "The sign is wrong: the perplexity is at least 1.": lambda log_w: (
                -nats(log_w).sum() / count.sum()
            ).exp(),
            "The weights are in nats. The base of the exponential is e, not 2.": lambda log_w: (
                2 ** (nats(log_w).sum() / count.sum())
            ),
        },
    )
