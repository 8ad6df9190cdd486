"""The masked auto-encoder: who sees whom, and a density that sums to one."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from inference import svi
from inference.data.examples import example_inputs
from inference.elbo.comparison import compare
from inference.rundir.restore import restore
from inference.training.schedules import make_ema
from ppl_models import MADE
from ppl_models.nets.masked import MaskedMLP
from tests.support import checkpoint

SHAPE = (1, 2, 4)


def build(order: str, masks: int, layers: int = 2) -> MADE:
    """A small one, far from even odds."""
    model = MADE(SHAPE, hidden=20, layers=layers, order=order, masks=masks)
    with torch.no_grad():
        for layer in model.network.layers:
            layer.weight *= 6
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
        place = network.degrees(index)[0]
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
    assert "turn" in model.state_dict()  # a resumed run continues with the next set


def test_numbers_are_the_paper_s() -> None:
    network = MaskedMLP(5, [40, 30])
    first, *hidden, last = network.degrees()
    assert first.tolist() == last.tolist() == [1, 2, 3, 4, 5]
    assert all(number.min() >= 1 and number.max() <= 4 for number in hidden)
    into, between, out = network.connections()
    assert torch.equal(into, hidden[0][:, None] >= first)
    assert torch.equal(between, hidden[1][:, None] >= hidden[0])
    assert torch.equal(out, last[:, None] > hidden[1])
    assert not out[0].any()  # the first output sees nothing


def numbers(model: MADE) -> list[list[list[int]]]:
    network = model.network
    return [[layer.tolist() for layer in network.degrees(index)] for index in range(network.masks)]


@pytest.mark.parametrize("order", ["natural", "random"])
def test_the_seed_decides_the_numbers(order: str) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(numbers(MADE(SHAPE, hidden=20, layers=2, order=order, masks=2)))
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]
    assert (found[0][0][0] != found[2][0][0]) == (order == "random")


def test_a_state_holds_the_numbers_and_loading_it_restores_the_masks() -> None:
    torch.manual_seed(1)
    model = build("random", 3).eval()
    torch.manual_seed(2)
    other = build("random", 3).eval()
    assert numbers(model) != numbers(other)
    other.load_state_dict(model.state_dict())
    assert numbers(model) == numbers(other)
    assert torch.equal(model.log_likelihood(every_image()), other.log_likelihood(every_image()))
    for index in range(3):
        for a, b in zip(model.network.connections(index), other.network.connections(index), strict=True):
            assert torch.equal(a, b)
    state = model.state_dict()
    assert {name for name in state if not name.endswith(("weight", "bias"))} == {
        *("turn", "network.units_0", "network.units_1", "network.units_2")
    }
    assert state["network.units_0"].shape == (3, 8) and state["network.units_2"].shape == (3, 20)


# What commit c2a7637 printed, of a model made under torch.manual_seed(7): the numbers that its own generator
# drew, and log p of two images.
OLDER = {
    "random": (
        [[[3, 6, 4, 1, 2, 5], [5, 3, 4, 3], [4, 2, 2, 2]], [[4, 5, 3, 1, 2, 6], [5, 4, 2, 5], [2, 5, 5, 2]]],
        [-43.88878374360526, -17.576301119139053],
    ),
    "natural": (
        [[[1, 2, 3, 4, 5, 6], [5, 5, 4, 1], [4, 5, 3, 4]], [[1, 2, 3, 4, 5, 6], [3, 4, 2, 2], [2, 5, 4, 2]]],
        [-94.880936149239, -20.75089033160313],
    ),
}


@pytest.mark.parametrize("order", OLDER)
def test_an_older_state_loads_with_the_masks_that_it_was_trained_with(order: str, float64: None) -> None:
    torch.manual_seed(7)
    model = MADE((1, 2, 3), hidden=4, layers=2, order=order, masks=2).eval()
    units, log_p = OLDER[order]
    assert [layers[:-1] for layers in numbers(model)] != units
    state = {name: value for name, value in model.state_dict().items() if "units" not in name}
    for i, (name, parameter) in enumerate(model.named_parameters()):
        values = torch.linspace(-3, 3, parameter.numel()).sin() * (i + 1)
        state[name] = values.view_as(parameter)
    before = torch.get_rng_state()
    model.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    assert [layers[:-1] for layers in numbers(model)] == units
    x = (torch.arange(12) % 5 < 2).double().view(2, 1, 2, 3)
    assert_close(model.log_likelihood(x), torch.tensor(log_p))


def test_a_moving_average_keeps_the_numbers() -> None:
    """An average of equal whole numbers, rounded down, would be smaller: the orders would fall apart."""
    model = MADE((1, 28, 28), hidden=50, order="random", masks=2)
    averaged = make_ema(model, 0.999)
    for _ in range(30):
        averaged.update_parameters(model)
    assert numbers(averaged.module) == numbers(model)


def test_a_run_s_seed_decides_its_masks_and_its_checkpoint_holds_them(
    small_npz: Path, tmp_path: Path
) -> None:
    found = []
    for seed, folder in ((3, "a"), (4, "b")):
        options = [
            "--batch-size",
            "30",
            "--hidden",
            "7",
            "--order",
            "random",
            "--masks",
            "2",
            "--ema",
            "0.9",
            "--steps",
            "12",
        ]
        options += ["--data", str(small_npz), "--run-dir", str(tmp_path / folder), "--seed", str(seed)]
        assert svi.main(["--model", "made", *options]) == 0
        torch.manual_seed(seed)
        expected = numbers(MADE((1, 6, 6), hidden=7, order="random", masks=2))
        found.append(numbers(restore(tmp_path / folder)[3]))
        assert found[-1] == expected
        units = checkpoint(tmp_path / folder)["parameters"]["network.units_0"]
        assert units.tolist() == [layers[0] for layers in expected]
    assert found[0] != found[1]
