"""Types of files, told by their first bytes. The declared media type is not asked: it is as often wrong as right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from worker.encode.media.errors import undecodable


class FileType(NamedTuple):
    kind: Literal["image", "media"]
    name: str
    """The decoder's name of it: one of Pillow's for an image, of FFmpeg's for audio and video."""


READ = "JPEG, PNG, WebP, GIF, AVIF, WAV, FLAC, Ogg, MP3, MP4, WebM or Matroska"
MAX_BOXES = 1_000

_FILM = FileType("media", "mov")
_MAGIC: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\xff\xd8\xff", FileType("image", "JPEG")),
    (0, b"\x89PNG\r\n\x1a\n", FileType("image", "PNG")),
    (0, b"GIF87a", FileType("image", "GIF")),
    (0, b"GIF89a", FileType("image", "GIF")),
    (8, b"WEBP", FileType("image", "WEBP")),
    (8, b"WAVE", FileType("media", "wav")),
    (0, b"fLaC", FileType("media", "flac")),
    (0, b"OggS", FileType("media", "ogg")),
    (0, b"\x1a\x45\xdf\xa3", FileType("media", "matroska")),
)
_NOT_READ: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"BM", "BMP"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "FLV"),
    (0, b"\x30\x26\xb2\x75", "WMV or WMA"),
    (0, b"\0\0\x01\xba", "MPEG program stream"),
    (0, b"FORM", "AIFF"),
    (0, b"caff", "CAF"),
    (0, b"#!AMR", "AMR"),
    (0, b"MThd", "MIDI"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"version https://git-lfs", "Git LFS pointer"),
)
"""Beside what is read: so that a refusal can say what came."""
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"avci"}
_AVIF = {b"avif", b"avis"}


def file_type(data: bytes) -> FileType:
    """One of the types that are read, or a `ContentError`.

    The list is closed, because FFmpeg left to guess would also follow play lists to files and hosts of their choice.
    """
    if not data:
        raise undecodable("the file is empty")
    if data.startswith(b"ID3"):
        return _behind_tags(data)
    for offset, magic, known in _MAGIC:
        if data.startswith(magic, offset):
            return known
    if data.startswith(b"ftyp", 4):
        return _of_boxes(data)
    if _is_mpeg_audio(data):
        return FileType("media", "mp3")
    for offset, magic, name in _NOT_READ:
        if data.startswith(magic, offset):
            raise undecodable(f"a {name} file, which is not read: not a {READ} file")
    raise undecodable(f"not a {READ} file")


def _behind_tags(data: bytes) -> FileType:
    """MP3, mostly; but other files are given ID3 tags, too."""
    start = 0
    while data.startswith(b"ID3", start) and len(data) >= start + 10:
        size = sum((data[start + 6 + index] & 0x7F) << (7 * (3 - index)) for index in range(4))
        has_footer = data[start + 5] & 0x10
        start += 10 + size + (10 if has_footer else 0)
    if data.startswith(b"fLaC", start):
        return FileType("media", "flac")
    if len(data) > start + 1 and data[start] == 0xFF and data[start + 1] & 0xF6 == 0xF0:
        raise undecodable(f"an AAC stream, which is not read: not a {READ} file")
    return FileType("media", "mp3")


def _of_boxes(data: bytes) -> FileType:
    """Videos and photos share one way of packing. FFmpeg shows of a photo but its first tile."""
    size = max(16, min(int.from_bytes(data[:4]), 1_024))
    major, *others = (data[start : start + 4] for start in (8, *range(16, size, 4)))
    boxes = set(_boxes(data))
    is_photo = major in _AVIF | _HEIF or (b"meta" in boxes and not boxes & {b"moov", b"moof"})
    if not is_photo:
        return _FILM
    if major in _AVIF or (major not in _HEIF - {b"mif1", b"mif2", b"msf1"} and _AVIF & set(others)):
        return FileType("image", "AVIF")
    raise undecodable(f"a HEIC photo, which is not read: convert it to JPEG or AVIF; not a {READ} file")


def _boxes(data: bytes) -> Iterator[bytes]:
    """The types of the outermost boxes, as far as they can be told."""
    start = 0
    for _ in range(MAX_BOXES):
        if start + 8 > len(data):
            return
        size = int.from_bytes(data[start : start + 4])
        yield data[start + 4 : start + 8]
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16])
        if size < 8:
            return  # to the end of the file, or broken
        start += size


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
