"""SASRec: a transformer over the items of a history, which asks for the one that comes next (Kang and McAuley 2018).

    Q questions   N events of a history   D factors   A items with events   C candidates

It is learned with the whole softmax over the items, or a sample of them, instead of one wrong item for each right one,
which does better (Klenitskiy and Vasilev 2023). It knows items by number, and users by their history alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from worker.data.dataset import Ints
from worker.evaluate.baselines.known import Known, Setting
from worker.evaluate.questions import Questions, Score

DIM, HEADS, LAYERS, LAST = 64, 2, 2, 50
DROPOUT = 0.3
LEARNING_RATE = 1e-3
USERS_OF_BATCH = 128
MOST_CLASSES = 4_000
"""Items that one step tells apart: all, or those that came next and a sample."""
MOST_ASKED = 2_048
"""Events of a step that are asked for, drawn from those of its users."""
MAX_EPOCHS = 200
EPOCHS_BETWEEN_CANDIDATES = 4


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attention = nn.MultiheadAttention(DIM, HEADS, dropout=DROPOUT, batch_first=True)
        self.inner = nn.Sequential(
            nn.Linear(DIM, DIM), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(DIM, DIM), nn.Dropout(DROPOUT)
        )

    def forward(self, states_QND: Tensor, hidden_QNN: Tensor) -> Tensor:
        normed_QND = self.before(states_QND)
        attended_QND, _ = self.attention(normed_QND, normed_QND, normed_QND, attn_mask=hidden_QNN, need_weights=False)
        states_QND = states_QND + attended_QND
        result_QND: Tensor = states_QND + self.inner(self.between(states_QND))
        return result_QND


class _Model(nn.Module):
    """Item 0 stands for nothing; the others are the items with events, from 1."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, DIM, padding_idx=0)
        self.places = nn.Embedding(LAST, DIM)
        self.blocks = nn.ModuleList([_Block() for _ in range(LAYERS)])
        self.dropout, self.after = nn.Dropout(DROPOUT), nn.LayerNorm(DIM)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, items_QN: Tensor) -> Tensor:
        """What is asked for after each event, `[Q, N, D]`. The newest event comes last; before the first is nothing."""
        num = items_QN.shape[1]
        places_N = torch.arange(LAST - num, LAST)
        states_QND = self.dropout(self.items(items_QN) * math.sqrt(DIM) + self.places(places_N))
        later_NN = torch.ones(num, num, dtype=torch.bool).triu(1)
        nothing_QNN = (items_QN == 0)[:, None, :].expand(-1, num, -1) & ~torch.eye(num, dtype=torch.bool)
        hidden_QNN = (later_NN | nothing_QNN).repeat_interleave(HEADS, 0)
        for block in self.blocks:
            states_QND = block(states_QND, hidden_QNN)
        result_QND: Tensor = self.after(states_QND)
        return result_QND


class SasRec:
    """A history read by a transformer."""

    name = "SASRec"
    seeded = True
    patience: int | None = 5

    def limit(self, known: Known) -> str:
        return ""

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for epochs, model in self._training(known, seed):
            if epochs % EPOCHS_BETWEEN_CANDIDATES == 0:
                yield {"epochs": epochs}, _score(known, model)

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        trained = (each for epochs, each in self._training(known, seed) if epochs == setting["epochs"])
        return _score(known, next(trained))

    def _training(self, known: Known, seed: int) -> Iterator[tuple[int, _Model]]:
        """Train, and after each epoch say how many there have been."""
        items_A = np.flatnonzero(known.count_I)
        lines = torch.from_numpy(_lines(known, items_A))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _Model(len(items_A))
            state = torch.get_rng_state()
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
        for epoch in range(1, MAX_EPOCHS + 1):
            with torch.random.fork_rng(devices=[]):  # whatever else draws numbers between two epochs
                torch.set_rng_state(state)
                model.train()
                for rows_B in torch.split(torch.randperm(len(lines)), USERS_OF_BATCH):
                    loss = _loss(model, lines[rows_B], len(items_A))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                state = torch.get_rng_state()
            yield epoch, model.eval()


def _loss(model: _Model, lines_BN: Tensor, num_items: int) -> Tensor:
    width = max(2, int((lines_BN > 0).sum(1).max()))
    before_BN, next_BN = lines_BN[:, -width:-1], lines_BN[:, -width + 1 :]
    asked_BN = (before_BN > 0) & (next_BN > 0)
    wanted_QD, targets_Q = model(before_BN)[asked_BN], next_BN[asked_BN]
    if len(targets_Q) > MOST_ASKED:
        drawn = torch.randperm(len(targets_Q))[:MOST_ASKED]
        wanted_QD, targets_Q = wanted_QD[drawn], targets_Q[drawn]
    if num_items <= MOST_CLASSES:
        return cross_entropy(wanted_QD @ model.items.weight[1:].T, targets_Q - 1)
    drawn = torch.randint(1, num_items + 1, (MOST_CLASSES,))
    classes_A, labels = torch.unique(torch.cat([targets_Q, drawn]), return_inverse=True)
    return cross_entropy(wanted_QD @ model.items.weight[classes_A].T, labels[: len(targets_Q)])


def _lines(known: Known, items_A: Ints) -> Ints:
    """`[users with two events, LAST + 1]`: the newest events of each, from 1; 0 where there is none."""
    number_I = np.zeros(known.num_items, np.int64)
    number_I[items_A] = np.arange(1, len(items_A) + 1)
    order = np.argsort(known.events.users_E, kind="stable")
    users, items = known.events.users_E[order], number_I[known.events.items_E[order]]
    starts = np.searchsorted(users, np.unique(users))
    ends = np.append(starts[1:], len(users))
    lines = np.zeros((len(starts), LAST + 1), np.int64)
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        newest = items[max(start, end - LAST - 1) : end]
        lines[row, LAST + 1 - len(newest) :] = newest
    return lines[ends - starts > 1]


def _score(known: Known, model: _Model) -> Score:
    items_A = np.flatnonzero(known.count_I)
    number_I = np.zeros(known.num_items, np.int64)
    number_I[items_A] = np.arange(1, len(items_A) + 1)

    @torch.no_grad()
    def score(questions: Questions) -> Tensor:
        padded = questions.histories(LAST)
        history_QN = np.where(padded.items_QN >= 0, number_I[padded.items_QN.clip(min=0)], 0)
        wanted_QD = model(torch.from_numpy(history_QN))[:, -1]
        columns_C = torch.from_numpy(number_I[questions.candidates_C])
        scores_QC: Tensor = wanted_QD @ model.items.weight[columns_C].T
        return scores_QC.masked_fill(columns_C == 0, -torch.inf)

    return score
