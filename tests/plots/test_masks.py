"""Figures of the masks of a MADE agree with the network."""

from pathlib import Path

import matplotlib.figure
import matplotlib.image
import pytest
import torch

from inference import masks
from inference.errors import UserError
from inference.plots import masks as mask_plots
from ppl_models.nets.masked import MaskedMLP


@pytest.mark.parametrize("order", [False, True])
def test_visible_inputs_are_those_of_the_jacobian(order: bool, float64: None) -> None:
    """Also if a narrow network lacks a connection that the order allows."""
    network = MaskedMLP(5, [3, 3], order, masks=4)
    narrow = 0
    for index in range(4):
        seen = torch.zeros(5, 5)
        for _ in range(100):  # a ReLU may be zero at one input
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter)
            seen += torch.autograd.functional.jacobian(lambda v, i=index: network(v, i), torch.randn(5)).abs()
        assert torch.equal(mask_plots.visible_inputs(network.connections(index)), seen > 0)
        place = network.degrees(index)[0]
        narrow += int((place[:, None] > place).sum() - (seen > 0).sum())
    assert narrow > 0


def test_a_conditional_names_the_visible_inputs() -> None:
    assert mask_plots.conditional(0, torch.tensor([False, False])) == "$p(x_{1})$"
    assert mask_plots.conditional(2, torch.tensor([True, True, False])) == r"$p(x_{3} \mid x_{1}, x_{2})$"


def test_the_figure_has_every_unit_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    figure = matplotlib.figure.Figure
    monkeypatch.setattr(figure, "savefig", lambda self, path, **_: shown.append((self, path)))
    size = ["--pixels", "3", "--hidden", "5", "--masks", "2", "--order", "random", "--seed", "4"]
    before = torch.get_rng_state()
    assert masks.main([*size, "--out", str(tmp_path / "m.svg")]) == 0
    assert torch.equal(torch.get_rng_state(), before)
    ((drawn, path),) = shown
    assert path == tmp_path / "m.svg" and len(drawn.axes) == 4
    torch.manual_seed(4)
    network = MaskedMLP(3, [5, 5], True, masks=2)
    for index in range(2):
        left, right = drawn.axes[2 * index : 2 * index + 2]
        words = [text.get_text() for text in left.texts]
        numbers = [str(number) for layer in network.degrees(index) for number in layer.tolist()]
        assert [word for word in words if word.isdigit()] == numbers
        assert len(left.lines) == sum(int(mask.sum()) for mask in network.connections(index))
        seen = mask_plots.visible_inputs(network.connections(index))
        assert torch.equal(torch.as_tensor(right.images[0].get_array().data), seen)
        assert words[-3:] == [mask_plots.conditional(i, seen[i]) for i in range(3)]


def test_a_file_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "masks.png"
    assert masks.main(["--out", str(out)]) == 0
    assert matplotlib.image.imread(out)[..., :3].std() > 0.05
    assert capsys.readouterr().out == f"{out}\n"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown order 'natrual': did you mean natural"):
        masks.main(["--order", "natrual"])
    with pytest.raises(UserError, match="has an unknown ending"):
        masks.main(["--out", "masks.txt"])
    with pytest.raises(UserError, match=r"cannot write .* Name another with --out"):
        masks.main(["--out", str(tmp_path / "none" / "m.png")])
