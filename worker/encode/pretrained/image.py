"""Vision towers of CLIP, SigLIP and SigLIP 2, and DINOv2 and DINOv3. N images, H height, W width, P patches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, ImageForm, Images, Part
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory
from worker.encode.pretrained.kinds import IMAGE
from worker.errors import ConfigError

CPU_BATCH_IMAGES, GPU_BATCH_IMAGES = 16, 256
ANY_SIZE = ("dinov2", "dinov3")
"""Models whose positions are stretched to the size of an image."""
RESAMPLING: dict[int, Literal["bilinear", "bicubic", "lanczos"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as `preprocessor_config.json` has them."""


class Preprocessing(NamedTuple):
    """Preprocessing of images, as the model directory describes it."""

    form: ImageForm
    mean_3: NDArray[np.float32]
    std_3: NDArray[np.float32]


class ImageEncoder:
    """An image or frame to the vector of its directory's model: projected for CLIP, pooled for the others."""

    unit: Unit = "pixels"

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        self._placement = placement
        tower = IMAGE[directory.model_type]
        with directory.loading():
            import transformers

            model = directory.model(getattr(transformers, tower.model), placement.dtype)
        self._output = tower.output
        self._model = model.to(placement.device).eval()
        self._preprocessing = _preprocessing(directory, model.config)
        form = self._preprocessing.form
        self.name = directory.encoder_name(
            image_name(directory.model_type),
            form=dataclasses.asdict(form),
            mean=self._preprocessing.mean_3.tolist(),
            std=self._preprocessing.std_3.tolist(),
        )
        self._cost = form.height * form.width
        self.batch_cost = self._cost * (CPU_BATCH_IMAGES if placement.is_cpu else GPU_BATCH_IMAGES)
        self.patch = max(1, _side(getattr(model.config, "patch_size", 1)))
        grey = Images(np.full((1, form.height, form.width, 3), 128, np.uint8), (0.0,))
        self.dim = self.encode(self.pieces([grey])).shape[1]

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (dataclasses.replace(self._preprocessing.form, frames=num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(pixels_HW3, self._cost)
            for part in parts
            if isinstance(part, Images)
            for pixels_HW3 in part.pixels_NHW3
        ]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        made = [self._normalized(piece.payload) for piece in pieces]
        if self._preprocessing.form.fit == "patches":
            inputs = in_patches(made, self._preprocessing.form)
        else:
            pixels_NHW3 = np.stack(made)
            inputs = {"pixel_values": torch.from_numpy(np.ascontiguousarray(pixels_NHW3.transpose(0, 3, 1, 2)))}
        moved = {
            name: value.to(self._placement.device, self._placement.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        rows: NDArray[np.float32] = getattr(self._model(**moved), self._output).float().cpu().numpy()
        return unit_rows(rows)

    def _normalized(self, pixels_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        values_HW3 = pixels_HW3.astype(np.float32) / np.float32(255)
        return np.asarray((values_HW3 - self._preprocessing.mean_3) / self._preprocessing.std_3, np.float32)


def image_name(model_type: str) -> str:
    return model_type.removesuffix("_vision_model").replace("_", "-") + "-image"


def in_patches(images: Sequence[NDArray[np.float32]], form: ImageForm) -> dict[str, torch.Tensor]:
    """Images of any shape as rows of patches [N, P, patch²·3], padded to the most that there may be."""
    patch, most = form.patch, form.most_patches
    pixels_NPX = np.zeros((len(images), most, patch * patch * 3), np.float32)
    mask_NP = np.zeros((len(images), most), np.int32)
    shapes_N2 = np.zeros((len(images), 2), np.int64)
    for index, pixels_HW3 in enumerate(images):
        rows, columns = pixels_HW3.shape[0] // patch, pixels_HW3.shape[1] // patch
        cut = pixels_HW3.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
        pixels_NPX[index, : rows * columns] = cut.reshape(rows * columns, -1)
        mask_NP[index, : rows * columns] = 1
        shapes_N2[index] = rows, columns
    return {
        "pixel_values": torch.from_numpy(pixels_NPX),
        "pixel_attention_mask": torch.from_numpy(mask_NP),
        "spatial_shapes": torch.from_numpy(shapes_N2),
    }


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _preprocessing(directory: ModelDirectory, model: Any) -> Preprocessing:
    config = directory.preprocessor()
    if not config:
        raise ConfigError(f"encode.encoders: {directory.path} has no preprocessor_config.json")
    try:
        is_scaled = config.get("do_normalize", True)
        mean_3, std_3 = (config["image_mean"], config["image_std"]) if is_scaled else ([0.0] * 3, [1.0] * 3)
        if directory.model_type.startswith("siglip2"):
            form = _patch_form(config, directory, model)
        else:
            form = _fixed_form(config)
            _require_size(form, directory, model)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"encode.encoders: {directory.path}/preprocessor_config.json: {error} is missing") from error
    return Preprocessing(form, np.asarray(mean_3, np.float32), np.asarray(std_3, np.float32))


def _fixed_form(config: Mapping[str, Any]) -> ImageForm:
    size, crop = config["size"], config.get("crop_size") if config.get("do_center_crop") else None
    resample = RESAMPLING[config.get("resample", 3)]
    shorter = size.get("shortest_edge") if isinstance(size, dict) else size
    if shorter is None:
        return ImageForm(size["height"], size["width"], "stretch", resample)
    cropped = shorter if crop is None else crop["height"] if isinstance(crop, dict) else crop
    return ImageForm(cropped, cropped, "crop", resample, cropped / shorter)


def _patch_form(config: Mapping[str, Any], directory: ModelDirectory, model: Any) -> ImageForm:
    """The form for a model that takes images of any proportions."""
    patch, most = int(config.get("patch_size", 16)), int(config.get("max_num_patches", 256))
    if patch != model.patch_size:
        raise ConfigError(
            f"encode.encoders: {directory.path}/preprocessor_config.json cuts patches of {patch} pixels, the model "
            f"takes those of {model.patch_size}"
        )
    side = patch * max(1, math.isqrt(most))
    return ImageForm(side, side, "patches", RESAMPLING[config.get("resample", 2)], patch=patch, most_patches=most)


def _require_size(form: ImageForm, directory: ModelDirectory, model: Any) -> None:
    said = f"encode.encoders: {directory.path}/preprocessor_config.json gives {form.height} x {form.width} pixels"
    if directory.model_type.startswith(ANY_SIZE):
        patch = _side(getattr(model, "patch_size", 1))
        if form.height % patch or form.width % patch:
            raise ConfigError(f"{said}, the model takes multiples of {patch}")
        return
    side = _side(model.image_size)
    if (form.height, form.width) != (side, side):
        raise ConfigError(f"{said}, the model takes {side} x {side}")
