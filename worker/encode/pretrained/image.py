"""Vision towers of CLIP and SigLIP. N pictures, H height, W width, D dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, Part, PictureForm, Pictures
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory
from worker.errors import ConfigError

CPU_BATCH_PICTURES, GPU_BATCH_PICTURES = 16, 256
RESAMPLING: dict[int, Literal["bilinear", "bicubic", "lanczos"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as `preprocessor_config.json` has them."""


class Preprocessing(NamedTuple):
    """What the directory says is done to a picture before the model sees it."""

    form: PictureForm
    mean_3: NDArray[np.float32]
    std_3: NDArray[np.float32]


class PictureEncoder:
    """A picture or frame to the vector of its directory's model: projected for CLIP, pooled for SigLIP."""

    unit: Unit = "pixels"

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        self._placement = placement
        with directory.loading():
            from transformers import CLIPVisionModelWithProjection, SiglipVisionModel

            is_clip = directory.model_type.startswith("clip")
            kind = CLIPVisionModelWithProjection if is_clip else SiglipVisionModel
            model = directory.model(kind, placement.dtype)
        self._output = "image_embeds" if is_clip else "pooler_output"
        self._model = model.to(placement.device).eval()
        self._preprocessing = _preprocessing(directory, int(model.config.image_size))
        self.name = directory.encoder_name(directory.model_type.removesuffix("_vision_model") + "-image")
        self.dim = int(model.config.projection_dim if is_clip else model.config.hidden_size)
        self._cost = self._preprocessing.form.height * self._preprocessing.form.width
        self.batch_cost = self._cost * (CPU_BATCH_PICTURES if placement.is_cpu else GPU_BATCH_PICTURES)

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        form = self._preprocessing.form
        return (PictureForm(form.height, form.width, form.fit, form.resample, form.keep, num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(pixels_HW3, self._cost)
            for part in parts
            if isinstance(part, Pictures)
            for pixels_HW3 in part.pixels_NHW3
        ]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        pixels_NHW3 = np.stack([piece.payload for piece in pieces]).astype(np.float32) / np.float32(255)
        pixels_NHW3 = (pixels_NHW3 - self._preprocessing.mean_3) / self._preprocessing.std_3
        pixels_N3HW = torch.from_numpy(np.ascontiguousarray(pixels_NHW3.transpose(0, 3, 1, 2)))
        outputs = self._model(pixel_values=pixels_N3HW.to(self._placement.device, self._placement.dtype))
        rows: NDArray[np.float32] = getattr(outputs, self._output).float().cpu().numpy()
        return unit_rows(rows)


def _preprocessing(directory: ModelDirectory, image_size: int) -> Preprocessing:
    config = directory.json("preprocessor_config.json")
    if not config:
        raise ConfigError(f"encode.encoders: {directory.path} has no preprocessor_config.json")
    try:
        size, crop = config["size"], config.get("crop_size") if config.get("do_center_crop") else None
        resample = RESAMPLING[config.get("resample", 3)]
        shorter = size.get("shortest_edge") if isinstance(size, dict) else size
        if shorter is None:
            form = PictureForm(size["height"], size["width"], "stretch", resample)
        else:
            cropped = shorter if crop is None else crop["height"] if isinstance(crop, dict) else crop
            form = PictureForm(cropped, cropped, "crop", resample, cropped / shorter)
        mean_3, std_3 = np.float32(config["image_mean"]), np.float32(config["image_std"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"encode.encoders: {directory.path}/preprocessor_config.json: {error} is missing") from error
    if (form.height, form.width) != (image_size, image_size):
        raise ConfigError(
            f"encode.encoders: {directory.path}/preprocessor_config.json gives {form.height} x {form.width} pixels, "
            f"the model takes {image_size} x {image_size}"
        )
    return Preprocessing(form, np.asarray(mean_3), np.asarray(std_3))
