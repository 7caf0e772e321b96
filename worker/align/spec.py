"""`space.json`: what a space is made of, as frozen and checked values. Loads without torch."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from worker.errors import SpaceError

FORMAT_VERSION: Literal[1] = 1
FusionKind = Literal["self_attention"]
FUSION_KINDS: tuple[str, ...] = get_args(FusionKind)

ModalityName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModalitySpec(_Part):
    dim: int = Field(ge=1, le=65_536)
    """Elements of one vector of this modality, K."""
    encoder: str | None = Field(None, min_length=1, max_length=256)
    """The encoder whose vectors the space was made for. None accepts any."""
    max_vectors: int = Field(1, ge=1, le=1_024)
    """Most vectors one item may bring: frames, patches, sentences."""


class FusionSpec(_Part):
    kind: FusionKind = "self_attention"
    layers: int = Field(1, ge=1, le=24)
    heads: int = Field(4, ge=1, le=128)
    hidden: int = Field(ge=1, le=65_536)
    """Width of the feed-forward part."""


def _sorted(modalities: dict[str, ModalitySpec]) -> dict[str, ModalitySpec]:
    return dict(sorted(modalities.items()))


class SpaceSpec(_Part):
    """What fixes the shape of a space. Modalities are kept in alphabetical order, everywhere."""

    dim: int = Field(ge=1, le=8_192)
    """Elements of a vector in the space, D."""
    modalities: Annotated[dict[ModalityName, ModalitySpec], AfterValidator(_sorted)] = Field(
        min_length=1, max_length=62
    )
    fusion: FusionSpec

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> SpaceSpec:
        if self.dim % self.fusion.heads:
            raise ValueError(f"fusion.heads={self.fusion.heads} does not divide dim={self.dim}")
        return self

    def canonical(self) -> bytes:
        """The bytes that stand for this spec in a space_id: equal specs, equal bytes."""
        fields = {name: getattr(self, name) for name in SpaceSpec.model_fields}
        plain = SpaceSpec.model_construct(**fields).model_dump(mode="json")
        return json.dumps({"format_version": FORMAT_VERSION, **plain}, sort_keys=True, separators=(",", ":")).encode()


class Manifest(SpaceSpec):
    """The whole of `space.json`: the spec, the id of spec and weights, and what is known about the space."""

    format_version: Literal[1] = FORMAT_VERSION
    space_id: str | None = Field(None, pattern=r"^[0-9a-f]{16}$")
    """Compared with the content when the space is loaded, where it is given."""
    training_data: str | None = None
    """Fingerprint of the files the weights were trained on. None: untrained."""
    evaluation: dict[str, float] = Field(default_factory=dict)
    """Figures of merit by name. Not part of the space_id: measuring a space does not change its vectors."""
    notes: str = ""


def parse_manifest(text: str) -> Manifest:
    """The manifest in `text`, or a `SpaceError` that names the field."""
    document = _object(text)
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise SpaceError(f"space.json: format_version {version!r} is not supported; this worker reads {FORMAT_VERSION}")
    fusion = document.get("fusion")
    if isinstance(fusion, dict) and fusion.get("kind", FUSION_KINDS[0]) not in FUSION_KINDS:
        raise SpaceError(f"space.json: fusion.kind {fusion['kind']!r} is unknown; there is: {', '.join(FUSION_KINDS)}")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise SpaceError(f"space.json: {explain(error)}") from error


def _object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise SpaceError(f"space.json is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise SpaceError("space.json must hold a JSON object")
    return document


def explain(error: ValidationError) -> str:
    """Every complaint of pydantic on one line, each after the name of its field."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'] if part != '[key]') or 'space'}: "
        + ("unknown field" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, "))
        for problem in error.errors()
    )
