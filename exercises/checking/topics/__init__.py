"""The checks of all exercises; importing the package registers them."""

from exercises.checking.topics import (  # noqa: F401
    aggregate,
    auxiliary,
    bits,
    bounds,
    bugs,
    causal,
    collapse,
    decoder_shape,
    densities,
    gradients,
    images,
    latents,
    linear,
    priors,
    regularization,
    score_function,
    sequences,
)
