"""The rivals of the benchmark are fair: the same loss by hand, and every rival trains every parameter."""

import pytest
import torch

from benchmarks import by_hand, step
from inference.compare import example_inputs
from inference.evaluate import draw_latents
from ppl_models import MODELS

WRITTEN = [(name, written) for name, ways in by_hand.MODELS.items() for written in ways]


@pytest.mark.parametrize(("name", "written"), WRITTEN)
def test_by_hand_is_the_same_loss(name: str, written: str, float64: None) -> None:
    model = MODELS[name]((1, 28, 28), 10)
    nets, loss = by_hand.MODELS[name][written]()
    for mine, net in zip(model.children(), nets, strict=True):
        net.load_state_dict(dict(zip(net.state_dict(), mine.state_dict().values(), strict=True)))
    with torch.no_grad():  # a decoder that looks away from z, whose noise differs
        for first in (model.decoder.layers[0], nets[-1][0]):
            first.weight[:, : model.z_dim] = 0
    batch = example_inputs(model, 6)
    bound = model.bound(**batch, latents=draw_latents(model, **batch), kl="closed")
    torch.testing.assert_close(loss(**batch), bound.objective)


@pytest.mark.parametrize("name", MODELS)
def test_every_rival_trains_every_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Parameter] = []
    create = torch.nn.Linear.__init__

    def watched(self: torch.nn.Linear, *sizes: int) -> None:
        create(self, *sizes)
        made.extend(self.parameters())

    monkeypatch.setattr(torch.nn.Linear, "__init__", watched)
    for before in MODELS:  # an earlier model leaves nothing behind in Pyro's store
        made.clear()
        rivals = step.contenders(MODELS[before], before)
        if before == name:
            break
        rivals["`pyro.infer.SVI`"](**example_inputs(MODELS[before]((1, 28, 28), 10), 5))
    ours = list(made)
    values = [p.detach().clone() for p in ours]
    for rival in rivals.values():
        rival(**example_inputs(MODELS[name]((1, 28, 28), 10), 5))
    assert all(not torch.equal(p, value) for p, value in zip(ours, values, strict=True))
