"""Decoding of image files to uint8."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from inference.backend.files import check_memory, read_regular
from inference.data.stored import Data, Growing, Rows
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


class Files(NamedTuple):
    """Encoded images.

    Attributes:
        name: what messages call all of them.
        names: what messages call each of them.
        read: returns the content of the image of a number, 0, 1, ...
    """

    name: str
    names: Sequence[str | Path]
    read: Callable[[int], bytes]


def files_in(folder: Path, files: Sequence[Path]) -> Files:
    """Returns image files of a folder, which are read when they are decoded."""
    return Files(str(folder), files, lambda number: read_regular(files[number], MAX_FILE))


def decode_all(files: Files, image_size: int | None) -> tuple[Data, str | None]:
    """Decodes image files.

    If all files are grey, the images have one channel; otherwise grey images become RGB. Images are turned
    as their EXIF orientation says. 16-bit grey is scaled from 0..65535 to 0..255. Transparent pixels are
    composited on white. Images that are too large for the memory (see `stored.exceeds_limit`) go to a
    temporary file.

    Args:
        files: the files.
        image_size: the height and width of the result: the short side is resized to it (bicubic), and the
            long side is cropped at its centre. None means that all images must have the same size.

    Returns:
        Images (n, channels, height, width), uint8, and one line for the user, or None.

    Raises:
        UserError: a file cannot be read, images differ in size and there is no `image_size`, or there is no
            space for them.
    """
    if image_size:
        check_memory(2 * 3 * image_size**2, files.name)
    for channels in (1, 3):
        with Growing(files.name) as images:
            found = _decode_into(images, files, image_size, channels)
            if found is not None:
                x, note = images.array(), f"{found} images with transparent pixels are shown on white"
                break
    return Rows(x, torch.from_numpy) if isinstance(x, np.memmap) else torch.from_numpy(
        x
    ), note if found else None


def _decode_into(images: Growing, files: Files, image_size: int | None, channels: int) -> int | None:
    """Decodes image files to 1 or 3 channels, and counts those with transparent pixels.

    Returns None at the first file with colour if there should be 1 channel.
    """
    size, brightest, transparent = "", {8: 0, 16: 0}, 0
    for number, name in enumerate(files.names):
        found = decode(files, number, image_size)
        pixels = found.pixels.transpose(2, 0, 1) if found.pixels.ndim == 3 else found.pixels[None]
        if channels < len(pixels):
            return None
        size = size or _size(found.pixels)
        if _size(found.pixels) != size:
            raise UserError(
                f"{files.names[0]} has {size} and {name} has {_size(found.pixels)} pixels. "
                "Give --image-size N to resize and crop all images."
            )
        images.append(pixels.repeat(channels // len(pixels), 0)[None])
        brightest[found.depth] = max(brightest[found.depth], int(pixels.max()))
        transparent += found.transparent
    for depth, level in brightest.items():
        if 0 < level < DARKEST:
            raise UserError(
                f"{files.name}: the brightest pixel of all {depth}-bit images is {level} on a scale of 0 to "
                f"255, so white may not be {2**depth - 1}. Multiply the pixels so that it is."
            )
    return transparent


def _size(pixels: np.ndarray) -> str:
    """Returns width x height, as image viewers show it."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def decode(files: Files, number: int, image_size: int | None) -> Decoded:
    """Decodes the image of a number, and resizes and crops it to `image_size` if that is given.

    Raises:
        UserError: the file is not a PNG, JPEG or WebP image, is damaged, or is an animation.
    """
    file = files.names[number]
    try:
        content = files.read(number)
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


def _convert(image: Image.Image, file: str | Path, image_size: int | None) -> Decoded:
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
