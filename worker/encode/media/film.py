"""Films to frames and text, with PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.subtitles.subtitle import AssSubtitle
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from worker.encode.media.container import (
    MICROSECOND,
    can_be_decoded,
    declared_seconds,
    decoded,
    one_thread,
    opened,
    require_short_enough,
)
from worker.encode.media.errors import too_large, undecodable
from worker.encode.media.forms import MediaLimits, PictureForm, Pictures, Text, TextForm
from worker.encode.media.pictures import fitted

T = TypeVar("T")

SEEK_OVER_S = 3.0  # a shorter way to the next frame is decoded through: cheaper than back to a key frame

Shown = tuple[float, VideoFrame]
"""When a frame is shown, and the frame."""


def decode_frames(data: bytes, name: str, forms: Sequence[PictureForm], limits: MediaLimits) -> list[Pictures] | None:
    """Frames in each of the forms; None if the file has no picture track. Broken packets are left out.

    A film of unknown length, or one that cannot be searched, is decoded from end to end. Raises `ContentError` if not
    one frame can be had.
    """
    wanted = max(form.frames for form in forms)
    taken: list[Shown] = []
    with opened(data, name, limits) as container:
        stream = _video_stream(container)
        if stream is None:
            return None
        _prepare(stream, limits)
        seconds = declared_seconds(container)
        if seconds is not None:
            taken = _sampled(container, stream, seconds, wanted, limits)
    if len(taken) < wanted:
        with opened(data, name, limits) as container:
            stream = _video_stream(container)
            assert stream is not None  # the same file as before
            _prepare(stream, limits)
            taken = _thinned(_shown(container, stream, limits), wanted)
    if not taken:
        raise undecodable(f"the {name} file holds no frame that can be decoded")
    images = [(time_s, _upright(frame)) for time_s, frame in taken]
    return [_pictures(_spread(images, form.frames), form) for form in forms]


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
    """The first track of moving pictures: the cover of a song is none."""
    for stream in container.streams.video:
        if can_be_decoded(stream) and "ATTACHED_PIC" not in str(stream.disposition).upper():
            return stream
    return None


def _prepare(stream: VideoStream, limits: MediaLimits) -> None:
    _require_small_enough(stream.width, stream.height, limits)
    one_thread(stream)
    stream.codec_context.options = {"max_pixels": str(limits.pixels)}  # the size can change in the middle of a film


def _require_small_enough(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.pixels:
        raise too_large(f"frames of {width} x {height} pixels are over the limit of {limits.pixels}")


def _sampled(
    container: InputContainer, stream: VideoStream, seconds: float, wanted: int, limits: MediaLimits
) -> list[Shown]:
    """The frames at the middles of `wanted` equal parts; fewer if the file says more than it holds."""
    taken: list[Shown] = []
    start_s = (container.start_time or 0) * MICROSECOND
    now_s = start_s
    frames = _shown(container, stream, limits)
    for index in range(wanted):
        target_s = start_s + seconds * (index + 0.5) / wanted
        if target_s - now_s > SEEK_OVER_S:
            try:
                container.seek(int(target_s / MICROSECOND), backward=True)
            except av.error.FFmpegError:
                return taken
            frames = _shown(container, stream, limits)
        for time_s, frame in frames:
            now_s = time_s
            if time_s >= target_s:
                taken.append((time_s - start_s, frame))
                break
        else:
            return taken
    return taken


def _thinned(frames: Iterator[Shown], wanted: int) -> list[Shown]:
    """Of frames of unknown number, `wanted` evenly spread ones. Never holds more than twice as many."""
    kept: list[Shown] = []
    stride = 1
    for index, shown in enumerate(frames):
        if index % stride == 0:
            kept.append(shown)
            if len(kept) == 2 * wanted:
                kept = kept[::2]
                stride *= 2
    return _spread(kept, wanted)


def _spread(values: Sequence[T], wanted: int) -> list[T]:
    """At most `wanted` of the values: those in the middles of equal parts."""
    if len(values) <= wanted:
        return list(values)
    return [values[(2 * index + 1) * len(values) // (2 * wanted)] for index in range(wanted)]


def _shown(container: InputContainer, stream: VideoStream, limits: MediaLimits) -> Iterator[Shown]:
    num_frames, time_s = 0, 0.0
    for frame in decoded(container, stream):
        if not isinstance(frame, VideoFrame):
            continue
        _require_small_enough(frame.width, frame.height, limits)
        num_frames += 1
        if num_frames > limits.frames:
            raise too_large(f"more than {limits.frames} frames to decode")
        time_s = time_s if frame.time is None else float(frame.time)
        require_short_enough(time_s - (container.start_time or 0) * MICROSECOND, limits)
        yield time_s, frame


def _upright(frame: VideoFrame) -> Image.Image:
    image = Image.fromarray(frame.to_ndarray(format="rgb24", threads=1))
    turns = round(frame.rotation / 90) % 4
    return image.rotate(90 * turns, expand=True) if turns else image


def _pictures(images: Sequence[tuple[float, Image.Image]], form: PictureForm) -> Pictures:
    return Pictures(
        np.stack([fitted(image, form) for _, image in images]),
        tuple(time_s for time_s, _ in images),
    )


def _subtitles(container: InputContainer) -> Iterator[str]:
    if not container.streams.subtitles:
        return
    for subtitle in decoded(container, container.streams.subtitles[0]):
        if isinstance(subtitle, AssSubtitle):
            yield subtitle.dialogue.decode("utf-8", "replace").strip()
