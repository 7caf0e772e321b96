"""What reads the topics of other people, as the settings have it."""

from __future__ import annotations

from typing import NamedTuple

from worker.mapping.registry import ConfluentRegistry, Registry
from worker.mapping.source import EventSource, ItemSource, event_source, item_source
from worker.settings import InputSettings, RegistrySettings, Settings


class Inputs(NamedTuple):
    """What reads the topics of items and events; None where they hold messages of the contract."""

    items: ItemSource | None = None
    events: EventSource | None = None


NO_INPUTS = Inputs()


def make_inputs(settings: Settings) -> Inputs:
    """For the roles of this process. Raises `ConfigError` for a mistake in a mapping."""
    return Inputs(
        foreign_items(settings.input) if "items" in settings.roles else None,
        foreign_events(settings.input) if "users" in settings.roles else None,
    )


def foreign_items(settings: InputSettings) -> ItemSource | None:
    """None where the topic holds messages of the contract. Raises `ConfigError`."""
    topic = settings.items
    if topic.mapping is None:
        return None
    return item_source("input.items", topic.format, topic.mapping, make_registry(settings.registry))


def foreign_events(settings: InputSettings) -> EventSource | None:
    """The same for events."""
    topic = settings.events
    if topic.mapping is None:
        return None
    return event_source("input.events", topic.format, topic.mapping, make_registry(settings.registry))


def make_registry(settings: RegistrySettings) -> Registry | None:
    """Raises `ConfigError`."""
    return None if settings.url is None else ConfluentRegistry(settings)
