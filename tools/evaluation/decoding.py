"""Encoded images to pixels, as upstream evaluations decode them with PIL, within limits.

    pixels = decode(content, max_pixels=64_000_000)

Images become RGB as PIL's `convert` makes them, whatever they are (grey, palette, CMYK, with transparency); what EXIF says of
rotation is left alone, and of several frames the first is taken. Greys of more than 8 bits are scaled, which PIL does not do: it
cuts them off at 255.
"""

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.evaluation import MAX_PIXELS, UnusableImage
from tools.evaluation.shards import Pixels

# Of PIL's formats, those of images in data sets. Others run programs (PostScript), or are read by code that few people use.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0, sections 3, 4 and 19
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1


class LargeImage(Exception):
    """An image has more pixels than the caller wants to have now."""


def decode(content: bytes, max_pixels: int = MAX_PIXELS, pixels_now: int | None = None) -> Pixels:
    """Decode an image to uint8 `[height, width, 3]`.

    Raises:
      LargeImage: it has more than `pixels_now` pixels, and within `max_pixels`.
      UnusableImage: it has more pixels than the limit, is none of `FORMATS`, is damaged, or has samples of no defined range.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if not image.width * image.height:
                raise UnusableImage("it has no pixels")
            if image.width * image.height > max_pixels:
                raise UnusableImage(f"it has more than {max_pixels:,} pixels (--max-pixels)")
            if pixels_now is not None and image.width * image.height > pixels_now:
                raise LargeImage
            return rgb(image)
    except (UnusableImage, LargeImage, MemoryError):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise UnusableImage(f"it has more than {max_pixels:,} pixels (--max-pixels)") from error
    except PIL.UnidentifiedImageError as error:
        raise UnusableImage(f"cannot be decoded: it is damaged, or none of {', '.join(FORMATS)}") from error
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error and more for broken images
        reason = re.sub(r"<_io\.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        raise UnusableImage(f"cannot be decoded: {' '.join(reason.split())}") from error


def rgb(image: Any) -> Pixels:
    """Return the pixels of a PIL image.

    Raises:
      UnusableImage: its samples have no defined range: they are floats, signed, or of an unknown number of bits.
      ValueError: PIL cannot convert it.
    """
    if image.mode.startswith("I") or image.mode == "F" or _is_signed(image):
        grey = _grey(image)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    pixels: Pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return pixels


def _grey(image: Any) -> NDArray[np.uint8]:
    """Return the highest 8 bits of grey samples of more: what PIL takes of colours of 16 bits."""
    bits = _bits(image)
    if bits is None:
        what = {"F": "floats", "L": "signed numbers"}.get(image.mode, "numbers")
        raise UnusableImage(
            f"its samples are {what} whose black and white {image.format or 'nothing'} does not define: store 8 or 16 bits"
        )
    samples = np.asarray(image)
    if image.mode == "I":
        samples = samples.view(np.uint32)
    grey: NDArray[np.uint8] = (samples >> (bits - 8)).astype(np.uint8)
    is_inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return ~grey if is_inverted else grey


def _bits(image: Any) -> int | None:
    """Return the bits of a grey sample from black, 0, to white, all ones; None if the format does not define what is white.

    PIL stretches what has fewer than 16 bits in PGM and JPEG 2000, and not in TIFF.
    """
    if image.mode == "F" or _is_signed(image):
        return None
    if image.format in ("PNG", "PPM", "JPEG2000"):
        return 16
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC, 0) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        bits: int = image.tag_v2[_BITS_PER_SAMPLE][0]
        return bits
    return None


def _is_signed(image: Any) -> bool:
    return image.format == "TIFF" and image.mode in ("L", "I") and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] != 1
