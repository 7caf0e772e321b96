"""The encoder in a model directory."""

from __future__ import annotations

from pathlib import Path

from worker.encode.choice import ModelChoice
from worker.encode.either import EitherSide
from worker.encode.encoder import Encoder
from worker.encode.pretrained.audio import AudioEncoder, SpeechEncoder
from worker.encode.pretrained.device import Placement, placement
from worker.encode.pretrained.directory import ModelDirectory
from worker.encode.pretrained.image import ImageEncoder
from worker.encode.pretrained.kinds import AUDIO, IMAGE, TEXT_TOWER, TWO_SIDED
from worker.encode.pretrained.library import LibraryEncoder
from worker.encode.pretrained.text import SentenceEncoder
from worker.encode.pretrained.text_tower import TextTower
from worker.errors import ConfigError


def load_directory(path: Path, choice: ModelChoice, *, device: str = "auto", dtype: str = "auto") -> Encoder:
    """Raises `ConfigError` for a directory of no known kind, and for one that cannot be loaded."""
    directory, where = ModelDirectory(path), placement(device, dtype)
    if directory.kind == "text":
        return SentenceEncoder(directory, where, choice)
    if directory.kind == "towers":
        return _of_towers(directory, where)
    return LibraryEncoder(directory, where, choice)


def _of_towers(directory: ModelDirectory, where: Placement) -> Encoder:
    """One side, or both where the directory has what both need: a text side needs a tokenizer."""
    model_type, sides = directory.model_type, list[Encoder]()
    is_two_sided = model_type in TWO_SIDED
    if model_type in IMAGE and (not is_two_sided or directory.preprocessor() or not directory.has_tokenizer):
        sides.append(ImageEncoder(directory, where))
    if model_type in AUDIO:
        sides.append(SpeechEncoder(directory, where) if model_type == "whisper" else AudioEncoder(directory, where))
    if model_type in TEXT_TOWER and (not is_two_sided or directory.has_tokenizer):
        sides.append(TextTower(directory, where))
    if len(sides) == 1:
        return sides[0]
    if sides[0].dim != sides[1].dim:
        raise ConfigError(
            f"encode.encoders: the sides of {directory.path} have {sides[0].dim} and {sides[1].dim} dims: they do not "
            "share a space"
        )
    return EitherSide(sides, directory.encoder_name(model_type, sides=[side.name for side in sides]))
