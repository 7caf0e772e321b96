"""`space.json`: what a space is made of, as frozen and checked values. Loads without torch."""

from __future__ import annotations

import json
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from worker.errors import SpaceError
from worker.json_text import read_json

FORMAT_VERSION: Literal[1] = 1

ModalityName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
SpaceId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
EventType = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModalitySpec(_Part):
    dim: int = Field(ge=1, le=65_536)
    """Elements of one vector of this modality, K."""
    encoder: str | None = Field(None, min_length=1, max_length=256)
    """The encoder whose vectors the space was made for. None accepts any."""
    max_vectors: int = Field(1, ge=1, le=1_024)
    """Most vectors one item may bring: frames, patches, sentences."""
    ordered: bool = False
    """The vectors of an item are a sequence, as frames are, and each place in it has a learned embedding. Otherwise
    they are a set."""
    content_dim: int = Field(0, ge=0, le=8_192)
    """Elements of the frozen content block that are made of this modality. 0: it takes no part there."""


class SelfAttentionSpec(_Part):
    """A transformer over the tokens and a summary token, whose row is the result."""

    kind: Literal["self_attention"] = "self_attention"
    layers: int = Field(1, ge=1, le=24)
    heads: int = Field(4, ge=1, le=128)
    hidden: int = Field(ge=1, le=65_536)
    """Width of the feed-forward part."""


class CrossAttentionSpec(_Part):
    """One modality queries the others."""

    kind: Literal["cross_attention"] = "cross_attention"
    query: ModalityName | None = None
    """The modality that asks. None, and for an item that lacks it: a learned query, which asks all there are."""
    heads: int = Field(4, ge=1, le=128)
    hidden: int = Field(ge=1, le=65_536)
    """Width of the feed-forward part."""


class GatedSpec(_Part):
    """A weighted mean of the tokens; each token's weight is learned from what it holds."""

    kind: Literal["gated"] = "gated"
    hidden: int = Field(ge=1, le=65_536)
    """Width of the gate."""


class ConcatMlpSpec(_Part):
    """Two dense layers over one slot per modality; what is missing has a learned filling."""

    kind: Literal["concat_mlp"] = "concat_mlp"
    hidden: int = Field(ge=1, le=65_536)


FusionSpec = Annotated[SelfAttentionSpec | CrossAttentionSpec | GatedSpec | ConcatMlpSpec, Field(discriminator="kind")]
FUSION_KINDS: tuple[str, ...] = ("self_attention", "cross_attention", "gated", "concat_mlp")


class GraphSpec(_Part):
    """Attention over the vectors of an item's neighbours, after fusion; one hop."""

    width: int = Field(ge=1, le=8_192)
    """Elements of its queries and keys."""
    max_neighbors: int = Field(32, ge=1, le=1_024)
    """Neighbours that take part; those named first."""


class _User(_Part):
    last: int = Field(50, ge=1, le=10_000)
    """Events that are kept of a user, the newest."""
    event_weights: dict[EventType, float] = Field(min_length=1, max_length=256)
    """Weight of an event by type, negative for a dislike. Events of other types are not used."""

    @field_validator("event_weights")
    @classmethod
    def _not_zero(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not isfinite(weight) or weight == 0:
                raise ValueError(f"{name}={weight}: a weight is finite and not 0; leave out what is not to be used")
        return dict(sorted(weights.items()))


class DecayedSum(_User):
    """The user's events, each worth less the older it is."""

    kind: Literal["decayed_sum"] = "decayed_sum"
    half_life_ms: float = Field(gt=0)
    """Time after which an event is worth half."""
    half_life_events: float | None = Field(None, gt=0)
    """Number of newer events after which an event is worth half, whatever the time. None: that does not matter."""


class Attention(_User):
    """Learned queries over the user's events."""

    kind: Literal["attention"] = "attention"
    heads: int = Field(1, ge=1, le=64)
    """Queries, each with its own weights and decay, so that one can follow the moment and another a lasting taste."""
    hidden: int = Field(ge=1, le=8_192)


UserSpec = Annotated[DecayedSum | Attention, Field(discriminator="kind")]


class NewItemsSpec(_Part):
    """Items of which users have said nothing yet: what their vectors rely on is content."""

    lacking: ModalityName
    """Who lacks this modality is new."""
    content_weight: float = Field(gt=0, le=10_000)
    """Instead of the space's, for these items."""


def _sorted(modalities: dict[str, ModalitySpec]) -> dict[str, ModalitySpec]:
    return dict(sorted(modalities.items()))


class SpaceSpec(_Part):
    """Shape of a space. Modalities are kept in alphabetical order, everywhere."""

    dim: int = Field(ge=1, le=8_192)
    """Elements of a vector in the space, D: of the learned block, then of the content block."""
    width: int = Field(ge=1, le=8_192)
    """Elements of a token, W."""
    modalities: Annotated[dict[ModalityName, ModalitySpec], AfterValidator(_sorted)] = Field(
        min_length=1, max_length=62
    )
    fusion: FusionSpec
    content_weight: float = Field(0.5, gt=0, le=100)
    """Square of the length of the content block, where the learned block has length 1. Without effect where no
    modality has a part in it."""
    new: NewItemsSpec | None = None
    """None: new items are made like all others."""
    mapped: bool = False
    """Whether the vectors of single modalities are maps of the features themselves, so that finding one modality by
    another does not share what finds items for users. Otherwise they are made of the tokens."""
    prior: ModalityName | None = None
    """The modality that an item's popularity is read from. None: there is no prior, vectors rank by cosine alone."""
    graph: GraphSpec | None = None
    user: UserSpec | None = None
    """How users are pooled from items. None: the space is for items only."""

    @model_validator(mode="after")
    def _fits(self) -> SpaceSpec:
        heads = getattr(self.fusion, "heads", 1)
        if self.width % heads:
            raise ValueError(f"fusion.heads={heads} does not divide width={self.width}")
        if self.learned_dim < 1:
            raise ValueError(f"dim={self.dim} leaves nothing to learn: content_dim adds up to {self.content_dim}")
        named = {
            "prior": self.prior,
            "new.lacking": self.new and self.new.lacking,
            "fusion.query": getattr(self.fusion, "query", None),
        }
        for field, name in named.items():
            if name is not None and name not in self.modalities:
                raise ValueError(f"{field}: {name!r} is not a modality; there is: {', '.join(self.modalities)}")
        if self.fusion.kind == "concat_mlp" and (ordered := [n for n, part in self.modalities.items() if part.ordered]):
            raise ValueError(
                f"modalities.{ordered[0]}.ordered: concat_mlp takes the mean of a modality's vectors, in which their "
                "order is lost; leave it out, or choose another fusion"
            )
        return self

    @property
    def content_dim(self) -> int:
        """C: elements of the content block."""
        return sum(modality.content_dim for modality in self.modalities.values())

    @property
    def learned_dim(self) -> int:
        """R: elements of the learned block."""
        return self.dim - self.content_dim

    def canonical(self) -> bytes:
        """The bytes that stand for this spec in a space_id: equal specs, equal bytes."""
        fields = {name: getattr(self, name) for name in SpaceSpec.model_fields}
        plain = SpaceSpec.model_construct(**fields).model_dump(mode="json")
        for name in _ADDED:  # a space that was made before these were there keeps its id
            if plain[name] == SpaceSpec.model_fields[name].default:
                del plain[name]
        return json.dumps({"format_version": FORMAT_VERSION, **plain}, sort_keys=True, separators=(",", ":")).encode()


_ADDED = ("new", "mapped")
"""Fields that were not there from the beginning. They stand for something only where they are set."""


class Manifest(SpaceSpec):
    """The whole of `space.json`: the spec, the id of spec and weights, and what is known about the space."""

    format_version: Literal[1] = FORMAT_VERSION
    space_id: str | None = Field(None, pattern=r"^[0-9a-f]{16}$")
    """Compared with the content when the space is loaded, where it is given."""
    training_data: str | None = None
    """Fingerprint of the files the weights were trained on. None: untrained."""
    evaluation: dict[str, float] = Field(default_factory=dict)
    """Figures of merit by name. Not part of the space_id: measuring a space does not change its vectors."""
    compatible_with: dict[SpaceId, dict[str, float]] = Field(default_factory=dict)
    """Spaces whose vectors may stand beside this one's, by id, and what was measured of that (`space relate`)."""
    notes: str = ""

    def as_json(self) -> str:
        """What is written. Programs from before spaces were related read it, as long as this one is to none."""
        return self.model_dump_json(indent=2, exclude=None if self.compatible_with else {"compatible_with"}) + "\n"


def parse_manifest(text: str) -> Manifest:
    """The manifest in `text`, or a `SpaceError` that names the field."""
    document = _object(text)
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise SpaceError(f"space.json: format_version {version!r} is not supported; this worker reads {FORMAT_VERSION}")
    fusion = document.get("fusion")
    if isinstance(fusion, dict) and fusion.get("kind") not in FUSION_KINDS:
        kind = fusion.get("kind")
        raise SpaceError(f"space.json: fusion.kind {kind!r} is unknown; there is: {', '.join(FUSION_KINDS)}")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise SpaceError(f"space.json: {explain(error)}") from error


def _object(text: str) -> dict[str, Any]:
    try:
        document = read_json(text)
    except ValueError as error:
        raise SpaceError(f"space.json is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise SpaceError("space.json must hold a JSON object")
    return document


def _field(location: tuple[int | str, ...]) -> str:
    """The path to a field in the document, without what pydantic adds: `[key]`, and the kind of a union's member."""
    parts = [str(part) for part in location if part != "[key]"]
    if len(parts) > 1 and parts[0] in ("fusion", "user"):
        del parts[1]
    return ".".join(parts) or "space"


def explain(error: ValidationError) -> str:
    """Every complaint of pydantic on one line, each after the name of its field."""
    return "; ".join(
        f"{_field(problem['loc'])}: "
        + ("unknown field" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, "))
        for problem in error.errors()
    )
