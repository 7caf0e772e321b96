"""Requests to a decoder, and its answers.

One content can be asked for in several forms: of a video, the frames for one encoder, the audio for another and the
subtitles for a third. N frames or windows, H height, W width, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ImageForm:
    """Pixels of an image, or of frames of a video."""

    height: int
    width: int
    fit: Literal["stretch", "crop", "patches", "within"] = "stretch"
    """`crop`: the shorter side is fitted, the middle of the longer one kept. `patches`: the whole image in nearly its
    own proportions, as large as `most_patches` of `patch` pixels a side allow; height and width are then those of a
    square one. `within`: the whole image in its own proportions, shrunk where it is higher or wider."""
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    keep: float = 1.0
    """Share of the shorter side that `crop` keeps."""
    frames: int = 1
    """Frames taken of a video, at the middles of so many equal parts of it."""
    patch: int = 0
    most_patches: int = 0


@dataclass(frozen=True, slots=True)
class AudioForm:
    """Samples of an audio clip or of a video's audio track, mixed to one channel."""

    rate: int
    """Samples per second."""
    seconds: float
    """Length of a window."""
    windows: int = 1
    """Windows taken of a longer clip, spread evenly over it."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """A text, or a video's title and subtitles."""

    chars: int
    """Cut after so many characters."""


Form = ImageForm | AudioForm | TextForm


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Limits of decoding. Checked against what a file declares before any work, and against what it turns out to be."""

    bytes: int = 64 * 2**20
    pixels: int = 50_000_000
    """Pixels of an image or a frame: 50 million are 150 MB decoded."""
    seconds: float = 600.0
    """Length of an audio clip or a video."""
    frames: int = 20_000
    """Decoded of a video on the way to those taken."""


class Images(NamedTuple):
    pixels_NHW3: NDArray[np.uint8]
    times_s: tuple[float, ...]
    """When each is shown; 0 for a still image."""


class Audio(NamedTuple):
    """Windows of `AudioForm.seconds`; an audio clip shorter than that gives one that is as short as it is."""

    samples_NT: NDArray[np.float32]
    times_s: tuple[float, ...]
    """When each window begins."""


class Text(NamedTuple):
    text: str


Part = Images | Audio | Text


def form_to_plain(form: Form) -> dict[str, Any]:
    return {"form": type(form).__name__, **asdict(form)}


def form_from_plain(plain: Mapping[str, Any]) -> Form:
    fields = dict(plain)
    kind: type[Form] = {kind.__name__: kind for kind in (ImageForm, AudioForm, TextForm)}[fields.pop("form")]
    return kind(**fields)


def part_to_plain(part: Part | None) -> dict[str, Any] | None:
    """The part as numbers, strings and bytes, for the pipe to the decoder."""
    if part is None:
        return None
    if isinstance(part, Text):
        return {"part": "Text", "text": part.text}
    array = part[0]
    return {"part": type(part).__name__, "shape": list(array.shape), "data": array.tobytes(), "times": part.times_s}


def part_from_plain(plain: Mapping[str, Any] | None) -> Part | None:
    """Raises `ValueError` or `KeyError` for what `part_to_plain` does not write: the sender read hostile files."""
    if plain is None:
        return None
    if plain["part"] == "Text":
        return Text(str(plain["text"]))
    times_s = tuple(float(time) for time in plain["times"])
    if plain["part"] == "Images":
        return Images(np.frombuffer(plain["data"], np.uint8).reshape(plain["shape"]), times_s)
    return Audio(np.frombuffer(plain["data"], np.float32).reshape(plain["shape"]), times_s)


def answers(part: Part | None, form: Form) -> bool:
    """Whether a part is what was asked for, in kind, size and number."""
    if part is None:
        return True
    if isinstance(part, Text):
        return isinstance(form, TextForm) and len(part.text) <= form.chars
    if len(part.times_s) != len(part[0]) or not np.isfinite(part.times_s).all():
        return False
    if isinstance(part, Images):
        shape = part.pixels_NHW3.shape
        if not isinstance(form, ImageForm) or len(shape) != 4 or not _fits(form, shape[1], shape[2]):
            return False
        return bool(shape[3] == 3 and 1 <= shape[0] <= form.frames)
    shape = part.samples_NT.shape
    if not isinstance(form, AudioForm) or len(shape) != 2 or not np.isfinite(part.samples_NT).all():
        return False
    return bool(1 <= shape[0] <= form.windows and 1 <= shape[1] <= round(form.seconds * form.rate))


def _fits(form: ImageForm, height: int, width: int) -> bool:
    if form.fit == "within":
        return 1 <= height <= form.height and 1 <= width <= form.width
    if form.fit != "patches":
        return (height, width) == (form.height, form.width)
    rows, columns = height // form.patch, width // form.patch
    return height == rows * form.patch and width == columns * form.patch and 1 <= rows * columns <= form.most_patches


def plain_bytes(form: Form) -> int:
    """More than the plain form of any answer to it takes."""
    if isinstance(form, ImageForm):
        pixels = form.height * form.width if form.fit != "patches" else form.most_patches * form.patch**2
        return 1_024 + form.frames * (pixels * 3 + 16)
    if isinstance(form, AudioForm):
        return 1_024 + form.windows * (round(form.seconds * form.rate) * 4 + 16)
    return 1_024 + form.chars * 4
