"""What a compiled program depends on."""

import importlib.util
import sys
from pathlib import Path

import pytest

from inference.compiled.checks import description

SOURCE = """
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return {} * x
"""


def described(path: Path, factor: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The description of a model whose file has this factor, imported as the command line does."""
    path.write_text(SOURCE.format(factor))
    spec = importlib.util.spec_from_file_location("net", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "net", module)
    spec.loader.exec_module(module)
    return str(description(module.Net()))


def test_the_description_follows_the_source_of_a_user_s_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, three, again = (described(tmp_path / f"{i}.py", n, monkeypatch) for i, n in enumerate((2, 3, 2)))
    assert two == again != three
