"""The pretrained models: found by name, checked, in half precision on disk and in float32 in memory."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import inference.sample as sample_command
from inference import evaluate, load, sample
from inference.data.load import find_dataset
from inference.errors import UserError
from inference.rundir import pretrained
from ppl_models import VAE, VQVAE, CodePixelCNN
from tools import pretrained as tool

FIXTURE = Path(__file__).parent / "fixtures" / "1.0.0rc1"
NAMES = sorted(pretrained.checksums())
LARGER = {"fsvae-svhn_10k": 8e6, "vqvae-svhn_10k": 10e6}  # bytes; the others are below 3 MB


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (pretrained, tool):
        monkeypatch.setattr(module, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "page.md").write_text(tool.PAGE.read_text())
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
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
    assert "`python -m inference.sample --pretrained vae-digits`." in card
    assert "(vae-digits.md)" in (weights / "README.md").read_text()
    about = "| `vae-digits` | Variational auto-encoder. | digits | 0.0 MB |  |"
    _, page = tool.PAGE.read_text().split(tool.MARKS[0])
    assert page.partition(tool.MARKS[1])[0].splitlines()[3:] == [about]


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
    with pytest.raises(UserError, match=r"^cannot read vae-digits .* run; the pretrained models are in the"):
        load("vae-digits")
    tool.add(FIXTURE, "vae-digits")
    with pytest.raises(UserError, match=r"^unknown pretrained model 'vae-digit': did you mean vae-digits\?$"):
        pretrained.pretrained("vae-digit")
    with pytest.raises(UserError, match=r"^cannot read vae-digit \(.*or a pretrained model: vae-digits\.$"):
        load("vae-digit")
    with pytest.raises(UserError, match="not a name of the form MODEL-DATA"):
        tool.add(FIXTURE, "../evil")
    path = weights / "vae-digits.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"^vae-digits\.pt is missing or damaged\. Restore it by `git checkout"
    ):
        load("vae-digits")


@pytest.mark.usefixtures("narrow")
def test_codes_of_a_pretrained_prior_are_decoded_by_its_first_stage(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under either name, from a name and from a file; another model is sampled alone."""
    monkeypatch.setattr(pretrained, "CODE_PRIORS", {"vqvae-x": "code_pixelcnn-x"})
    models = {
        "vqvae-x": VQVAE((3, 32, 32), codes=9),
        "code_pixelcnn-x": CodePixelCNN((1, 8, 8), codes=9, width=8),
        "vae-x": VAE((1, 8, 8), hidden=8),
    }
    weights.mkdir()
    for name, model in models.items():
        model.save(weights / f"{name}.pt")
    sums = {name: hashlib.sha256((weights / f"{name}.pt").read_bytes()).hexdigest() for name in models}
    (weights / pretrained.CHECKSUMS).write_text(json.dumps(sums))
    found = sample("vqvae-x", 3, seed=2)
    assert torch.equal(found.latents["codes"], sample(load("code_pixelcnn-x"), 3, seed=2).x[:, 0])
    mean = load("vqvae-x").decode_codes(found.latents["codes"].long())
    assert torch.equal(found.x, ((mean + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8))
    for source in ("code_pixelcnn-x", weights / "vqvae-x.pt", weights / "code_pixelcnn-x.pt"):
        assert torch.equal(sample(source, 3, seed=2).x, found.x)
    assert sample("vae-x", 2).x.shape == (2, 1, 8, 8)
    assert sample(load("vqvae-x"), 2).latents["z"].shape == (2, 8, 8, 8)  # a model in memory has no prior
    with pytest.raises(UserError, match=r"^code_pixelcnn has no latents"):
        sample("vqvae-x", 2, same_latents=True)
    monkeypatch.chdir(tmp_path)
    models["vae-x"].save(tmp_path / "vqvae-x")
    assert sample("vqvae-x", 2).x.shape == (2, 1, 8, 8)  # a file of that name
    (weights / "code_pixelcnn-x.pt").unlink()
    with pytest.raises(UserError, match=r"^code_pixelcnn-x\.pt is missing or damaged"):
        sample(weights / "vqvae-x.pt", 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_is_as_its_card_says(name: str) -> None:
    path = pretrained.pretrained(name)
    card = path.with_suffix(".md").read_text()
    size = re.search(r"\*\*File\*\*: ([\d,]+) bytes", card)
    assert size and int(size[1].replace(",", "")) == path.stat().st_size < LARGER.get(name, 3e6)
    assert pretrained.checksums()[name] in card
    model = load(name)
    assert all(p.isfinite().all() for p in model.parameters())
    options = " ".join(tool.samples_options(model))
    command = f"python -m inference.sample --pretrained {name} {options}".strip()
    assert f"`{command}`" in card
    assert f"({name}.md)" in (path.parent / "README.md").read_text()
    size_of = f"{path.stat().st_size / 1e6:.1f} MB | {f'`{options}`' if options else ''} |\n"
    assert re.search(rf"\| `{name}` \| .*{re.escape(size_of)}", tool.PAGE.read_text())


def published(name: str, metric: str) -> float:
    """The value of a metric on a model's card."""
    card = pretrained.pretrained(name).with_suffix(".md").read_text()
    found = re.search(rf"^\| {metric} \| (\S+) \|", card, re.MULTILINE)
    assert found, (name, metric)
    return float(found[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_is_sampled(name: str) -> None:
    model, found = load(name), sample(name, 2)
    x, (*shape,) = found.x, model.shape
    assert x.shape == (2, *(shape if name != "code_transformer-svhn_10k" else (3, 32, 32)))
    assert x.double().isfinite().all() and not torch.equal(x[0], x[1])
    if found.drawn == "images":
        assert x.dtype == torch.uint8 and 20 < x.double().std() < 130  # levels: not one grey, not a mask


@pytest.mark.parametrize(("name", "n", "apart"), [("flow-smiley", 10_000, 0.05), ("made-mnist", 40, 12.0)])
def test_samples_have_the_log_density_of_test_data(name: str, n: int, apart: float) -> None:
    """The mean of -log p of samples is the entropy of p: nearly the value of the card if p fits the data.

    It is far from it if sampling and density disagree, as with wrong masks. Noise of the mean: three standard
    errors are `apart`.
    """
    assert name in NAMES
    torch.manual_seed(0)
    model = load(name)
    x = model.sample(n)
    with torch.no_grad():
        log_p = model.log_likelihood(x)
    assert 3 * log_p.std() / n**0.5 < apart
    assert abs(-log_p.mean() - published(name, "negative_log_p")) < apart
    order = torch.randperm(x[0].numel())
    if name == "made-mnist":  # the order of the pixels matters
        shuffled = x.flatten(1)[:, order].view_as(x)
        assert (model.log_likelihood(shuffled) < log_p - 100).all()


def test_a_sampled_image_has_the_class_that_was_asked_for() -> None:
    """The classifier q(y | x) of the ssvae reads the label that its decoder was given."""
    found = sample("ssvae-mnist", 100, labels=range(10), means=True)
    logits = load("ssvae-mnist").classify(found.x / 255)
    assert logits is not None and (logits.argmax(1) == found.y).float().mean() > 0.9


def test_codes_of_the_prior_fit_its_first_stage() -> None:
    """Codes of images have the nats per code of the card. In another order they are less likely."""
    assert "code_transformer-svhn_10k" in NAMES
    found = sample("vqvae-svhn_10k", 20)
    prior, codes = load("code_transformer-svhn_10k"), found.latents["codes"].unsqueeze(1).float()
    nats = -prior.log_likelihood(codes).detach() / 64
    assert abs(nats.mean() - published("code_transformer-svhn_10k", "nats_per_code")) < 0.4
    shuffled = codes.flatten(1)[:, torch.randperm(64)].view_as(codes)
    assert -prior.log_likelihood(shuffled).mean() / 64 > nats.mean() + 1
    again = load("vqvae-svhn_10k").codes(found.x / 127.5 - 1)
    assert (again == codes[:, 0]).float().mean() > 0.5  # of 128 codes


def test_mnist_has_the_accuracy_and_the_bounds_of_the_cards(mnist_dir: Path) -> None:
    """The first 500 test images; a card has all 10,000. Three standard errors of the smaller number."""
    data, _ = find_dataset("mnist", mnist_dir)
    part = replace(data, x_test=data.x_test[:500], y_test=data.y_test[:500])
    for name in NAMES:
        if name.endswith("-mnist"):
            for metric, found in evaluate(load(name), part, (), samples=1).items():
                error = 3 * (found.se or 0)
                assert abs(found.value - published(name, metric)) < error, (name, metric)
