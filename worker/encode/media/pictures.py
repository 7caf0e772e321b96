"""Pictures to pixels, with Pillow."""

from __future__ import annotations

import importlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from worker.encode.media.errors import too_large, undecodable
from worker.encode.media.forms import MediaLimits, PictureForm, Pictures

WHITE = (255, 255, 255, 255)
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DRAFT_FACTOR = 2  # a JPEG may be decoded at a half, a quarter or an eighth, as long as it stays this much too large

Image.MAX_IMAGE_PIXELS = None  # `MediaLimits.pixels` is checked instead


def load() -> None:
    """Load Pillow's readers, and what they load on their way, now rather than with the first file that needs them."""
    Image.init()
    for name in ("ExifTags", "ImageChops", "ImageColor", "ImageFile", "ImagePalette", "MpoImagePlugin", "TiffTags"):
        importlib.import_module(f"PIL.{name}")


def decode_picture(data: bytes, name: str, form: PictureForm, limits: MediaLimits) -> Pictures:
    """The whole picture, upright, in RGB; the first frame of an animated one; over white where it is transparent.

    Raises `ContentError` for a picture that is broken anywhere: half of one would pass for the whole.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about odd metadata
        try:
            with Image.open(io.BytesIO(data), formats=[name]) as image:
                if image.width * image.height > limits.pixels:
                    raise too_large(f"{image.width} x {image.height} pixels are over the limit of {limits.pixels}")
                if name == "JPEG":
                    image.draft(None, (form.width * DRAFT_FACTOR, form.height * DRAFT_FACTOR))
                image.load()
                upright = ImageOps.exif_transpose(image)
                pixels = fitted(rgb(upright), form)
        except MemoryError:
            raise
        except (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, AttributeError,
                AssertionError, NotImplementedError) as error:  # fmt: skip
            # Pillow's parsers raise whatever a broken file trips them over.
            raise undecodable(f"{name} picture cannot be read: {error}") from error
    return Pictures(pixels[None], (0.0,))


def rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 65_535.0 if values.max(initial=0.0) > 255.0 else 255.0  # 16-bit PNGs are opened as "I"
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image.convert("RGB")


def fitted(image: Image.Image, form: PictureForm) -> NDArray[np.uint8]:
    """The picture in the size of the form, [H, W, 3]."""
    box: tuple[float, float, float, float] = (0.0, 0.0, float(image.width), float(image.height))
    if form.fit == "crop":
        scale = min(image.width / form.width, image.height / form.height) * form.keep
        width, height = form.width * scale, form.height * scale
        left, top = (image.width - width) / 2, (image.height - height) / 2
        box = (max(0.0, left), max(0.0, top), min(image.width, left + width), min(image.height, top + height))
    resized = image.resize((form.width, form.height), RESAMPLING[form.resample], box=box)
    return np.asarray(resized, dtype=np.uint8)
