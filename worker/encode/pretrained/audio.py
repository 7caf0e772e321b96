"""Sound: the audio side of CLAP, and the encoder of Whisper. N windows, T samples, L steps of time, D dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, Part, Sound, SoundForm
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory, without_origin

CPU_BATCH_WINDOWS, GPU_BATCH_WINDOWS = 8, 128


class AudioEncoder:
    """A window of sound to the projected vector of its directory's model.

    Windows are as long as the model takes and never longer, so that none of the random cuts that the library makes of
    longer sound comes into play: the same sound has the same vector.
    """

    unit: Unit = "samples"

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        self._placement = placement
        with directory.loading() as arguments:
            from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

            self._extractor: Any = ClapFeatureExtractor.from_pretrained(directory.path, **arguments)
            model = directory.model(ClapAudioModelWithProjection, placement.dtype)
        self._model = model.to(placement.device).eval()
        self.name = directory.encoder_name("clap-audio", extractor=without_origin(self._extractor.to_dict()))
        self.dim = int(model.config.projection_dim)
        self._cost = int(self._extractor.nb_max_samples)
        self.batch_cost = self._cost * (CPU_BATCH_WINDOWS if placement.is_cpu else GPU_BATCH_WINDOWS)

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (SoundForm(self._extractor.sampling_rate, float(self._extractor.max_length_s), num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(samples_T, self._cost) for part in parts if isinstance(part, Sound) for samples_T in part.samples_NT
        ]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        features = self._extractor(
            [piece.payload for piece in pieces], sampling_rate=self._extractor.sampling_rate, return_tensors="pt"
        )
        outputs = self._model(
            input_features=features["input_features"].to(self._placement.device, self._placement.dtype),
            # The library marks one window of the batch at random as longer than it is.
            is_longer=torch.zeros((len(pieces), 1), dtype=torch.bool, device=self._placement.device),
        )
        rows: NDArray[np.float32] = outputs.audio_embeds.float().cpu().numpy()
        return unit_rows(rows)


class SpeechEncoder:
    """A window of sound to the mean of what Whisper's encoder makes of it, over the time in which there is sound.

    Trained to hear speech; what it makes of music and noises is a feature as any, and not made to be compared.
    """

    unit: Unit = "samples"

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        self._placement = placement
        with directory.loading() as arguments:
            from transformers import WhisperFeatureExtractor, WhisperModel

            self._extractor: Any = WhisperFeatureExtractor.from_pretrained(directory.path, **arguments)
            model = directory.model(WhisperModel, placement.dtype).encoder
        self._model = model.to(placement.device).eval()
        self.name = directory.encoder_name("whisper-audio", extractor=without_origin(self._extractor.to_dict()))
        self.dim = int(model.config.d_model)
        self._cost = int(self._extractor.n_samples)
        self.batch_cost = self._cost * (CPU_BATCH_WINDOWS if placement.is_cpu else GPU_BATCH_WINDOWS)

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (SoundForm(self._extractor.sampling_rate, float(self._extractor.chunk_length), num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(samples_T, self._cost) for part in parts if isinstance(part, Sound) for samples_T in part.samples_NT
        ]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        features = self._extractor(
            [piece.payload for piece in pieces], sampling_rate=self._extractor.sampling_rate, return_tensors="pt"
        )
        steps_NLD = self._model(
            features["input_features"].to(self._placement.device, self._placement.dtype)
        ).last_hidden_state.float()
        samples_per_step = self._cost / steps_NLD.shape[1]
        lengths_N = [max(1, math.ceil(len(piece.payload) / samples_per_step)) for piece in pieces]
        rows_ND = torch.stack(
            [steps_LD[:length].mean(0) for steps_LD, length in zip(steps_NLD, lengths_N, strict=True)]
        )
        rows: NDArray[np.float32] = rows_ND.cpu().numpy()
        return unit_rows(rows)
