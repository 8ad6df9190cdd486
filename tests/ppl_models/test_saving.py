"""What every model offers besides its pair and bound: a registered name, a posterior, a file."""

import copy
import doctest
import pickle
from pathlib import Path
from typing import Annotated

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from inference.data.examples import example_inputs
from ppl_models import AFVAE, MODELS, SSVAE, VAE, from_saved, programs, register
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents
from tests.ppl_models.test_contract import build

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> LatentVariableModel:
    torch.manual_seed(0)
    return build(request.param).eval()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[LatentVariableModel]]:
    """MODELS, from which a test's own classes are removed afterwards."""
    for name in MODELS:
        monkeypatch.setitem(MODELS, name, MODELS[name])
    for name in ("wide", "wider"):
        monkeypatch.setitem(MODELS, name, VAE)
        del MODELS[name]
    return MODELS


class Wide(VAE):
    """A user's model: another default, another option, and positional arguments as in the contract."""

    def __init__(
        self, shape: tuple[int, ...], classes: int = 0, *, factor: Annotated[int, "factor of the width"] = 2
    ):
        super().__init__(shape, classes, z_dim=3, hidden=10 * factor)


def test_a_class_is_registered_by_call_and_as_decorator(registry: dict) -> None:
    assert register("wide", Wide) is Wide and registry["wide"] is Wide and Wide.registered_name == "wide"
    assert register("wide", Wide) is Wide  # again

    @register("wider")
    class Wider(Wide):
        pass

    assert registry["wider"] is Wider and (Wider.registered_name, Wide.registered_name) == ("wider", "wide")


def test_a_class_that_is_defined_again_replaces_itself(registry: dict) -> None:
    def define() -> type[VAE]:
        @register("wide")
        class Again(VAE):
            pass

        return Again

    first, second = define(), define()
    assert first is not second and registry["wide"] is second


@pytest.mark.parametrize("name", ["Wide", "my-vae", "2d", "", "class A"])
def test_a_name_is_a_lower_case_identifier(registry: dict, name: str) -> None:
    with pytest.raises(ValueError, match="is not a lower-case identifier"):
        register(name, Wide)
    assert name not in registry


def test_a_name_belongs_to_one_class(registry: dict) -> None:
    with pytest.raises(ValueError, match=r"'vae' is the name of VAE\. Choose another"):
        register("vae", Wide)
    assert registry["vae"] is VAE


@pytest.mark.parametrize("cls", [torch.nn.Linear, VAE((1, 4, 4)), "VAE"])
def test_a_class_is_a_model(registry: dict, cls: type) -> None:
    with pytest.raises(ValueError, match="is not a subclass of LatentVariableModel"):
        register("wide", cls)
    assert "wide" not in registry


def test_what_a_class_declares_holds(model: LatentVariableModel) -> None:
    assert model.registered_name == next(name for name, cls in MODELS.items() if cls is type(model))
    assert model.has_kl_weight == ("beta" in model.options())
    assert model.kl_weight == (model.beta if model.has_kl_weight else 1.0)
    assert model.has_latents == bool(model.prior(1))
    inputs = example_inputs(model, 3)
    latents = sample_latents(model, **inputs)
    bound = model.bound(**inputs, latents=latents)
    assert model.has_penalties == bool(bound.penalties)
    assert model.has_codebook == (model.code_counts(latents) is not None)
    assert ("x_labelled" in model.inputs) == (model.labelled_images > 0)
    assert int(inputs["x"].max()) < model.levels


def test_the_kl_weight_can_be_set() -> None:
    vae, flow = VAE((1, 4, 4), beta=2.0), build("flow")
    vae.kl_weight = torch.tensor(0.5)
    assert vae.kl_weight is vae.beta and vae.beta == 0.5 and vae.constructor_options["beta"] == 2.0
    with pytest.raises(AttributeError, match="Flow has no KL weight"):
        flow.kl_weight = 0.5


def test_the_posterior_is_that_of_the_guide(model: LatentVariableModel) -> None:
    inputs = {name: value for name, value in example_inputs(model, 4).items() if name in ("x", "y")}
    posterior, codes = model.posterior(**inputs), model.encode(**inputs)
    assert posterior.keys() == codes.keys() and bool(codes) == model.has_latents
    for name, q in posterior.items():
        assert q.batch_shape == (4,) and q.sample().shape == q.sample((2,))[0].shape == codes[name].shape
        mode = q.mean if name != "y" else q.mode
        assert torch.equal(mode, codes[name]) and not mode.requires_grad


def test_a_latent_is_conditioned_on_the_modes_before_it() -> None:
    torch.manual_seed(0)
    model = SSVAE((1, 4, 4), 3, z_dim=2, hidden=8)
    x = torch.rand(6, 1, 4, 4).round()
    posterior = model.posterior(x)
    assert isinstance(posterior["y"], dist.OneHotCategorical)
    assert_close(posterior["y"].probs, model.classify(x).softmax(-1))
    y = torch.eye(3)[model.classify(x).argmax(-1)]
    loc, raw = model.encoder(x.flatten(1), y).chunk(2, dim=-1)
    assert torch.equal(posterior["z"].mean, loc)
    assert_close(posterior["z"].stddev, (torch.nn.functional.softplus(raw) + 1e-8).sqrt())


def test_the_example_of_the_posterior_runs() -> None:
    assert doctest.testmod(programs) == (0, 2)


def outcome(model: LatentVariableModel) -> torch.Tensor:
    """The model's objective on its example inputs, with random numbers of one seed."""
    torch.manual_seed(1)
    inputs = example_inputs(model, 5)
    return model.bound(**inputs, latents=sample_latents(model, **inputs)).objective


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_saved_model_has_the_same_bound(
    model: LatentVariableModel, precision: torch.dtype, tmp_path: Path
) -> None:
    model = model.to(precision)
    model.save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(content) == ["format", "model", "shape", "classes", "options", "parameters"]
    assert (content["format"], content["model"]) == (1, model.registered_name)
    assert (content["shape"], content["classes"]) == (list(model.shape), 10)
    assert (
        content["options"] == model.constructor_options
        and content["options"].keys() == model.options().keys()
    )
    loaded = from_saved(content)
    assert type(loaded) is type(model) and not loaded.training
    assert loaded.constructor_options == model.constructor_options
    assert torch.equal(outcome(loaded), outcome(model))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_options_are_those_of_the_outermost_constructor() -> None:
    usual = {"z_channels": 16, "flows": 1}
    assert AFVAE((3, 32, 32), flows=1).constructor_options == usual
    wide = Wide((1, 4, 4), factor=3)
    assert wide.constructor_options == {"factor": 3} and wide.encoder.layers[0].out_features == 30
    for other in (copy.deepcopy(wide), pickle.loads(pickle.dumps(wide))):
        assert other.constructor_options == {"factor": 3}


def test_a_users_model_is_read_once_it_is_registered(registry: dict, tmp_path: Path) -> None:
    wide = Wide((1, 4, 4), factor=3).eval()
    Wide.registered_name = None
    wide.save(tmp_path / "wide.pt")
    content = torch.load(tmp_path / "wide.pt", weights_only=True)
    with pytest.raises(ValueError, match=r"'Wide' is not a registered model\. Register its class first"):
        from_saved(content)
    register("wide", Wide)
    assert content["model"] == "Wide" and torch.equal(outcome(from_saved(content)), outcome(wide))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    model = VAE((1, 4, 4))
    model.save(file)
    before = file.read_bytes()
    model.constructor_options["z_dim"] = torch.tensor(3)
    with pytest.raises(TypeError, match="not JSON serializable"):
        model.save(file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "is not a model of format 1"),
        ({"model": "nobody"}, "'nobody' is not a registered model"),
        ({"model": ["vae"]}, r"\['vae'\] is not a registered model"),
        ({"options": {"depth": 3}}, "does not fit vae: .*depth"),
        ({"options": {"hidden": 7}}, "does not fit vae: .*size mismatch"),
        ({"parameters": {}}, "does not fit vae: .*Missing key"),
        ({"parameters": [1]}, "does not fit vae"),
        ({"shape": None}, "does not fit vae"),
    ],
)
def test_what_is_not_a_saved_model_is_refused_in_one_line(change: dict, message: str, tmp_path: Path) -> None:
    VAE((1, 4, 4), hidden=5).save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True) | change
    with pytest.raises(ValueError, match=message) as refused:
        from_saved(content)
    assert "\n" not in str(refused.value)
    for other in (None, [], {}):
        with pytest.raises(ValueError, match="is not a model of format 1"):
            from_saved(other)
