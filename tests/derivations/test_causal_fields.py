"""Derivation 24: the positions that an output depends on, and what a shorter field costs."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ppl_models import CodePixelCNN
from ppl_models.nets.pixelcnn import PixelCNN


def seen(out: torch.Tensor, x: torch.Tensor, row: int, column: int) -> set[tuple[int, int]]:
    """The positions of x that an output depends on."""
    (gradient,) = torch.autograd.grad(out[0, :, row, column].sum(), x, retain_graph=True)
    return {(int(a), int(b)) for a, b in (gradient[0] != 0).any(0).nonzero()}


@pytest.mark.parametrize("r", [1, 2, 4])
def test_the_number_of_positions(r: int, float64: None) -> None:
    x = torch.randn(1, 1, 11, 11, requires_grad=True)
    assert len(seen(PixelCNN(1, 6, 1, r).double()(x), x, 5, 5)) == 2 * r * (r + 1)


def test_a_single_stack_has_a_blind_spot(float64: None) -> None:
    """Masked 3 x 3 convolutions: what is right of the diagonal stays invisible for any number of layers."""
    x = torch.randn(1, 1, 9, 9, requires_grad=True)
    h = x
    for layer in range(8):
        convolution = nn.Conv2d(1, 1, 3, padding=1)
        mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, float(layer > 0), 0.0], [0.0, 0.0, 0.0]])
        h = nn.functional.conv2d(h, convolution.weight.double() * mask, padding=1)
    found = seen(h, x, 8, 2)
    before = {(a, b) for a in range(9) for b in range(9) if a < 8 or b < 2}
    assert found == {(a, b) for a, b in before if b - 2 <= 8 - a}
    assert (7, 4) in before - found


def test_a_field_of_a_map_s_size_sees_everything_before(float64: None) -> None:
    network = CodePixelCNN((1, 5, 5), codes=7, width=6).double().network
    embedded = torch.randn(1, 6, 5, 5, requires_grad=True)
    network._embed = lambda _: embedded
    out = network(torch.zeros(1, 1, 5, 5))
    for row, column in ((4, 4), (2, 0), (0, 3)):
        expected = {(a, b) for a in range(5) for b in range(5) if (a, b) < (row, column)}
        assert seen(out, embedded, row, column) == expected


def test_a_shorter_field_costs_the_information_beyond_it(float64: None) -> None:
    """Three bits with a random joint distribution; the third is given only the second."""
    p = torch.rand(2, 2, 2) ** 3
    p = p / p.sum()
    entropy = -(p * p.log()).sum()
    pair = p.sum(0)  # of the second and the third
    best = pair / pair.sum(1, keepdim=True)
    first = p.sum((1, 2))
    second = p.sum(2) / first[:, None]
    loss = -(p * (first[:, None, None] * second[..., None] * best).log()).sum()
    information = (p * (p * pair.sum(1)[:, None] / (p.sum(2)[..., None] * pair)).log()).sum()
    assert information > 1e-3
    assert_close(loss, entropy + information)
    other = best + torch.tensor([0.05, -0.05])
    assert -(p * (first[:, None, None] * second[..., None] * other).log()).sum() > loss
    assert math.log(128) == pytest.approx(4.852, abs=5e-4)
