"""Deep latent-variable models as pairs of Pyro programs, each with a bound that is derived by hand."""

from ppl_models.adgm import ADGM
from ppl_models.ae import AE
from ppl_models.af_vae import AFVAE
from ppl_models.base import LatentVariableModel
from ppl_models.beta_vae import BetaVAE
from ppl_models.code_prior import CodePixelCNN, CodeTransformer
from ppl_models.conv_vae import ConvVAE
from ppl_models.elbo_terms import ELBOTerms
from ppl_models.flow import Flow
from ppl_models.fsvae import FSVAE
from ppl_models.gated_vae import GatedVAE
from ppl_models.gmvae import GMVAE
from ppl_models.hvae import HVAE
from ppl_models.made import MADE
from ppl_models.pixel_vae import PixelVAE
from ppl_models.ppca import PPCA
from ppl_models.registry import MODELS, from_saved, register
from ppl_models.regularized_ssvae import RegularizedSSVAE
from ppl_models.seq_vae import SeqVAE
from ppl_models.ssvae import SSVAE
from ppl_models.two_layer_vae import TwoLayerVAE
from ppl_models.vae import VAE
from ppl_models.vae2d import VAE2D
from ppl_models.vamp_vae import VampVAE
from ppl_models.vqvae import VQVAE

for _name, _cls in {
    "vae": VAE,
    "gmvae": GMVAE,
    "vamp_vae": VampVAE,
    "ssvae": SSVAE,
    "regularized_ssvae": RegularizedSSVAE,
    "adgm": ADGM,
    "ae": AE,
    "beta_vae": BetaVAE,
    "conv_vae": ConvVAE,
    "hvae": HVAE,
    "two_layer_vae": TwoLayerVAE,
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
    "seq_vae": SeqVAE,
}.items():
    register(_name, _cls)

__all__ = [
    "ADGM",
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
    "RegularizedSSVAE",
    "SeqVAE",
    "TwoLayerVAE",
    "VampVAE",
    "from_saved",
    "register",
]
