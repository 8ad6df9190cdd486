"""`--config FILE` and the options that have a new name."""

import json
from pathlib import Path

import pytest

from inference import svi
from inference.cli.train import parse
from inference.errors import UserError
from tests.support import TINY, checkpoint, lines, same


def test_the_config_of_a_run_repeats_the_run(small_npz: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--model", "gmvae", "--components", "5", *TINY, "--kl-warmup", "5", "--validation", "0.1"]
    assert svi.main([*options, "--seed", "3", "--data", str(small_npz), "--run-dir", str(first)]) == 0
    assert svi.main(["--config", str(first / "config.json"), "--run-dir", str(second)]) == 0
    assert same(checkpoint(first), checkpoint(second))
    assert len(lines(first)) == len(lines(second))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.yaml", "model: vae\nsteps: 40\nlr: 0.01\nhidden: 16\nschedule: cosine\n"),
        ("x.toml", 'model = "vae"\nsteps = 40\nlr = 0.01\nhidden = 16\nschedule = "cosine"\n'),
        ("x.json", json.dumps({"model": "vae", "steps": 40, "lr": 0.01, "options": {"hidden": 16}})),
        ("old.json", json.dumps({"model": "gmvae", "steps": 40, "lr": 0.01, "hidden": 16, "warmup": 5})),
    ],
)
def test_a_file_gives_options_and_the_command_line_wins(name: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("tomllib") if name.endswith("toml") else None
    (tmp_path / name).write_text(text)
    given = parse(["--config", str(tmp_path / name), "--lr", "0.5"])
    assert (given.steps, given.hidden, given.lr) == (40, 16, 0.5)
    assert given.model == ("gmvae" if name == "old.json" else "vae")
    assert name != "old.json" or given.kl_warmup == 5


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.yaml", "model: vae\nstepps: 3\n", "unknown setting in .*'stepps': did you mean steps"),
        ("x.yaml", "- 1\n", "is not a table of settings"),
        ("x.yaml", "a: [1\n", "cannot be parsed"),
        ("x.json", "{", "cannot be parsed"),
        ("x.yaml", "model: vae\nsteps: [1]\n", "steps is .* Give a number or text"),
        ("x.yaml", "model: vae\nsteps: -1\n", "-1 is not a whole number above zero"),
        ("x.yaml", "a: !!python/object/apply:os.system ['touch hacked']\n", "cannot be parsed"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    name: str, text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        parse(["--config", name])
    assert "\n" not in str(caught.value) and not Path("hacked").exists()


def test_no_file_and_two_files_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot read nowhere\.yaml"):
        parse(["--config", "nowhere.yaml"])
    with pytest.raises(UserError, match="--config is given twice"):
        parse(["--config", "a", "--config=b"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--warmup", "3"], "--warmup is now --kl-warmup"),
        (["--prior=pixelcnn"], "--prior is now --code-prior"),
        (["--from", "x"], "--from is now --stage1-run"),
        (["--compile", "plain"], "--compile plain is now --compile eager"),
        (["--compile=kernels"], "--compile kernels is now --compile inductor"),
    ],
)
def test_an_option_with_a_new_name_is_refused_with_that_name(old: list[str], new: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(["--model", "vae", *old])
    assert str(caught.value) == new
