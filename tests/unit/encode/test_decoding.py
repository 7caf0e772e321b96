"""Files in, arrays out: what is read, what is refused, and the words for it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from schemas import Reason
from tests import media_files
from worker.encode.media.decoding import decode
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import (
    Form,
    MediaLimits,
    Part,
    PictureForm,
    Pictures,
    Sound,
    SoundForm,
    Text,
    TextForm,
)

PIXELS = PictureForm(24, 32, frames=4)
SAMPLES = SoundForm(16_000, 0.25, windows=2)
WORDS = TextForm(1_000)
LIMITS = MediaLimits()


def one(data: bytes, form: Form, limits: MediaLimits = LIMITS) -> Part:
    (part,) = decode(data, [form], limits)
    assert part is not None
    return part


def pixels(data: bytes, form: PictureForm = PIXELS) -> np.ndarray:
    part = one(data, form)
    assert isinstance(part, Pictures)
    assert part.pixels_NHW3.shape[1:] == (form.height, form.width, 3)
    return part.pixels_NHW3


def samples(data: bytes, form: SoundForm = SAMPLES) -> np.ndarray:
    part = one(data, form)
    assert isinstance(part, Sound)
    assert np.isfinite(part.samples_NT).all()
    return part.samples_NT


def refusal(data: bytes, form: Form = PIXELS, limits: MediaLimits = LIMITS) -> ContentError:
    with pytest.raises(ContentError) as caught:
        decode(data, [form], limits)
    return caught.value


@pytest.mark.parametrize("kind", ["jpeg", "progressive_jpeg", "png", "webp", "gif"])
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
    assert isinstance(part, Pictures)
    assert part.times_s == pytest.approx([0.25, 0.75, 1.25, 1.75], abs=0.13)
    disc = [float((frame[..., 0] > 128).nonzero()[1].mean()) for frame in part.pixels_NHW3]
    assert disc == sorted(disc)
    assert disc[-1] - disc[0] > 10


def test_one_film_serves_several_encoders() -> None:
    forms: list[Form] = [PIXELS, SAMPLES, PictureForm(8, 8), WORDS]
    frames, sound, small, text = decode(media_files.EVERY_KIND["mp4"](), forms, LIMITS)
    assert isinstance(frames, Pictures)
    assert isinstance(sound, Sound)
    assert isinstance(small, Pictures)
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
    assert isinstance(part, Pictures)
    assert part.times_s == pytest.approx([3.75, 11.25, 18.75, 26.25], abs=0.5)


def test_a_film_of_unknown_length_is_read_to_its_end() -> None:
    whole = media_files.film("webm", "libvpx-vp9", None, options={"live": "1"})
    seen = pixels(whole)
    disc = [float((frame[..., 0] > 128).nonzero()[1].mean()) for frame in seen]
    assert len(seen) == 4
    assert disc == sorted(disc)


def test_a_silent_film_has_frames_and_no_sound() -> None:
    silent = media_files.film(sound_codec=None)
    frames, sound = decode(silent, [PIXELS, SAMPLES], LIMITS)
    assert isinstance(frames, Pictures)
    assert sound is None
    assert "no sound" in refusal(silent, SAMPLES).detail


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


def test_cropping_keeps_the_middle() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    seen = pixels(media_files.picture("PNG", wide), PictureForm(10, 10, fit="crop"))
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
    assert "holds no picture" in refusal(media_files.wav()).detail
    assert "holds no sound" in refusal(media_files.picture(), SAMPLES).detail
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
