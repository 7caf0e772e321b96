"""A video catalogue, end to end: clips in, and out come a space, vectors, search across modalities and recommendations.

    python -m tests.acceptance.video_catalogue                  # 72 clips in six themes; about two minutes
    python -m tests.acceptance.video_catalogue --keep clips     # the same, and everything it makes stays there

Each step is a command that you would run on files and topics of your own, and is printed:

1. clips are drawn and synthesised (`tests.clips`); the users of each theme like clips of it, and now and then another;
2. `encode` makes features of texts, frames and sound tracks, `train` a space of them and of what users did; some clips
   are withheld: no user has met them, and training does not see them;
3. the clips themselves go to the items topic as `content`; `run` encodes them and pools users from events;
4. what is published is asked: text → video, video → sound, sound → text, clips like a clip, clips for a user.

An answer is right if it is of the theme of the question. Chance is the share of right answers among all. Exit code 0:
every figure is above twice chance, for withheld clips, too. 1: one is not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import Content, ItemVector, NewItem, UserEvent, UserVector, decode, encode
from tests.acceptance.feeder import Feeder
from tests.brokers import Outgoing, read_topic
from tests.brokers.broker import Broker, embedded
from tests.clips import THEMES, Clip, clips, write
from tests.worker_process import ROOT, as_text
from worker.data.files import read_items, write_events
from worker.kafka.embedded import EmbeddedBroker

ENCODERS = "text=builtin-text,frames=builtin-image@video,sound=builtin-audio@video"
NUM_PARTITIONS = 2
TOPICS = ("items", "item-vectors", "item-state", "events", "user-vectors", "user-state", "dead-letters")
USERS_PER_THEME = 20
LIKES, STRAYED = 6, 0.15
WITHHELD = {"cold_val": 1, "cold_test": 2}
"""Clips of each theme, by the list of those that training chooses by and that are asked about."""
ANSWERS = 5
START_MS = 1_767_225_600_000
UNLIMITED = 1e6
TIMES_CHANCE = 2.0

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Share:
    """Of right answers among the first `ANSWERS`."""

    question: str
    found: float
    of_withheld: float
    """Where the question was a clip that nobody had met; of users, where the answers are such clips."""
    chance: float
    chance_of_withheld: float

    @property
    def ok(self) -> bool:
        return self.found > TIMES_CHANCE * self.chance and self.of_withheld > TIMES_CHANCE * self.chance_of_withheld

    def __str__(self) -> str:
        return (
            f"{self.question:<34}{self.found:>8.2f}{self.chance:>9.2f}{self.of_withheld:>14.2f}"
            f"{self.chance_of_withheld:>9.2f}"
        )


class Walk:
    """Everything happens in `directory`; commands and their output are shown by `say`."""

    def __init__(self, directory: Path, per_theme: int, seed: int = 0, say: Any = print) -> None:
        self._directory = directory
        self._say = say
        self._per_theme = per_theme
        self._seed = seed
        self.clips: list[Clip] = []

    def run(self) -> list[Share]:
        self._make()
        self._learn()
        with ExitStack() as stack:
            broker = embedded(stack.enter_context(EmbeddedBroker()))
            broker.create_topics(dict.fromkeys(TOPICS, NUM_PARTITIONS))
            self._stream(broker)
            shares = self._ask(broker)
            self._show_answers(broker)
        return shares

    # ------------------------------------------------------------------ 1. clips and users

    def _make(self) -> None:
        self._say(f"$ python -m tests.clips {self._directory / 'clips'} --per-theme {self._per_theme}")
        self.clips = write(self._directory / "clips", clips(self._per_theme, self._seed))
        size = sum(len(clip.data) for clip in self.clips) / 2**20
        self._say(f"{len(self.clips)} clips, {size:.1f} MB\n")
        start = 0
        for name, count in WITHHELD.items():
            chosen = [clip.name for clip in self.clips if start <= int(clip.name[-2:]) < start + count]
            (self._directory / f"{name}.txt").write_text("\n".join(chosen) + "\n")
            start += count
        (self._directory / "titles.csv").write_text(
            "item_id,title\n" + "".join(f'{clip.name},"{clip.title}"\n' for clip in self.clips)
        )
        write_events(self._directory / "events.msgpack", self._events())

    @property
    def withheld(self) -> set[str]:
        return {clip.name for clip in self.clips if int(clip.name[-2:]) < sum(WITHHELD.values())}

    def _events(self) -> Iterator[UserEvent]:
        """The users of a theme like clips of it, each once, and stray into others. The same each time."""
        dice = np.random.default_rng(self._seed)
        known = [clip for clip in self.clips if clip.name not in self.withheld]
        for number, theme in enumerate(np.repeat([theme.name for theme in THEMES], USERS_PER_THEME)):
            own = [clip.name for clip in known if clip.theme == theme]
            other = [clip.name for clip in known if clip.theme != theme]
            num_other = int(dice.binomial(LIKES, STRAYED))
            liked = [*dice.choice(own, min(len(own), LIKES - num_other), replace=False)]
            liked += [*dice.choice(other, num_other, replace=False)]
            for place, item_id in enumerate(dice.permutation(liked)):
                yield UserEvent(
                    event_id=f"{number}-{place}", user_id=f"{theme}-fan-{number % USERS_PER_THEME:02}",
                    item_id=str(item_id), event_type="like", event_time_ms=START_MS + 3_600_000 * place + number,
                )  # fmt: skip

    # ------------------------------------------------------------------ 2. features and a space

    def _learn(self) -> None:
        self._command("encode", "clips", "features.msgpack", "--encode.encoders", ENCODERS)
        self._command(
            "train", "space", "--items", "features.msgpack", "--events", "events.msgpack", "--event", "like=1",
            "--cold-val", "cold_val.txt", "--cold-test", "cold_test.txt", "--items-out", "parts.msgpack",
            "--learned-dim", "32", "--align-weight", "1", "--seed", str(self._seed),
        )  # fmt: skip

    # ------------------------------------------------------------------ 3. the worker

    def _stream(self, broker: Broker) -> None:
        contents = [Outgoing("items", each.key, encode(each)) for each in self._messages()]
        parts = [Outgoing("items", each.key, encode(each)) for each in read_items(self._directory / "parts.msgpack")]
        events = [Outgoing("events", each.key, encode(each)) for each in self._events()]
        for records in (contents, parts, events):
            with Feeder(broker.bootstrap_servers, iter(records), UNLIMITED) as feeder:
                while not feeder.is_done:
                    time.sleep(0.02)
        self._say(f"{len(contents)} clips, {len(parts)} partial items and {len(events)} events are on the topics\n")
        self._command(
            "run", "--until-caught-up", "--roles", "items,users", "--space.path", "space",
            "--encode.encoders", ENCODERS, "--publish.modality_vectors", "true",
            hidden=[*_flags(broker), "--http.port", "0"],
        )  # fmt: skip

    def _messages(self) -> Iterator[NewItem]:
        """Of the revision that `encode` gives a file and `train` what it learned of it, so that both are merged."""
        for clip in self.clips:
            content = {"text": Content(text=clip.text), "video": Content(data=clip.data, media_type="video/mp4")}
            now_ms = time.time_ns() // 1_000_000
            yield NewItem(item_id=clip.name, revision=0, event_time_ms=now_ms, content=content)

    # ------------------------------------------------------------------ 4. questions

    def _ask(self, broker: Broker) -> list[Share]:
        items = {
            record.key.decode(): decode(ItemVector, record.value)
            for record in read_topic(broker.options, "item-vectors")
        }
        users = {
            record.key.decode(): decode(UserVector, record.value)
            for record in read_topic(broker.options, "user-vectors")
        }
        assert items.keys() == {clip.name for clip in self.clips}, "every clip has a vector"
        names = sorted(items)
        whole = np.stack([items[name].vector.to_numpy() for name in names]).astype(np.float32)
        alone = {modality: _alone(items, names, modality) for modality in ("text", "frames", "sound")}
        shares = [
            self._share("text → video", names, alone["text"], alone["frames"]),
            self._share("video → sound", names, alone["frames"], alone["sound"]),
            self._share("sound → text", names, alone["sound"], alone["text"]),
            self._share("like this clip", names, whole, whole),
            self._share_of_users(names, whole, users),
        ]
        self._say(f"share of the theme among the first {ANSWERS}, and by chance")
        self._say(f"{'question':<34}{'found':>8}{'chance':>9}{'withheld':>14}{'chance':>9}")
        for share in shares:
            self._say(str(share))
        self._say("")
        return shares

    def _share(self, question: str, names: Sequence[str], asked_ND: Vectors, answers_ND: Vectors) -> Share:
        """A clip itself is no answer."""
        scores_NN = asked_ND @ answers_ND.T
        np.fill_diagonal(scores_NN, -np.inf)
        themes = np.array([_theme(name) for name in names])
        right_N = (themes[np.argsort(-scores_NN, axis=1)[:, :ANSWERS]] == themes[:, None]).mean(1)
        chance = float(np.mean([(themes == theme).sum() - 1 for theme in themes]) / (len(names) - 1))
        is_withheld_N = np.array([name in self.withheld for name in names])
        return Share(question, float(right_N.mean()), float(right_N[is_withheld_N].mean()), chance, chance)

    def _share_of_users(self, names: Sequence[str], items_ND: Vectors, users: Mapping[str, UserVector]) -> Share:
        """Of what the user has not liked yet; and of the clips alone that nobody has."""
        seen: dict[str, set[str]] = {}
        for event in self._events():
            seen.setdefault(event.user_id, set()).add(event.item_id)
        found, of_withheld, chance = [], [], []
        few = min(ANSWERS, sum(WITHHELD.values()))
        for user, vector in users.items():
            scores_N = items_ND @ vector.vector.to_numpy().astype(np.float32)
            new = [name for name in np.array(names)[np.argsort(-scores_N)] if name not in seen[user]]
            unmet = [name for name in new if name in self.withheld]
            found.append(np.mean([_theme(name) == _theme(user) for name in new[:ANSWERS]]))
            of_withheld.append(np.mean([_theme(name) == _theme(user) for name in unmet[:few]]))
            chance.append(np.mean([_theme(name) == _theme(user) for name in new]))
        return Share(
            f"for {len(users)} users (withheld: first {few})", float(np.mean(found)), float(np.mean(of_withheld)),
            float(np.mean(chance)), 1 / len(THEMES),
        )  # fmt: skip

    def _show_answers(self, broker: Broker) -> None:
        """The same through the command for people."""
        to_encode = ["--space.path", "space", "--encode.encoders", ENCODERS]

        for question in (
            ["--text", "a boat on the waves", "--among", "frames", *to_encode],
            ["--like", "fire-00", "--by", "frames", "--among", "sound"],
            ["--like", "snow-01"],
            ["--user", "space-fan-03"],
        ):
            self._command("recommend", *question, "--count", "3", "--titles", "titles.csv", hidden=_flags(broker))

    def _command(self, *arguments: str, hidden: Sequence[str] = ()) -> None:
        """Run and show an `align-worker` command; `hidden` are settings of this very run."""
        quoted = [f"'{part}'" if " " in part else part for part in arguments]
        self._say(f"$ align-worker {' '.join(quoted)}")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ALIGN_")}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "worker", *arguments, *hidden], cwd=self._directory, check=False,
            env={**environment, "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"align-worker {arguments[0]} ended with {done.returncode}: {done.stderr[-2_000:]}")
        self._say(done.stdout)


def _flags(broker: Broker) -> list[str]:
    """Where the broker is, and what it needs to be spoken to."""
    flags = ((f"--kafka.{name}", as_text(value)) for name, value in broker.client_settings.items())
    return [part for flag in flags for part in flag]


def _alone(items: Mapping[str, ItemVector], names: Sequence[str], modality: str) -> Vectors:
    rows = []
    for name in names:
        vectors = items[name].modality_vectors
        assert vectors is not None
        rows.append(vectors[modality].to_numpy().astype(np.float32))
    return np.stack(rows)


def _theme(name: str) -> str:
    """Of a clip or a user."""
    return name.partition("-")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.video_catalogue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--per-theme", type=int, default=12, help="clips of each theme (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where everything is made, and stays")
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        directory = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="video-")))
        directory.mkdir(parents=True, exist_ok=True)
        shares = Walk(directory.resolve(), given.per_theme, given.seed, lambda text: print(text, flush=True)).run()
    return 0 if all(share.ok for share in shares) else 1


if __name__ == "__main__":
    sys.exit(main())
