"""Small media files of every kind that is read, drawn and synthesised here."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

RATE = 16_000
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def scene(
    height: int = 48, width: int = 64, *, hue: tuple[int, int, int] = (200, 60, 30), at: float = 0.5
) -> NDArray[np.uint8]:
    """A disc on a gradient, [H, W, 3]; `at` moves the disc from left to right."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = (np.linspace(0, 255, width)[None, :, None] * np.array([0.2, 0.5, 1.0])).astype(np.uint8)
    picture[(rows - height / 2) ** 2 + (columns - at * width) ** 2 < (height / 4) ** 2] = hue
    return picture


def tone(seconds: float = 0.5, *, hertz: float = 440.0, rate: int = RATE, channels: int = 1) -> NDArray[np.float32]:
    """A sine with a few harmonics, [C, T]."""
    times = np.arange(round(seconds * rate)) / rate
    wave_T = sum(np.sin(2 * np.pi * hertz * n * times) / n for n in (1, 2, 3)) * 0.3
    return np.tile(np.asarray(wave_T, np.float32), (channels, 1))


def picture(kind: str = "JPEG", pixels: NDArray[Any] | None = None, *, mode: str = "RGB", **options: Any) -> bytes:
    """A picture file in one of Pillow's formats and modes."""
    image = Image.fromarray(scene() if pixels is None else pixels)
    file = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def animated_gif() -> bytes:
    frames = [Image.fromarray(scene(at=at)) for at in (0.2, 0.5, 0.8)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def wav(samples_CT: NDArray[np.float32] | None = None, *, rate: int = RATE) -> bytes:
    samples_CT = tone() if samples_CT is None else samples_CT
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(len(samples_CT))
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes((samples_CT.T * 32_767).astype("<i2").tobytes())
    return file.getvalue()


def sound(
    container: str,
    codec: str,
    samples_CT: NDArray[np.float32] | None = None,
    *,
    rate: int = 48_000,
    bit_rate: int | None = None,
    options: Mapping[str, str] | None = None,
) -> bytes:
    """A sound file by FFmpeg's names: `flac` in `flac`, `libopus` in `ogg`, …"""
    samples_CT = tone(rate=rate) if samples_CT is None else samples_CT
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=dict(options or {})) as writer:
        stream = writer.add_stream(codec, rate=rate, layout=LAYOUTS[len(samples_CT)])
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        _encode_sound(writer, stream, samples_CT, rate)
    return file.getvalue()


def film(
    container: str = "mp4",
    codec: str = "libx264",
    sound_codec: str | None = "aac",
    *,
    frames: list[NDArray[np.uint8]] | None = None,
    fps: int = 8,
    samples_CT: NDArray[np.float32] | None = None,
    rate: int = 48_000,
    title: str = "",
    options: Mapping[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    matrix: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
) -> bytes:
    """A film file; silent without `sound_codec`.

    `ticks` are the times of the frames, in 1/`fps` s; `matrix` is the display matrix of the picture track.
    """
    if frames is None:
        frames = [scene(at=at) for at in np.linspace(0.2, 0.8, 16)]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=dict(options or {})) as writer:
        if title:
            writer.metadata["title"] = title
        stream = writer.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = fps
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if codec == "libvpx-vp9":
            stream.codec_context.options = {"deadline": "realtime", "cpu-used": "8"}
        audio = writer.add_stream(sound_codec, rate=rate, layout="mono") if sound_codec else None
        for index, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index if ticks is None else ticks[index], Fraction(1, fps)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
        if audio is not None:
            seconds = len(frames) / fps
            heard = tone(seconds, rate=rate) if samples_CT is None else samples_CT
            _encode_sound(writer, audio, heard, rate, rate * ticks[0] // fps if ticks else 0)
    return file.getvalue()


def with_id3(data: bytes, *, cover: bytes | None = None) -> bytes:
    """A sound behind an ID3 tag with a title, and with a cover where there is one."""
    frames = _id3_frame(b"TIT2", b"\0A song")
    if cover is not None:
        frames += _id3_frame(b"APIC", b"\0image/png\0\x03\0" + cover)
    size = bytes((len(frames) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frames + data


def _id3_frame(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4) + b"\0\0" + content


def with_subtitles(subrip: str, *, title: str = "") -> bytes:
    """A Matroska file that holds nothing but a track of subtitles."""
    file = io.BytesIO()
    with av.open(io.BytesIO(subrip.encode()), format="srt") as reader, av.open(file, "w", format="matroska") as writer:
        writer.metadata["title"] = title
        track = writer.add_stream_from_template(reader.streams.subtitles[0])
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = track
                writer.mux(packet)
    return file.getvalue()


def _encode_sound(writer: Any, stream: Any, samples_CT: NDArray[np.float32], rate: int, begin: int = 0) -> None:
    step = 1_024
    for start in range(0, samples_CT.shape[1], step):
        part = np.ascontiguousarray(samples_CT[:, start : start + step])
        frame = AudioFrame.from_ndarray(part, format="fltp", layout=LAYOUTS[len(part)])
        frame.sample_rate, frame.pts, frame.time_base = rate, begin + start, Fraction(1, rate)
        writer.mux(stream.encode(frame))
    writer.mux(stream.encode())


EVERY_KIND: Mapping[str, Callable[[], bytes]] = {
    "jpeg": picture,
    "progressive_jpeg": lambda: picture(progressive=True),
    "png": lambda: picture("PNG"),
    "webp": lambda: picture("WEBP"),
    "gif": animated_gif,
    "avif": lambda: picture("AVIF"),
    "wav": wav,
    "flac": lambda: sound("flac", "flac"),
    "ogg_opus": lambda: sound("ogg", "libopus"),
    "mp3": lambda: sound("mp3", "libmp3lame"),
    "mp4": lambda: film(title="a disc"),
    "webm": lambda: film("webm", "libvpx-vp9", "libopus"),
    "mkv": lambda: film("matroska", "mpeg4", "libmp3lame"),
}
"""One file of each type."""
