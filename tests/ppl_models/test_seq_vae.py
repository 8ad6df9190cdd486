"""The VAE of sequences: its density, padding, word dropout and greedy decoding."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from inference.elbo.comparison import compare
from ppl_models import SeqVAE
from ppl_models.distributions import TokenSequence
from ppl_models.distributions.token_sequence import END, PAD
from ppl_models.programs import sample_latents

LENGTH, TOKENS = 3, 4  # <end>, <unk> and one word can be generated


def model(**options: float) -> SeqVAE:
    given = {"vocabulary": TOKENS, "z_dim": 2, "embedding": 3, "hidden": 5} | options
    return SeqVAE((LENGTH,), **given).double().eval()


def every_sequence() -> torch.Tensor:
    """All sequences of up to three places: what follows an end is padding."""
    found = set()
    for tokens in itertools.product(range(1, TOKENS), repeat=LENGTH):
        end = tokens.index(END) + 1 if END in tokens else LENGTH
        found.add((*tokens[:end], *[PAD] * (LENGTH - end)))
    return torch.tensor(sorted(found), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_density_sums_to_one_with_any_dropout(share: float, float64: None) -> None:
    """It is a density for each u, so that the objective with word dropout bounds their mixture."""
    it, x = model(), every_sequence()
    assert len(x) == 1 + 2 + 4 + 8
    dropped = torch.rand(LENGTH) < share
    p = TokenSequence(it.decoder, torch.randn(2), LENGTH, dropped if share else None)
    assert_close(p.log_prob(x).exp().sum(), torch.tensor(1.0))


def test_samples_have_the_frequencies_of_the_density(float64: None) -> None:
    torch.manual_seed(0)
    it, x, n = model(), every_sequence(), 20_000
    p = TokenSequence(it.decoder, torch.randn(2), LENGTH)
    samples = p.sample((n,))
    frequencies = (samples[:, None] == x).all(-1).double().mean(0)
    expected = p.log_prob(x).exp()
    assert (frequencies.sum() == 1) and (frequencies - expected).abs().max() < 5 * 0.5 / math.sqrt(n)


def test_padding_contributes_zero(float64: None) -> None:
    """The same line with more places has the same bound, for any embedding of padding."""
    it = model()
    longer = SeqVAE((7,), **it.constructor_options).double().eval()
    longer.load_state_dict(it.state_dict())
    x, z = torch.tensor([[3.0, END, PAD], [END, PAD, PAD]]), {"z": torch.randn(2, 2)}
    padded = torch.cat([x, torch.zeros(2, 4)], 1)
    terms = it.bound(x, z)
    for name, term in longer.bound(padded, z).terms.items():
        assert_close(term, terms.terms[name])
    assert terms.metrics["tokens"].tolist() == [2, 1]
    first = TokenSequence(it.decoder, z["z"][1], LENGTH).log_prob(torch.tensor([[3.0, 3.0, 3.0]]))
    assert (first < 0).all()


def test_word_dropout_is_a_latent_in_training_only(float64: None) -> None:
    it, x = model(word_dropout=0.5), every_sequence()
    assert sample_latents(it, x=x).keys() == {"z"}
    latents = sample_latents(it.train(), x=x)
    assert latents.keys() == {"z", "dropout"} and latents["dropout"].shape == x.shape
    for estimator in it.estimators:
        assert compare(it, x, estimator)["agrees"]
    bound = it.bound(x, latents)
    assert not bound.terms["kl_dropout"].any()
    kept = it.bound(x, latents | {"dropout": torch.ones_like(x)})
    assert_close(kept.negative_elbo, it.bound(x, {"z": latents["z"]}).negative_elbo)
    assert not torch.allclose(kept.negative_elbo, it.bound(x, latents | {"dropout": 0 * x}).negative_elbo)


def test_a_decoder_without_words_cannot_tell_them_apart(float64: None) -> None:
    """With word dropout 1 the last token's probability does not depend on the tokens before it."""
    it, z = model(word_dropout=1.0).train(), torch.randn(1, 2)
    x = torch.tensor([[2.0, 3, 3], [2, 3, END], [3, 2, 3], [3, 2, END]])
    latents = {"z": z.expand(4, 2), "dropout": torch.rand(4, 3)}
    loss = it.bound(x, latents).terms["reconstruction"]
    assert_close(loss[0] - loss[1], loss[2] - loss[3])
    plain = it.bound(x, {"z": latents["z"]}).terms["reconstruction"]
    assert not torch.allclose(plain[0] - plain[1], plain[2] - plain[3])


def test_decode_is_greedy(float64: None) -> None:
    it, z = model(), torch.randn(6, 2)
    x = it.decode({"z": z})
    assert torch.equal(x, it.sample(6, latents={"z": z}, noise=False))
    logits = it.decoder(torch.zeros(6, 1), z)[:, 0]
    assert torch.equal(x[:, 0], logits.argmax(-1).double() + 1)
    second = it.decoder(torch.cat([torch.zeros(6, 1), x[:, :1]], 1), z)[:, 1].argmax(-1) + 1
    assert torch.equal(x[:, 1], torch.where(x[:, 0] == END, PAD, second).double())


def test_word_dropout_is_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"word_dropout is 1\.5\. Give a fraction from 0 to 1\."):
        model(word_dropout=1.5)
