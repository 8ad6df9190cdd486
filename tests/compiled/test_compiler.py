"""A graph that `torch.compile` compiles, as on a GPU: the same values, changes in place and noise."""

import shutil

import pytest
import torch
from torch import Tensor

from inference.compiled import compiler
from inference.compiled.capture import record


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
def test_a_program_compiled_when_run_is_the_function(float64: None) -> None:
    def function(total: Tensor, x: Tensor) -> list[Tensor]:
        noise = (torch.rand(3) < x) + torch.randn(3)
        total.add_(noise)
        return [noise.exp().sum()]

    x = torch.tensor([0.2, 0.5, 0.9])
    graph = record(function, [torch.zeros(3), x])
    run = compiler._compiled_when_run(graph, {"fallback_random": True})
    found = []
    for program in (lambda given: function(*given), run):
        torch.manual_seed(0)
        total = torch.zeros(3)
        values = torch.stack([program([total, x])[0] for _ in range(2)])
        found.append(torch.cat([total, values, torch.rand(1)]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-14, atol=0)
