"""Derivation 29: the end of a sequence, padding, means over tokens, word dropout, and perplexity."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.testing import assert_close

from inference.metrics import bounds
from ppl_models import SeqVAE
from ppl_models.distributions import TokenSequence
from ppl_models.distributions.token_sequence import END, PAD, UNKNOWN
from ppl_models.nets.heads import loc_scale
from ppl_models.programs import sample_latents
from tools.derivation_figures import sequences as picture

LENGTH, TOKENS = 3, 4  # <end>, <unk> and one word can be generated
GRID = torch.linspace(-9, 9, 1_201, dtype=torch.float64)[:, None]  # of z, which has one dimension
STEP = 18 / 1_200


def sequences(length: int = LENGTH, tokens: int = TOKENS) -> Tensor:
    """All sequences of up to so many places; what follows an end is padding."""
    found = set()
    for given in itertools.product(range(1, tokens), repeat=length):
        end = given.index(END) + 1 if END in given else length
        found.add((*given[:end], *[PAD] * (length - end)))
    return torch.tensor(sorted(found), dtype=torch.float64)


@pytest.fixture
def model(float64: None) -> SeqVAE:
    """A small model with one z, on which p(x | z) depends strongly, and with word dropout."""
    torch.manual_seed(0)
    it = SeqVAE((LENGTH,), vocabulary=TOKENS, z_dim=1, embedding=3, hidden=5, word_dropout=0.4).double()
    with torch.no_grad():
        for parameter in it.parameters():
            parameter.mul_(2.5)
    return it


class Table(nn.Module):
    """A decoder that does not read z: the logits of each place are a function of the tokens before it."""

    def __init__(self, logits: dict[tuple[int, ...], Tensor], otherwise: Tensor):
        super().__init__()
        self.logits, self.otherwise = logits, otherwise

    def forward(self, before: Tensor, z: Tensor) -> Tensor:
        rows = [[tuple(row[1 : i + 1]) for i in range(len(row))] for row in before.long().tolist()]
        found = [torch.stack([self.logits.get(key, self.otherwise) for key in row]) for row in rows]
        return torch.stack(found).expand(*z.shape[:-1], -1, -1)


def log_normal(z: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


def on_grid(it: SeqVAE, x: Tensor, kept: Tensor | None = None) -> Tensor:
    """log p(x | z, u) of a sequence (length,) on the grid of z; `kept` is 0 where a token is replaced."""
    latents = {"z": GRID} | ({} if kept is None else {"dropout": kept.expand(len(GRID), -1)})
    return -it.bound(x.expand(len(GRID), -1), latents).terms["reconstruction"].detach()


def guide_on_grid(it: SeqVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z | x) on the grid, and its probabilities."""
    loc, scale = (part.detach() for part in loc_scale(it.encoder(x[None])))
    log_q = Normal(loc, scale).log_prob(GRID).sum(-1)
    return log_q, log_q.exp() * STEP


def test_without_the_end_s_factor_the_sum_is_a_mean_length(model: SeqVAE) -> None:
    """The sum over all sequences is E[T] + Pr(cut) instead of one."""
    x, z = sequences(), torch.randn(1)
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    log_p = (
        model.decoder(before, z).log_softmax(-1).gather(-1, (x.long() - 1).clamp(min=0)[..., None])[..., 0]
    )
    p = (log_p * (x != PAD)).sum(-1).exp()
    assert_close(p, TokenSequence(model.decoder, z, LENGTH).log_prob(x).exp())
    length, cut = (p * (x != PAD).sum(-1)).sum(), p[(x != END).all(-1)].sum()
    without = (log_p * (x > END)).sum(-1).exp().sum()
    assert_close(p.sum(), torch.tensor(1.0))
    assert_close(without, length + cut)
    assert without > 1.2 and cut > 0.01


def test_padding_has_no_gradient(model: SeqVAE) -> None:
    """More places change no gradient. Padded logits and the encoder's embedding of padding have none."""
    longer = SeqVAE((7,), **model.constructor_options).double()
    longer.load_state_dict(model.state_dict())
    x, latents = torch.tensor([[3.0, END, PAD], [END, PAD, PAD], [3, 2, 3]]), {"z": torch.randn(3, 1)}
    padded, logits = torch.cat([x, torch.zeros(3, 4)], 1), []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        logits.append(output)

    longer.decoder.register_forward_hook(keep)
    short, long = model.bound(x, latents).negative_elbo, longer.bound(padded, latents).negative_elbo
    assert_close(long, short)
    short.sum().backward()
    long.sum().backward()
    for one, other in zip(model.parameters(), longer.parameters(), strict=True):
        assert_close(one.grad, other.grad)
    assert not logits[0].grad[padded == PAD].any() and logits[0].grad[padded != PAD].any()
    assert not longer.encoder.embedding.weight.grad[PAD].any()
    assert longer.decoder.embedding.weight.grad[PAD].any()  # it starts every sequence


def test_padding_that_is_counted_depends_on_the_number_of_places(model: SeqVAE) -> None:
    x, z = torch.tensor([[3.0, END, PAD]]), torch.randn(1, 1)
    values = []
    for extra in (0, 4):
        longer = torch.cat([x, torch.zeros(1, extra)], 1)
        before = torch.cat([torch.zeros(1, 1), longer[:, :-1]], 1)
        log_p = model.decoder(before, z).log_softmax(-1)
        values.append(-log_p.gather(-1, (longer.long() - 1).clamp(min=0)[..., None]).sum().item())
    assert values[1] > values[0] + 0.1


def test_a_mean_over_tokens_favours_short_sequences(float64: None) -> None:
    """The best p for the mean of -log p(x) / T is proportional to p_data / T."""
    lengths, data = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0, 5.0]), torch.rand(6).softmax(0)

    def mean(logits: Tensor) -> Tensor:
        return -(data / lengths * logits.log_softmax(0)).sum()

    best = (data / lengths).log()
    assert_close(torch.func.grad(mean)(best), torch.zeros(6))
    assert torch.linalg.eigvalsh(torch.func.hessian(mean)(best)).min() > -1e-12
    assert mean(best) < mean(data.log()) - 1e-3
    half = torch.tensor([0.5 / 1, 0.5 / 3])
    assert_close(half / half.sum(), torch.tensor([0.75, 0.25]))


def test_the_mean_of_the_ratios_lacks_a_covariance(float64: None) -> None:
    tokens = torch.randint(3, 20, (500,)).double()
    nats = 5 + 3 * tokens + torch.randn(500)  # the first words cost most
    metrics = bounds._token_metrics({"negative_elbo": nats[None], "tokens": tokens[None]})
    ratio, each = metrics["nats_per_token"]["value"], nats / tokens
    covariance = ((each - each.mean()) * (tokens - tokens.mean())).mean()
    assert ratio == pytest.approx((nats.mean() / tokens.mean()).item())
    assert each.mean().item() == pytest.approx(ratio - (covariance / tokens.mean()).item())
    assert each.mean() > ratio + 0.1
    assert metrics["token_perplexity"]["value"] == pytest.approx(math.exp(ratio))


def test_the_standard_error_of_the_ratio(float64: None) -> None:
    """Over 2,000 test sets of 400 sequences the ratio has the spread that each of them states."""
    tokens = torch.randint(3, 20, (2_000, 400)).double()
    nats = 5 + 3 * tokens + 4 * torch.randn(2_000, 400)
    spread = (nats.sum(1) / tokens.sum(1)).std().item()
    first = bounds._token_metrics({"negative_elbo": nats[:1], "tokens": tokens[:1]})["nats_per_token"]
    assert first["se"] == pytest.approx(spread, rel=0.15)


def masks(rate: float) -> Iterator[tuple[Tensor, float]]:
    """Which of the tokens are kept, 0 or 1, and the probability of that. The last token is never read."""
    for kept in itertools.product([0.0, 1.0], repeat=LENGTH - 1):
        yield torch.tensor([*kept, 1.0]), math.prod(1 - rate if k else rate for k in kept)


def test_the_gap_with_word_dropout_has_two_parts(model: SeqVAE) -> None:
    """The objective is at least -log p of the mixture; the two KL divergences of the page are the gap."""
    it, x = model.train(), torch.tensor([3.0, 2.0, END])
    log_q, q = guide_on_grid(it, x)
    kl = (q * (log_q - log_normal(GRID))).sum()
    probabilities, given, joint = [], [], []
    for kept, probability in masks(it.word_dropout):
        log_x = on_grid(it, x, kept)
        probabilities.append(probability)
        given.append((log_x + log_normal(GRID)).logsumexp(0) + math.log(STEP))  # log p(x | u)
        joint.append((q * log_x).sum() - kl)
    p_u, log_given = torch.tensor(probabilities), torch.stack(given)
    bound, log_mixture = (p_u * torch.stack(joint)).sum(), (p_u.log() + log_given).logsumexp(0)
    of_z = (p_u * (log_given - torch.stack(joint))).sum()  # the mean KL of q from p(z | x, u)
    of_u = (p_u * (p_u.log() - (p_u.log() + log_given - log_mixture))).sum()
    assert_close(log_mixture - bound, of_z + of_u)
    assert of_z > 1e-3 and of_u > 1e-3
    n = 20_000
    values = it.bound(x.expand(n, -1), sample_latents(it, x=x.expand(n, -1))).negative_elbo.detach()
    assert abs(values.mean() + bound) < 4 * values.std() / n**0.5 < 0.1


def test_word_dropout_does_not_bound_the_model_without_it(model: SeqVAE) -> None:
    """The page's example: after <unk> the end has the probability 0.9, after the word 0.1."""

    def logits(end: float) -> Tensor:
        return torch.tensor([end, (1 - end) / 2, (1 - end) / 2]).log()

    first = torch.tensor([-1e3, -1e3, 0.0])  # the first token is the word
    model.decoder = Table({(): first, (UNKNOWN,): logits(0.9), (3,): logits(0.1)}, logits(0.5))
    x, it = torch.tensor([3.0, END, PAD]), model.train()
    dropped = on_grid(it, x, torch.tensor([0.0, 1.0, 1.0]))[0].item()
    kept = on_grid(it, x, torch.ones(3))[0].item()
    objective = -(dropped + kept) / 2  # word dropout 1/2; q(z | x) = p(z), so that the KL term is zero
    assert (objective, -kept, -math.log((math.exp(dropped) + math.exp(kept)) / 2)) == pytest.approx(
        (1.204, 2.303, 0.693), abs=5e-4
    )


def cost_given_seen(x: Tensor, p: Tensor, rate: float) -> float:
    """The mean of -log p(x_i | the tokens seen) over data p and masks, with the data's own conditionals."""
    cost = 0.0
    for i in range(x.shape[1]):
        there = x[:, i] != PAD
        rows, weights = x[there].long().tolist(), p[there].tolist()
        for kept in itertools.product([False, True], repeat=i):
            probability = math.prod(1 - rate if k else rate for k in kept)
            keys = [tuple(t if k else UNKNOWN for t, k in zip(row, kept, strict=False)) for row in rows]
            seen, both = {}, {}
            for key, row, weight in zip(keys, rows, weights, strict=True):
                seen[key] = seen.get(key, 0.0) + weight
                both[key, row[i]] = both.get((key, row[i]), 0.0) + weight
            cost -= probability * sum(w * math.log(w / seen[key]) for (key, _), w in both.items() if w)
    return cost


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_masked_decoder_pays_for_what_it_does_not_see(rate: float, float64: None) -> None:
    x = sequences()
    p = torch.rand(len(x)) ** 3
    p = p / p.sum()
    entropy = -(p * p.log()).sum().item()
    excess = cost_given_seen(x, p, rate) - entropy
    assert excess == pytest.approx(0, abs=1e-12) if rate == 0 else excess > 1e-3


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_price_of_a_topic_that_is_not_seen(
    rate: float, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log J times the sum over i from 2 on of Pr(T > i) r^(i - 1), with smaller data than the picture's."""
    for name, value in (("TOPICS", 2), ("WORDS", 2), ("SHORTEST", 2), ("LONGEST", 4)):
        monkeypatch.setattr(picture, name, value)
    x, least = picture.topic_sequences(5_000, 0)
    rows = torch.cat([x.double(), least.double()[:, None]], 1).unique(dim=0)
    x, p = rows[:, :-1], (-rows[:, -1]).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-6)  # every sequence occurs
    p = p / p.sum()
    entropy = -(p * p.log()).sum().item()
    assert cost_given_seen(x, p, rate) - entropy == pytest.approx(picture.price(rate), abs=1e-6)


def test_the_price_in_the_picture() -> None:
    assert picture.price(1.0) == pytest.approx(3 * math.log(4)) == pytest.approx(4.16, abs=5e-3)


def test_a_decoder_with_the_data_s_conditionals_leaves_nothing_to_z(model: SeqVAE) -> None:
    """No model has a mean -ELBO below the entropy, and a collapsed one reaches it."""
    x = sequences()
    p = torch.rand(len(x)).softmax(0)
    entropy = -(p * p.log()).sum()

    def mean() -> Tensor:
        each = []
        for row in x:
            log_q, q = guide_on_grid(it, row)
            each.append((q * (log_q - log_normal(GRID) - on_grid(it, row))).sum())
        return (p * torch.stack(each)).sum()

    it = model.eval()
    assert mean() > entropy + 0.1
    before, table = {tuple(row[:i]) for row in x.long().tolist() for i in range(LENGTH)}, {}
    for key in before:
        matches = (x[:, : len(key)] == torch.tensor(key)).all(-1)
        following = [p[matches & (x[:, len(key)] == t)].sum() for t in range(1, TOKENS)]
        table[key] = torch.stack(following).clamp(min=1e-300).log()
    it.decoder = Table(table, torch.zeros(TOKENS - 1))
    with torch.no_grad():
        it.encoder.head.weight.zero_()
        it.encoder.head.bias.copy_(torch.tensor([0.0, math.log(math.expm1(1.0))]))  # q(z | x) = N(0, 1)
    assert_close(mean(), entropy)


def test_the_perplexity_of_many_samples_is_nearer_to_that_of_the_model(model: SeqVAE) -> None:
    """exp of nats per token falls from the ELBO over 10 and 100 samples to the quadrature."""
    it, x = model.eval(), sequences()[1:]
    tokens = (x != PAD).sum()
    exact = torch.stack([(on_grid(it, row) + log_normal(GRID)).logsumexp(0) + math.log(STEP) for row in x])
    found = []
    for k in (1, 10, 100):
        groups = x.repeat(4_000 // k, 1)
        z = sample_latents(it, x=groups.repeat(k, 1))["z"].view(k, len(groups), 1)
        with torch.no_grad():
            nats = it.bound(groups, {"z": z}, kl="sampled").importance_weighted
        found.append((nats.sum() / (4_000 // k) / tokens).exp().item())
    truth = (-exact.sum() / tokens).exp().item()
    assert found[0] > found[1] + 1e-2 > found[2] + 1e-2 and found[2] > truth - 5e-3
    assert found[2] - truth < (found[0] - truth) / 10
