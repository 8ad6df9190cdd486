"""On a GPU a block of steps is one CUDA graph: the same steps, and the same noise, as eager ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.compiled import cuda_graph
from inference.data.stored import Rows
from ppl_models import MODELS
from tests.ppl_models.test_contract import SHALLOW, build
from tests.training import test_program
from tests.training.test_program import apart, train

pytestmark = [
    pytest.mark.usefixtures("narrow"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_MODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("inference.training.steps.BLOCK_SECONDS", 100.0)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the recorded graphs and, in each, its replays."""
    counts: list[int] = []
    as_cuda_graph = cuda_graph.as_cuda_graph

    def counted(*given: Any) -> Any:
        replay, place = as_cuda_graph(*given), len(counts)
        counts.append(0)

        def run(inputs: Any) -> Any:
            counts[place] += 1
            return replay(inputs)

        return run

    monkeypatch.setattr("inference.training.program.as_cuda_graph", counted)
    return counts


@pytest.mark.parametrize("name", MODELS)
def test_a_block_is_as_many_eager_steps(name: str, float64: None, graphs: list[int]) -> None:
    settings: dict[str, Any] = {"ema": 0.9, "clip": 1.0, "schedule": "cosine", "lr_warmup": 3}
    settings |= {"kl_warmup": 6} if MODELS[name].has_kl_weight else {}
    torch.manual_seed(0)
    eager, _, noise = train(build(name, **SHALLOW.get(name, {})), "eager", device=CUDA, **settings)
    torch.manual_seed(0)
    whole, ended, same = train(build(name, **SHALLOW.get(name, {})), "inductor", device=CUDA, **settings)
    assert apart(whole, eager) < 1e-12
    assert torch.equal(noise, same)
    assert ended.at == [1, 4, 5, 7, 8]
    assert graphs == [1 + 6]  # a step for comparison, and all but the first and the last of the epoch


def test_a_step_that_is_not_finite_is_skipped_in_a_block_as_outside(float64: None, graphs: list[int]) -> None:
    made = {}
    for mode in ("eager", "inductor"):
        torch.manual_seed(0)
        made[mode] = train(build("vae2d"), mode, lambda line: None, 7, device=CUDA, steps=18)
    assert made["eager"][0].skipped == made["inductor"][0].skipped > 2 and graphs
    assert apart(made["inductor"][0], made["eager"][0]) < 1e-12
    assert torch.equal(made["inductor"][2], made["eager"][2])


def test_recording_changes_nothing(float64: None) -> None:
    total, order = torch.zeros(3, device=CUDA), torch.arange(6.0, device=CUDA)

    def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        inputs[0].add_(inputs[1] + torch.rand(3, device=CUDA, dtype=torch.float32))
        return [inputs[0].sum()]

    torch.cuda.manual_seed(0)
    replay = cuda_graph.as_cuda_graph(run, [total, order[:3].clone()])
    assert torch.equal(total, torch.zeros_like(total))
    for place in (0, 3):
        replay([total, order[place : place + 3]])
    torch.cuda.manual_seed(0)
    noise = sum(torch.rand(3, device=CUDA, dtype=torch.float32) for _ in range(2))
    torch.testing.assert_close(total, order[:3] + order[3:] + noise)
    assert torch.equal(order, torch.arange(6.0, device=CUDA))


def test_batches_from_disk_are_copied_into_the_graph(
    float64: None, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data_for = test_program.data_for

    def stored(*given: Any) -> Any:
        data = data_for(*given)
        return replace(data, x_train=Rows(data.x_train.numpy(), torch.from_numpy))

    made = []
    for change in (False, True):
        if change:
            monkeypatch.setattr(test_program, "data_for", stored)
        torch.manual_seed(0)
        made.append(train(build("vae"), "inductor", device=CUDA)[0])
    assert graphs == [7, 7] and isinstance(made[1].batches.x, Rows)
    assert apart(*made) == 0
