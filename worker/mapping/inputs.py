"""Readers of other people's topics, as the settings have them."""

from __future__ import annotations

from typing import NamedTuple

from worker.mapping.registry import STREAM_WAIT_S, ConfluentRegistry, Registry
from worker.mapping.source import EventSource, ItemSource, event_source, item_source
from worker.settings import InputSettings, InputTopic, RegistrySettings, Settings


class Inputs(NamedTuple):
    """Readers of the topics of items and events; None where they hold messages of the contract."""

    items: ItemSource | None = None
    events: EventSource | None = None
    relayed_items: ItemSource | None = None
    relayed_events: EventSource | None = None
    registry: Registry | None = None
    """Which they ask, to be closed."""


NO_INPUTS = Inputs()


def foreign_events(settings: InputSettings) -> EventSource | None:
    """The reader of the topic of events. Raises `ConfigError`."""
    return _events("input.events", settings.events, make_registry(settings.registry))


def make_inputs(settings: Settings) -> Inputs:
    """For the roles of this process. Raises `ConfigError` for a mistake in a mapping."""
    registry = make_registry(settings.input.registry, wait_s=STREAM_WAIT_S)
    relays = "relay" in settings.roles
    return Inputs(
        items=_items("input.items", settings.input.items, registry) if "items" in settings.roles else None,
        events=_events("input.events", settings.input.events, registry) if "users" in settings.roles else None,
        relayed_items=_items("relay.items", settings.relay.items, registry) if relays else None,
        relayed_events=_events("relay.events", settings.relay.events, registry) if relays else None,
        registry=registry,
    )


def _items(setting: str, topic: InputTopic, registry: Registry | None) -> ItemSource | None:
    """None where the topic holds messages of the contract."""
    return None if topic.mapping is None else item_source(setting, topic.format, topic.mapping, registry)


def _events(setting: str, topic: InputTopic, registry: Registry | None) -> EventSource | None:
    return None if topic.mapping is None else event_source(setting, topic.format, topic.mapping, registry)


def make_registry(settings: RegistrySettings, *, wait_s: float | None = None) -> Registry | None:
    """`wait_s`: as `ConfluentRegistry` has it. Raises `ConfigError`."""
    return None if settings.url is None else ConfluentRegistry(settings, wait_s=wait_s)
