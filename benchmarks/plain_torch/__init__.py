"""The suite's models in plain PyTorch, as an experienced user would write them.

Each function returns the networks and the loss of a batch. Networks and objectives equal the suite's, and the
code uses nothing of the suite. `benchmarks.step` times them, and `tests/test_benchmarks.py` compares the
losses.
"""

from collections.abc import Callable

from benchmarks.plain_torch import autoregressive, colour, mnist, points
from benchmarks.plain_torch.common import TorchModel

__all__ = ["IMPLEMENTATIONS", "TorchModel"]

# For each model of the suite, and `iwae` (a VAE with another bound):
# name of an implementation in the tables -> the function that builds it.
IMPLEMENTATIONS: dict[str, dict[str, Callable[[], TorchModel]]] = {
    "vae": {"plain PyTorch": mnist.vae},
    "iwae": {"plain PyTorch": mnist.iwae},
    "gmvae": {"plain PyTorch": mnist.gmvae},
    "ssvae": {"plain PyTorch, x tiled": mnist.ssvae, "plain PyTorch, x not tiled": mnist.ssvae_split},
    "ae": {"plain PyTorch": mnist.ae},
    "beta_vae": {"plain PyTorch": mnist.beta_vae},
    "conv_vae": {"plain PyTorch": colour.conv_vae},
    "hvae": {"plain PyTorch": colour.hvae},
    "fsvae": {"plain PyTorch": colour.fsvae},
    "gated_vae": {"plain PyTorch": colour.gated_vae},
    "af_vae": {"plain PyTorch": autoregressive.af_vae},
    "pixel_vae": {"plain PyTorch": autoregressive.pixel_vae},
    "vqvae": {"plain PyTorch": colour.vqvae},
    "code_pixelcnn": {"plain PyTorch": autoregressive.code_pixelcnn},
    "code_transformer": {"plain PyTorch": autoregressive.code_transformer},
    "ppca": {"plain PyTorch": mnist.ppca},
    "vae2d": {"plain PyTorch": points.vae2d},
    "flow": {"plain PyTorch": points.flow},
    "made": {"plain PyTorch": mnist.made},
}
