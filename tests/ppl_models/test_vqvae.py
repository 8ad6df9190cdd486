"""The codebook, its gradient straight through, and the two stages of training."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.testing import assert_close

import inference.evaluate
from inference import svi
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.elbo.comparison import compare
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.restore import restore
from ppl_models import MODELS, VQVAE
from ppl_models.nets import codebook as module
from ppl_models.nets.codebook import Codebook
from ppl_models.programs import sample_latents
from tests.support import drawn, narrowed

SHAPE = (3, 32, 32)
narrow = pytest.mark.usefixtures(
    "narrow"
)  # but for the size that the course states, the width does not matter


def test_it_has_the_size_that_the_course_states() -> None:
    assert sum(p.numel() for p in VQVAE(SHAPE).parameters()) == 4_784_387


def test_the_nearest_entry_is_chosen(float64: None) -> None:
    book, e = Codebook(7, 3).double(), torch.randn(2, 4, 3, 5, 6)
    with torch.no_grad():
        book.entries.normal_()
    apart = ((e.unsqueeze(-4) - book.entries[:, :, None, None]) ** 2).sum(-3)  # (..., codes, h, w)
    assert torch.equal(book.nearest(e), apart.argmin(-3))
    assert_close(((book(e) - e) ** 2).sum(-3), apart.min(-3).values)


def test_it_begins_at_the_data_and_dead_entries_are_moved_there(float64: None) -> None:
    torch.manual_seed(0)
    for average in (False, True):
        book, e = Codebook(8, 2, average).double(), 10 + torch.randn(4, 2, 3, 3)
        vectors = {tuple(v) for v in e.movedim(1, -1).reshape(-1, 2).tolist()}
        book.update(e)
        if not average:  # moved a little already
            assert {tuple(v) for v in book.entries.tolist()} < vectors
        with torch.no_grad():
            book.entries[3] = -100.0  # nothing is near it
        for _ in range(module.RESET_AFTER - 1):
            book.update(e)
        assert_close(book.entries[3], torch.full((2,), -100.0))
        book.update(e)
        assert tuple(book.entries[3].tolist()) in vectors
        assert book.unchosen.max() < module.RESET_AFTER


def test_averages_come_to_the_means_of_what_chose_them(float64: None) -> None:
    book = Codebook(2, 1, average=True).double()
    e = torch.tensor([-1.0, -2.0, -6.0, 4.0, 6.0, 8.0]).view(1, 1, 2, 3)
    book.initialized.fill_(True)
    book.entries.copy_(torch.tensor([[-4.0], [9.0]]))
    for _ in range(3_000):
        book.update(e)
    assert_close(book.entries.flatten(), torch.tensor([-3.0, 6.0]))
    assert not any(p.requires_grad for p in book.parameters())


@narrow
def test_gradients_go_straight_through_and_where_they_belong(float64: None) -> None:
    """The decoder's to the encoder as if nothing were chosen; entries' from the codebook penalty alone."""
    model = VQVAE(SHAPE, codes=5, commitment=0.25).double().eval()
    x = example_inputs(model, 2)["x"]
    entries, weight = model.codebook.entries, model.encoder[0].weight
    guided = poutine.trace(model.guide).get_trace(x).nodes["z"]["value"]
    bound, e = model.bound(x, {"z": guided}), model.encoder(x)
    z = model.codebook(e).detach().requires_grad_()
    by_decoder = torch.autograd.grad(model.bound(x, {"z": z}).terms["reconstruction"].sum(), z)[0]
    through = torch.autograd.grad(bound.negative_elbo.sum(), weight, retain_graph=True)[0]
    assert_close(through, torch.autograd.grad(e, weight, by_decoder, retain_graph=True)[0])
    c = model.codebook(e.detach())
    by_hand = torch.autograd.grad(((c - e.detach()) ** 2).mean(), entries)[0]
    assert_close(torch.autograd.grad(bound.objective, entries, retain_graph=True)[0], by_hand)
    assert torch.autograd.grad(bound.penalties["codebook"], weight, retain_graph=True, allow_unused=True) == (
        None,
    )
    assert bound.weights["commitment"] == 0.25 and bound.weights["codebook"] == 1.0


@narrow
def test_moving_averages_leave_the_codebook_penalty_out(float64: None) -> None:
    model = VQVAE(SHAPE, codes=5, codebook="average").double()
    result = compare(model, example_inputs(model, 3), "trace")
    assert result["agrees"] and result["terms"].keys() == {
        *("reconstruction", "kl_z", "commitment", "objective")
    }


MISTAKES: dict[str, Callable[[dict, Tensor, Tensor], dict]] = {
    "weight of the commitment": lambda right, e, c: right | {"commitment": (0.5, right["commitment"][1])},
    "weight of the codebook": lambda right, e, c: right | {"codebook": (1.1, right["codebook"][1])},
    "sign of the commitment": lambda right, e, c: right | {"commitment": (0.25, -right["commitment"][1])},
    "sign of the codebook": lambda right, e, c: right | {"codebook": (1.0, -right["codebook"][1])},
    "gradient of the commitment": lambda right, e, c: right | {"commitment": (0.25, mean_square(e - c))},
    "gradient of the codebook": lambda right, e, c: right | {"codebook": (1.0, mean_square(e - c))},
    "codebook left out": lambda right, e, c: {"commitment": right["commitment"]},
    "none": lambda right, e, c: right,
}


def mean_square(error: Tensor) -> Tensor:
    return (error**2).mean((-1, -2, -3))


@narrow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_guide_s_penalties_is_noticed(
    mistake: str, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = VQVAE(SHAPE, codes=5, commitment=0.25).double()
    inputs, right = example_inputs(model, 3), model._penalties
    monkeypatch.setattr(model, "_penalties", lambda e, c: MISTAKES[mistake](right(e, c), e, c))
    if mistake == "codebook left out":
        with pytest.raises(RuntimeError, match="bound has the terms"):
            compare(model, inputs, "trace")
    else:
        assert compare(model, inputs, "trace")["agrees"] == (mistake == "none")


@narrow
def test_the_bound_is_that_of_a_discrete_latent(float64: None) -> None:
    """-log p(x | z) + places log codes: no less than -log p(x), of which z is one term of a sum."""
    model = VQVAE(SHAPE, codes=5).double().eval()
    x = example_inputs(model, 2)["x"]
    bound = model.bound(x, sample_latents(model, x=x))
    assert_close(bound.terms["kl_z"], torch.full((2,), 64 * math.log(5)))
    report = bound.report()
    mse = report["mean_squared_error"]
    assert_close(report["reconstruction"], math.pi * 3072 * mse)
    assert_close(
        report["loss"], mse + 2 * (model.encoder(x) - model.codebook(model.encoder(x))).pow(2).mean((1, 2, 3))
    )
    assert_close(model.decode_codes(model.codes(x)), model.reconstruct(x))


@narrow
def test_usage_and_perplexity_are_of_the_whole_test_set() -> None:
    model = VQVAE(SHAPE, codes=8).eval()
    x = torch.randint(256, (6, *SHAPE), dtype=torch.uint8)
    model.codebook.update(model.encoder(torch.randn(4, *SHAPE)).detach())
    test = HeldOut(Dataset("random", x, None, x, None), VQVAE, torch.device("cpu"))
    chosen = torch.cat([model.codes(inputs["x"]) for inputs, _, _ in test.chunks(2)]).flatten()
    share = chosen.bincount(minlength=8) / len(chosen)
    figures = evaluate_bounds(model, test)
    assert figures["usage"]["value"] == (share > 0).float().mean()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    assert figures["perplexity"]["value"] == pytest.approx(entropy.exp().item(), rel=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages, in one command."""
    folder = tmp_path_factory.mktemp("stages")
    x = np.random.RandomState(0).randint(256, size=(24, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "colours.npz", x_train=x[:16], x_test=x[16:])
    arguments = ["--model", "vqvae", "--data", str(folder / "colours.npz"), "--codes", "9", "--steps", "2"]
    with drawn(), narrowed(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS["code_pixelcnn"].defaults, "steps", 2)
        patch.setitem(MODELS["code_pixelcnn"].defaults, "batch_size", 8)
        arguments += ["--batch-size", "8", "--code-prior", "pixelcnn", "--run-dir", str(folder / "run")]
        assert svi.main(arguments) == 0
    return folder / "run"


@narrow
def test_one_command_trains_both_stages(trained: Path) -> None:
    codes = np.load(trained / "codes-of-colours.npz")
    assert codes["x_train"].shape == (16, 8, 8) and codes["x_test"].shape == (8, 8, 8)
    _, _, data, model = restore(trained)
    seen = model.codes(2 * data.x_test.float() / 255 - 1)
    assert np.array_equal(codes["x_test"], seen.numpy())
    prior = trained / "prior-pixelcnn"
    for folder in (trained, prior):
        assert {"checkpoint.pt", "metrics.jsonl", "results.json"} <= {p.name for p in folder.iterdir()}
        assert {"curves.png", "samples.png"} <= {p.name for p in (folder / "figures").iterdir()}
    results = json.loads((prior / "results.json").read_text())
    assert results["config"]["options"]["codes"] == 9 and results["data"] == "codes-of-colours.npz"
    assert 0 < results["test"]["nats_per_code"]["value"] < 3 * math.log(9)
    figures = results["test"]
    assert figures["negative_log_p"]["value"] == pytest.approx(64 * figures["nats_per_code"]["value"])
    assert "from" not in results["config"]


@narrow
def test_a_point_has_nothing_to_weigh(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((trained / "results.json").read_text())["test"]
    assert inference.evaluate.main([str(trained)]) == 0
    assert "has a guide that is a point: no importance weights" in capsys.readouterr().err
    assert json.loads((trained / "results.json").read_text())["test"] == before
    with pytest.raises(UserError, match="Leave out --images"):
        inference.evaluate.main([str(trained), "--images", "2"])


@narrow
def test_the_second_stage_alone_on_a_finished_first(trained: Path) -> None:
    options = ["--steps", "3", "--batch-size", "8", "--width", "16", "--heads", "2", "--layers", "1"]
    assert svi.main(["--stage1-run", str(trained), "--code-prior", "transformer", *options]) == 0
    second = trained / "prior-transformer"
    assert json.loads((second / "config.json").read_text())["options"]["width"] == 16
    assert svi.main(["--resume", str(second), "--steps", "4"]) == 0


def test_a_first_stage_that_stops_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(svi, "train", lambda *_: (130, SimpleNamespace(folder=Path("my run"))))
    assert svi.main(["--model", "vqvae", "--data", "digits", "--code-prior", "pixelcnn"]) == 130
    assert "python -m inference.svi --stage1-run 'my run' --code-prior pixelcnn" in capsys.readouterr().out


@narrow
def test_what_has_no_codes_is_refused(trained: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["--code-prior", "pixelcnn"], "--code-prior goes with --model vqvae"),
        (
            ["--model", "vae", "--code-prior", "pixelcnn"],
            "--code-prior goes with --model vqvae",
        ),
        (["--model", "vqvae", "--code-prior", "lstm"], "pixelcnn"),
        (["--stage1-run", str(trained)], "--stage1-run needs --code-prior NAME"),
        (["--stage1-run", str(trained), "--model", "vqvae", "--code-prior", "pixelcnn"], "without --model"),
        (["--stage1-run", str(trained / "prior-pixelcnn"), "--code-prior", "pixelcnn"], "has no codebook"),
        (
            ["--model", "code_pixelcnn", "--data", "digits", "--codes", "9"],
            "observes codes, and digits has images",
        ),
        (
            ["--model", "vqvae", "--data", "digits", "--codes", "300"],
            "300 codes do not fit in one byte each. Use at most 256",
        ),
    ):
        with pytest.raises(UserError, match=words):
            svi.main([*arguments, "--run-dir", str(tmp_path / "refused")])
    assert not (tmp_path / "refused").exists()


@narrow
def test_batch_norm_and_choices_are_left_alone_in_evaluation() -> None:
    model = VQVAE(SHAPE, codes=8).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.guide(torch.randn(3, *SHAPE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train().guide(torch.randn(3, *SHAPE))
    assert bool(model.codebook.initialized) and isinstance(model.codebook.entries, nn.Parameter)
