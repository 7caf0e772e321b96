"""What a file is, by its first bytes. The declared media type is not asked: it is as often wrong as right."""

from __future__ import annotations

from typing import Literal, NamedTuple

from worker.encode.media.errors import undecodable


class FileType(NamedTuple):
    kind: Literal["picture", "media"]
    name: str
    """The decoder's name of it: one of Pillow's for a picture, of FFmpeg's for sound and film."""


_MAGIC: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\xff\xd8\xff", FileType("picture", "JPEG")),
    (0, b"\x89PNG\r\n\x1a\n", FileType("picture", "PNG")),
    (0, b"GIF87a", FileType("picture", "GIF")),
    (0, b"GIF89a", FileType("picture", "GIF")),
    (8, b"WEBP", FileType("picture", "WEBP")),
    (8, b"WAVE", FileType("media", "wav")),
    (0, b"fLaC", FileType("media", "flac")),
    (0, b"OggS", FileType("media", "ogg")),
    (4, b"ftyp", FileType("media", "mov")),
    (0, b"\x1a\x45\xdf\xa3", FileType("media", "matroska")),
    (0, b"ID3", FileType("media", "mp3")),
)


def file_type(data: bytes) -> FileType:
    """One of the types that are read, or a `ContentError`.

    The list is closed, because FFmpeg left to guess would also follow play lists to files and hosts of their choice.
    """
    if not data:
        raise undecodable("the file is empty")
    for offset, magic, known in _MAGIC:
        if data.startswith(magic, offset):
            return known
    if _is_mpeg_audio(data):
        return FileType("media", "mp3")
    raise undecodable("not a JPEG, PNG, WebP, GIF, WAV, FLAC, Ogg, MP3, MP4, WebM or Matroska file")


def _is_mpeg_audio(data: bytes) -> bool:
    """A frame header of layer III: sync bits, version, layer, and neither bit rate nor sample rate out of range."""
    return (
        len(data) >= 4
        and data[0] == 0xFF
        and data[1] & 0xE6 == 0xE2
        and data[1] & 0x18 != 0x08
        and data[2] & 0xF0 != 0xF0
        and data[2] & 0x0C != 0x0C
    )
