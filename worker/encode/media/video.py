"""Videos to frames and text, with PyAV."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.subtitles.subtitle import AssSubtitle
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from worker.encode.media.container import (
    MICROSECOND,
    can_be_decoded,
    decoded,
    one_thread,
    opened,
    packets_of,
    require_short_enough,
)
from worker.encode.media.errors import too_large, undecodable
from worker.encode.media.forms import ImageForm, Images, MediaLimits, Text, TextForm
from worker.encode.media.image import fitted

SEEK_OVER_S = 3.0  # a shorter way to the next frame is decoded through: cheaper than back to a key frame
TOLERANCE_S = 0.001  # Matroska rounds times to milliseconds
MAX_PIXEL_ASPECT = 16.0
STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails | Disposition.dependent

Shown = tuple[float, VideoFrame]
"""When a frame is shown, and the frame."""


class _Span(NamedTuple):
    """When a video track begins and ends on its clock. A track without times is counted in frames."""

    start: float
    end: float
    is_timed: bool = True

    @property
    def length_s(self) -> float:
        return self.end - self.start if self.is_timed else 0.0

    def middles(self, num_parts: int) -> list[float]:
        """Middles of so many equal parts."""
        return [self.start + (self.end - self.start) * (index + 0.5) / num_parts for index in range(num_parts)]


def decode_frames(data: bytes, name: str, forms: Sequence[ImageForm], limits: MediaLimits) -> list[Images] | None:
    """For each form, the frames that are on the screen at the middles of equal parts of the video track; None if the
    file has no such track.

    A frame that is there at several of them is taken once. In place of frames that cannot be decoded, the ones before
    them are taken. Raises `ContentError` if not one frame can be had.
    """
    with opened(data, name, limits) as container:
        stream = _video_stream(container)
        if stream is None:
            return None
        _require_small_enough(stream.width, stream.height, limits)
        span = _span(container, stream)
        require_short_enough(span.length_s, limits)
    wanted = [span.middles(form.frames) for form in forms]
    made = _taken(data, name, forms, wanted, span, limits, is_searched=True)
    if made is None:  # the file cannot be searched, or not where it is broken
        made = _taken(data, name, forms, wanted, span, limits, is_searched=False)
    if not made:
        raise undecodable(f"the {name} file holds no frame that can be decoded")
    return [Images(np.stack(list(frames.values())), tuple(frames)) for frames in made]


def decode_text(data: bytes, name: str, form: TextForm, limits: MediaLimits) -> Text | None:
    """The title, then the first track of subtitles; None if there is neither."""
    with opened(data, name, limits) as container:
        lines = [str(container.metadata.get("title", "")).strip()]
        num_chars = len(lines[0])
        for line in _subtitles(container):
            if num_chars > form.chars:
                break
            if line and line != lines[-1]:
                lines.append(line)
                num_chars += len(line)
    text = "\n".join(line for line in lines if line)[: form.chars]
    return Text(text) if text else None


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The first track of moving images. The cover of a song and the tiles of a photo are none."""
    for stream in container.streams.video:
        if can_be_decoded(stream) and not stream.disposition & STILL:
            return stream
    return None


def _require_small_enough(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.pixels:
        raise too_large(f"frames of {width} x {height} pixels are over the limit of {limits.pixels}")


def _span(container: InputContainer, stream: VideoStream) -> _Span:
    """By the times of all packets: what a file declares of its length may be missing, false, or of another track.

    The last frame lasts as long as its packet says, or else as the others on average; but not beyond a declared end.
    """
    times: list[int] = []
    last = last_duration = num_packets = 0
    for packet in packets_of(container, stream):
        if packet.size and not packet.is_discard:
            num_packets += 1
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                if not times or time >= last:
                    last, last_duration = time, max(0, packet.duration or 0)
                times.append(time)
    if not times or stream.time_base is None:
        return _Span(0.0, float(num_packets), is_timed=False)
    first = min(times)
    end = last + (last_duration or (last - first) // max(1, len(times) - 1))
    declared_end = first + (stream.duration or 0)
    end = declared_end if last < declared_end < end else end
    return _Span(float(first * stream.time_base), float(end * stream.time_base))


def _taken(
    data: bytes,
    name: str,
    forms: Sequence[ImageForm],
    wanted: Sequence[Sequence[float]],
    span: _Span,
    limits: MediaLimits,
    *,
    is_searched: bool,
) -> list[dict[float, NDArray[np.uint8]]] | None:
    """The wanted frames in the size of each form, by when they are shown, counted from the beginning.

    None if not all of them were come upon. No more than a few frames are held in full.
    """
    made: list[dict[float, NDArray[np.uint8]]] = [{} for _ in forms]
    targets = sorted({target for several in wanted for target in several})
    num_found = 0
    with opened(data, name, limits) as container:
        stream = _video_stream(container)
        assert stream is not None  # the same file as before
        one_thread(stream)
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}  # the size can change within a video
        aspect = _pixel_aspect(stream)
        for target, (time, frame) in _frames_at(container, stream, span, targets, limits, is_searched=is_searched):
            num_found += 1
            time_s = time - span.start
            image: tuple[Image.Image, float] | None = None
            for form, several, frames in zip(forms, wanted, made, strict=True):
                if target in several and time_s not in frames:
                    image = image or _upright(frame, aspect)
                    frames[time_s] = fitted(image[0], form, image[1])
    return made if num_found == len(targets) else None


def _frames_at(
    container: InputContainer,
    stream: VideoStream,
    span: _Span,
    targets: Sequence[float],
    limits: MediaLimits,
    *,
    is_searched: bool,
) -> Iterator[tuple[float, Shown]]:
    """The frame on the screen at each of the targets, which rise. Ends where a search leads beyond one."""
    frames = _shown(container, stream, span, limits)
    current, following = None, next(frames, None)
    for target in targets:
        now = span.start if current is None else current[0]
        if is_searched and span.is_timed and target - now > SEEK_OVER_S:
            try:
                container.seek(int(target / MICROSECOND), backward=True)
            except av.error.FFmpegError:
                return
            frames = _shown(container, stream, span, limits)
            current, following = None, next(frames, None)
            if following is None or following[0] > target + TOLERANCE_S:
                return
        while following is not None and (current is None or following[0] <= target + TOLERANCE_S):
            current, following = following, next(frames, None)
        if current is None:
            return
        yield target, current


def _shown(container: InputContainer, stream: VideoStream, span: _Span, limits: MediaLimits) -> Iterator[Shown]:
    num_frames, time = 0, span.start
    for frame in decoded(container, stream):
        if not isinstance(frame, VideoFrame):
            continue
        _require_small_enough(frame.width, frame.height, limits)
        if not span.is_timed:
            time = float(num_frames)
        elif frame.time is not None:
            time = float(frame.time)
            require_short_enough(time - span.start, limits)
        num_frames += 1
        if num_frames > limits.frames:
            raise too_large(f"more than {limits.frames} frames to decode")
        yield time, frame


def _upright(frame: VideoFrame, pixel_aspect: float) -> tuple[Image.Image, float]:
    """Turn and mirror frames as the track's display matrix says; returns the aspect of its pixels, too."""
    pixels = frame.to_ndarray(format="rgb24", threads=1)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = struct.unpack_from("=5i", matrix)  # a pixel at x, y is shown at a x + c y, b x + d y
        if abs(b) + abs(c) > abs(a) + abs(d):
            pixels, a, d, pixel_aspect = pixels.transpose(1, 0, 2), c, b, 1 / pixel_aspect
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return Image.fromarray(np.ascontiguousarray(pixels)), pixel_aspect


def _pixel_aspect(stream: VideoStream) -> float:
    """How much wider than high a pixel is shown; 1 if the track says nothing, or nonsense."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else 1.0


def _subtitles(container: InputContainer) -> Iterator[str]:
    track = next(filter(can_be_decoded, container.streams.subtitles), None)
    if track is None:
        return
    for subtitle in decoded(container, track):
        if isinstance(subtitle, AssSubtitle):
            yield subtitle.dialogue.decode("utf-8", "replace").strip()
