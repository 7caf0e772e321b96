"""One content in all the forms that are asked of it. Runs in a process of its own: `decoder_pool.py`."""

from __future__ import annotations

from collections.abc import Sequence

from worker.encode.media.errors import ContentError, too_large, undecodable
from worker.encode.media.forms import Form, MediaLimits, Part, PictureForm, SoundForm, Text, TextForm
from worker.encode.media.sniffing import file_type


def decode(data: bytes, forms: Sequence[Form], limits: MediaLimits) -> list[Part | None]:
    """The content in each form, None for a form it has nothing for: a silent film, asked for its sound.

    Raises `ContentError` if it has nothing for any of them, or is broken, or over a limit.
    """
    if len(data) > limits.bytes:
        raise too_large(f"{len(data)} bytes are over the limit of {limits.bytes}")
    if any(isinstance(form, TextForm) for form in forms) and (text := _plain_text(data, forms)) is not None:
        return text
    found = file_type(data)
    parts = (
        _of_picture(data, found.name, forms, limits)
        if found.kind == "picture"
        else _of_media(data, found.name, forms, limits)
    )
    if all(part is None for part in parts):
        wanted = " or ".join(sorted({_WORD[type(form)] for form in forms}))
        raise undecodable(f"the {found.name} file holds no {wanted}")
    return parts


_WORD = {PictureForm: "picture", SoundForm: "sound", TextForm: "text"}


def _plain_text(data: bytes, forms: Sequence[Form]) -> list[Part | None] | None:
    """The data as text in UTF-8; None if they are a file of another type, or may be one for another form."""
    try:
        file_type(data)
        return None
    except ContentError:
        pass
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not all(isinstance(form, TextForm) for form in forms):
            return None
        raise undecodable("not text in UTF-8, nor a file with text in it") from error
    if not text.strip():
        raise undecodable("the text is empty")
    return [Text(text[: form.chars]) if isinstance(form, TextForm) else None for form in forms]


def _of_picture(data: bytes, name: str, forms: Sequence[Form], limits: MediaLimits) -> list[Part | None]:
    from worker.encode.media.pictures import decode_picture

    return [decode_picture(data, name, form, limits) if isinstance(form, PictureForm) else None for form in forms]


def _of_media(data: bytes, name: str, forms: Sequence[Form], limits: MediaLimits) -> list[Part | None]:
    from worker.encode.media.film import decode_frames, decode_text
    from worker.encode.media.sound import decode_sound

    picture_forms = [form for form in forms if isinstance(form, PictureForm)]
    frames = iter(decode_frames(data, name, picture_forms, limits) or () if picture_forms else ())
    parts: list[Part | None] = []
    for form in forms:
        if isinstance(form, PictureForm):
            parts.append(next(frames, None))
        elif isinstance(form, SoundForm):
            parts.append(decode_sound(data, name, form, limits))
        else:
            parts.append(decode_text(data, name, form, limits))
    return parts
