"""Audio as statistics of its log-mel spectrogram: timbre, its change over time, loudness and pitch classes.

Mel scale after O'Shaughnessy 1987, filters with unit peak. T samples, F frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Audio, AudioForm, Form, Part

RATE = 16_000
WINDOW_S = 10.0
FRAME, HOP = 512, 256  # samples: 32 and 16 ms
BANDS = 48
PITCH_CLASSES = 12
LOWEST_HZ, HIGHEST_HZ = 40.0, 7_800.0
FLOOR = 1e-6  # of power: 60 dB below full scale, where a quiet recording's noise ends

_HERTZ = np.fft.rfftfreq(FRAME, 1 / RATE)
_TAPER = np.hanning(FRAME).astype(np.float32)


class SoundStatistics:
    """`builtin-audio`: what a window of audio is like on the whole, and how it changes."""

    name = "builtin-audio-v1"
    unit: Unit = "samples"
    dim = 4 * BANDS + PITCH_CLASSES + 4
    batch_cost = 32 * int(RATE * WINDOW_S)

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (AudioForm(RATE, WINDOW_S, windows=num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(samples_T, len(samples_T))
            for part in parts
            if isinstance(part, Audio)
            for samples_T in part.samples_NT
        ]

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        return unit_rows(np.stack([_statistics(piece.payload) for piece in pieces]))


def _statistics(samples_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blocks of like weight, [dim]. Not padded: a window's statistics are over its own frames alone."""
    power_FB = _power(samples_T)
    mel_FM = np.log10(np.maximum(power_FB @ _MEL_BM, FLOOR)) - np.log10(FLOOR)  # 0 where it is silent
    mean_M = mel_FM.mean(axis=0)
    change_FM = np.abs(np.diff(mel_FM, axis=0)) if len(mel_FM) > 1 else np.zeros((1, BANDS))
    loud_F = mel_FM.mean(axis=1)
    pitch = np.sqrt(power_FB.mean(axis=0) @ _PITCH_BP)
    loudness = np.array([loud_F.mean(), loud_F.std(), np.abs(np.diff(loud_F)).mean() if len(loud_F) > 1 else 0.0, 1.0])
    blocks = [
        mean_M - mean_M.mean(),  # timbre, whatever the loudness
        mel_FM.std(axis=0),
        change_FM.mean(axis=0),
        np.percentile(mel_FM, 90, axis=0) - mean_M,
        pitch,
        loudness / 6,
    ]
    return np.concatenate([unit_rows(np.asarray(block[None], np.float32))[0] for block in blocks[:-1]] + [blocks[-1]])


def _power(samples_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Power spectrum per frame; what is shorter than a frame is filled with silence."""
    if len(samples_T) < FRAME:
        samples_T = np.pad(samples_T, (0, FRAME - len(samples_T)))
    frames = np.lib.stride_tricks.sliding_window_view(samples_T, FRAME)[::HOP]
    spectrum = np.fft.rfft(frames * _TAPER, axis=1)
    return np.asarray((spectrum.real**2 + spectrum.imag**2) / (FRAME / 4) ** 2, np.float32)


def _mel_filters() -> NDArray[np.float32]:
    """Triangles, evenly spaced on the mel scale, [bins, M]."""

    def mel(hertz: float) -> float:
        return 2_595 * float(np.log10(1 + hertz / 700))

    edges = 700 * (10 ** (np.linspace(mel(LOWEST_HZ), mel(HIGHEST_HZ), BANDS + 2) / 2_595) - 1)
    rising = (_HERTZ[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - _HERTZ[:, None]) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)), np.float32)


def _pitch_filters() -> NDArray[np.float32]:
    """Which of the twelve semitones each bin is nearest to, over all octaves from 80 Hz to 4 kHz, [bins, P]."""
    audible = (_HERTZ > 80) & (_HERTZ < 4_000)
    semitones = np.round(12 * np.log2(np.maximum(_HERTZ, 1) / 440)).astype(int) % PITCH_CLASSES
    return np.asarray((semitones[:, None] == np.arange(PITCH_CLASSES)) & audible[:, None], np.float32)


_MEL_BM = _mel_filters()
_PITCH_BP = _pitch_filters()
