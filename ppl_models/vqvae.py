"""Vector-quantised variational auto-encoder (VQ-VAE), whose latents are codebook entries."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.ae import SCALE
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import NormalImage, UniformCodes
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.codebook import Codebook, Quantizer
from ppl_models.nets.fsq import FSQ, Squash, levels_for
from ppl_models.nets.residual import STRIDE, WIDTH, ResidualDecoder, ResidualEncoder


class VQVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = prod_i 1 / codes                         z (batch, 256, h, w), an entry at each position i
    p(x | z) = N(x; decoder(z), I / (2 pi))             x (batch, *shape), levels from -1 to 1
    q(z | x) = Delta(z; the entry nearest to e(x) at each position)

    -ELBO(x)  = -log p(x | z) + h w log codes,          z ~ q(z | x)
    objective = -ELBO / (pi D) + mean (c - sg e)^2 + commitment mean (sg c - e)^2    D values per image
              = -ELBO / (pi D)                                                       with quantizer fsq

    h and w are a quarter of the image's height and width: the map of an image of 32 x 32 is 8 x 8. Smaller
    images are zero-padded; height and width of larger ones are multiples of 4.

    The bound is that of a discrete latent with a deterministic posterior. -ELBO / (pi D) is the mean squared
    error plus a constant. The other two terms are penalties: means over the nearest entries c and the
    encoder's outputs e, where sg stops the gradient. The codebook penalty moves the entries; `--codebook
    average` omits it and uses moving averages. The commitment penalty keeps e near the entries. The choice of
    an entry has no gradient: z = e + sg(c - e) passes the decoder's gradient to e (straight-through). The
    course's loss is the metric `loss` = mean squared error + 2 mean (c - e)^2.

    `--quantizer fsq` replaces the codebook by a fixed grid (finite scalar quantization). The encoder ends
    with d = 2 or 3 channels, each normalised and squashed into the range of its levels, and the nearest entry
    is found by rounding: z (batch, d, h, w). `codes` is then the largest number of entries: for 128 the grid
    has 5 x 5 x 5. The grid has nothing to learn and e cannot leave it, so there are no penalties, and `loss`
    is the mean squared error.

    The uniform p(z) is used in training only. For recognisable samples, learn a prior on the codes afterwards
    (`code_pixelcnn`, `code_transformer`).

    Question 3 of Berkeley's CS294-158, homework 2 (2024); van den Oord, Vinyals and Kavukcuoglu 2017, Neural
    Discrete Representation Learning (arXiv 1711.00937). Mentzer, Minnen, Agustsson and Tschannen 2023, Finite
    Scalar Quantization: VQ-VAE Made Simple (arXiv 2309.15505).
    """

    estimators = ("trace",)
    observation, smallest_size, size_divisor = "centred", 32, STRIDE
    has_codebook = True
    code_priors = ("pixelcnn", "transformer")
    defaults = {"steps": 4_000, "batch_size": 128, "lr": 1e-3, "clip": 1.0}
    small_image_defaults = {"steps": 200}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        codes: Annotated[int, "number of codebook entries"] = 128,
        quantizer: Annotated[
            Literal["codebook", "fsq"], "what z is rounded to, learned entries or a grid of at most `codes`"
        ] = "codebook",
        codebook: Annotated[
            Literal["gradient", "average"], "how the entries are learned, by gradient or as moving averages"
        ] = "gradient",
        commitment: Annotated[float, "weight of the commitment penalty"] = 1.0,
    ):
        super().__init__(shape, classes)
        if codes > 256:
            raise ValueError(f"{codes} codes do not fit in one byte each. Use at most 256.")
        if quantizer == "fsq" and (codebook, commitment) != ("gradient", 1.0):
            raise ValueError("quantizer fsq has no penalties. Leave out codebook and commitment.")
        self.grid, self.weight = (shape[1] // STRIDE, shape[2] // STRIDE), 1 / (math.pi * math.prod(shape))
        self.penalty_weights: dict[str, float] = {}
        self.codebook: Quantizer
        if quantizer == "fsq":
            levels = levels_for(codes)
            d = len(levels)
            last = (nn.Conv2d(WIDTH, d, 1, bias=False), nn.BatchNorm2d(d), Squash(levels))
            self.encoder = ResidualEncoder(shape[0], *last)
            self.decoder = ResidualDecoder(shape[0], nn.Conv2d(d, WIDTH, 1))
            self.codebook = FSQ(levels)
        else:
            self.encoder, self.decoder = ResidualEncoder(shape[0]), ResidualDecoder(shape[0])
            self.codebook = Codebook(codes, WIDTH, codebook == "average")
            self.penalty_weights["commitment"] = commitment
            if codebook == "gradient":
                self.penalty_weights["codebook"] = 1.0

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=self.weight):
            z = pyro.sample("z", UniformCodes(self.codebook, self.grid))
            pyro.sample("x", NormalImage(self.decoder(z), SCALE), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            e = self.encoder(x)
            if self.training:
                self.codebook.update(e)
            c = self.codebook(e)
            for name, (weight, error) in self._penalties(e, c).items():
                with poutine.scale(scale=weight) if weight > 0 else poutine.mask(mask=False):
                    pyro.factor(name, error, has_rsample=True)
            with poutine.scale(scale=self.weight):
                pyro.sample("z", dist.Delta(e + (c - e).detach(), event_dim=3))

    def _penalties(self, e: Tensor, c: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Returns the guide's penalties by name: the weight, and the value per image, `(batch,)`."""
        errors = {}
        if "commitment" in self.penalty_weights:
            errors["commitment"] = ((e - c.detach()) ** 2).mean((-1, -2, -3))
        if "codebook" in self.penalty_weights:
            errors["codebook"] = ((c - e.detach()) ** 2).mean((-1, -2, -3))
        return {name: (self.penalty_weights[name], error) for name, error in errors.items()}

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        mean, penalties = self.decoder(latents["z"]), dict[str, Tensor]()
        loss = squares = ((x - mean) ** 2).mean((-1, -2, -3))
        if self.penalty_weights:
            e = self.encoder(x)
            c = self.codebook(e)
            loss = squares + 2 * ((c - e) ** 2).mean((-1, -2, -3))
            penalties["commitment"] = (c.detach() - e).square().mean()
            if "codebook" in self.penalty_weights:
                penalties["codebook"] = (c - e.detach()).square().mean()
        return ELBOTerms(
            reconstruction=-densities.normal(x.flatten(-3), mean.flatten(-3), SCALE),
            kl_z=squares.new_full(squares.shape, math.prod(self.grid) * math.log(len(self.codebook.entries))),
            weights={"reconstruction": self.weight, "kl_z": self.weight, **self.penalty_weights},
            penalties=penalties,
            metrics={"mean_squared_error": squares, "loss": loss},
        )

    @property
    def has_penalties(self) -> bool:
        """Whether the entries are a codebook's: then the commitment penalty is part of the objective."""
        return bool(self.penalty_weights)

    def note(self) -> str | None:
        """Returns the levels of a grid and the number of its entries."""
        if not isinstance(self.codebook, FSQ):
            return None
        levels = " x ".join(map(str, self.codebook.levels.tolist()))
        return f"quantizer fsq: {levels} levels, {len(self.codebook.entries)} codes"

    def code_counts(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Counts how often the latents use each codebook entry, `(codes,)`."""
        index = self.codebook.nearest(latents["z"])
        return index.flatten().bincount(minlength=len(self.codebook.entries))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Returns the indices of the nearest entries for images `(batch, *shape)`, `(batch, h, w)`."""
        return self.codebook.nearest(self.encoder(x))

    @torch.no_grad()
    def decode_codes(self, index: Tensor) -> Tensor:
        """Returns the mean images `(batch, *shape)` of codes `(batch, h, w)`."""
        return self.decode({"z": self.codebook.lookup(index)})
