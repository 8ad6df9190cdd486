"""Compiled graphs: the same values, changes in place and noise, also from the cache."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference.compiled import compiler
from inference.compiled.capture import record

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")


def function(total: Tensor, x: Tensor) -> list[Tensor]:
    """Changes its first argument."""
    noise = (torch.rand(3) < x) + torch.randn(3)
    total.add_(noise)
    return [noise.exp().sum()]


def called(program: compiler.Compiled) -> Tensor:
    """What two calls of a program return and change, and the next random number."""
    torch.manual_seed(0)
    total = torch.zeros(3)
    values = torch.stack([program([total, torch.tensor([0.2, 0.5, 0.9])])[0] for _ in range(2)])
    return torch.cat([total, values, torch.rand(1)])


@needs_compiler
def test_a_program_is_the_function_and_is_kept_in_the_cache(tmp_path: Path, float64: None) -> None:
    given, path = [torch.zeros(3), torch.ones(3)], tmp_path / "cache" / "program.pt2"
    expected = called(lambda inputs: function(*inputs))
    made = compiler.compiled(record(function, given), given, path)
    torch.testing.assert_close(called(made), expected, rtol=1e-14, atol=0)
    kept = compiler.cached_program(path)
    assert kept and torch.equal(called(kept), called(made))
    content = path.read_bytes()
    path.write_bytes(content[:1000] + b"damage" + content[1006:])
    assert compiler.cached_program(path) is None


@pytest.mark.full
@needs_compiler
def test_a_program_compiled_when_run_is_the_function(float64: None) -> None:
    graph = record(function, [torch.zeros(3), torch.ones(3)])
    run = compiler._compiled_when_run(graph, {"fallback_random": True})
    torch.testing.assert_close(called(run), called(lambda inputs: function(*inputs)), rtol=1e-14, atol=0)
