"""Steps and epochs of a training.

    I items   R rows of the table, the items of a step   B those and the ones that only modalities are compared of
    Q questions   N events of a history   C candidates   D dim of the space   M modalities
    L items of the table that lack a modality in this step   E elements of a vector and one for the prior

In each step the vectors of the table are computed anew by the model that will serve, with modalities and elements left
out at random; users are pooled from the table, and what came next is looked for in it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.align.model import AlignModel, Tokens
from worker.align.spec import SpaceSpec
from worker.align.users import NO_ROW, AttentionPool, Histories, UserModel
from worker.data import Split
from worker.data.dataset import Features, Ints
from worker.errors import ConfigError
from worker.evaluate.questions import Questions
from worker.evaluate.spaces import neighbor_rows
from worker.train.asked import capped, learned_from, most_per_user, num_capped, steps_of_epoch
from worker.train.items import CatalogueItems, among_neighbors, dropped, index_of
from worker.train.losses import LogitScale, agreement_loss, asked_as_new, consistency_loss, next_item_loss
from worker.train.neighbors import Neighbors
from worker.train.remembered import Vectors
from worker.train.settings import TrainSettings
from worker.train.together import ALONE, Together
from worker.train.validation import Figures, Validation

Weights = dict[str, Tensor]

STEPS = 16
"""Of an epoch, where a step is not given, nor would be too small or too large."""
LEAST_AT_ONCE, MOST_AT_ONCE = 128, 1_024
"""Questions of such a step."""


class Losses(NamedTuple):
    """What a step made small; 0 for what there was nothing to learn from."""

    next_item: float
    agreement: float
    consistency: float


class Table(NamedTuple):
    """Items of a step with their vectors, and how far modalities and vectors of the same items are apart."""

    vectors_RD: Tensor
    new_R: Tensor
    """Marks items that pass for new."""
    agreement: Tensor
    consistency: Tensor


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What an epoch brought."""

    epoch: int
    """From 1."""
    losses: Losses
    """Means over its steps."""
    sharpness: float
    figures: Figures
    seconds: float = 0.0

    @property
    def selection_metric(self) -> float:
        """What the best epoch is chosen by: NDCG@20 of known items, of known items by content alone, and of new items;
        of those that are asked about the geometric mean, as they are of different magnitude."""
        asked = self.figures.known_ndcg, self.figures.content_ndcg, self.figures.new_ndcg
        found = [value for value in asked if value is not None]
        return math.prod(found) ** (1 / len(found)) if found else -self.losses.next_item

    def as_dict(self) -> dict[str, Any]:
        """Flat, for JSON."""
        return {
            "epoch": self.epoch,
            **{f"{name}_loss": value for name, value in self.losses._asdict().items()},
            "sharpness": self.sharpness,
            **self.figures._asdict(),
            "seconds": self.seconds,
            "selection_metric": self.selection_metric,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EpochReport:
        losses = Losses(*(fields[f"{name}_loss"] for name in Losses._fields))
        figures = Figures(*(fields[name] for name in Figures._fields))
        return cls(fields["epoch"], losses, fields["sharpness"], figures, fields["seconds"])


class Trainer:
    """A model in training. What it does depends on its arguments alone, on one device with one number of threads."""

    def __init__(
        self,
        spec: SpaceSpec,
        weights: Mapping[str, Tensor],
        features: Mapping[str, Features],
        split: Split,
        neighbors: Neighbors | None,
        settings: TrainSettings,
        device: str = "cpu",
        together: Together = ALONE,
    ) -> None:
        """`neighbors` of every item, for a space with graph fusion."""
        self._spec, self._settings, self._device, self._together = spec, settings, device, together
        self._items = CatalogueItems(spec, features, len(split.warm_I), device)
        self.model = _trainable(spec, weights, settings.input_dropout).to(device)
        self.ema_model = copy.deepcopy(self.model).requires_grad_(False).eval()
        """The running mean of the model's parameters."""
        self.sharpness = LogitScale().to(device)
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=settings.learning_rate)
        self._chances_M = torch.tensor(
            [
                settings.behavior_dropout if name == settings.behavior else settings.modality_dropout
                for name in spec.modalities
            ],
            device=device,
        )
        self._priors_IK = None if spec.prior is None else self._items.mean_vectors(spec.prior)
        warm_I = torch.from_numpy(split.warm_I).to(device)
        self._learnable = (self._items.usable_I & warm_I).nonzero()[:, 0]
        self._withheld = (self._items.usable_I & ~warm_I).nonzero()[:, 0]
        self._neighbors_IG = None
        if spec.graph is not None and neighbors is not None:
            rows_IG = neighbor_rows(neighbors, self._items.usable_I.cpu(), spec.graph.max_neighbors)
            self._neighbors_IG = rows_IG.to(device)
        self._samples = len(self._learnable) > settings.full_softmax_items
        self._remembers = self._samples and settings.refreshed > 0
        usable_I = self._items.usable_I.cpu().numpy()
        self._questions = learned_from(split, usable_I, first_events=spec.prior is not None)
        self.most_per_user = most_per_user(self._questions.users_Q, settings.user_questions)
        self._count_I = torch.from_numpy(
            np.bincount(self._questions.relevant_P, minlength=len(split.warm_I)).astype(np.float32)
        ).to(device)
        self.num_to_ask = num_capped(self._questions.users_Q, self.most_per_user)
        """Questions of a pass: of each user as many as there are, or as an epoch may ask of one."""
        self.batch = settings.batch or min(MOST_AT_ONCE, max(LEAST_AT_ONCE, self.num_to_ask // STEPS))
        """Questions of a step."""
        self._remembered: Vectors | None = None
        self.validation = Validation(spec, self._items, split, settings.behavior, self._neighbors_IG)

    @property
    def num_questions(self) -> int:
        """All that can be asked of users with a history."""
        return int((self._questions.lengths_Q > 0).sum())

    @property
    def num_asked(self) -> int:
        """Questions of an epoch."""
        return min(self.num_to_ask, self.num_steps * self.batch)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return steps_of_epoch(math.ceil(self.num_to_ask / self.batch), self._settings.epoch_steps)

    def epoch(self, number: int, stepped: Callable[[], object] = lambda: None) -> EpochReport:
        """One pass over questions drawn anew, at most `most_per_user` of each user and `epoch_steps` steps, then
        validation. `stepped` is called after every step.

        Its random numbers depend on the seed and its number, from 1, so a training that goes on after an interruption
        draws what it would have drawn.
        """
        seed = self._settings.seed * 100_003 + number
        torch.manual_seed(seed)  # what leaves out elements inside the model takes the global generator
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._questions), generator=generator).numpy()
        order = capped(self._questions.users_Q, order, self.most_per_user)[: self.num_asked]
        losses = []
        self.model.train()
        if self._remembers and self._remembered is None:
            self._remembered = self.validation.vectors(self.ema_model)
        for start in range(0, len(order), self.batch):
            losses.append(self._step(order[start : start + self.batch], generator))
            stepped()
        means = Losses(*(sum(each) / len(losses) for each in zip(*losses, strict=True)))
        if not all(torch.isfinite(each).all() for each in self.ema_model.parameters()):
            raise ConfigError(
                f"--learning-rate {self._settings.learning_rate:g}: in epoch {number} the training left all bounds; "
                "a tenth of it may do"
            )
        self._remembered = None
        made = self.validation.vectors(self.ema_model) if self.validation.asks else None
        figures = self.validation.figures(self.ema_model, made)
        if self._remembers:  # where a training that was interrupted would begin, too
            self._remembered = made
        return EpochReport(number, means, self.sharpness.next_item.item(), figures)

    def weights(self) -> Weights:
        """The parameters to keep as they are now, on the CPU."""
        return {name: tensor.cpu().clone() for name, tensor in self.ema_model.state_dict().items()}

    # ------------------------------------------------------------------ a step

    def _step(self, chosen_Q: Ints, generator: torch.Generator) -> Losses:
        asked = self._questions.where(chosen_Q)
        padded = asked.histories(self._user_last)
        targets_Q = torch.from_numpy(asked.relevant_P).to(self._device)
        history_QN = torch.from_numpy(padded.items_QN).to(self._device)
        table_R, candidates_C, log_expected_C = self._table(history_QN, targets_Q, generator)
        table = self._embed(table_R, generator)
        mine, share = self._together.part(len(asked))
        history_QN, targets_Q = history_QN[mine], targets_Q[mine]
        items_R, vectors_RD = self._histories_from(history_QN, table_R, table)
        rows_QN = torch.where(history_QN >= 0, index_of(items_R, history_QN.clamp(min=0)), NO_ROW)
        users_QD, _ = self._user_model(
            vectors_RD,
            Histories(
                rows_QN,
                torch.from_numpy(padded.times_ms_QN[mine]).to(self._device),
                torch.from_numpy(padded.weights_QN[mine]).to(self._device),
            ),
        )
        candidate_rows_C = index_of(table_R, candidates_C)
        target_Q = index_of(candidates_C, targets_Q)
        asks_new_Q1, out_QC = asked_as_new(table.new_R[candidate_rows_C], target_Q)
        # The prior is one more element, rather than one more pass over all the scores.
        users_QE = torch.cat([users_QD, (~asks_new_Q1).float()], 1) * self.sharpness.next_item
        items_CE = torch.cat([table.vectors_RD[candidate_rows_C], self._priors(candidates_C)[:, None]], 1)
        out_QC |= self._seen(asked.where(np.arange(len(asked))[mine]), candidates_C)
        next_item = share * next_item_loss(users_QE @ items_CE.T, out_QC, target_Q, log_expected_C)
        total = next_item + self._settings.align_weight * table.agreement
        total = total + self._settings.consistency_weight * table.consistency
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        losses = next_item.item(), table.agreement.item(), table.consistency.item()
        losses_everywhere = self._together.average(self._parameters(), losses)
        torch.nn.utils.clip_grad_norm_(self._parameters(), self._settings.clip)
        self.optimizer.step()
        self._average()
        return Losses(*losses_everywhere)

    def _histories_from(self, history_QN: Tensor, table_R: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        """Items, rising, with the vectors that histories are made of: those of the table, or those remembered."""
        if self._remembered is None:
            return table_R, table.vectors_RD
        self._remembered.refresh(self.ema_model, self._settings.refreshed)
        items_R = torch.unique(history_QN[history_QN >= 0])
        items_R = items_R[self._items.usable_I[items_R]]
        if not len(items_R):  # first events alone
            items_R = table_R[:1]
        places_R = index_of(table_R, items_R)
        vectors_RD = self._remembered.vectors_ID[items_R]
        made = places_R >= 0  # candidates, made in this step: they learn from histories, too
        return items_R, vectors_RD.index_put((made.nonzero()[:, 0],), table.vectors_RD[places_R[made]])

    @torch.no_grad()
    def _average(self) -> None:
        for mean, now in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - self._settings.averaging)

    def _table(
        self, history_QN: Tensor, targets_Q: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Items of the table, those of them that are candidates, both rising, and the logarithm of how often each
        candidate is expected among the candidates; None: all items are."""
        if not self._samples:
            return self._learnable, self._learnable, None
        num = self._settings.negatives
        drawn = torch.randint(len(self._learnable), (num,), generator=generator).to(self._device)
        candidates_C = torch.unique(torch.cat([targets_Q, self._learnable[drawn]]))
        share_C = self._count_I[candidates_C] / self._count_I.sum()
        expected_C = len(targets_Q) * share_C + num / len(self._learnable)
        if self._remembered is not None:
            return candidates_C, candidates_C, expected_C.clamp(max=1).log()
        used = [candidates_C, history_QN[history_QN >= 0]]
        if self._neighbors_IG is not None:
            neighbors = self._neighbors_IG[torch.cat(used)]
            used.append(neighbors[neighbors >= 0])
        table_R = torch.unique(torch.cat(used))
        return table_R[self._items.usable_I[table_R]], candidates_C, expected_C.clamp(max=1).log()

    def _embed(self, table_R: Tensor, generator: torch.Generator) -> Table:
        items_B = torch.cat([table_R, self._withheld]) if self._settings.align_withheld else table_R
        kept_BM = dropped(self._items.present_IM[items_B], self._chances_M, generator)
        tokens = self.model.tokens(*self._items.inputs(items_B, kept_BM))
        vectors_RD, kept_RM = self.model.embed(tokens).vectors_BD[: len(table_R)], kept_BM[: len(table_R)]
        agreement = consistency = vectors_RD.new_zeros(())
        if self._settings.align_weight:
            agreement = agreement_loss(self._pairs(tokens, kept_BM, generator), self.sharpness.agreement)
        if self._settings.consistency_weight:
            consistency = self._consistency(vectors_RD, table_R, kept_RM)
        if self._remembered is not None and self._neighbors_IG is not None:
            vectors_RD = self._remembered.among_neighbors(self.model, vectors_RD, table_R)
        elif self._neighbors_IG is not None:
            vectors_RD = among_neighbors(self.model, vectors_RD, table_R, self._neighbors_IG)
        return Table(vectors_RD, self._are_new(kept_RM), agreement, consistency)

    def _consistency(self, vectors_RD: Tensor, table_R: Tensor, kept_RM: Tensor) -> Tensor:
        """How far items that lack something are from what the running mean makes of them when they lack nothing."""
        present_RM = self._items.present_IM[table_R]
        lacking_L = (present_RM != kept_RM).any(1).nonzero()[:, 0]
        if not len(lacking_L):
            return vectors_RD.new_zeros(())
        with torch.no_grad():
            whole_LD = self.ema_model(*self._items.inputs(table_R[lacking_L], present_RM[lacking_L])).vectors_BD
        learned = slice(self._spec.learned_dim)  # nothing can be learnt of the frozen part
        return consistency_loss(vectors_RD[lacking_L, learned], whole_LD[:, learned])

    def _are_new(self, kept_RM: Tensor) -> Tensor:
        """`[R]`: marks items without behaviour, as new ones are."""
        if self._settings.behavior not in self._items.names:
            return torch.zeros(len(kept_RM), dtype=torch.bool, device=self._device)
        return ~kept_RM[:, self._items.names.index(self._settings.behavior)]

    def _pairs(self, tokens: Tokens, kept_BM: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Of every two modalities, the vectors of each alone, of some items that have both."""
        learned = slice(self._spec.learned_dim)  # the rest is zeros
        alone = {
            part.modality: each[:, learned]
            for part, (each, _) in zip(tokens.slots, self.model.tokens_alone(tokens), strict=True)
        }
        for one, other in combinations(sorted(alone), 2):
            both = (kept_BM[:, one] & kept_BM[:, other]).nonzero()[:, 0]
            if len(both) > 1:
                order = torch.randperm(len(both), generator=generator)[: self._settings.align_batch]
                some = both[order.to(self._device)]
                yield alone[one][some], alone[other][some]

    def _priors(self, items_C: Tensor) -> Tensor:
        """What is learnt of popularity is there at every step, whatever else is left out: that it can be relied on is
        how the vectors are kept free of it."""
        if self._priors_IK is None:
            return torch.zeros(len(items_C), device=self._device)
        column = self._items.names.index(str(self._spec.prior))
        priors_C: Tensor = self.model.prior(self._priors_IK[items_C])[:, 0]
        return priors_C.masked_fill(~self._items.present_IM[items_C, column], 0.0)

    def _seen(self, asked: Questions, candidates_C: Tensor) -> Tensor:
        """`[Q, C]`: marks what a user has seen, which is not recommended again."""
        rows, items = (torch.from_numpy(each).to(self._device) for each in asked.seen_pairs())
        columns = index_of(candidates_C, items)
        found = columns >= 0
        seen_QC = torch.zeros(len(asked), len(candidates_C), dtype=torch.bool, device=self._device)
        seen_QC[rows[found], columns[found]] = True
        return seen_QC

    # ------------------------------------------------------------------ parts of the model

    @property
    def _user_model(self) -> UserModel:
        assert isinstance(self.model.user, UserModel)
        return self.model.user

    @property
    def _user_last(self) -> int:
        assert self._spec.user is not None
        return self._spec.user.last

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [each for group in self.optimizer.param_groups for each in group["params"]]

    def _parameter_groups(self) -> Sequence[dict[str, object]]:
        """Matrices are drawn to zero; biases, temperatures and embeddings are not."""
        learned = [each for each in self.model.parameters() if each.requires_grad]
        return [
            {"params": [each for each in learned if each.ndim > 1], "weight_decay": self._settings.weight_decay},
            {
                "params": [*(each for each in learned if each.ndim < 2), *self.sharpness.parameters()],
                "weight_decay": 0.0,
            },
        ]


def _trainable(spec: SpaceSpec, weights: Mapping[str, Tensor], input_dropout: float) -> AlignModel:
    model = AlignModel(spec)
    model.load_state_dict(weights)
    for name, modality in spec.modalities.items():
        model.head(name).input_dropout = input_dropout
        if modality.content_dim:
            model.content(name).requires_grad_(False)
        if spec.mapped:
            model.search(name).requires_grad_(False)
    if isinstance(model.user, UserModel) and isinstance(model.user.pool, AttentionPool):
        keep_content_apart(model.user.pool, spec)
    return model


def keep_content_apart(pool: AttentionPool, spec: SpaceSpec) -> None:
    """Let each element of a user's content block be made of the same element of the items alone, weighed by head.

    New items are found by their content; a map that mixes its elements is learned from items that are known.
    """
    mask_DF = torch.ones_like(pool.merge.weight)
    own_CD = torch.eye(spec.dim)[spec.learned_dim :]
    mask_DF[spec.learned_dim :] = own_CD.repeat(1, mask_DF.shape[1] // spec.dim)
    pool.merge.weight.register_hook(lambda gradient: gradient * mask_DF.to(gradient.device))  # type: ignore[no-untyped-call]
