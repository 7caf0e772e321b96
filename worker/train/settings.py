"""What there is to decide about a training, as one frozen and checked value. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from worker.align.spec import EventType, ModalityName

MAX_SEED = 2**31

ScoreKind = Literal["cosine+prior", "cosine"]
RecipeName = Literal["plain", "graph", "cosine"]
UserKind = Literal["attention", "decayed_sum"]


def _listed(value: Any) -> Any:
    """Names with commas between, as a flag has them."""
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


class TrainSettings(BaseModel):
    """Defaults are those of the recipe in `README.md`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    event_weights: dict[EventType, float] = Field(min_length=1)
    """What an event is worth, by type. Those above 0 are learnt from."""
    seed: int = Field(0, ge=0, lt=MAX_SEED)

    # --- the space
    fusion: Literal["concat_mlp", "self_attention", "cross_attention", "gated"] = "concat_mlp"
    graph: bool = False
    """Add attention over an item's neighbours."""
    width: int = Field(64, ge=1, le=8_192)
    """Elements of a token."""
    hidden: int = Field(256, ge=1, le=65_536)
    """Width of the fusion's inner layer."""
    layers: int = Field(1, ge=1, le=24)
    """Of `self_attention`. Vectors of an item see one another from the second layer on."""
    query: ModalityName | None = None
    """Of `cross_attention`: the modality that asks the others; without one, a learned query asks all."""
    ordered: Annotated[tuple[ModalityName, ...], BeforeValidator(_listed)] = ()
    """Modalities whose vectors are a sequence, with commas between: each place in it has a learned embedding. Not for
    `concat_mlp`, which takes their mean."""
    learned_dim: int = Field(64, ge=1, le=8_192)
    """Elements of the learned block."""
    content_dim: int = Field(128, ge=0, le=8_192)
    """Most elements that one modality has in the frozen content block."""
    content_share: float | None = Field(None, gt=0, le=1)
    """Of the elements of a modality, how many its part of the content block has; by itself half of them or a quarter,
    what finds more on validation."""
    content_whitening: float | None = Field(None, ge=0, le=1)
    """How far the parts of the content block are whitened, from 0, not at all, to 1; by itself not at all or half, what
    finds more on validation."""
    content_weight: float = Field(1.0, gt=0, le=100)
    """Square of the length of the content block beside the learned one."""
    score: ScoreKind = "cosine+prior"
    """How vectors will be ranked; with a prior, an item's popularity is learned as one number beside its vector."""
    user: UserKind = "attention"
    user_heads: int = Field(3, ge=1, le=64)
    """Of `attention`: how many times the history is looked at, each with a memory of its own."""
    last: int = Field(50, ge=1, le=10_000)
    """Events of a history."""
    half_life_days: float = Field(7.0, gt=0)
    """Of `decayed_sum`: after which an event is worth half."""
    half_life_events: float | None = Field(3.0, gt=0)
    """Of `decayed_sum`: the number of newer events after which an event is worth half."""

    # --- what behaviour says of an item
    behavior: ModalityName = "behavior"
    """Name of the modality that is made of events."""
    behavior_dim: int = Field(64, ge=0, le=4_096)
    """Factors of an item. 0: no such modality."""
    behavior_min_events: int = Field(1, ge=1)
    """Items with fewer training events have none."""
    behavior_shrink: float = Field(3.0, ge=0)
    """Of an item with n training events the factors are worth (n - 1) / (n - 1 + this): one event alone says how often
    an item was liked, and nothing of by whom."""

    # --- what is chosen
    recipes: Annotated[tuple[RecipeName, ...], BeforeValidator(_listed)] = Field(("plain", "graph"), min_length=1)
    """Recipes that are tried, with commas between: plain, what the other flags say; graph, the same with --graph;
    cosine, the same with --score cosine. After `probe_epochs` the best by validation goes on; the first, unless another
    is better by a fiftieth."""
    probe_epochs: int = Field(5, ge=1)
    """Epochs that each of several recipes gets to show what it is worth."""
    seconds: float | None = Field(None, gt=0)
    """After which no other recipe is tried; by itself all are. With it, equal seeds give equal spaces only on machines
    that are equally fast."""
    final_fit: bool | None = None
    """Train once more in the end, on everything, with what was chosen: that space is shipped, and the one that was
    judged is kept beside it. By itself where nothing is named that is to be withheld."""

    # --- learning
    epochs: int = Field(25, ge=1)
    epoch_steps: int | None = Field(None, ge=1)
    """Steps of an epoch at most: where there is more to ask, an epoch asks a part of it, drawn anew, and validation
    does not wait for all of it. By itself all is asked in up to 500 steps; where these are too few, 100 are made."""
    patience: int = Field(5, ge=1)
    """Epochs without a better validation after which training ends."""
    batch: int | None = Field(None, ge=2)
    """Questions, a user's history and what came next, per step; by itself a sixteenth of those of an epoch, from 128 to
    1,024."""
    user_questions: int | None = Field(None, ge=1)
    """Questions that one user is asked in an epoch at most, drawn anew in each; by itself eight times as many as half
    of the users have, at least 8."""
    learning_rate: float = Field(3e-3, gt=0, le=1)
    weight_decay: float = Field(1e-2, ge=0)
    averaging: float = Field(0.97, ge=0, lt=1)
    """Share of the past in the running mean of the parameters, per step. The mean is what is judged and kept."""
    clip: float = Field(1.0, gt=0)
    """Largest length of the gradient."""
    input_dropout: float = Field(0.5, ge=0, lt=1)
    modality_dropout: float = Field(0.3, ge=0, lt=1)
    """Chance that an item lacks a modality in a step. Never all of them."""
    behavior_dropout: float = Field(0.5, ge=0, lt=1)
    """The same for the modality made of events: new items have none."""
    consistency_weight: float = Field(1.0, ge=0)
    """Of the likeness of an item that lacks a modality in a step to the same item with all that it has."""
    align_weight: float = Field(0.3, ge=0)
    """Of the agreement between modalities, beside that of predicting the next item."""
    align_batch: int = Field(1_024, ge=2)
    """Items that are told apart in one step, per pair of modalities."""
    align_withheld: bool = False
    """Let the agreement between modalities be learned from withheld items, too. They stay out of everything else. Their
    retrieval figures are then those of items whose content was there in training."""
    full_softmax_items: int = Field(20_000, ge=1)
    """A catalogue of up to this many items is predicted as a whole; a larger one by a sample of it."""
    negatives: int = Field(4_096, ge=1)
    """Items in that sample, besides those that are the answer to another question of the batch."""
    refreshed: int = Field(4_096, ge=0)
    """Of a larger catalogue than that, histories are read from a table of the vectors of all items, of which this many
    are made anew in a step, in turn, and all before an epoch. 0: those of all histories are made anew in every step,
    and learned from there, too, which takes several times as long."""

    def of(self, recipe: RecipeName) -> TrainSettings:
        """These settings with what the recipe changes."""
        changes: dict[RecipeName, dict[str, Any]] = {
            "plain": {},
            "graph": {"graph": True},
            "cosine": {"score": "cosine"},
        }
        return self.model_copy(update=changes[recipe])

    def positive_weights(self) -> Mapping[str, float]:
        return {name: weight for name, weight in self.event_weights.items() if weight > 0}
