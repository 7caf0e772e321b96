"""Files in, arrays out: what is read, what is refused, and the words for it."""

from __future__ import annotations

import io
import re
import struct
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from schemas import Reason
from tests import heif_files, media_files
from worker.encode.media.decoding import decode
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import (
    Audio,
    AudioForm,
    Form,
    ImageForm,
    Images,
    MediaLimits,
    Part,
    Text,
    TextForm,
)

PIXELS = ImageForm(24, 32, frames=4)
SAMPLES = AudioForm(16_000, 0.25, windows=2)
WORDS = TextForm(1_000)
LIMITS = MediaLimits()


def one(data: bytes, form: Form, limits: MediaLimits = LIMITS) -> Part:
    (part,) = decode(data, [form], limits)
    assert part is not None
    return part


def pixels(data: bytes, form: ImageForm = PIXELS) -> np.ndarray:
    part = one(data, form)
    assert isinstance(part, Images)
    assert part.pixels_NHW3.shape[1:] == (form.height, form.width, 3)
    return part.pixels_NHW3


def samples(data: bytes, form: AudioForm = SAMPLES) -> np.ndarray:
    part = one(data, form)
    assert isinstance(part, Audio)
    assert np.isfinite(part.samples_NT).all()
    return part.samples_NT


def refusal(data: bytes, form: Form = PIXELS, limits: MediaLimits = LIMITS) -> ContentError:
    with pytest.raises(ContentError) as caught:
        decode(data, [form], limits)
    return caught.value


@pytest.mark.parametrize("kind", ["jpeg", "progressive_jpeg", "png", "webp", "gif", "avif"])
def test_a_picture_is_one_frame_that_looks_like_it(kind: str) -> None:
    seen = pixels(media_files.EVERY_KIND[kind]())
    at = 0.2 if kind == "gif" else 0.5  # the first of its frames
    drawn = np.asarray(Image.fromarray(media_files.scene(at=at)).resize((32, 24), Image.Resampling.BICUBIC))
    assert len(seen) == 1
    assert np.abs(seen[0].astype(float) - drawn).mean() < 8


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg_opus", "mp3", "mp4", "webm", "mkv"])
def test_a_sound_is_heard_at_the_rate_asked_for(kind: str) -> None:
    heard = samples(media_files.EVERY_KIND[kind]())
    assert heard.shape == (2, 4_000)
    spectrum = np.abs(np.fft.rfft(heard[1]))
    assert abs(spectrum.argmax() * 4 - 440) <= 8  # 0.25 s: 4 Hz a bin


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv"])
def test_a_film_gives_frames_in_order_at_the_middles_of_equal_parts(kind: str) -> None:
    part = one(media_files.EVERY_KIND[kind](), PIXELS)
    assert isinstance(part, Images)
    assert part.times_s == pytest.approx([0.25, 0.75, 1.25, 1.75], abs=0.13)
    disc = [float((frame[..., 0] > 128).nonzero()[1].mean()) for frame in part.pixels_NHW3]
    assert disc == sorted(disc)
    assert disc[-1] - disc[0] > 10


def test_one_film_serves_several_encoders() -> None:
    forms: list[Form] = [PIXELS, SAMPLES, ImageForm(8, 8), WORDS]
    frames, sound, small, text = decode(media_files.EVERY_KIND["mp4"](), forms, LIMITS)
    assert isinstance(frames, Images)
    assert isinstance(sound, Audio)
    assert isinstance(small, Images)
    assert (len(frames.pixels_NHW3), len(sound.samples_NT), len(small.pixels_NHW3)) == (4, 2, 1)
    assert text == Text("a disc")


def test_subtitles_follow_the_title() -> None:
    subtitles = "1\n00:00:00,000 --> 00:00:01,000\nA disc appears.\n\n2\n00:00:01,000 --> 00:00:02,000\nIt moves.\n\n"
    told = media_files.with_subtitles(subtitles, title="The disc")
    assert one(told, WORDS) == Text("The disc\nA disc appears.\nIt moves.")
    assert one(told, TextForm(12)) == Text("The disc\nA d")


def test_a_film_is_searched_for_frames_that_are_far_apart() -> None:
    frames = [media_files.scene(at=at) for at in np.linspace(0.1, 0.9, 60)]
    part = one(media_files.film(frames=frames, fps=2, sound_codec=None), PIXELS)
    assert isinstance(part, Images)
    assert part.times_s == pytest.approx([3.75, 11.25, 18.75, 26.25], abs=0.5)


def clip(num_frames: int = 40, **options: Any) -> bytes:
    """A disc that moves from left to right, at 8 frames a second, without sound."""
    frames = [media_files.scene(at=at) for at in np.linspace(0.1, 0.9, num_frames)]
    return media_files.film(sound_codec=None, frames=frames, **options)


def frames(data: bytes, form: ImageForm = PIXELS) -> Images:
    part = one(data, form)
    assert isinstance(part, Images)
    return part


@pytest.mark.parametrize("num", [1, 2, 3, 4, 7, 8])
def test_a_film_without_a_duration_gives_the_frames_that_one_with_it_gives(num: int) -> None:
    form = ImageForm(24, 32, frames=num)
    options = {"container": "webm", "codec": "libvpx-vp9"}
    declared = frames(clip(**options), form)
    live = frames(clip(options={"live": "1"}, **options), form)
    assert declared.times_s == live.times_s
    assert declared.times_s == pytest.approx([5 * (index + 0.5) / num for index in range(num)], abs=0.126)
    assert np.array_equal(declared.pixels_NHW3, live.pixels_NHW3)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")])
@pytest.mark.parametrize("hours", [1, 100])
def test_a_film_whose_clock_begins_late_is_as_long_as_it_is(container: str, codec: str, hours: int) -> None:
    late = [hours * 3_600 * 8 + index for index in range(40)]
    usual = frames(clip(container=container, codec=codec))
    shifted = frames(clip(container=container, codec=codec, ticks=late))
    assert shifted.times_s == pytest.approx(usual.times_s, abs=0.001)
    assert np.abs(shifted.pixels_NHW3.astype(float) - usual.pixels_NHW3).mean() < 4
    sound = media_files.film(container, codec, "aac" if codec == "libx264" else "libopus", ticks=late[:16])
    assert samples(sound).shape == (2, 4_000)


def test_a_film_whose_clock_begins_late_can_still_be_too_long() -> None:
    late = [3_600 * 8 + index for index in range(40)]
    error = refusal(clip(container="matroska", ticks=late), limits=MediaLimits(seconds=4))
    assert error.reason is Reason.TOO_LARGE
    assert "5.0 s are over the limit of 4.0 s" in error.detail


def test_a_film_whose_frames_last_unequally_shows_what_is_on_the_screen_at_the_middles() -> None:
    """Ten seconds of the first frame, then eight in two seconds: 12 s in four parts."""
    ticks = [0, *range(80, 96, 2)]
    for container in ("mp4", "matroska"):
        part = frames(
            clip(9, container=container, ticks=ticks, options={"live": "1"} if container == "matroska" else None)
        )
        assert part.times_s == pytest.approx([0, 10.5], abs=0.26)


def test_each_encoder_gets_the_middles_of_its_own_number_of_parts() -> None:
    four, one_, two = decode(clip(), [PIXELS, ImageForm(24, 32), ImageForm(24, 32, frames=2)], LIMITS)
    assert isinstance(four, Images)
    assert isinstance(one_, Images)
    assert isinstance(two, Images)
    assert one_.times_s == pytest.approx([2.5], abs=0.126)
    assert two.times_s == pytest.approx([1.25, 3.75], abs=0.126)
    assert four.times_s == pytest.approx([0.625, 1.875, 3.125, 4.375], abs=0.126)


def test_a_sound_that_outlasts_its_film_moves_no_frame() -> None:
    long = media_files.tone(12, rate=48_000)
    part = frames(media_files.film(samples_CT=long))
    assert part.times_s == pytest.approx([0.25, 0.75, 1.25, 1.75], abs=0.13)


def test_a_film_of_fewer_frames_than_asked_for_gives_each_once() -> None:
    assert len(frames(clip(3), ImageForm(24, 32, frames=64)).times_s) == 3


def test_a_film_that_lost_its_end_is_shown_as_far_as_it_goes() -> None:
    whole = clip(200, container="matroska", codec="mpeg4")
    part = frames(whole[: len(whole) * 2 // 3])
    assert len(part.times_s) == 4
    assert part.times_s[-1] < 25 * 2 / 3


CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
"""Red, green, blue and black: no two of the eight ways to hold it look alike."""
SQUARE = ImageForm(32, 32)
# The eight orientations of EXIF as display matrices a, b, c, d: a pixel at x, y is shown at a x + c y, b x + d y.
MATRICES = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip


def held(orientation: int) -> np.ndarray:
    """How the picture of the corners looks upright, by Pillow."""
    image = Image.fromarray(CORNERS)
    image.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(image) or image
    return np.asarray(turned.resize((32, 32), Image.Resampling.BICUBIC)).astype(float)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_film_is_turned_and_mirrored_as_its_display_matrix_says(container: str, orientation: int) -> None:
    a, b, c, d = (value * 65_536 for value in MATRICES[orientation])
    matrix = None if orientation == 1 else [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    if container == "matroska" and orientation not in (1, 3, 6, 8):
        return  # the format has turns, and no mirrors but one, which its writer does not write
    data = media_files.film(container, sound_codec=None, frames=[CORNERS] * 8, matrix=matrix)
    assert np.abs(pixels(data, SQUARE)[0] - held(orientation)).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_picture_is_turned_and_mirrored_as_its_exif_says(kind: str, orientation: int) -> None:
    image = Image.fromarray(CORNERS)
    exif = image.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, quality=95)
    assert np.abs(pixels(file.getvalue(), SQUARE)[0] - held(orientation)).mean() < 12


def test_pixels_that_are_wider_than_high_are_cropped_as_they_are_shown() -> None:
    """Twice as wide: 48 x 64 is shown 48 x 128, and the middle square is half as wide in pixels."""
    wide = np.zeros((48, 64, 3), np.uint8)
    wide[:, 20:44] = 255
    data = media_files.film(sound_codec=None, frames=[wide] * 8, pixel_aspect=Fraction(2))
    assert pixels(data, ImageForm(16, 16, fit="crop")).mean() > 230


def test_a_silent_film_has_frames_and_no_sound() -> None:
    silent = media_files.film(sound_codec=None)
    frames, sound = decode(silent, [PIXELS, SAMPLES], LIMITS)
    assert isinstance(frames, Images)
    assert sound is None
    assert "no audio" in refusal(silent, SAMPLES).detail


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_mixed_to_one(channels: int) -> None:
    heard = samples(media_files.sound("flac", "flac", media_files.tone(channels=channels, rate=48_000)))
    assert abs(np.abs(np.fft.rfft(heard[0])).argmax() * 4 - 440) <= 8


def test_silence_is_sound() -> None:
    assert samples(media_files.wav(np.zeros((1, 8_000), np.float32))).max() == 0


def test_a_short_sound_stays_short() -> None:
    assert samples(media_files.wav(media_files.tone(0.1))).shape == (1, 1_600)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_pictures_in_other_colours_come_out_as_rgb(mode: str) -> None:
    kind = "PNG" if mode == "1" else "JPEG"
    assert pixels(media_files.picture(kind, mode=mode)).std() > 10


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_what_is_transparent_is_over_white(mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    file = io.BytesIO()
    image.convert(mode).save(file, "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert pixels(file.getvalue()).min() == 255


def test_sixteen_bits_are_scaled_to_eight() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(np.uint16)
    seen = pixels(media_files.picture("PNG", ramp, mode="I;16"))
    assert seen.min() < 8
    assert seen.max() > 247


def test_a_picture_is_turned_upright() -> None:
    image = Image.fromarray(media_files.scene(40, 80, at=0.1))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    disc = (pixels(file.getvalue())[0][..., 0] > 128).nonzero()[1].mean()
    assert disc > 20


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + b"\xff" * 40, b"rubbish"]
)
def test_a_picture_is_none_the_worse_for_broken_exif(exif: bytes) -> None:
    for kind in ("JPEG", "WEBP", "PNG"):
        assert np.abs(pixels(media_files.picture(kind, exif=exif))[0].astype(float)).std() > 10


TILES = [np.full((64, 64, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200), (9, 9, 9))]


def test_a_photo_in_tiles_is_seen_whole() -> None:
    seen = pixels(heif_files.avif_grid(TILES, 2), ImageForm(32, 32))[0]
    for tile, (row, column) in zip(TILES, [(8, 8), (8, 24), (24, 8), (24, 24)], strict=True):
        assert np.abs(seen[row, column].astype(float) - tile[0, 0]).max() < 12


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc", b"isom", b"mp42"])
@pytest.mark.parametrize("form", [PIXELS, SAMPLES])
def test_a_photo_that_cannot_be_read_whole_is_refused_by_its_name(brand: bytes, form: Form) -> None:
    error = refusal(heif_files.heic_grid(TILES, 2, brand), form)
    assert error.reason is Reason.UNDECODABLE
    assert "HEIC photo, which is not read: convert it to JPEG or AVIF" in error.detail


def test_a_moving_avif_is_its_first_frame() -> None:
    stills = [Image.fromarray(media_files.scene(at=at)) for at in (0.2, 0.5, 0.8)]
    for kind in ("AVIF", "WEBP", "GIF", "PNG"):
        file = io.BytesIO()
        stills[0].save(file, kind, save_all=True, append_images=stills[1:], duration=100)
        drawn = np.asarray(stills[0].resize((32, 24), Image.Resampling.BICUBIC)).astype(float)
        seen = pixels(file.getvalue())
        assert len(seen) == 1
        assert np.abs(seen[0] - drawn).mean() < 8, kind


def test_the_first_frame_is_of_the_animation_and_not_what_stands_in_for_it() -> None:
    stand_in, first, second = (Image.fromarray(media_files.scene(at=at)) for at in (0.9, 0.2, 0.5))
    file = io.BytesIO()
    stand_in.save(file, "PNG", save_all=True, append_images=[first, second], default_image=True)
    drawn = np.asarray(first.resize((32, 24), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(pixels(file.getvalue())[0] - drawn).mean() < 8


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_picture_is_read_whatever_is_written_beside_it(is_packed: bool, where: str) -> None:
    """Texts and profiles above what Pillow holds: prompts of generators, layers, histories."""
    texts = PngImagePlugin.PngInfo()
    for number in range(3):
        texts.add_text(f"history {number}", "x" * 2**21, zip=is_packed)
        texts.add_itxt(f"more {number}", "y" * 2**21, zip=is_packed)
    file = io.BytesIO()
    Image.fromarray(media_files.scene()).save(file, "PNG", pnginfo=texts)
    data = file.getvalue()
    if where == "behind":  # the texts move behind the picture
        plain = media_files.picture("PNG")
        chunks = data[33 : data.index(b"IDAT") - 4]
        data = plain[:-12] + chunks + plain[-12:]
    assert np.array_equal(pixels(data), pixels(media_files.picture("PNG")))
    profile = media_files.picture("PNG", icc_profile=bytes(2**22))
    assert np.array_equal(pixels(profile), pixels(media_files.picture("PNG")))


def test_a_text_that_says_how_a_png_is_turned_is_heeded_unless_it_is_a_bomb() -> None:
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for text, orientation in ((xmp, 6), (xmp + " " * 2**24, 1)):
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", text, zip=True)
        data = media_files.picture("PNG", CORNERS, pnginfo=texts)
        assert np.abs(pixels(data, SQUARE)[0] - held(orientation)).mean() < 3


def png(depth: int, colours: int, row: bytes, transparent: bytes) -> bytes:
    """A square of one colour, that is declared transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colours, 0, 0, 0))
    body = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress((b"\0" + row) * 8))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colours", "row", "transparent"),
    [
        (1, 0, b"\0", b"\0\0"), (2, 0, b"\xaa\xaa", b"\0\2"), (4, 0, b"\x55" * 4, b"\0\5"),
        (8, 0, b"\x55" * 8, b"\0\x55"),
        (16, 0, b"\x12\x34" * 8, b"\x12\x34"), (8, 2, b"\1\2\3" * 8, b"\0\1\0\2\0\3"),
        (16, 2, b"\x12\x34\x56\x78\x9a\xbc" * 8, b"\x12\x34\x56\x78\x9a\xbc"),
    ],
)  # fmt: skip
def test_a_colour_that_stands_for_transparent_is_white_in_every_depth(
    depth: int, colours: int, row: bytes, transparent: bytes
) -> None:
    assert pixels(png(depth, colours, row, transparent)).min() == 255


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (media_files.picture("TIFF"), "TIFF"),
        (media_files.picture("BMP"), "BMP"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (media_files.with_id3(b"\xff\xf1\x50\x80" + bytes(40)), "AAC"),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(data: bytes, name: str) -> None:
    detail = refusal(data).detail
    assert name in detail
    assert "which is not read" in detail


# ---------------------------------------------------------------------- songs


def songs() -> dict[str, bytes]:
    cover = media_files.picture("PNG")
    flac, mp3 = media_files.EVERY_KIND["flac"](), media_files.EVERY_KIND["mp3"]()
    block = struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">IIIIII", 0, 64, 48, 24, 0, len(cover)) + cover
    head, rest = flac[:42], flac[42:]
    assert not head[4] & 0x80  # the first block is not the last one
    return {
        "mp3 with a tag": media_files.with_id3(mp3),
        "mp3 with a cover": media_files.with_id3(mp3, cover=cover),
        "mp3 with two tags": media_files.with_id3(media_files.with_id3(mp3), cover=cover),
        "flac with a cover": head + b"\6" + len(block).to_bytes(3) + block + rest,
        "flac with a tag": media_files.with_id3(flac),
        "flac with a tag and a cover": media_files.with_id3(flac, cover=cover),
    }


def test_a_song_that_begins_softly_is_not_taken_for_a_long_one() -> None:
    """Without a table, the length of an MP3 is estimated by the size of its first frames."""
    plain = {"write_xing": "0", "id3v2_version": "0"}
    soft, loud = (
        media_files.sound("mp3", "libmp3lame", media_files.tone(seconds, rate=48_000), bit_rate=rate, options=plain)
        for seconds, rate in ((2, 32_000), (12, 320_000))
    )
    assert len(one(soft + loud, SAMPLES, MediaLimits(seconds=20)).times_s) == 2  # type: ignore[union-attr]
    assert refusal(soft + loud, SAMPLES, MediaLimits(seconds=10)).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("name", sorted(songs()))
def test_a_song_is_heard_and_its_cover_is_no_film(name: str) -> None:
    song = songs()[name]
    heard = samples(song)
    assert abs(np.abs(np.fft.rfft(heard[1])).argmax() * 4 - 440) <= 8
    assert "holds no image" in refusal(song).detail
    pictures, sound = decode(song, [PIXELS, SAMPLES], LIMITS)
    assert pictures is None
    assert isinstance(sound, Audio)


def test_cropping_keeps_the_middle() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    seen = pixels(media_files.picture("PNG", wide), ImageForm(10, 10, fit="crop"))
    assert seen.mean() > 240


def test_text_is_utf_8() -> None:
    assert one("ein Fußball".encode("utf-8-sig"), WORDS) == Text("ein Fußball")
    assert one(b"abcdef", TextForm(3)) == Text("abc")
    assert refusal(b"\xc3\x28\xa0", WORDS).reason is Reason.UNDECODABLE


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("form", [PIXELS, SAMPLES, WORDS])
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xd8\xff", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypisom", b"GIF89a"])
def test_next_to_nothing_is_refused(data: bytes, form: Form) -> None:
    if data == b"\0" and form is WORDS:
        return  # one character of text
    assert refusal(data, form).reason is Reason.UNDECODABLE


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_half_a_picture_is_refused(kind: str) -> None:
    whole = media_files.EVERY_KIND[kind]()
    assert refusal(whole[: len(whole) * 2 // 3]).reason is Reason.UNDECODABLE


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame")])
def test_what_is_left_of_a_sound_is_heard(container: str, codec: str) -> None:
    whole = media_files.sound(container, codec, media_files.tone(4, rate=48_000))
    assert samples(whole[: len(whole) * 2 // 3]).shape[1] > 1_000


def test_sound_is_no_picture_and_a_picture_no_sound() -> None:
    assert "holds no image" in refusal(media_files.wav()).detail
    assert "holds no audio" in refusal(media_files.picture(), SAMPLES).detail
    assert "holds no text" in refusal(media_files.picture(), WORDS).detail


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    side = 100_000
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )
    error = refusal(bomb)
    assert error.reason is Reason.TOO_LARGE
    assert "100000 x 100000 pixels" in error.detail


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (MediaLimits(bytes=100), "bytes are over"),
        (MediaLimits(pixels=1_000), "48 pixels are over"),
        (MediaLimits(seconds=1), "s are over the limit of 1.0 s"),
    ],
)
def test_limits_hold_for_films(limits: MediaLimits, said: str) -> None:
    error = refusal(media_files.EVERY_KIND["mp4"](), limits=limits)
    assert error.reason is Reason.TOO_LARGE
    assert said in error.detail


def test_the_length_limit_holds_for_what_does_not_say_how_long_it_is() -> None:
    live = media_files.film("webm", "libvpx-vp9", "libopus", options={"live": "1"})
    for form in (PIXELS, SAMPLES):
        assert refusal(live, form, MediaLimits(seconds=1)).reason is Reason.TOO_LARGE


def test_the_number_of_frames_decoded_is_limited() -> None:
    live = media_files.film("webm", "libvpx-vp9", None, options={"live": "1"})
    assert "more than 10 frames" in refusal(live, limits=MediaLimits(frames=10)).detail


def test_a_play_list_is_not_followed() -> None:
    for trick in (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile '/etc/passwd'\n"):
        assert refusal(trick).reason is Reason.UNDECODABLE
        assert refusal(trick, SAMPLES).reason is Reason.UNDECODABLE


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (media_files.picture()[:20], PIXELS),
        (b"\xff\xd8\xff\xe0" + bytes(40), PIXELS),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", PIXELS),
        (b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(100), SAMPLES),
    ],
)
def test_what_is_told_of_a_broken_file_is_for_people_and_the_same_each_time(data: bytes, form: Form) -> None:
    """A dead letter has it: no place in memory, no number of a library's own, no name of a file that is none."""
    with pytest.raises(ContentError, match="cannot be read") as raised:
        decode(data, [form], LIMITS)
    assert not re.search(r"0x[0-9a-f]{6}|Errno|<none>", raised.value.detail)
