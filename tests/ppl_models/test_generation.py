"""What follows from every model's pair: samples of the latents alone, and errors where nothing is latent."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pyro import poutine

from inference.data.examples import example_inputs
from inference.rundir.config import defaults
from ppl_models import MODELS, SSVAE
from ppl_models.base import LatentVariableModel
from ppl_models.programs import latents_of

pytestmark = pytest.mark.usefixtures("narrow")
SHAPE, CLASSES = (1, 8, 8), 10
NO_LATENTS = ["code_pixelcnn", "code_transformer", "flow", "made"]


def build(name: str) -> LatentVariableModel:
    cls = MODELS[name]
    settings = defaults(cls, SHAPE)
    return cls(cls.padded(SHAPE), CLASSES, **{option: settings[option] for option in cls.options()}).eval()


class RefuseX(poutine.messenger.Messenger):
    """Raises where x is about to be sampled."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x" and not msg["is_observed"]:
            raise AssertionError("x is sampled")


@pytest.mark.parametrize("name", MODELS)
def test_the_prior_samples_latents_and_not_x(name: str) -> None:
    model = build(name)
    with nullcontext() if name == "adgm" else RefuseX():  # its p(a | x, y, z) needs x
        torch.manual_seed(5)
        prior = model.prior(3)
    with RefuseX(), pytest.raises(AssertionError, match="x is sampled"):
        model.sample(3)
    torch.manual_seed(5)
    own = {k: z for k, z in latents_of(model.generate(3)).items() if k != "x"}
    assert list(prior) == list(own) and bool(prior) == (name not in NO_LATENTS)
    assert all(len(z) == 3 and torch.equal(z, own[k]) for k, z in prior.items())


@pytest.mark.parametrize("name", MODELS)
def test_what_cannot_be_decoded_says_what_to_call(name: str) -> None:
    model = build(name)
    if name not in NO_LATENTS:
        with pytest.raises(
            ValueError, match=r"No latents of .* are given. Name at least one, or call sample"
        ):
            model.decode({})
        return
    message = rf"^{type(model).__name__} has no latents. Call sample\(n\) or log_likelihood\(x\).$"
    x = example_inputs(model, 3)["x"]
    with pytest.raises(NotImplementedError, match=message):
        model.reconstruct(x)
    with pytest.raises(NotImplementedError, match=message):
        model.decode({})
    assert model.sample(3).shape == (3, *model.shape) and model.log_likelihood(x).shape == (3,)


def test_a_classifier_alone_generates_nothing() -> None:
    model = SSVAE(SHAPE, CLASSES, gen_weight=0.0)
    for call in (lambda: model.sample(2), lambda: model.sample(2, torch.arange(2))):
        with pytest.raises(
            NotImplementedError, match=r"SSVAE has no p\(x\) with these options. Call classify"
        ):
            call()
    with pytest.raises(NotImplementedError, match="SSVAE has no latents"):
        model.reconstruct(torch.zeros(2, *SHAPE))
