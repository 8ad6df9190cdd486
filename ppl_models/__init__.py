"""Deep latent-variable models as Pyro model/guide pairs, each with its bound derived by hand beside it."""

from ppl_models.ae import AE
from ppl_models.af_vae import AFVAE
from ppl_models.base import ELBOTerms, LatentVariableModel
from ppl_models.beta_vae import BetaVAE
from ppl_models.code_prior import CodePixelCNN, CodeTransformer
from ppl_models.conv_vae import ConvVAE
from ppl_models.flow import Flow
from ppl_models.fsvae import FSVAE
from ppl_models.gated_vae import GatedVAE
from ppl_models.gmvae import GMVAE
from ppl_models.hvae import HVAE
from ppl_models.made import MADE
from ppl_models.pixel_vae import PixelVAE
from ppl_models.ppca import PPCA
from ppl_models.ssvae import SSVAE
from ppl_models.vae import VAE
from ppl_models.vae2d import VAE2D
from ppl_models.vqvae import VQVAE

MODELS: dict[str, type[LatentVariableModel]] = {
    "vae": VAE,
    "gmvae": GMVAE,
    "ssvae": SSVAE,
    "ae": AE,
    "beta_vae": BetaVAE,
    "conv_vae": ConvVAE,
    "hvae": HVAE,
    "fsvae": FSVAE,
    "gated_vae": GatedVAE,
    "af_vae": AFVAE,
    "pixel_vae": PixelVAE,
    "vqvae": VQVAE,
    "code_pixelcnn": CodePixelCNN,
    "code_transformer": CodeTransformer,
    "ppca": PPCA,
    "vae2d": VAE2D,
    "flow": Flow,
    "made": MADE,
}

__all__ = [
    "AE",
    "AFVAE",
    "FSVAE",
    "GMVAE",
    "HVAE",
    "MADE",
    "MODELS",
    "PPCA",
    "SSVAE",
    "VAE",
    "VAE2D",
    "VQVAE",
    "BetaVAE",
    "CodePixelCNN",
    "CodeTransformer",
    "ConvVAE",
    "ELBOTerms",
    "Flow",
    "GatedVAE",
    "LatentVariableModel",
    "PixelVAE",
]
