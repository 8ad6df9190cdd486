"""The Python API: what a command does, a call does, and nothing global changes."""

import doctest
import importlib
import json
import pkgutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import inference
import inference.compare
import inference.evaluate as evaluate_command
from inference import Callback, TrainConfig, compare, evaluate, fit, load, svi
from inference.backend.files import pack, unpack
from inference.cli import models
from inference.data import load_dataset
from inference.errors import UserError
from inference.rundir.checkpoint import config_digest
from inference.rundir.restore import restore
from inference.rundir.run import Run
from ppl_models import MODELS, SSVAE, VAE, VAE2D, LatentVariableModel, register
from tests import forks
from tests.ppl_models.test_contract import build
from tests.support import TINY, checkpoint, lines

SETTINGS = {"steps": 10, "batch_size": 20, "progress": False}


def small_vae(seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE((1, 6, 6), z_dim=2, hidden=16)


def parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_public_functions_are_callable_after_every_module_is_imported() -> None:
    for package in pkgutil.walk_packages(inference.__path__, "inference."):
        importlib.import_module(package.name)
    for name in inference.__all__:
        assert callable(getattr(inference, name)), name
    x = torch.ones(3, 1, 6, 6, dtype=torch.float64)
    assert inference.compare(small_vae().double(), x)["agrees"]
    assert compare(small_vae().double(), x)["agrees"]
    assert compare(small_vae().double(), x.float())["agrees"]  # the inputs are converted


def test_every_form_of_the_same_data_trains_the_same_model(small_npz: Path) -> None:
    with np.load(small_npz) as file:
        x, y = torch.from_numpy(file["x_train"])[:, None], torch.from_numpy(file["y_train"])
    forms = [x, (x, y), x.numpy(), TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=7)]
    trained = []
    for train in forms:
        model = small_vae()
        fit(model, train, **SETTINGS)
        trained.append(parameters(model))
    assert all(torch.equal(trained[0], other) for other in trained[1:])
    assert not torch.equal(trained[0], parameters(small_vae()))


def test_fit_is_the_command(small_npz: Path, tmp_path: Path) -> None:
    """From the command's initial parameters, with its random numbers: the same trajectory to the bit."""
    run = tmp_path / "run"
    assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    pyro.set_rng_seed(0)
    model = VAE((1, 6, 6), z_dim=2, hidden=16)

    class Continue(Callback):
        """Restores the RNG state behind the initialisation, which `fit` does not repeat."""

        state = torch.get_rng_state()

        def on_evaluate(self, loop, metrics) -> None:
            if loop.step == 0:
                torch.set_rng_state(self.state)

    data = load_dataset(str(small_npz))
    history = fit(model, data, callbacks=[Continue()], **SETTINGS)
    assert torch.equal(parameters(model), parameters(load(run)))
    ours = [line["negative_elbo"] for line in history.metrics if line["split"] == "validation"]
    assert ours == [line["negative_elbo"] for line in lines(run) if line["split"] == "test"]

    result = evaluate(model, data, particles=(1, 10))
    assert evaluate_command.main([str(run), "--particles", "1", "10"]) == 0
    found = restore(run).run.results()["test"]
    for name, metric in result.items():
        assert metric.value == found[name]["value"] and metric.se == found[name]["se"], name


def test_fit_writes_nothing_and_changes_nothing_global(small_npz: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pyro.param("mine", torch.ones(()))
    torch.manual_seed(5)
    before = torch.get_rng_state(), torch.get_float32_matmul_precision()
    model = small_vae().eval()
    torch.set_rng_state(before[0])
    fit(model, load_dataset(str(small_npz)), **SETTINGS)
    assert list(tmp_path.iterdir()) == [] and list(pyro.get_param_store()) == ["mine"]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_float32_matmul_precision() == before[1] and not model.training


def test_settings_win_over_the_config_and_unknown_ones_are_refused() -> None:
    x = torch.zeros(50, 1, 6, 6, dtype=torch.uint8)
    history = fit(
        small_vae(), x, config=TrainConfig(steps=30, lr=1e-2), steps=7, batch_size=20, progress=False
    )
    assert history.metrics[-1]["step"] == 7
    for settings, words in (
        ({"step": 3}, "unknown setting 'step': did you mean steps"),
        ({"steps": 0}, "steps is 0. Give a whole number above zero"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"batch_size": 51}, "Lower --batch-size"),
        ({"kl_warmup": 9, "steps": 3}, "does not end within 3 steps"),
    ):
        with pytest.raises(UserError, match=words):
            fit(small_vae(), x, **{"batch_size": 20, "progress": False} | settings)
    with pytest.raises(UserError, match="the data have shape"):
        fit(small_vae(), torch.zeros(50, 1, 7, 7, dtype=torch.uint8), batch_size=20)
    with pytest.raises(UserError, match="takes points"):
        fit(VAE2D((2,)), x)


def test_the_seed_decides_the_random_numbers() -> None:
    x = (255 * torch.rand(50, 1, 6, 6)).byte()
    found = {}
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        torch.manual_seed(len(found))  # the global RNG does not matter
        model = small_vae(0)
        fit(model, x, seed=seed, **SETTINGS)
        found[name] = parameters(model)
    assert torch.equal(found["first"], found["again"]) and not torch.equal(found["first"], found["other"])


def test_a_callback_stops_training() -> None:
    class Stop(Callback):
        ended = 0

        def on_step_end(self, loop) -> None:
            loop.stop_requested = loop.step == 7

        def on_train_end(self, loop) -> None:
            self.ended = loop.step

    stop = Stop()
    fit(small_vae(), torch.zeros(50, 1, 6, 6, dtype=torch.uint8), callbacks=[stop], **SETTINGS)
    assert stop.ended == 7


def test_a_run_folder_from_python_is_a_run(small_npz: Path, tmp_path: Path) -> None:
    with np.load(small_npz) as file:
        x, y = file["x_train"], file["y_train"]
    model = SSVAE((1, 6, 6), 3, z_dim=2, hidden=16, labels=6)
    history = fit(model, (x, y), validation=(x, y), run_dir=tmp_path / "run", **SETTINGS)
    assert [line["step"] for line in history.metrics if line["split"] == "test"] == list(range(11))
    names = {"config.json", "metrics.jsonl", "checkpoint.pt", "results.json", "figures", "lock"}
    assert names <= {path.name for path in (tmp_path / "run").iterdir()}
    assert torch.equal(parameters(load(tmp_path / "run")), parameters(model))
    with pytest.raises(UserError, match="was trained on data in memory"):
        evaluate_command.main([str(tmp_path / "run")])
    with pytest.raises(UserError, match="is not empty"):
        fit(model, (x, y), run_dir=tmp_path / "run", **SETTINGS)


def test_training_continues_from_the_parameters(small_npz: Path) -> None:
    data, model, start = load_dataset(str(small_npz)), small_vae(), time.perf_counter()
    metrics = fit(model, data, **SETTINGS).metrics
    seconds, first = [line["seconds"] for line in metrics], metrics[-1]["negative_elbo"]
    assert seconds == sorted(seconds) and 0 < seconds[-1] < time.perf_counter() - start
    again = fit(model, data, **SETTINGS | {"steps": 200}).metrics
    assert again[0]["negative_elbo"] == pytest.approx(first, abs=1e-5) and again[-1]["negative_elbo"] < first


def test_files_that_are_not_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no")
    torch.save({"format": 1, "model": "none"}, tmp_path / "y.pt")
    torch.save({"format": 1, "model": tmp_path}, tmp_path / "code.pt")
    for path, words in (
        ("x.pt", "is not a saved model or checkpoint. Name"),
        ("y.pt", "not a registered model"),
        ("z.pt", "cannot read"),
        ("code.pt", "is rejected: it contains objects other than tensors"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            load(tmp_path / path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a run"):
        load(tmp_path)


OWN = '''"""A model of a user."""
import pyro, pyro.distributions as dist
from typing import Annotated
from torch import nn
from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.distributions import BernoulliImage
from ppl_models.nets.heads import loc_scale

class OwnModel(LatentVariableModel):
    """p(x, z) = N(z; 0, I) Bernoulli(x; logits = W z + b).  q(z | x) = N(z; loc(x), diag scale(x)^2)."""
    estimators = ("mean_field", "trace")
    def __init__(self, shape, classes=0, *, z_dim: Annotated[int, "dimensions of z"] = 2):
        super().__init__(shape, classes)
        self.z_dim, pixels = z_dim, shape[0] * shape[1] * shape[2]
        self.encoder, self.decoder = nn.Linear(pixels, 2 * z_dim), nn.Linear(z_dim, pixels)
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", BernoulliImage(self.decoder(z), self.shape), obs=x)
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*loc_scale(self.encoder(x.flatten(1)))).to_event(1))
    def bound(self, x, latents, *, kl="closed"):
        x, z = x.flatten(1), latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        sampled = densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        return ELBOTerms(
            reconstruction=-densities.bernoulli(x, self.decoder(z)),
            kl_z=densities.kl_normal_standard(loc, scale) if kl == "closed" else sampled,
        )
'''


def test_a_model_of_ones_own_file_runs_from_the_command_line(small_npz: Path, tmp_path: Path) -> None:
    """The class is named again for a run of it. No command imports code that a run folder names."""
    (tmp_path / "own.py").write_text(OWN)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = {"PYTHONPATH": str(forks.ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
        return forks.run("-c", forks.QUICK, *arguments, cwd=tmp_path, env=paths)

    options = ["--steps", "20", "--batch-size", "20", "--data", str(small_npz), "--run-dir", "run"]
    done = run("inference.svi", "--model", "own.py:OwnModel", *options)
    assert done.returncode == 0 and "own_model on" in done.stdout, done.stderr
    refused = run("inference.evaluate", "run")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "'own_model' is not registered. Name its class with --model FILE.py:CLASS" in refused.stderr
    assert run("inference.evaluate", "run", "--model", "own.py:OwnModel", "--particles", "1").returncode == 0
    for spec, words in (("no.py:X", "there is no file no.py"), ("own.py:X", "has no model class 'X'")):
        bad = run("inference.svi", "--model", spec)
        assert bad.returncode == 2 and words in bad.stderr and bad.stderr.count("\n") == 1
    help_text = run("inference.svi", "--model", "own.py:OwnModel", "--help").stdout
    assert "--z-dim N" in help_text and "dimensions of z (default: 2)" in help_text


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (OWN, "own.py", "{0} names no class. Give {0}:OwnModel."),
        (OWN, "own.py:VAE", "{0} has no model class 'VAE'. Give {0}:OwnModel."),
        ("x = 1\n", "own.py:X", "{0} has no model class 'X'. Derive a class in it from "),
        (
            "x = 1\n\ny = undefined\n",
            "own.py:X",
            "cannot import {0} (line 3: NameError: name 'undefined' is not defined). Correct the file; "
            "python {0} shows the whole error.",
        ),
        ("x = 1\ndef f(:\n", "own.py:X", "cannot import {0} (line 2: SyntaxError: invalid syntax"),
    ],
)
def test_a_file_without_the_model_is_refused(content: str, spec: str, message: str, tmp_path: Path) -> None:
    """The message names the line, or what the file has."""
    path, _, name = spec.partition(":")
    (tmp_path / path).write_text(content)
    with pytest.raises(UserError) as caught:
        models.with_registered_model(["--model", ":".join([str(tmp_path / path), name]).rstrip(":")])
    assert str(caught.value).startswith(message.format(tmp_path / path))
    with pytest.raises(UserError, match=r"there is no file no\.py\. Name a model as FILE\.py:CLASS\."):
        models.with_registered_model(["--model=no.py"])


@pytest.mark.parametrize("how", ["run", pytest.param("sweep", marks=pytest.mark.full)])
def test_a_model_of_ones_own_file_is_swept_and_resumed(how: str, small_npz: Path, tmp_path: Path) -> None:
    """The recorded command, the hint to resume and the runs of a sweep name the file and the class."""
    (tmp_path / "own.py").write_text(OWN)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forks.run("-c", forks.QUICK, *arguments, "--model", "own.py:OwnModel", cwd=tmp_path)

    options = ["--steps", "4", "--batch-size", "20", "--data", str(small_npz)]
    folder = tmp_path / "out" / "z_dim=2" / "seed=0"
    if how == "sweep":
        done = run("inference.sweep", "--over", "z-dim=2", "--seeds", "0", *options, "--out", "out")
        assert "1/1 z_dim=2/seed=0" in done.stdout, done.stdout + done.stderr
    else:
        done = run("inference.svi", "--z-dim", "2", *options, "--run-dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--model own.py:OwnModel" in json.loads((folder / "config.json").read_text())["command"]
    resumed = run("inference.svi", "--resume", str(folder), "--steps", "8")
    assert resumed.returncode == 0 and checkpoint(folder)["step"] == 8, resumed.stderr


def test_models_of_other_packages_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name, value = "from_a_package", "a_package:Model"

        def load(self) -> type[LatentVariableModel]:
            return type("Model", (VAE,), {"__module__": "a_package"})

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()])
    try:
        assert models.with_registered_model(["--steps", "3"]) == ["--steps", "3"]
        assert MODELS["from_a_package"].__module__ == "a_package"
    finally:
        MODELS.pop("from_a_package", None)


def test_ctrl_c_stops_fit_after_a_step_and_raises() -> None:
    class Interrupt(Callback):
        steps = 0

        def on_step_end(self, loop) -> None:
            self.steps = loop.step
            if loop.step == 5:
                signal.raise_signal(signal.SIGINT)

    interrupt, model, handler = Interrupt(), small_vae(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, torch.zeros(50, 1, 6, 6, dtype=torch.uint8), callbacks=[interrupt], **SETTINGS)
    assert interrupt.steps == 5 and not torch.equal(parameters(model), parameters(small_vae()))
    assert signal.getsignal(signal.SIGINT) is handler  # a background job ignores Ctrl-C, before and after


def test_a_history_is_a_table() -> None:
    pandas = pytest.importorskip("pandas")
    history = fit(small_vae(), torch.zeros(50, 1, 6, 6, dtype=torch.uint8), **SETTINGS)
    frame = history.to_frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == len(history.metrics) == 1
    assert frame["negative_elbo"][0] == history.metrics[0]["negative_elbo"]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_loaded_from_its_file(name: str, tmp_path: Path) -> None:
    """The limit of the next test leaves room for parameters that a module registers and then replaces."""
    model = build(name)
    model.save(tmp_path / "model.pt")
    assert torch.equal(parameters(load(tmp_path / "model.pt")), parameters(model))


def test_a_file_cannot_name_a_model_that_is_larger_than_itself(tmp_path: Path, own_run: Path) -> None:
    """The construction stops before the memory is used: 300000 x 300000 weights would be 335 GiB."""
    small_vae().save(tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    content["options"]["hidden"] = 300_000
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match="name a larger model than the file holds"):
        load(tmp_path / "x.pt")
    config = json.loads((own_run / "config.json").read_text())
    config["options"]["hidden"] = 20_000
    (own_run / "config.json").write_text(json.dumps(config))
    digest = config_digest(Run.open(own_run).config)
    (own_run / "checkpoint.pt").write_bytes(
        pack(unpack(own_run / "checkpoint.pt") | {"config_digest": digest})
    )
    with pytest.raises(UserError, match="does not fit vae"):
        load(own_run)


def test_check_model_finds_a_wrong_bound() -> None:
    from inference.testing import check_model

    check_model(VAE, (1, 6, 6), z_dim=2, hidden=8)

    class Wrong(VAE):
        def bound(self, x, latents, *, kl="closed"):
            terms = super().bound(x, latents, kl=kl)
            terms.terms["kl_z"] = 2 * terms.terms["kl_z"]
            return terms

    register("wrong_vae", Wrong)
    try:
        with pytest.raises(AssertionError, match="bound and Pyro's mean_field estimator differ"):
            check_model(Wrong, (1, 6, 6), z_dim=2, hidden=8)
    finally:
        del MODELS["wrong_vae"]
    assert issubclass(Wrong, LatentVariableModel)


@pytest.mark.parametrize("module", ["inference.api", "inference.fitting", "inference.data.load"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted and not found.failed
