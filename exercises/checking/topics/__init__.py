"""The checks of all exercises; importing the package registers them."""

from exercises.checking.topics import bits, bounds, bugs, densities, gradients, images, latents  # noqa: F401
