"""Encoders without weights: deterministic statistics of text, images, audio and video.

The honest fallback: they see words, colours, shapes and timbres, not meaning. They need no model, no GPU and no
download, so that raw content works out of the box, and a trained space gets out of them what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worker.encode.builtin.audio import SoundStatistics
from worker.encode.builtin.image import ImageStatistics
from worker.encode.builtin.text import TextNgrams
from worker.encode.builtin.video import VideoStatistics
from worker.encode.encoder import Encoder

BUILTIN: Mapping[str, Callable[[], Encoder]] = {
    "builtin-text": TextNgrams,
    "builtin-image": ImageStatistics,
    "builtin-audio": SoundStatistics,
    "builtin-video": VideoStatistics,
}
"""By the name that settings use. `Encoder.name` adds a version, which rises when the vectors change."""
