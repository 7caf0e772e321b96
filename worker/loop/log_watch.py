"""Notices that a topic of the role has become another one, or is gone. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from worker.errors import TopicError
from worker.kafka.port import TopicLook
from worker.loop.origin import watched_topics
from worker.partitions.tenure import Tenure
from worker.topics import RoleTopics

MISSING_S = 30.0  # a topic that is made again right after it was deleted is back by then


class LogWatch:
    """Compares each look at the topics with what the work was begun with. Poll thread."""

    def __init__(self, topics: RoleTopics) -> None:
        self._topics = topics
        self._seen: Mapping[str, TopicLook] | None = None
        self._missing_since: dict[str, float] = {}

    def changed(self, looked: Mapping[str, TopicLook] | None, tenures: Iterable[Tenure], now: float) -> str:
        """Find a topic that is another one than before. Raises `TopicError` for one that has been missing for too
        long; what has never been looked at is not missing."""
        if looked is None or looked is self._seen:
            return ""
        self._seen = looked
        self._require_present(looked, now)
        for tenure in tenures:
            if tenure.overlay is None:  # it is still being restored, with what there is now
                continue
            for topic, before in (
                (self._topics.inputs, tenure.log.topic_id),
                (self._topics.outputs, tenure.new_outputs_id or tenure.outputs_id),
                (self._topics.state, tenure.state_id),
            ):
                look = looked.get(topic)
                if look is not None and look.topic_id and before and look.topic_id != before:
                    return f"topic {topic!r} was deleted and made again (id {look.topic_id}, before that {before})"
        return ""

    def _require_present(self, looked: Mapping[str, TopicLook], now: float) -> None:
        names = watched_topics(self._topics)
        missing = [name for name in names if name not in looked]
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        for name, since in self._missing_since.items():
            if now - since >= MISSING_S:
                setting = dict(zip(names, filter(None, (*self._topics.settings, "topics.dead_letters")), strict=True))[
                    name
                ]
                raise TopicError(
                    f"{setting}: topic {name!r} was deleted, and has not come back for {now - since:.0f} s: make it "
                    f"again with as many partitions (`align-worker topics create`) and start the worker"
                )
