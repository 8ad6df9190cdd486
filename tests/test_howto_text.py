"""The commands of docs/howto/text.md and docs/howto/own-kinds.md run, with fewer steps."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.cli.models import register_from_file, with_registered_model
from inference.data import ObservationKind, register_observation
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.testing import check_model
from ppl_models import MODELS
from tools import docstrings

HOWTO = Path(__file__).parent.parent / "docs" / "howto"


def blocks(page: str, language: str = "") -> list[str]:
    text = (HOWTO / f"{page}.md").read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def run(commands: str, shorter: list[str]) -> None:
    for line in commands.splitlines():
        python, dash_m, module, *arguments = shlex.split(line)
        assert (python, dash_m) == ("python", "-m")
        more = shorter if module == "inference.svi" else []
        assert import_module(module).main(with_registered_model([*arguments, *more])) == 0, line


def test_the_commands_on_text_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = docstrings.sentences
    monkeypatch.setattr(docstrings, "sentences", lambda folder: found(folder / "json") * 5)
    run(blocks("text")[0], ["--steps", "4", "--kl-warmup", "2", "--batch-size", "8", "--hidden", "8"])
    assert len(Path("samples.txt").read_text().splitlines()) == 20
    assert Path("latents.csv").read_text().startswith("z_mean_0,")
    assert Path("scores.csv").read_text().startswith("score,mc_se\n")


def test_docstrings_are_first_sentences() -> None:
    """The text has no markup, and each sentence once."""
    assert docstrings.first_sentence("Return the\n  lines. And more.\n\nLong.") == "return the lines."
    assert docstrings.first_sentence("f(x) -> y. Returns y.") == ""
    assert docstrings.first_sentence("Return `x`.") == docstrings.first_sentence("") == ""
    found = docstrings.sentences(Path(import_module("json").__file__).parent)
    assert len(set(found)) == len(found) >= 3


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the page, and data for it."""
    monkeypatch.chdir(tmp_path)
    (source,) = blocks("own-kinds", "python")
    Path("counts.py").write_text(source)
    random = np.random.RandomState(0)
    x = random.poisson(random.gamma(2.0, 2.0, (220, 1)) * np.arange(1, 6))
    np.savez("own.npz", x_train=x[:200], x_test=x[200:])
    yield tmp_path
    MODELS.pop("count_vae", None)
    OBSERVATIONS.pop("counts", None)


def test_the_commands_on_a_kind_of_your_own_run(counts: Path) -> None:
    run(blocks("own-kinds")[0], ["--steps", "20", "--batch-size", "20"])
    scores = np.genfromtxt("scores.csv", delimiter=",", names=True)["score"]
    assert len(scores) == 20 and np.isfinite(scores).all()
    check_model(MODELS["count_vae"])


def test_a_mismatch_names_the_models_that_accept_the_data(counts: Path) -> None:
    svi = import_module("inference.svi")
    own = ["--model", register_from_file("counts.py:CountVAE")]
    for arguments, message in (
        ([*own, "--data", "smiley"], r"count_vae observes counts, and smiley has points: .* or choose vae, "),
        ([*own, "--data", "digits"], r"count_vae observes counts, and digits has images"),
        (own, r"count_vae observes counts and has no default data set\. Give --data FILE\.npz\."),
    ):
        with pytest.raises(UserError, match=message):
            svi.main(arguments)
    np.savez("half.npz", x_train=np.full((20, 5), 0.5), x_test=np.ones((5, 5)))
    with pytest.raises(UserError, match=r"half\.npz: x_train has values that are not counts"):
        svi.main([*own, "--data", "half.npz"])
    Path("own.txt").write_text("a b\n" * 20)
    with pytest.raises(UserError, match=r"count_vae observes counts, .* has sequences: .* choose seq_vae$"):
        svi.main([*own, "--data", "own.txt"])


def test_only_new_names_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = OBSERVATIONS["points"]
    for name, given, message in (
        ("points", kind, "is a kind of observation of the suite"),
        ("My Kind", kind, "is not a lower-case identifier"),
        ("mine", kind.data, "is not an ObservationKind"),
    ):
        with pytest.raises(UserError, match=message):
            register_observation(name, given)
    monkeypatch.setitem(OBSERVATIONS, "mine", kind)
    other = ObservationKind(kind.data, *[torch.Tensor.double] * 3)
    assert register_observation("mine", other) is OBSERVATIONS["mine"] is other
    with pytest.raises(UserError, match="unknown kind of observation 'pionts': did you mean points"):
        OBSERVATIONS["pionts"]
