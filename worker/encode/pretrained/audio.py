"""Audio: the audio side of CLAP, and the encoder of Whisper. N windows, T samples, L steps of time, D dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Audio, AudioForm, Form, Part
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory, without_origin

CPU_BATCH_WINDOWS, GPU_BATCH_WINDOWS = 8, 128


class _WindowEncoder:
    """Common base of encoders of windows of audio: windows are as long as the model takes, and cost the same."""

    unit: Unit = "samples"

    def __init__(self, extractor: Any, placement: Placement, num_samples: int, seconds: float) -> None:
        """`extractor` makes what the model takes of windows of `num_samples`, which last `seconds`."""
        self._extractor, self._placement = extractor, placement
        self._num_samples, self._seconds = num_samples, seconds
        self.batch_cost = num_samples * (CPU_BATCH_WINDOWS if placement.is_cpu else GPU_BATCH_WINDOWS)

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (AudioForm(self._extractor.sampling_rate, self._seconds, num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(samples_T, self._num_samples)
            for part in parts
            if isinstance(part, Audio)
            for samples_T in part.samples_NT
        ]

    def _input_features(self, pieces: Sequence[Piece]) -> torch.Tensor:
        features = self._extractor(
            [piece.payload for piece in pieces], sampling_rate=self._extractor.sampling_rate, return_tensors="pt"
        )
        made: torch.Tensor = features["input_features"].to(self._placement.device, self._placement.dtype)
        return made


class AudioEncoder(_WindowEncoder):
    """A window of audio to the projected vector of its directory's model.

    Windows are as long as the model takes and never longer, so that none of the random cuts that the library makes of
    longer clip comes into play: the same clip has the same vector.
    """

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        with directory.loading() as arguments:
            from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

            extractor: Any = ClapFeatureExtractor.from_pretrained(directory.path, **arguments)
            model = directory.model(ClapAudioModelWithProjection, placement.dtype)
        super().__init__(extractor, placement, int(extractor.nb_max_samples), float(extractor.max_length_s))
        self._model = model.to(placement.device).eval()
        self.name = directory.encoder_name("clap-audio", extractor=without_origin(extractor.to_dict()))
        self.dim = int(model.config.projection_dim)

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        outputs = self._model(
            input_features=self._input_features(pieces),
            # The library marks one window of the batch at random as longer than it is.
            is_longer=torch.zeros((len(pieces), 1), dtype=torch.bool, device=self._placement.device),
        )
        rows: NDArray[np.float32] = outputs.audio_embeds.float().cpu().numpy()
        return unit_rows(rows)


class SpeechEncoder(_WindowEncoder):
    """A window of audio to the mean of what Whisper's encoder makes of it, over the time in which there is audio.

    Trained to hear speech; what it makes of music and noises is a feature as any, and not made to be compared.
    """

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        with directory.loading() as arguments:
            from transformers import WhisperFeatureExtractor, WhisperModel

            extractor: Any = WhisperFeatureExtractor.from_pretrained(directory.path, **arguments)
            model = directory.model(WhisperModel, placement.dtype).encoder
        super().__init__(extractor, placement, int(extractor.n_samples), float(extractor.chunk_length))
        self._model = model.to(placement.device).eval()
        self.name = directory.encoder_name("whisper-audio", extractor=without_origin(extractor.to_dict()))
        self.dim = int(model.config.d_model)

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        steps_NLD = self._model(self._input_features(pieces)).last_hidden_state.float()
        samples_per_step = self._num_samples / steps_NLD.shape[1]
        lengths_N = [max(1, math.ceil(len(piece.payload) / samples_per_step)) for piece in pieces]
        rows_ND = torch.stack(
            [steps_LD[:length].mean(0) for steps_LD, length in zip(steps_NLD, lengths_N, strict=True)]
        )
        rows: NDArray[np.float32] = rows_ND.cpu().numpy()
        return unit_rows(rows)
