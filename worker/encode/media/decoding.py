"""One content in all the forms that are asked of it. Runs in a process of its own: `decoder_pool.py`."""

from __future__ import annotations

from collections.abc import Sequence

from worker.encode.media.errors import ContentError, too_large, undecodable
from worker.encode.media.forms import AudioForm, Form, ImageForm, MediaLimits, Part, Text, TextForm
from worker.encode.media.sniffing import file_type


def decode(data: bytes, forms: Sequence[Form], limits: MediaLimits) -> list[Part | None]:
    """The content in each form, None for a form it has nothing for: a silent video, asked for its audio.

    Raises `ContentError` if it has nothing for any of them, or is broken, or over a limit.
    """
    if len(data) > limits.bytes:
        raise too_large(f"{len(data)} bytes are over the limit of {limits.bytes}")
    if any(isinstance(form, TextForm) for form in forms) and (text := _plain_text(data, forms)) is not None:
        return text
    found = file_type(data)
    parts = (
        _of_image(data, found.name, forms, limits)
        if found.kind == "image"
        else _of_media(data, found.name, forms, limits)
    )
    if all(part is None for part in parts):
        wanted = " or ".join(sorted({_WORD[type(form)] for form in forms}))
        raise undecodable(f"the {found.name} file holds no {wanted}")
    return parts


_WORD = {ImageForm: "image", AudioForm: "audio", TextForm: "text"}


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


def _of_image(data: bytes, name: str, forms: Sequence[Form], limits: MediaLimits) -> list[Part | None]:
    from worker.encode.media.image import decode_image

    return [decode_image(data, name, form, limits) if isinstance(form, ImageForm) else None for form in forms]


def _of_media(data: bytes, name: str, forms: Sequence[Form], limits: MediaLimits) -> list[Part | None]:
    from worker.encode.media.audio import decode_audio
    from worker.encode.media.video import decode_frames, decode_text

    image_forms = [form for form in forms if isinstance(form, ImageForm)]
    frames = iter(decode_frames(data, name, image_forms, limits) or () if image_forms else ())
    parts: list[Part | None] = []
    for form in forms:
        if isinstance(form, ImageForm):
            parts.append(next(frames, None))
        elif isinstance(form, AudioForm):
            parts.append(decode_audio(data, name, form, limits))
        else:
            parts.append(decode_text(data, name, form, limits))
    return parts
