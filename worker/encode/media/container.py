"""Opens audio and video files with PyAV, so that they can do nothing but be read."""

from __future__ import annotations

import importlib
import io
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.subtitle import AssSubtitle, BitmapSubtitle
from av.video.frame import VideoFrame

from worker.encode.media.errors import ContentError, too_large, undecodable
from worker.encode.media.forms import MediaLimits

Decoded = VideoFrame | AudioFrame | AssSubtitle | BitmapSubtitle

MICROSECOND = 1e-6
MAX_BROKEN_PACKETS = 1_000
ESTIMATED = ("mp3",)
"""Formats that declare no length: FFmpeg's estimate, by the first frames, may be ten times too long."""

av.logging.set_level(None)


def load() -> None:
    """Load all of PyAV now rather than with the first file that needs it."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)


@contextmanager
def opened(data: bytes, name: str, limits: MediaLimits) -> Iterator[InputContainer]:
    """The file, as the format it was found to be. Raises `ContentError` for one that cannot be read or is too long.

    What FFmpeg raises while the file is read inside the block becomes a `ContentError`, too.
    """
    try:
        # Without protocols nothing in the file can name another file or host.
        options = {"protocol_whitelist": "none"}
        with av.open(io.BytesIO(data), mode="r", format=name, options=options) as container:
            if name not in ESTIMATED:
                require_short_enough(declared_seconds(container), limits)
            yield container
    except (ContentError, MemoryError):
        raise
    except (av.error.FFmpegError, ValueError, OverflowError, ZeroDivisionError, LookupError, RuntimeError) as error:
        said = error.strerror if isinstance(error, av.error.FFmpegError) and error.strerror else error
        raise undecodable(f"the {name} file cannot be read: {said}") from error


def declared_seconds(container: InputContainer) -> float:
    """Length by the file's own account; 0 if it gives none. Some formats give the time on the clock at its end, so
    what that clock begins with is no part of it; where it may be, the length is found out later."""
    duration, start = container.duration or 0, container.start_time or 0
    return (duration - start if 0 < start < duration else duration) * MICROSECOND


def require_short_enough(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.seconds:
        raise too_large(f"{seconds:.1f} s are over the limit of {limits.seconds:.1f} s")


def can_be_decoded(stream: Stream) -> bool:
    """Whether there is a codec for the track."""
    return stream.codec_context is not None


def one_thread(stream: Stream) -> None:
    """Decode in the calling thread: the pool of processes is where the parallel work is."""
    stream.codec_context.thread_count = 1


def packets_of(container: InputContainer, stream: Stream) -> Iterator[Packet[Stream]]:
    """The packets of a track. A broken container ends them."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        yield packet


def decoded(container: InputContainer, stream: Stream) -> Iterator[Decoded]:
    """Frames of a track that can be decoded. Broken packets are left out, up to a number."""
    num_broken = 0
    for packet in packets_of(container, stream):
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError:
            num_broken += 1
            if num_broken >= MAX_BROKEN_PACKETS:
                return
            continue
        yield from frames
