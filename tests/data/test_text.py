"""Texts: what the lines of a .txt file become, and what is refused."""

import os
from pathlib import Path

import pytest
import torch

from inference import encode, load, sample, score, svi
from inference.cli.outputs import find_data
from inference.data import load_dataset
from inference.data.observations import SEQUENCES
from inference.errors import UserError
from inference.html import report
from inference.rundir.run import Run
from ppl_models import MODELS
from tests.support import drawn
from tests.support import lines as metrics_of

LINES = [f"the {animal} sat on the {thing}." for animal in ("cat", "dog", "cow") for thing in ("mat", "sofa")]
TINY = ["--steps", "4", "--batch-size", "8", "--z-dim", "2", "--hidden", "8", "--embedding", "4"]
TINY += ["--kl-warmup", "2"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(LINES * 5) + "\n")
    return path


def test_lines_become_sequences_and_back(file: Path) -> None:
    data = load_dataset(str(file))
    assert data.kind is SEQUENCES and data.shape == (8,)  # seven tokens and the end
    assert (len(data.x_train), len(data.x_test)) == (27, 3)
    words = data.vocabulary
    assert words.entries[:5] == ("<pad>", "<end>", "<unk>", "the", ".")  # the most frequent first
    assert sorted(words.decode(torch.cat([data.x_train, data.x_test]))) == sorted(
        line.replace(".", " .") for line in LINES * 5
    )
    letters = load_dataset(str(file), tokens="characters")
    assert sorted(letters.vocabulary.decode(letters.x_train))[0] == "the cat sat on the mat."
    assert letters.x_train[:, -1].max() <= 1 and letters.shape == (len("the cat sat on the sofa.") + 1,)


def test_the_vocabulary_is_that_of_the_training_lines(tmp_path: Path) -> None:
    """A word that occurs in test lines only, or once, is unknown."""
    path = tmp_path / "own.txt"
    path.write_text("\n".join(f"a b w{i}" for i in range(20)))
    data = load_dataset(str(path))
    assert data.vocabulary.entries == ("<pad>", "<end>", "<unk>", "a", "b")
    assert data.x_test.tolist() == [[3, 4, 2, 1]] * 2


def test_longer_lines_are_cut_and_have_no_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.txt"
    path.write_text("a b a b a b\na b a\na b\n" * 5)
    data = load_dataset(str(path), max_length=4)
    assert {tuple(row) for row in data.x_train.tolist()} == {(3, 4, 3, 4), (3, 4, 3, 1), (3, 4, 1, 0)}
    assert data.vocabulary.decode(torch.tensor([[3, 4, 3, 4], [3, 4, 1, 0]])) == ["a b a b …", "a b"]
    options = ["--data", str(path), "--max-length", "4", "--run-dir", str(tmp_path / "run")]
    assert svi.main(["--model", "seq_vae", *options, *TINY]) == 0
    assert "5 lines of 4 words or more are cut to the first 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b\n\na b\n", "own.txt: line 2 is empty. Remove it."),
        (b"a b\n  \t\na b\n", "own.txt: line 2 is empty. Remove it."),
        (b"", "own.txt: line 1 is empty. Remove it."),
        (b"a b\na \xff\n", "own.txt: line 2 is not text in UTF-8 (byte 3). Save it in UTF-8."),
        (b"a b\n", "own.txt: line 1 is the only line. Give at least two, to train and to test on."),
        (b"a b\na\0b\n", "own.txt: line 2 has the control character '\\x00'. Remove it."),
        (b"a b\nc d\n", "none of the words in lines 1 to 2 occurs twice in the training lines."),
    ],
)
def test_other_content_is_refused_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_dataset(str(path))
    assert str(path) in str(error.value) and message in str(error.value)


def test_a_missing_file_and_wrong_options_are_refused(file: Path, tmp_path: Path) -> None:
    for name, options, message in (
        (str(tmp_path / "none.txt"), {}, "cannot read"),
        (str(tmp_path), {}, "has no images"),
        (str(file), {"tokens": "letters"}, "unknown --tokens 'letters'"),
        ("digits", {"tokens": "words"}, "--tokens applies to a text"),
        ("digits", {"max_length": 3}, "--max-length applies to a text"),
    ):
        with pytest.raises(UserError, match=message):
            load_dataset(name, **options)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="is not a regular file"):
        load_dataset(str(tmp_path / "pipe.txt"))


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_dataset(str(other)).checksum() == load_dataset(str(file)).checksum()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "seq_vae"])
def test_other_models_name_the_one_that_reads_texts(name: str, file: Path, tmp_path: Path) -> None:
    options = ["--data", str(file), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"observes .* has sequences: .*choose seq_vae$"):
        svi.main(["--model", name, *options])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["digits", "smiley"])
def test_the_sequence_model_refuses_other_data(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seq_vae observes sequences, and .*: try --data FILE\.txt, or"):
        svi.main(["--model", "seq_vae", "--data", data, "--run-dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"seq_vae observes sequences and has no default data set\."):
        svi.main(["--model", "seq_vae", "--run-dir", str(tmp_path / "run")])


def test_a_run_on_a_text_is_sampled_encoded_scored_and_resumed(file: Path, tmp_path: Path) -> None:
    """Other texts are read with the vocabulary of the run, and the report shows words."""
    run = tmp_path / "run"
    with drawn():
        assert svi.main(["--model", "seq_vae", "--data", str(file), *TINY, "--run-dir", str(run)]) == 0
    last = metrics_of(run)[-1]
    assert last["split"] == "test" and last["tokens"] == 8.0  # all lines have seven tokens and an end
    metrics = Run.open(run).results()["test"]
    ratio = metrics["negative_elbo"]["value"] / metrics["tokens"]["value"]
    assert metrics["nats_per_token"]["value"] == pytest.approx(ratio)
    assert metrics["token_perplexity"]["value"] == pytest.approx(torch.tensor(ratio).exp().item())

    found = sample(run, 5)
    assert found.x.shape == (5, 8) and found.x.dtype == torch.int32 and len(found.lines) == 5
    words = {*load_dataset(str(file)).vocabulary.entries, "…"}
    assert {word for line in found.lines for word in line.split()} <= words
    page = report.html(report.gather(run))
    first = (run / "figures" / "reconstructions.txt").read_text().splitlines()[0]
    assert first in page and "Samples of the model" in page

    other = tmp_path / "other.txt"
    other.write_text("the mat sat on the zebra.\n" * 20)
    data, _ = find_data(run, load(run), str(other), None)
    assert data.vocabulary == Run.open(run).config.tokens
    assert data.vocabulary.decode(data.x_test[:1]) == ["the mat sat on the <unk> ."]
    assert encode(run, data).mean["z"].shape == (2, 2)
    assert score(run, data, 10).values.shape == (2,)
    assert svi.main(["--resume", str(run), "--steps", "6"]) == 0

    load(run).save(tmp_path / "model.pt")
    with pytest.raises(UserError, match="has no vocabulary"):
        find_data(tmp_path / "model.pt", load(run), str(other), None)


def test_a_changed_text_is_not_that_of_the_run(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main(["--model", "seq_vae", "--data", str(file), *TINY, "--run-dir", str(run)]) == 0
    file.write_text(file.read_text().replace("cat", "dog", 1))
    with pytest.raises(UserError, match="is not the data that the run used"):
        svi.main(["--resume", str(run), "--steps", "6"])
