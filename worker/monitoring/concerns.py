"""Matters that somebody ought to know of a role, from figures that are there already. Pure.

A worker that refuses all it reads, or that no broker answers, runs like any other as far as its threads can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.monitoring.status import Concern, Tone

SILENT_S, VERY_SILENT_S = 10.0, 60.0
"""Longer than a broker holds a fetch and a heartbeat is apart, and shorter than anybody should go without knowing."""
UNSTABLE_S = 20.0
RESTORING_S = 600.0
ALL = 0.95
"""A share that is as good as all of them."""
ENOUGH = 100
"""Records of which something that is true of all is no accident."""
ENCODE_SHARE, ENCODE_ENOUGH = 0.5, 10


class StoppedPartition(NamedTuple):
    number: int
    detail: str


class Figures(NamedTuple):
    """Share of the recent input: the last minutes in which there was any."""

    published: int
    superseded: Mapping[str, int]
    refused: Mapping[str, int]
    encoded: Mapping[str, int] = {}
    """Contents by modality."""
    not_encoded: Mapping[str, int] = {}
    num_overflown: int = 0
    # And of now:
    num_partitions: int = 0
    stopped: Sequence[StoppedPartition] = ()
    unreadable: Sequence[str] = ()
    """Batches that cannot be read, of whatever topic."""
    silent_s: float = 0.0
    """Since a broker has answered."""
    unstable_s: float = 0.0
    """Since the group was stable."""
    restoring_s: float = 0.0
    unaccounted: int = 0
    ill_vectors: Sequence[tuple[str, str]] = ()
    """Checks of the last vectors that they do not pass, each with what was found."""
    next_failed: str = ""
    """Why the next space is given up."""
    num_missing: int = 0
    """Without a vector in the next space."""
    missing: Sequence[str] = ()
    """Some of them, with the reason."""

    @property
    def num_finished(self) -> int:
        return self.published + sum(self.superseded.values()) + sum(self.refused.values())


def concerns(figures: Figures, warn_share: float) -> list[Concern]:
    """The gravest first. `warn_share`: of the recent input that may be refused without a word."""
    found = [
        *_unaccounted(figures),
        *_next_space(figures),
        *_silence(figures),
        *_refused(figures, warn_share),
        *_stopped(figures),
        *_unreadable(figures),
        *_nothing_new(figures),
        *_encoding(figures),
        *_vectors(figures),
        *_waiting(figures),
        *_group(figures),
    ]
    return sorted(found, key=lambda concern: concern.tone != Tone.BAD)


def _unaccounted(figures: Figures) -> list[Concern]:
    if not figures.unaccounted:
        return []
    detail = f"{figures.unaccounted:,} records are not accounted for: keep the log and report it"
    return [Concern(kind="accounting", tone=Tone.BAD, title="the books do not balance", detail=detail)]


def _next_space(figures: Figures) -> list[Concern]:
    found = []
    if figures.next_failed:
        detail = f"{figures.next_failed}. The present space is published as before; `space rollout` with the same path "
        detail += "takes it up again."
        found.append(Concern(kind="next_space", tone=Tone.WARN, title="the next space is given up", detail=detail))
    if figures.num_missing:
        title = f"{figures.num_missing:,} without a vector in the next space"
        found.append(Concern(kind="next_missing", tone=Tone.WARN, title=title, detail="; ".join(figures.missing)))
    return found


def _silence(figures: Figures) -> list[Concern]:
    if figures.silent_s < SILENT_S:
        return []
    tone = Tone.BAD if figures.silent_s >= VERY_SILENT_S else Tone.WARN
    detail = f"The last answer came {figures.silent_s:.0f} s ago. Lag and rates are those of then."
    return [Concern(kind="silence", tone=tone, title="no broker answers", detail=detail)]


def _refused(figures: Figures, warn_share: float) -> list[Concern]:
    num_refused, num_finished = sum(figures.refused.values()), figures.num_finished
    if not num_refused or (num_refused < num_finished and num_refused <= warn_share * num_finished):
        return []
    share = "all" if num_refused == num_finished else f"{num_refused / num_finished:.0%}"
    detail = f"{num_refused:,} of the last {num_finished:,} records became dead letters: {_most(figures.refused)}"
    return [Concern(kind="refused", tone=Tone.WARN, title=f"{share} of the recent input is refused", detail=detail)]


def _stopped(figures: Figures) -> list[Concern]:
    if not figures.stopped:
        return []
    first = figures.stopped[0]
    title = f"{len(figures.stopped)} of {_plural(figures.num_partitions, 'partition')} stopped"
    detail = f"Partition {first.number}: {first.detail}"
    return [Concern(kind="stopped", tone=Tone.WARN, title=title, detail=detail)]


def _unreadable(figures: Figures) -> list[Concern]:
    if not figures.unreadable:
        return []
    title = f"{_plural(len(figures.unreadable), 'batch', 'batches')} cannot be read"
    return [Concern(kind="unreadable", tone=Tone.WARN, title=title, detail=figures.unreadable[0])]


def _nothing_new(figures: Figures) -> list[Concern]:
    num_superseded, num_finished = sum(figures.superseded.values()), figures.num_finished
    if num_finished < ENOUGH or num_superseded < ALL * num_finished:
        return []
    detail = f"{num_superseded:,} of the last {num_finished:,} records changed nothing: {_most(figures.superseded)}"
    return [Concern(kind="nothing_new", tone=Tone.WARN, title="the recent input changes nothing", detail=detail)]


def _encoding(figures: Figures) -> list[Concern]:
    found = []
    for modality, num_refused in figures.not_encoded.items():
        num_all = num_refused + figures.encoded.get(modality, 0)
        if num_refused >= ENCODE_ENOUGH and num_refused > ENCODE_SHARE * num_all:
            title = f"content of {modality} cannot be used"
            detail = f"{num_refused:,} of the last {num_all:,} could not be fetched, read or encoded"
            found.append(Concern(kind=f"encoding {modality}", tone=Tone.WARN, title=title, detail=detail))
    return found


def _vectors(figures: Figures) -> list[Concern]:
    return [
        Concern(
            kind=f"vectors {check}",
            tone=Tone.WARN,
            title=f"the vectors are not what they should be: {check.replace('_', ' ')}",
            detail=detail,
        )
        for check, detail in figures.ill_vectors
    ]


def _waiting(figures: Figures) -> list[Concern]:
    if not figures.num_overflown:
        return []
    detail = f"{figures.num_overflown:,} did not fit: they are computed at their next message, not when the item comes"
    title = "the list of those who wait for an item is full"
    return [Concern(kind="waiting", tone=Tone.WARN, title=title, detail=detail)]


def _group(figures: Figures) -> list[Concern]:
    found = []
    if figures.unstable_s >= UNSTABLE_S:
        detail = f"For {figures.unstable_s:.0f} s it has been joining its group, or waiting for the others to"
        found.append(Concern(kind="group", tone=Tone.WARN, title="the group does not come to rest", detail=detail))
    if figures.restoring_s >= RESTORING_S:
        detail = f"A partition has not been running for {figures.restoring_s / 60:.0f} min; its line says how far it is"
        found.append(Concern(kind="restoring", tone=Tone.WARN, title="restoring takes long", detail=detail))
    return found


def _most(counts: Mapping[str, int]) -> str:
    named = sorted(((count, reason) for reason, count in counts.items() if count), reverse=True)
    return ", ".join(f"{reason} {count:,}" for count, reason in named[:3])


def _plural(count: int, noun: str, several: str = "") -> str:
    return f"{count} {noun if count == 1 else several or noun + 's'}"
