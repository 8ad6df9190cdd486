"""The masked auto-encoder: who sees whom, and a density that sums to one."""

import pytest
import torch
from torch.testing import assert_close

from inference.compare import compare, example_inputs
from ppl_models import MADE
from ppl_models.nets.masked import MaskedMLP

SHAPE = (1, 2, 4)


def build(order: str, masks: int, layers: int = 2) -> MADE:
    """A small one, far from even odds."""
    model = MADE(SHAPE, hidden=20, layers=layers, order=order, masks=masks)
    with torch.no_grad():
        for layer in model.network.layers:
            layer.weight *= 4
    return model


def every_image() -> torch.Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 8).view(-1, *SHAPE)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("order", ["natural", "random"])
def test_an_output_sees_the_inputs_before_it_alone(order: str, layers: int, float64: None) -> None:
    """By the Jacobian, for every set of masks: what comes before is seen, what comes after is not."""
    network = MaskedMLP(6, [60] * layers, order == "random", masks=4)
    orders = []
    for index in range(4):
        seen = torch.zeros(6, 6)
        for _ in range(20):  # a rectified unit may be off at one input
            x = torch.randn(6)
            seen += torch.autograd.functional.jacobian(lambda v, i=index: network(v, i), x).abs()
        place = network.units(index)[0]
        assert torch.equal(seen > 0, place[:, None] > place)  # output by input
        orders.append(tuple(place.tolist()))
    assert (len(set(orders)) > 1) == (order == "random")


@pytest.mark.parametrize(("order", "masks"), [("natural", 1), ("random", 3)])
def test_the_probabilities_of_all_images_sum_to_one(order: str, masks: int, float64: None) -> None:
    model = build(order, masks).eval()
    p = model.log_likelihood(every_image()).exp()
    assert_close(p.sum(), torch.tensor(1.0))
    assert p.max() > 4 / 256  # and they are far from even


@pytest.mark.parametrize(("order", "masks"), [("natural", 1), ("random", 3)])
def test_draws_are_of_the_density(order: str, masks: int, float64: None) -> None:
    model, n = build(order, masks).eval(), 40_000
    places = 2 ** torch.arange(7, -1, -1)
    found = torch.bincount((model.sample(n).flatten(1).long() * places).sum(-1), minlength=256) / n
    p = model.log_likelihood(every_image()).exp().detach()
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


def test_the_density_of_several_masks_is_the_mean_of_theirs(float64: None) -> None:
    model = build("random", 3).eval()
    x = every_image()[::17]
    alone = []
    for index in range(3):
        logits = model.network(x.flatten(1), index)
        alone.append(torch.distributions.Bernoulli(logits=logits).log_prob(x.flatten(1)).sum(-1).exp())
    assert_close(model.log_likelihood(x).exp(), torch.stack(alone).mean(0))
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_training_takes_the_masks_in_turn_and_looking_takes_none(float64: None) -> None:
    model = build("random", 3)
    x = example_inputs(model, 5)["x"]
    turns = []
    for _ in range(4):
        assert compare(model, {"x": x}, "trace")["agrees"]
        turns.append(int(model.turn))
        model.eval().log_likelihood(x)
        model.model(x)
        model.train()
    assert turns == [1, 2, 0, 1]
    assert "turn" in model.state_dict()  # a resumed run goes on with the next


def test_numbers_are_the_paper_s() -> None:
    network = MaskedMLP(5, [40, 30])
    first, *hidden, last = network.units()
    assert first.tolist() == last.tolist() == [1, 2, 3, 4, 5]
    assert all(number.min() >= 1 and number.max() <= 4 for number in hidden)
    into, between, out = network.connections()
    assert torch.equal(into, hidden[0][:, None] >= first)
    assert torch.equal(between, hidden[1][:, None] >= hidden[0])
    assert torch.equal(out, last[:, None] > hidden[1])
    assert not out[0].any()  # the first output sees nothing
