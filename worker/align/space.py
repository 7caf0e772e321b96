"""A space: the directory that holds it, and the checked value that is read from there.

    space.json              what the space is made of (`worker.align.spec.Manifest`)
    weights.safetensors     its parameters, float32
    references.safetensors  what its vectors look like when all is well, where measured (`worker.vector_health`)
    codes.safetensors       codebooks of semantic ids, where it has any (`worker.codes`)
    training/               how it was trained, where it was

The last three are no part of the space: its id and its vectors are the same without them, and they are not read here.

Nothing is unpickled. `space.json` is written last, so that a directory that has it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.align.spec import Manifest, SpaceSpec, parse_manifest
from worker.align.weights import (
    Weights,
    check_weights,
    content_id,
    initial_weights,
    read_weights,
    write_weights,
)
from worker.errors import SpaceError

MANIFEST_FILE = "space.json"
WEIGHTS_FILE = "weights.safetensors"
TRAINING_FOLDER = "training"
"""Files that a training keeps beside the space that it makes: its checkpoint, its report."""


@dataclass(frozen=True, slots=True)
class Space:
    """A space that is complete, consistent and finite."""

    manifest: Manifest
    weights: Weights
    space_id: str
    """Equal ids: equal vectors from equal features, up to the arithmetic's tolerance."""

    @property
    def spec(self) -> SpaceSpec:
        return self.manifest

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """Read a space directory. Raises `SpaceError`, naming the file and what is wrong with it."""
        directory = Path(path)
        if not directory.is_dir():
            raise SpaceError(f"space.path: {directory} is not a directory; make one with `align-worker space create`")
        try:
            manifest = parse_manifest(_read_text(directory / MANIFEST_FILE))
        except SpaceError as error:
            raise SpaceError(f"space.path: {directory}: {error}") from error
        weights = read_weights(directory / WEIGHTS_FILE, manifest)
        space_id = content_id(manifest, weights)
        if manifest.space_id not in (None, space_id):
            raise SpaceError(
                f"space.path: {directory} was changed after it was written: space.json records space_id "
                f"{manifest.space_id}, its content is {space_id}"
            )
        return cls(manifest, weights, space_id)


def create_space(path: str | Path, spec: SpaceSpec, seed: int = 0) -> Space:
    """Write an untrained space. Equal spec and seed give an equal space_id."""
    return write_space(path, spec, initial_weights(spec, seed), notes=f"untrained, seed {seed}")


def write_space(
    path: str | Path,
    spec: SpaceSpec,
    weights: Weights,
    *,
    training_data: str | None = None,
    evaluation: Mapping[str, float] | None = None,
    notes: str = "",
) -> Space:
    """Write a space into a directory that is new, or empty but for the folder of a training, and return it.

    Raises `SpaceError` if there is anything else in the directory, or it cannot be written.
    """
    check_weights(weights, spec)
    space_id = content_id(spec, weights)
    fields = {name: getattr(spec, name) for name in SpaceSpec.model_fields}
    manifest = Manifest(
        **fields,
        space_id=space_id,
        training_data=training_data,
        evaluation=dict(evaluation or {}),
        notes=notes,
    )
    directory = Path(path)
    require_free(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_weights(directory / WEIGHTS_FILE, weights)
        (directory / MANIFEST_FILE).write_text(manifest.as_json())
    except OSError as error:
        raise SpaceError(f"{directory} cannot be written: {error}") from error
    return Space(manifest, weights, space_id)


def require_free(path: str | Path) -> None:
    """Raise `SpaceError` unless a space can be written there: before a training, not after."""
    directory = Path(path)
    try:
        found = [entry.name for entry in directory.iterdir() if entry.name != TRAINING_FOLDER]
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpaceError(f"{directory} cannot be written: {error}") from error
    if found:
        raise SpaceError(f"{directory} is not empty; a space is written into a new or empty directory")


def record_evaluation(path: str | Path, figures: Mapping[str, float]) -> None:
    """Add figures to those in a space's `space.json`; its vectors, and so its id, stay what they are."""
    manifest = Space.load(path).manifest
    _rewrite(path, manifest.model_copy(update={"evaluation": {**manifest.evaluation, **figures}}))


def record_compatible(path: str | Path, space_id: str, figures: Mapping[str, float] | None) -> None:
    """Say in a space's `space.json` that vectors of another one may stand beside its own, and how that was measured;
    without figures, say so no more."""
    manifest = Space.load(path).manifest
    known = {name: each for name, each in manifest.compatible_with.items() if name != space_id}
    if figures is not None:
        known[space_id] = dict(figures)
    _rewrite(path, manifest.model_copy(update={"compatible_with": known}))


def _rewrite(path: str | Path, manifest: Manifest) -> None:
    manifest_path = Path(path) / MANIFEST_FILE
    unfinished = manifest_path.with_name(f"{MANIFEST_FILE}.part")
    try:
        unfinished.write_text(manifest.as_json())
        unfinished.replace(manifest_path)
    except OSError as error:
        raise SpaceError(f"{manifest_path} cannot be written: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpaceError(f"{path.name} does not exist; the directory holds no space") from error
    except (OSError, ValueError) as error:
        raise SpaceError(f"{path.name} cannot be read: {error}") from error
