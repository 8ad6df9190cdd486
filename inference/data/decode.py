"""Decoding of image files to uint8."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from inference.backend.files import check_memory, read_regular
from inference.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
GREY = ("1", "L", "LA", "I;16")  # PIL's modes
COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK")
MAX_FILE = 2**30  # bytes
DARKEST = 128  # the brightest pixel of a data set is at least so bright


class Decoded(NamedTuple):
    """An image.

    Attributes:
        pixels: levels 0..255, (height, width) or (height, width, 3).
        depth: bits per channel in the file, 8 or 16.
        transparent: whether the file has pixels that are not opaque.
    """

    pixels: np.ndarray
    depth: int
    transparent: bool


def decode_all(folder: Path, files: list[Path], image_size: int | None) -> tuple[Tensor, str | None]:
    """Decodes image files.

    If all files are grey, the images have one channel; otherwise grey images become RGB. Images are turned
    as their EXIF orientation says. 16-bit grey is scaled from 0..65535 to 0..255. Transparent pixels are
    composited on white.

    Args:
        folder: what messages call the data.
        files: the files.
        image_size: the height and width of the result: the short side is resized to it (bicubic), and the
            long side is cropped at its centre. None means that all images must have the same size.

    Returns:
        Images (n, channels, height, width), uint8, and one line for the user, or None.

    Raises:
        UserError: a file cannot be read, images differ in size and there is no `image_size`, or they need
            more memory than is free.
    """
    images: list[np.ndarray] = []
    brightest = {8: 0, 16: 0}
    largest = transparent = 0
    if image_size:
        check_memory(2 * len(files) * image_size**2, str(folder))
    for file in files:
        found = decode(file, image_size)
        if found.pixels.nbytes > largest:
            largest = found.pixels.nbytes
            check_memory((2 * len(files) - len(images)) * largest, str(folder))
        if images and found.pixels.shape[:2] != images[0].shape[:2]:
            sizes = [f"{path} has {_size(x)}" for path, x in ((files[0], images[0]), (file, found.pixels))]
            raise UserError(
                f"{' and '.join(sizes)} pixels. Give --image-size N to resize and crop all images."
            )
        images.append(found.pixels)
        brightest[found.depth] = max(brightest[found.depth], int(found.pixels.max()))
        transparent += found.transparent
    for depth, level in brightest.items():
        if 0 < level < DARKEST:
            raise UserError(
                f"{folder}: the brightest pixel of all {depth}-bit images is {level} on a scale of 0 to 255, "
                f"so white may not be {2**depth - 1}. Multiply the pixels so that it is."
            )
    note = f"{transparent} images with transparent pixels are shown on white" if transparent else None
    return _stack(images), note


def _size(pixels: np.ndarray) -> str:
    """Returns width x height, as image viewers show it."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _stack(images: list[np.ndarray]) -> Tensor:
    """Joins images to (n, channels, height, width), and empties the list to save memory."""
    channels = max(1 if x.ndim == 2 else 3 for x in images)
    joined = np.empty((len(images), channels, *images[0].shape[:2]), np.uint8)
    for i in reversed(range(len(images))):
        pixels = images.pop()
        joined[i] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(joined)


def decode(file: Path, image_size: int | None) -> Decoded:
    """Decodes an image file, and resizes and crops it to `image_size` if that is given.

    Raises:
        UserError: the file is not a PNG, JPEG or WebP image, is damaged, or is an animation.
    """
    try:
        content = read_regular(file, MAX_FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _convert(image, file, image_size)
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        most = Image.MAX_IMAGE_PIXELS
        raise UserError(f"{file} has more than {most} pixels. Make it smaller.") from None
    except Exception as error:  # PIL raises many kinds for a damaged file
        raise UserError(
            f"{file} cannot be read as PNG, JPEG or WebP ({type(error).__name__}: {error!s:.100}). Replace "
            "or remove it."
        ) from None


def _convert(image: Image.Image, file: Path, image_size: int | None) -> Decoded:
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{file} is an animation of {image.n_frames} frames. Save each frame as an image.")  # type: ignore[attr-defined]
    if image.mode not in GREY + COLOUR:
        raise UserError(f"{file} has PIL's mode {image.mode}. Save it as grey or RGB.")
    upright = ImageOps.exif_transpose(image)
    grey, depth, transparent = upright.mode in GREY, 8, False
    if upright.mode == "I;16":
        depth = 16
        levels = np.asarray(upright).astype(np.float64) / 257
        upright = Image.fromarray(np.rint(levels).astype(np.uint8))
    elif upright.has_transparency_data:
        layers = upright.convert("RGBA")
        transparent = bool((np.asarray(layers)[..., 3] < 255).any())
        upright = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    upright = upright.convert("L" if grey else "RGB")
    if image_size:
        upright = ImageOps.fit(upright, (image_size, image_size))
    return Decoded(np.asarray(upright), depth, transparent)
