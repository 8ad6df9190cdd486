"""The pretrained models: found by name, checked, in half precision on disk and in float32 in memory."""

import json
import re
from pathlib import Path

import pytest
import torch

import inference.sample as sample_command
from inference import load, sample
from inference.errors import UserError
from inference.rundir import pretrained
from ppl_models import VAE
from tools import pretrained as tool

FIXTURE = Path(__file__).parent / "fixtures" / "1.0.0rc1"
NAMES = sorted(pretrained.checksums())


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (pretrained, tool):
        monkeypatch.setattr(module, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def test_a_run_becomes_a_pretrained_model(weights: Path) -> None:
    assert "half precision" in tool.add(FIXTURE, "vae-digits")
    model, trained = load("vae-digits"), load(FIXTURE)
    assert isinstance(model, VAE)
    for ours, theirs in zip(model.parameters(), trained.parameters(), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs.half().float())
    assert (weights / "vae-digits.pt").stat().st_size < 0.8 * (FIXTURE / "model.pt").stat().st_size
    x = sample("vae-digits", 3, seed=1).x
    assert x.shape == (3, 1, 8, 8) and x.dtype == torch.uint8
    card = (weights / "vae-digits.md").read_text()
    written = json.loads((FIXTURE / "results.json").read_text())["test"]["negative_elbo"]["value"]
    assert f"| negative_elbo | {written:.4f} |" in card and "Attribution 4.0" in card
    assert "(vae-digits.md)" in (weights / "README.md").read_text()


def test_a_folder_of_the_same_name_is_not_taken_for_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.add(FIXTURE, "vae-digits")
    (tmp_path / "here" / "vae-digits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert sample_command.main(["--pretrained", "vae-digits", "--n", "2", "--out", "x.npz"]) == 0
    with pytest.raises(UserError, match="name one trained model"):
        sample_command.main(["vae-digits", "--pretrained", "vae-digits"])


def test_half_precision_that_changes_a_metric_is_not_used(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_saved = tool.from_saved

    def rough(content: dict) -> VAE:
        model = from_saved(content)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)
        return model

    monkeypatch.setattr(tool, "from_saved", rough)
    assert "float32" in tool.add(FIXTURE, "vae-digits")
    for ours, theirs in zip(load("vae-digits").parameters(), load(FIXTURE).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_not_there_is_refused(weights: Path) -> None:
    with pytest.raises(UserError, match="Clone the repository"):
        pretrained.pretrained("vae-digits")
    tool.add(FIXTURE, "vae-digits")
    with pytest.raises(UserError, match=r"^unknown pretrained model 'vae-digit': did you mean vae-digits\?$"):
        pretrained.pretrained("vae-digit")
    with pytest.raises(UserError, match="not a name of the form MODEL-DATA"):
        tool.add(FIXTURE, "../evil")
    path = weights / "vae-digits.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"^vae-digits\.pt is missing or damaged\. Restore it by `git checkout"
    ):
        load("vae-digits")


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_is_as_its_card_says(name: str) -> None:
    path = pretrained.pretrained(name)
    card = path.with_suffix(".md").read_text()
    size = re.search(r"\*\*File\*\*: ([\d,]+) bytes", card)
    assert size and int(size[1].replace(",", "")) == path.stat().st_size < 10e6
    assert pretrained.checksums()[name] in card
    assert all(p.isfinite().all() for p in load(name).parameters())
    assert f"({name}.md)" in (path.parent / "README.md").read_text()
