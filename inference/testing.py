"""Contract checks for a model class of your own."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor

from inference.api import load
from inference.backend.device import double_precision
from inference.data.examples import example_inputs
from inference.elbo.comparison import compare
from inference.elbo.estimators import ESTIMATORS
from ppl_models.base import LatentVariableModel

BATCH = 6


def check_model(cls: type[LatentVariableModel], shape: tuple[int, ...] | None = None, **options: Any) -> None:
    """Checks that a model class keeps the contract of `LatentVariableModel`.

    For every estimator that the class declares, the hand-derived bound equals Pyro's in value and gradient.
    Pyro's `SVI` trains every parameter, of copies as well. `posterior`, `encode`, `decode` and `sample` give
    tensors of the right shapes. A saved model is loaded with the same parameters.

    Args:
        cls: the class. Register it first, so that a saved model can be loaded.
        shape: of a data point; by default the class's example.
        options: of the constructor.

    Raises:
        AssertionError: a check fails; the message says which.
    """
    with double_precision(), pyro.get_param_store().scope(), torch.random.fork_rng():
        pyro.set_rng_seed(0)
        model = cls(shape or cls.padded(cls.example_shape), 10, **options)
        inputs = example_inputs(model, BATCH)
        for estimator in cls.estimators:
            if ESTIMATORS[estimator].particles > 1 and (model.kl_weight != 1 or model.has_penalties):
                continue
            result = compare(model, inputs, estimator)
            assert result["agrees"], (
                f"{cls.__name__}: bound and Pyro's {estimator} estimator differ\n{result}"
            )
        _check_svi(copy.deepcopy(model), inputs)
        _check_methods(model.eval(), inputs)
        _check_saving(model)


def _check_svi(model: LatentVariableModel, inputs: dict[str, Tensor]) -> None:
    """Pyro's SVI reaches every parameter that the objective depends on."""
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    name = next(key for key in model.estimators if ESTIMATORS[key].particles == 1)
    svi = SVI(model.model, model.guide, Adam({"lr": 1e-2}), ESTIMATORS[name].elbo(1))
    for _ in range(2):
        svi.step(**inputs)
    for key, parameter in model.named_parameters():
        assert not torch.equal(before[key], parameter), f"SVI does not train the parameter {key}"


def _check_methods(model: LatentVariableModel, inputs: dict[str, Tensor]) -> None:
    """The methods that follow from model and guide give tensors of the right shapes."""
    x, y = inputs["x"], inputs.get("y")
    latents = model.encode(x, y)
    given = {} if y is None else {"y": y}
    assert model.posterior(x, **given).keys() == latents.keys(), "posterior and encode name other latents"
    for name, z in latents.items():
        assert len(z) == len(x), f"encode gives {len(z)} values of {name} for {len(x)} data points"
    if latents:
        decoded = model.decode(latents, y)
        assert decoded.shape == x.shape, f"decode gives {tuple(decoded.shape)}, not {tuple(x.shape)}"
    samples = model.sample(3)
    assert samples.shape == (3, *x.shape[1:]), f"sample gives {tuple(samples.shape)}"


def _check_saving(model: LatentVariableModel) -> None:
    """A saved model is loaded with the same parameters and options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        model.save(path)
        other = load(path)
    assert other.constructor_options == model.constructor_options, "a loaded model has other options"
    for (key, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), f"a loaded model has other values of {key}"
