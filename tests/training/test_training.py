"""What may be asked of the training loop: rates that climb and fall, clipping, averages, precision."""

import json
from dataclasses import replace
from pathlib import Path

import pyro
import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.testing import assert_close

from inference import svi
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.elbo.estimators import Loss
from inference.errors import UserError
from inference.rundir.config import TrainConfig
from inference.rundir.restore import restore
from inference.training import loop
from inference.training.gradients import batch_norm_statistics
from inference.training.loop import Loop
from inference.training.schedules import KLWeight, learning_rate, make_ema
from inference.training.setup import check_training
from ppl_models import MODELS
from ppl_models.nets.mlp import MLP
from tests.support import TINY, checkpoint, same, shortened

VAE = ["--model", "vae", *TINY]


def test_the_rate_climbs_and_falls() -> None:
    config = TrainConfig(lr=0.1, steps=100, schedule="constant", lr_warmup=0)
    assert [learning_rate(step, config) for step in (0, 50, 99)] == [0.1] * 3
    climbing = replace(config, lr_warmup=10)
    assert_close([learning_rate(step, climbing) for step in (0, 4, 9, 50)], [0.01, 0.05, 0.1, 0.1])
    both = replace(climbing, schedule="cosine")
    assert_close([learning_rate(step, both) for step in (50, 100)], [0.05, 0.0])


def test_the_step_schedule_is_that_of_the_iwae_paper() -> None:
    """3^i epochs at the rate 0.001 * 10^(-i / 7), for i from 0 to 7, here with two steps per epoch."""
    config = TrainConfig(lr=1e-3, steps=2 * 3280, schedule="step", lr_warmup=0)
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(2 * 3**i)]
    assert_close([learning_rate(step, config) for step in range(2 * 3280)], expected)


def test_the_average_forgets_the_initial_values() -> None:
    """The decay after n updates is min(decay, (1 + n) / (10 + n)), and a count is copied."""
    model = nn.BatchNorm1d(1)
    average = make_ema(model, 0.25)
    expected = 1.0
    for n, value in enumerate((3.0, 5.0, -2.0, 7.0)):
        model.weight.data.fill_(value)
        model.num_batches_tracked += 2
        average.update_parameters(model)
        decay = (0.0, 2 / 11, 0.25, 0.25)[n]  # the first update is a copy
        expected = decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
        assert average.module.num_batches_tracked == 2 * (n + 1)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """At each step of Adam: the length of the gradient, and the parameters after it."""
    seen: dict[str, list] = {"norms": [], "parameters": [], "rates": []}
    step = Adam.step

    def watch(self: Adam) -> None:
        parameters = self.param_groups[0]["params"]
        seen["norms"].append(sum((p.grad**2).sum() for p in parameters).sqrt().item())
        seen["rates"].append(self.param_groups[0]["lr"])
        step(self)
        seen["parameters"].append([p.detach().clone() for p in parameters])

    monkeypatch.setattr(Adam, "step", watch)
    return seen


def test_gradients_are_clipped(small_npz: Path, tmp_path: Path, watched: dict[str, list]) -> None:
    run = ["--data", str(small_npz), "--run-dir"]
    assert svi.main([*VAE, *run, str(tmp_path / "free")]) == 0
    free = watched["norms"].copy()
    watched["norms"].clear()
    assert svi.main([*VAE, *run, str(tmp_path / "clipped"), "--clip", "2"]) == 0
    assert free[0] > 2.1
    assert watched["norms"][0] == pytest.approx(2, rel=1e-4) and max(watched["norms"]) < 2.001


def test_the_average_is_what_is_judged(small_npz: Path, tmp_path: Path, watched: dict[str, list]) -> None:
    run = tmp_path / "run"
    options = ["--ema", "0.5", "--lr-warmup", "10", "--steps", "15"]
    assert svi.main([*VAE, *options, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert_close(watched["rates"][:12], [min((i + 1) / 10, 1) * 1e-3 for i in range(12)])
    average, *others = watched["parameters"]
    for n, now in enumerate(others, start=1):
        decay = min(0.5, (1 + n) / (10 + n))  # 2/11 after the second step, and 0.5 from the ninth on
        average = [decay * a + (1 - decay) * p for a, p in zip(average, now, strict=True)]
    _, _, _, model = restore(run)
    for p, a in zip(model.parameters(), average, strict=True):
        assert_close(p.detach(), a)
    last = checkpoint(run)["parameters"]
    assert all(torch.equal(a, b) for a, b in zip(last.values(), others[-1], strict=True))
    # and the figures are of it, not of the last step's
    said = json.loads((run / "results.json").read_text())["test"]["kl"]["value"]
    twin = tmp_path / "twin"
    assert svi.main([*VAE, *options[2:], "--data", str(small_npz), "--run-dir", str(twin)]) == 0
    assert said != json.loads((twin / "results.json").read_text())["test"]["kl"]["value"]


def test_an_average_goes_on_bit_for_bit(small_npz: Path, tmp_path: Path) -> None:
    options = [*VAE, "--ema", "0.9", "--clip", "5", "--data", str(small_npz), "--run-dir"]
    assert svi.main([*options, str(tmp_path / "whole")]) == 0
    assert svi.main([*options, str(tmp_path / "parts"), "--steps", "4"]) == 0
    assert svi.main(["--resume", str(tmp_path / "parts"), "--steps", "10"]) == 0
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_bfloat16_is_of_the_networks_in_training_alone(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside of them, while they train; what they give back, and what is measured, has full precision."""
    inside, outside = set(), set()
    forward = MLP.forward

    def watch(self: MLP, *inputs: torch.Tensor) -> torch.Tensor:
        hook = self.layers[0].register_forward_hook(
            lambda *given: inside.add((self.training, given[2].dtype))
        )
        out = forward(self, *inputs)
        hook.remove()
        outside.add(out.dtype)
        return out

    monkeypatch.setattr(MLP, "forward", watch)
    options = [
        "--steps",
        "40",
        "--precision",
        "bfloat16",
        "--data",
        str(small_npz),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert svi.main([*VAE, *options]) == 0
    assert outside == {torch.float32}
    assert {(True, torch.bfloat16), (False, torch.float32)} == inside
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["negative_elbo"]["value"] < 36 * 0.6931  # below even odds: it has learnt


def test_what_cannot_be(tmp_path: Path) -> None:
    for option, complaint in (
        (["--ema", "1"], "1 is not a number from 0 to below 1"),
        (["--clip", "-1"], "-1 is not 0, or a norm of at least 1e-06"),
        (["--precision", "float16"], "unknown --precision 'float16': did you mean bfloat16"),
    ):
        with pytest.raises(UserError, match=complaint):
            svi.main(["--model", "vae", "--data", "digits", "--run-dir", str(tmp_path / "x"), *option])
    assert not (tmp_path / "x").exists()


GMVAE = ["--model", "gmvae", "--components", "5", *TINY, "--steps", "24"]


@pytest.mark.parametrize("mode", shortened(["eager", "graph"], ["graph"]))
def test_the_prior_trains_when_the_kl_weight_starts_at_zero(
    mode: str, small_npz: Path, tmp_path: Path
) -> None:
    """At step 0 no gradient reaches the components. They learn from step 1 on, in a resumed run as well."""
    options = [*GMVAE, "--kl-warmup", "10", "--compile", mode, "--data", str(small_npz), "--run-dir"]
    assert svi.main([*options, str(tmp_path / "parts"), "--steps", "20"]) == 0
    _, _, _, model = restore(tmp_path / "parts")
    state = checkpoint(tmp_path / "parts")
    steps = {
        name: state["optimizer"]["state"][index]["step"].item()
        for index, (name, _) in enumerate(model.named_parameters())
    }
    assert steps.pop("components") == 19.0 and set(steps.values()) == {20.0}
    assert svi.main(["--resume", str(tmp_path / "parts"), "--steps", "24"]) == 0
    assert svi.main([*options, str(tmp_path / "whole")]) == 0
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_fit_trains_in_training_mode_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """Batch norm learns from the first step on, whatever mode the model is in, and nothing stays changed."""
    data, _ = find_dataset("digits", tmp_path)
    cls, cpu = MODELS["ae"], torch.device("cpu")
    data = data.padded(cls)
    config = TrainConfig(steps=2, eval_every=2, compile="eager").resolved(cls, data.shape)
    batches = Batches(data, cls, 20, 0, torch.empty(0, dtype=torch.long), cpu)
    model = cls(data.shape).eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    pyro.param("mine", torch.ones(()))
    Loop(model, batches, {"test": HeldOut(data, cls, cpu)}, config).run()
    averages = [name for name, value in before.items() if value.is_floating_point()]
    assert averages and not any(torch.equal(before[name], model.get_buffer(name)) for name in averages)
    assert not model.training
    assert list(pyro.get_param_store()) == ["mine"]


def test_the_kl_weight_is_a_number_again_after_training(small_npz: Path, tmp_path: Path) -> None:
    seen = []
    kept = KLWeight.__exit__

    class Watched(KLWeight):
        def __exit__(self, *given: object) -> None:
            seen.append(self.model.beta)
            kept(self, *given)
            seen.append(self.model.beta)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "KLWeight", Watched)
        options = ["--beta", "0.5", "--kl-warmup", "8", "--data", str(small_npz)]
        assert svi.main([*VAE, *options, "--run-dir", str(tmp_path / "run")]) == 0
    during, after = seen
    assert torch.is_tensor(during) and during == 0.5 and type(after) is float and after == 0.5


def test_every_batch_norm_is_found() -> None:
    model = MODELS["vae"]((1, 8, 8), z_dim=2, hidden=4)
    model.extra = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm3d(3)])
    assert len(batch_norm_statistics(Loss(model, "trace"))) == 6
    with pytest.raises(ValueError, match="batch norm needs two images"):
        check_training(model, TrainConfig(batch_size=1, steps=1).resolved(type(model), model.shape))
