"""Deep latent-variable models as Pyro model/guide pairs, each with its bound derived by hand beside it."""

from ppl_models.base import Bound, LatentVariableModel
from ppl_models.ssvae import SSVAE
from ppl_models.vae import VAE

MODELS: dict[str, type[LatentVariableModel]] = {
    "vae": VAE,
    "ssvae": SSVAE,
}

__all__ = ["MODELS", "SSVAE", "VAE", "Bound", "LatentVariableModel"]
