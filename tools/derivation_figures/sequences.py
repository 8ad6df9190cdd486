"""The picture of the page about sequences: short trainings of `seq_vae` with more and more word dropout."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference import fit
from ppl_models import SeqVAE
from ppl_models.distributions.token_sequence import END, UNKNOWN
from ppl_models.programs import sample_latents
from tools.derivation_figures import GREY, canvas, figure_of

TOPICS, WORDS = 4, 3  # words of each topic
SHORTEST, LONGEST = 2, 6  # words of a sequence
RATES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STEPS = 1_000


def topic_sequences(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples sequences whose words have one topic in common: topic, number of words and words are uniform.

    Returns:
        The tokens (n, 7), int32, and -log p of each sequence under this distribution, (n,).
    """
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(SHORTEST, LONGEST + 1, (n,), generator=generator)
    topic = torch.randint(TOPICS, (n, 1), generator=generator)
    word = torch.randint(WORDS, (n, LONGEST + 1), generator=generator)
    place, after = torch.arange(LONGEST + 1), number[:, None]
    tokens = UNKNOWN + 1 + WORDS * topic + word
    x = torch.where(place < after, tokens, torch.where(place == after, END, 0))
    return x.int(), math.log(TOPICS * (LONGEST - SHORTEST + 1)) + number * math.log(WORDS)


def price(rate: Any) -> Any:
    """The mean cost of not seeing the topic: log J times the sum over i of Pr(at least i words) r^(i - 1)."""
    count = LONGEST - SHORTEST + 1
    share = [min(1.0, (LONGEST - i + 1) / count) for i in range(2, LONGEST + 1)]
    return math.log(TOPICS) * sum(part * rate**i for i, part in enumerate(share, 1))


def trained(rate: float) -> tuple[float, float]:
    """Trains a model; returns its objective minus the entropy of the data, and its KL term, on other data."""
    (x, _), (test, least) = topic_sequences(8_000, 0), topic_sequences(4_000, 1)
    torch.manual_seed(0)
    sizes = {"vocabulary": UNKNOWN + 1 + TOPICS * WORDS, "z_dim": 2, "embedding": 16, "hidden": 32}
    model = SeqVAE((LONGEST + 1,), **sizes, word_dropout=rate)
    fit(model, x, steps=STEPS, batch_size=64, lr=0.01, schedule="cosine", kl_warmup=0, progress=False)
    model.train()
    with torch.no_grad():
        bound = model.bound(test.float(), sample_latents(model, x=test.float()))
    assert bound.negative_elbo is not None and bound.kl is not None
    return (bound.negative_elbo - least).mean().item(), bound.kl.mean().item()


@figure_of("29-sequences")
def word_dropout() -> Any:
    """What word dropout costs without z, and six trained models: their objective and their KL term."""
    figure, (left, right) = canvas(1, 2, height=2.2)
    rates = np.linspace(0, 1, 200)
    excess, kl = zip(*map(trained, RATES), strict=True)
    left.plot(rates, price(rates), color=GREY)
    left.annotate("best\nwithout z", (0.52, 1.5), ha="right", fontsize=7.5, color="0.3")
    left.plot(RATES, excess, "o-", color="C0", markersize=4)
    left.annotate("trained", (1, 0.6), ha="right", fontsize=7.5, color="C0")
    left.set(ylim=(-0.05, 2.2), ylabel="objective - entropy, nats")
    right.plot(RATES, kl, "o-", color="C0", markersize=4)
    right.axhline(math.log(TOPICS), color=GREY, linestyle="--", linewidth=1)
    right.annotate("log 4", (0.02, math.log(TOPICS) + 0.05), fontsize=7.5, color="0.3")
    right.set(ylim=(-0.05, 2.2), ylabel="KL term, nats")
    for axes in (left, right):
        axes.set(xlabel="word dropout", xticks=[0, 0.5, 1])
    return figure
