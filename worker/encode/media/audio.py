"""Audio to samples, with PyAV: of audio files, and of the audio tracks of videos."""

from __future__ import annotations

import math
from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from worker.encode.media.container import can_be_decoded, decoded, one_thread, opened, require_short_enough
from worker.encode.media.errors import undecodable
from worker.encode.media.forms import Audio, AudioForm, MediaLimits

RATES = range(1_000, 768_001)


def decode_audio(data: bytes, name: str, form: AudioForm, limits: MediaLimits) -> Audio | None:
    """Windows of the first audio track; None if there is none. Broken packets are left out.

    Raises `ContentError` if not one sample can be had.
    """
    with opened(data, name, limits) as container:
        stream = next(filter(can_be_decoded, container.streams.audio), None)
        if stream is None:
            return None
        one_thread(stream)
        samples_T = _samples(container, stream, form.rate, limits)
    if not len(samples_T):
        raise undecodable(f"the {name} file holds no audio that can be decoded")
    return windows(samples_T, form)


def windows(samples_T: NDArray[np.float32], form: AudioForm) -> Audio:
    """Evenly spread over the whole; the middle, if only one is asked for."""
    length = round(form.seconds * form.rate)
    total = len(samples_T)
    if total <= length:
        return Audio(samples_T[None], (0.0,))
    num = min(form.windows, math.ceil(total / length))
    spare = total - length
    starts = [spare // 2] if num == 1 else [spare * index // (num - 1) for index in range(num)]
    return Audio(
        np.stack([samples_T[start : start + length] for start in starts]),
        tuple(start / form.rate for start in starts),
    )


def _samples(container: InputContainer, stream: AudioStream, rate: int, limits: MediaLimits) -> NDArray[np.float32]:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    parts: list[NDArray[np.float32]] = []
    num_samples = 0
    for frame in _frames(container, stream):
        if frame.sample_rate not in RATES:
            raise undecodable(f"{frame.sample_rate} samples per second are out of range")
        for resampled in resampler.resample(frame):
            part = _values(resampled)
            num_samples += len(part)
            require_short_enough(num_samples / rate, limits)
            parts.append(part)
    if parts:
        parts.extend(_values(resampled) for resampled in resampler.resample(None))
    samples_T = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    # Lossy and float formats can hold any number; what is far outside of it is no audio.
    return np.nan_to_num(samples_T, nan=0.0, posinf=0.0, neginf=0.0).clip(-4.0, 4.0).astype(np.float32)


def _values(frame: AudioFrame) -> NDArray[np.float32]:
    return frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Decoded frames of one layout and rate: what a broken file changes in between is left out."""
    first: tuple[str, int, str] | None = None
    for frame in decoded(container, stream):
        if not isinstance(frame, AudioFrame) or not frame.samples:
            continue
        kind = (frame.layout.name, frame.sample_rate, frame.format.name)
        first = first or kind
        if kind == first:
            yield frame
