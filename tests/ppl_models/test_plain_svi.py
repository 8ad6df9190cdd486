"""`pyro.infer.SVI(model.model, model.guide, ...)` trains every parameter of every model, with no wrapper."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from inference.data.examples import example_inputs
from inference.elbo.estimators import ESTIMATORS
from ppl_models import MODELS, VAE
from ppl_models.base import LatentVariableModel
from tests.ppl_models.test_contract import CONVOLUTIONAL, build, slow
from tests.support import shortened

pytestmark = pytest.mark.usefixtures("narrow")


def untrained(model: LatentVariableModel, steps: int = 2, lr: float = 1e-4) -> list[str]:
    """The names of the parameters that some steps of plain SVI leave exactly as they are."""
    inputs = example_inputs(model, 4 if slow(model) else 7)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    elbo = ESTIMATORS[model.estimators[0]].elbo(1)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": lr}), elbo)
    for _ in range(steps):
        svi.step(**inputs)
    return [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


@pytest.mark.parametrize("name", shortened(MODELS, set(MODELS) - CONVOLUTIONAL))
def test_plain_svi_trains_every_parameter(name: str) -> None:
    """Of two instances in one process, a copy, a loaded one and one that was pickled."""
    first, second = build(name), build(name)
    assert untrained(first) == []
    assert untrained(second) == []
    copied = copy.deepcopy(first)
    assert untrained(copied, 1) == []
    pickled = pickle.loads(pickle.dumps(copied))
    assert untrained(pickled, 1) == []
    first.load_state_dict(pickled.state_dict())
    assert untrained(first, 1) == []
    first.load_state_dict(copy.deepcopy(copied.state_dict()), assign=True)
    assert untrained(first, 1) == []


def test_a_vae_trained_by_plain_svi_learns() -> None:
    """Sixty steps lower the loss by far more than its noise: nothing trained at all before."""
    model = VAE((1, 8, 8), hidden=32, z_dim=2)
    x = (torch.rand(1, 1, 8, 8) < 0.5).float().expand(50, -1, -1, -1)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) / len(x) for _ in range(60)]
    assert losses[0] > 40 and losses[-1] < 10


def test_instances_do_not_share_parameters() -> None:
    """Training one instance leaves a second one and a copy exactly as they are."""
    first, second = build("vae"), build("vae")
    copied = copy.deepcopy(first)
    kept = [p.detach().clone() for model in (second, copied) for p in model.parameters()]
    assert untrained(first) == []
    assert all(map(torch.equal, kept, [p for model in (second, copied) for p in model.parameters()]))
    for number, model in enumerate((copied, second), start=2):  # each under names of its own
        assert untrained(model) == []
        assert len(pyro.get_param_store()) == number * len(list(first.parameters()))


def test_frozen_parameters_stay_frozen() -> None:
    model = build("vae")
    for p in model.encoder.parameters():
        p.requires_grad_(False)
    expected = [f"encoder.{name}" for name, _ in model.encoder.named_parameters()]
    assert untrained(model) == expected


def test_an_optimizer_of_torch_trains_every_parameter() -> None:
    """As `ELBO.differentiable_loss` needs no parameter store, there is nothing in it."""
    model = VAE((1, 8, 8), hidden=16, z_dim=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, x = torch.optim.Adam(model.parameters(), 1e-4), torch.rand(7, 1, 8, 8).round()
    for _ in range(2):
        optimizer.zero_grad()
        Trace_ELBO().differentiable_loss(model.model, model.guide, x).backward()
        optimizer.step()
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert len(pyro.get_param_store()) == 0


def test_a_parameter_that_pyro_would_copy_is_refused() -> None:
    model = build("conv_vae").to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="is not contiguous: Pyro would train a copy"):
        untrained(model)


def test_programs_outside_of_svi_leave_the_parameter_store_alone() -> None:
    model = build("vae")
    inputs = example_inputs(model, 4)
    Trace_ELBO().differentiable_loss(model.model, model.guide, **inputs)
    model.reconstruct(inputs["x"])
    model.sample(3)
    assert not list(pyro.get_param_store())
