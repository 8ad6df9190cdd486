"""Networks that see only what came before: their fields by Jacobian, and drawing by either way."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks.sampling import Naive
from ppl_models.code_prior import categorical as codes
from ppl_models.distributions import AutoregressiveGrid, BernoulliImage, LogisticMixtureImage
from ppl_models.distributions.logistic_mixture import num_outputs
from ppl_models.nets.pixelcnn import PixelCNN
from ppl_models.nets.transformer import FEW, CausalTransformer, causal_attention


def bernoulli(raw: Tensor) -> BernoulliImage:
    return BernoulliImage(raw.flatten(-3), raw.shape[-3:])


def colours(raw: Tensor) -> LogisticMixtureImage:
    return LogisticMixtureImage(raw, channels=3, components=2)


KINDS = {
    "binary": (PixelCNN(1, 6, 1, receptive_field=2), bernoulli, (1, 5, 4)),
    "binary, told": (PixelCNN(1, 6, 1, receptive_field=3, condition=4), bernoulli, (1, 5, 4)),
    "colours, told": (PixelCNN(3, 6, num_outputs(3, 2), receptive_field=2, condition=4), colours, (3, 4, 5)),
    "codes": (PixelCNN(1, 6, 7, receptive_field=3, codes=7), codes, (1, 4, 4)),
    "codes, transformer": (CausalTransformer(7, (4, 3), 8, 2, 2), codes, (1, 4, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_by_what_is_kept_is_drawing_naively(kind: str, float64: None) -> None:
    network, family, shape = KINDS[kind]
    network = network.double()
    condition = torch.randn(6, 4, *shape[1:]) if "told" in kind else None
    drawn = []
    for way in (network, Naive(network)):
        torch.manual_seed(1)
        drawn.append(AutoregressiveGrid(way, family, shape, condition).expand([6]).sample())
    assert torch.equal(*drawn) and drawn[0].unique().numel() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_along_the_way_are_those_of_the_whole(kind: str, float64: None) -> None:
    network, family, shape = KINDS[kind]
    network = network.double()
    condition = torch.randn(3, 4, *shape[1:]) if "told" in kind else None
    x = AutoregressiveGrid(network, family, shape, condition).expand([3]).sample()
    whole = network(x, condition)
    for (row, column), raw in network.sequential(x, condition):
        assert_close(raw, whole[..., row, column])


@pytest.mark.parametrize("receptive_field", [1, 2, 3])
def test_a_pixelcnn_sees_its_field_and_nothing_else(receptive_field: int, float64: None) -> None:
    """Every place of the rows above and of the row's left, as far as it is said, by the Jacobian."""
    side, network = 9, PixelCNN(2, 8, 3, receptive_field).double()
    x = torch.randn(1, 2, side, side, requires_grad=True)
    out = network(x)
    for row, column in ((4, 4), (0, 0), (0, 5), (8, 8), (5, 0), (1, 7)):
        (seen,) = torch.autograd.grad(out[0, :, row, column].sum(), x, retain_graph=True)
        expected = torch.zeros(side, side, dtype=torch.bool)
        expected[
            max(row - receptive_field, 0) : row,
            max(column - receptive_field, 0) : column + receptive_field + 1,
        ] = True
        expected[row, max(column - receptive_field, 0) : column] = True
        assert torch.equal((seen[0] != 0).all(0), expected) and torch.equal((seen[0] != 0).any(0), expected)


def test_a_transformer_sees_all_that_came_before(float64: None) -> None:
    network = CausalTransformer(5, (3, 4), 8, 2, 2).double()
    embedded = torch.randn(1, 12, 8, requires_grad=True)
    network.embedding = torch.nn.Module()
    network.embedding.forward = lambda _: embedded
    out = network(torch.zeros(1, 1, 3, 4)).flatten(-2)
    for place in range(12):
        (seen,) = torch.autograd.grad(out[0, :, place].pow(2).sum(), embedded, retain_graph=True)
        assert (seen[0] != 0).any(-1).tolist() == [before < place for before in range(12)]


def test_probabilities_of_all_images_sum_to_one(float64: None) -> None:
    """Of binary images of 3 x 3, told something: and draws follow them."""
    network = PixelCNN(1, 6, 1, receptive_field=2, condition=2).double()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    condition = torch.randn(1, 2, 3, 3)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9).view(-1, 1, 3, 3)
    fn = AutoregressiveGrid(network, bernoulli, (1, 3, 3), condition)
    p = fn.log_prob(every).exp().detach()
    assert_close(p.sum(), torch.tensor(1.0))
    n = 20_000
    x = fn.sample((n,)).flatten(1)
    counts = torch.bincount((x @ 2.0 ** torch.arange(8, -1, -1)).long(), minlength=512)
    often = p > 5 / n
    chi = ((counts - n * p) ** 2 / (n * p))[often].sum()
    degrees = often.sum() - 1
    assert p.max() > 3 / 512 and abs(chi - degrees) < 5 * (2 * degrees) ** 0.5


def test_codes_have_a_likelihood(float64: None) -> None:
    network = CausalTransformer(7, (4, 3), 8, 2, 2).double()
    fn, x = AutoregressiveGrid(network, codes, (1, 4, 3)).expand([5]), torch.randint(7, (5, 1, 4, 3)).double()
    by_hand = torch.nn.functional.cross_entropy(network(x), x[:, 0].long(), reduction="none").sum((1, 2))
    assert_close(fn.log_prob(x), -by_hand)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (2, 5), (FEW + 1, FEW + 1)])
def test_attention_is_an_average_over_the_positions_so_far(n: int, m: int, float64: None) -> None:
    """Weights exp(q . k / sqrt(d)) of each query's own position and all before it."""
    q, k, v = torch.randn(2, n, 3), torch.randn(2, m, 3), torch.randn(2, m, 4)
    found = causal_attention(q, k, v)
    assert found.shape == (2, n, 4)
    for place in (0, n // 2, n - 1):
        seen = m - n + place + 1
        weights = (k[:, :seen] @ q[:, place, :, None]).div(3**0.5).exp()
        assert_close(found[:, place], (weights * v[:, :seen]).sum(1) / weights.sum(1))


def test_the_places_of_the_transformer_start_small() -> None:
    network = CausalTransformer(7, (20, 20), 32, 2, 1)
    (places,) = (p.detach() for p in network.parameters() if p.shape[-2:] == (400, 32))
    assert 0.019 < places.std() < 0.021
