"""The checks of all exercises; importing the package registers them."""

from exercises.checking.topics import (  # noqa: F401
    bits,
    bounds,
    bugs,
    densities,
    gradients,
    images,
    latents,
    priors,
)
