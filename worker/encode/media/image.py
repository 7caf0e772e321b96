"""Images to pixels, with Pillow."""

from __future__ import annotations

import importlib
import io
import math
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from worker.encode.media.errors import too_large, undecodable
from worker.encode.media.forms import ImageForm, Images, MediaLimits

WHITE = (255, 255, 255, 255)
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DRAFT_FACTOR = 2  # a JPEG may be decoded at a half, a quarter or an eighth, as long as it stays this much too large
STEP = 1e-5
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns that make an image upright, by its EXIF orientation."""
ON_THEIR_SIDE = (5, 6, 7, 8)
PNG_HEAD_BYTES = 8
MAX_TEXT_BYTES = 2**20
TEXTS_THAT_TURN = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")

Image.MAX_IMAGE_PIXELS = None  # `MediaLimits.pixels` is checked instead


def load() -> None:
    """Load Pillow's readers, and what they load on their way, now rather than with the first file that needs them."""
    Image.init()
    for name in ("ExifTags", "ImageChops", "ImageColor", "ImageFile", "ImagePalette", "MpoImagePlugin", "TiffTags"):
        importlib.import_module(f"PIL.{name}")
    if features.check("avif"):
        avif: Any = importlib.import_module("PIL.AvifImagePlugin")
        avif.DEFAULT_MAX_THREADS = 1


def decode_image(data: bytes, name: str, form: ImageForm, limits: MediaLimits) -> Images:
    """The whole image, upright, in RGB; the first frame of an animated one; over white where it is transparent.

    Raises `ContentError` for an image that is broken anywhere: half of one would pass for the whole.
    """
    if name == "AVIF" and not features.check("avif"):
        raise undecodable("an AVIF image, which the installed Pillow cannot read")
    if name == "PNG":
        data = without_texts(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about odd metadata
        try:
            with Image.open(io.BytesIO(data), formats=[name]) as image:
                if image.width * image.height > limits.pixels:
                    raise too_large(f"{image.width} x {image.height} pixels are over the limit of {limits.pixels}")
                if getattr(image, "default_image", False):
                    image.seek(1)  # the image for programs that show no animation is not part of it
                orientation = _orientation(image)
                if name == "JPEG":
                    side = (form.width, form.height) if orientation not in ON_THEIR_SIDE else (form.height, form.width)
                    image.draft(None, (side[0] * DRAFT_FACTOR, side[1] * DRAFT_FACTOR))
                image.load()
                if name == "PNG":
                    _mend_transparency(image, data)
                pixels = fitted(upright(rgb(image), orientation), form)
        except MemoryError:
            raise
        except (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, AttributeError,
                AssertionError, RuntimeError, struct.error, zlib.error) as error:  # fmt: skip
            # Pillow's parsers raise whatever a broken file trips them over.
            unknown = isinstance(error, UnidentifiedImageError)  # it names a place in memory
            said = "what it begins with is broken, or cut short" if unknown else error
            raise undecodable(f"{name} image cannot be read: {said}") from error
    return Images(pixels[None], (0.0,))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    method = UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and key is None:
        return image
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        eight = (values.astype(np.uint32) >> 8).astype(np.uint8)
        if isinstance(key, int):
            eight = np.where(values == key, np.uint8(255), eight)
        return Image.fromarray(eight).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 65_535.0 if values.max(initial=0.0) > 255.0 else 255.0  # 16-bit PNGs are opened as "I"
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or key is not None:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image.convert("RGB")


def fitted(image: Image.Image, form: ImageForm, pixel_aspect: float = 1.0) -> NDArray[np.uint8]:
    """The image in the size of the form, [H, W, 3]. `pixel_aspect` is how much wider than high its pixels are."""
    box: tuple[float, float, float, float] = (0.0, 0.0, float(image.width), float(image.height))
    height, width = form.height, form.width
    if form.fit == "patches":
        height, width = patched(image.height, image.width * pixel_aspect, form.patch, form.most_patches)
    elif form.fit == "within":
        scale = min(1.0, form.height / image.height, form.width / (image.width * pixel_aspect))
        height, width = (max(1, round(side * scale)) for side in (image.height, image.width * pixel_aspect))
    elif form.fit == "crop":
        scale = min(image.width * pixel_aspect / form.width, image.height / form.height) * form.keep
        kept_width, kept_height = form.width * scale / pixel_aspect, form.height * scale
        left, top = (image.width - kept_width) / 2, (image.height - kept_height) / 2
        box = (max(0.0, left), max(0.0, top), min(image.width, left + kept_width), min(image.height, top + kept_height))
    resized = image.resize((width, height), RESAMPLING[form.resample], box=box)
    return np.asarray(resized, dtype=np.uint8)


def patched(height: float, width: float, patch: int, most: int) -> tuple[int, int]:
    """Height and width in whole patches, `most` of them at the most, as large as they can be in these proportions.

    A side is rounded up to whole patches. The steps of the search are those that models of this kind were trained
    with, so that the same image has the same number of patches.
    """
    low, high = STEP / 10, 100.0
    while high - low >= STEP:
        scale = (low + high) / 2
        rows, columns = (max(1, math.ceil(side * scale / patch)) for side in (height, width))
        low, high = (scale, high) if rows * columns <= most else (low, scale)
    rows, columns = (max(1, math.ceil(side * low / patch)) for side in (height, width))
    return rows * patch, columns * patch


def without_texts(png: bytes) -> bytes:
    """A PNG without its texts and colour profile, which are not looked at.

    Pillow refuses an image for texts longer than it wants to hold. Those that may say how the image is turned are
    kept, one of each, unless they are that long.
    """
    kept = [png[:PNG_HEAD_BYTES]]
    seen: set[bytes] = set()
    start = PNG_HEAD_BYTES
    while start + 12 <= len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])
        kind = png[start + 4 : start + 8]
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = png[start + 8 : min(end, start + 8 + 80)].partition(b"\0")[0]
            if keyword in TEXTS_THAT_TURN and keyword not in seen and _is_short(kind, png[start + 8 : end - 4]):
                seen.add(keyword)
                kept.append(png[start:end])
        elif kind != b"iCCP":
            kept.append(png[start:end])
        start = end
    return b"".join([*kept, png[start:]])


def _is_short(kind: bytes, text: bytes) -> bool:
    if len(text) > MAX_TEXT_BYTES:
        return False
    _, _, rest = text.partition(b"\0")
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] != b"\1"):
        return True
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_TEXT_BYTES)) < MAX_TEXT_BYTES
    except zlib.error:
        return False


def _orientation(image: Image.Image) -> int:
    """By EXIF or XMP; upright if what there is of them cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # whatever broken metadata trips a parser over, the image is none the worse
        return 1


def _mend_transparency(image: Image.Image, png: bytes) -> None:
    """Rescale the colour that stands for transparent to the bit depth that Pillow has made of the image.

    A PNG gives it in its own depth, and Pillow hands it on as it is.
    """
    key, depth = image.info.get("transparency"), png[24]
    if isinstance(key, int) and image.mode == "L" and depth < 8:
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif isinstance(key, tuple) and image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
