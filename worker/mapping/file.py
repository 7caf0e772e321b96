"""A mapping file, checked whole before anything is read with it: every mistake is one line with the place and the cure.

envelope: debezium
items:
  item_id: after.sku
  content:
    text: "{after.title}. {after.desc}"
    image: {uri: after.img_url}
  attributes: {price: after.price}
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args

from schemas import DEFAULT_LIMITS, Dtype
from worker.config_file import ConfigFile, read_config
from worker.errors import ConfigError
from worker.mapping.conditions import Condition
from worker.mapping.envelopes import ENVELOPES, EnvelopeName
from worker.mapping.events import EventMapping, Others, TypeField
from worker.mapping.expressions import Expression, ExpressionError, as_text, constant, expression, path, template
from worker.mapping.fields import Field, Hash
from worker.mapping.items import ContentField, ItemMapping, Test
from worker.mapping.values import (
    MAX_SCALE,
    UNITS,
    to_attribute,
    to_bool,
    to_bytes,
    to_count,
    to_decimal,
    to_feature,
    to_id,
    to_ids,
    to_name,
    to_number,
    to_texts,
    to_time_ms,
)
from worker.printable import shortened

T = TypeVar("T")
KeyFormat = Literal["text", "json", "avro", "protobuf", "msgpack"]
KEY_FORMATS: tuple[KeyFormat, ...] = get_args(KeyFormat)

_SECTIONS = ("items", "events", "envelope", "key")
_ITEM_FIELDS = (
    "item_id", "revision", "event_time", "content", "features", "neighbors", "attributes", "partial", "delete", "skip",
    "title",
)  # fmt: skip
_EVENT_FIELDS = ("event_id", "user_id", "item_id", "event_type", "event_time", "value", "skip", "deletes")
_HOLDS = "items:, events: or both, such as items: {item_id: sku, content: {text: title}}"
_DTYPES: tuple[Dtype, ...] = get_args(Dtype)
STORED = ("f2", "f4")
ATTRIBUTE_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "any": to_attribute,
    "str": to_id,
    "number": to_number,
    "bool": to_bool,
    "list": to_texts,
}


@dataclass(frozen=True, slots=True)
class MappingFile:
    """A mapping, as a file describes it: records of a topic, or rows of a file, to messages."""

    path: Path
    envelope: EnvelopeName
    key: KeyFormat | None
    """How keys are written. None: as the envelope has them."""
    items: ItemMapping | None
    events: EventMapping | None

    def for_items(self, setting: str) -> ItemMapping:
        """Raises `ConfigError`, which names the setting."""
        if self.items is None:
            raise ConfigError(
                f"{setting}: the mapping file {self.path} has no items: section, which says what items are"
            )
        return self.items

    def for_events(self, setting: str) -> EventMapping:
        """Raises `ConfigError`, which names the setting."""
        if self.events is None:
            raise ConfigError(
                f"{setting}: the mapping file {self.path} has no events: section, which says what events are"
            )
        return self.events


def read_mapping(path: Path) -> MappingFile:
    """The mapping in a file. Raises `ConfigError` on one line that names the file, the line and what to do."""
    file = read_config(path, "mapping file", _HOLDS)
    return _Reader(file).mapping()


@dataclass(frozen=True, slots=True)
class _Node:
    """A value in the file, and where."""

    name: str
    """Dotted, from the top."""
    value: Any
    key: str = ""
    """The last part of the name, which may have dots of its own."""


class _Reader:
    """Reads one file. Methods raise `ConfigError`."""

    def __init__(self, file: ConfigFile) -> None:
        self._file = file
        self._envelope: EnvelopeName = "none"

    def mapping(self) -> MappingFile:
        top = self._map(_Node("", self._file.values), _SECTIONS, "section")
        if not top:
            raise ConfigError(f"the mapping file {self._file.path} must hold {_HOLDS}")
        if "envelope" in top:
            self._envelope = self._choice(top["envelope"], ENVELOPES)
        key = self._choice(top["key"], KEY_FORMATS) if "key" in top else None
        if not {"items", "events"} & top.keys():
            raise ConfigError(
                f"the mapping file {self._file.path} has neither items: nor events:; it must hold {_HOLDS}"
            )
        return MappingFile(
            self._file.path,
            self._envelope,
            key,
            self._items(top["items"]) if "items" in top else None,
            self._events(top["events"]) if "events" in top else None,
        )

    # ------------------------------------------------------------------ sections

    def _items(self, node: _Node) -> ItemMapping:
        given = self._map(node, _ITEM_FIELDS, "field of items")
        self._require(node, given, "item_id")
        is_debezium = self._envelope == "debezium"
        features = tuple(self._features(given["features"])) if "features" in given else ()
        content = tuple(self._content(given["content"])) if "content" in given else ()
        if not features and not content and "neighbors" not in given and "delete" not in given:
            self._refuse(node, "has neither content nor features: an item needs something to make a vector of")
        return ItemMapping(
            item_id=self._id(given["item_id"], "item_id"),
            revision=self._revision(given.get("revision"), is_debezium),
            event_time=self._item_time(given.get("event_time"), is_debezium),
            content=content,
            features=features,
            neighbors=self._field(given["neighbors"], "neighbors", to_ids) if "neighbors" in given else None,
            attributes=tuple(self._attributes(given["attributes"])) if "attributes" in given else (),
            partial=self._switch(given["partial"]) if "partial" in given else False,
            delete=self._test(given["delete"], "delete") if "delete" in given else None,
            skip=self._test(given["skip"], "skip") if "skip" in given else None,
            title=self._field(given["title"], "title", to_id) if "title" in given else None,
        )

    def _events(self, node: _Node) -> EventMapping:
        given = self._map(node, _EVENT_FIELDS, "field of events")
        for name in ("user_id", "item_id", "event_type", "event_time"):
            self._require(node, given, name)
        deletes = self._choice(given["deletes"], ("skip", "refuse")) if "deletes" in given else None
        return EventMapping(
            user_id=self._id(given["user_id"], "user_id"),
            item_id=self._id(given["item_id"], "item_id"),
            event_type=self._type(given["event_type"]),
            event_time=replace(self._time(given["event_time"], "event_time_ms"), is_required=True),
            event_id=self._event_id(given["event_id"]) if "event_id" in given else None,
            value=self._field(given["value"], "value", to_number) if "value" in given else None,
            skip=self._test(given["skip"], "skip") if "skip" in given else None,
            skips_deletes=deletes == "skip" if deletes else self._envelope == "debezium",
        )

    # ------------------------------------------------------------------ fields

    def _id(self, node: _Node, name: str) -> Field:
        found = self._field(node, name, to_id, needs_all=True)
        if found.expression.is_constant:
            self._refuse(node, f"value: is the same for every record; name a path that holds the {name}")
        return replace(found, is_required=True)

    def _revision(self, node: _Node | None, is_debezium: bool) -> Field:
        if node is None:
            text = "$position" if is_debezium else "$timestamp"
            return self._default("revision", text, _count_or(1) if text == "$timestamp" else to_count)
        options = self._options(node, ("path", "value", "unit"))
        field = self._time(node, "revision") if "unit" in options else self._field(node, "revision", to_count)
        if field.expression.variables == {"timestamp"}:
            return replace(field, convert=_count_or(1))
        return replace(field, is_required=True)

    def _item_time(self, node: _Node | None, is_debezium: bool) -> Field:
        if node is None:
            if is_debezium:
                return self._default("event_time_ms", "source.ts_ms", _time_or(0))
            return self._default("event_time_ms", "$timestamp", _time_or(0))
        field = self._time(node, "event_time_ms")
        convert = field.convert
        return replace(field, convert=lambda value: 0 if (found := convert(value)) is None else found)

    def _default(self, name: str, text: str, convert: Callable[[Any], Any]) -> Field:
        place = f"{self._file.path.name}, by default"
        return Field(name, place, path(text), convert, is_required=True)

    def _time(self, node: _Node, name: str) -> Field:
        options = self._options(node, ("path", "value", "unit"))
        unit = self._choice(options["unit"], UNITS) if "unit" in options else None
        return self._field(node, name, lambda value: to_time_ms(value, unit), also=("unit",))

    def _type(self, node: _Node) -> TypeField:
        options = self._options(node, ("path", "value", "rename", "others"))
        rename: dict[str, str] = {}
        if "rename" in options:
            for each in self._entries(options["rename"], "a map of types, such as {cart: save, buy: purchase}"):
                renamed = self._text(each, "a type, such as purchase")
                self._check_name(each, renamed, "the type")
                rename[each.key] = renamed
        others: Others = "keep"
        if "others" in options:
            others = self._choice(options["others"], get_args(Others))
            if not rename and others != "keep":
                self._refuse(options["others"], f"{others} needs rename:, which lists the types that count")
        field = self._field(node, "event_type", to_name, also=("rename", "others"))
        return TypeField(replace(field, is_required=True), rename, others)

    def _event_id(self, node: _Node) -> Field | Hash:
        if isinstance(node.value, dict) and "hash" in node.value:
            options = self._options(node, ("hash",))
            hashed = options["hash"]
            if not isinstance(hashed.value, list) or not hashed.value:
                self._refuse(hashed, "should be a list of paths, such as [session, sku, ts]")
            parts = [self._made(hashed, "event_id", _Node(hashed.name, each), _as_is) for each in hashed.value]
            return Hash(tuple(parts))
        found = self._field(node, "event_id", to_id, needs_all=True)
        if found.expression.is_constant:
            self._refuse(node, "value: every event would be the same one; name a path, or leave event_id out")
        return replace(found, is_required=True)

    def _content(self, node: _Node) -> Iterator[ContentField]:
        for each in self._entries(
            node, 'a map of modalities, such as {text: "{title}. {desc}", image: {uri: img_url}}'
        ):
            modality = self._modality(each)
            if not isinstance(each.value, dict):
                yield ContentField(modality, "text", self._text_field(each, each, f"content.{modality}"))
                continue
            options = self._options(each, ("text", "uri", "data", "media_type"))
            kinds = [kind for kind in ("text", "uri", "data") if kind in options]
            if len(kinds) != 1:
                given = f"both {kinds[0]} and {kinds[1]}" if kinds else "none of them"
                self._refuse(each, f"should have one of text, uri and data, and has {given}")
            kind, source = kinds[0], options[kinds[0]]
            convert = to_bytes if kind == "data" else to_name
            if kind == "text":
                field = self._text_field(each, source, f"content.{modality}")
            else:
                field = self._made(source, f"content.{modality}", source, convert, needs_all=True)
            media_type = None
            if "media_type" in options:
                media = options["media_type"]
                text = self._text(media, "a media type, such as image/jpeg, or a path")
                source_of = constant(text) if "/" in text and "{" not in text else None
                media_type = (
                    Field(f"content.{modality}.media_type", self._short(media), source_of, to_name)
                    if source_of
                    else self._made(media, f"content.{modality}.media_type", media, to_name)
                )
            yield ContentField(modality, kind, field, media_type)

    def _text_field(self, node: _Node, source: _Node, name: str) -> Field:
        return self._made(node, name, source, _content_text)

    def _features(self, node: _Node) -> Iterator[tuple[str, Field]]:
        for each in self._entries(
            node, "a map of modalities, such as {text: {path: embedding, encoder: my-model}}", DEFAULT_LIMITS.modalities
        ):
            modality = self._modality(each)
            options = self._options(each, ("path", "encoder", "dtype", "dim", "stored"))
            encoder = modality
            if "encoder" in options:
                encoder = self._text(options["encoder"], "the name of an encoder")
                self._check_name(options["encoder"], encoder, "the name of the encoder")
            stored = self._choice(options["stored"], STORED) if "stored" in options else None
            usual: Dtype = "f4" if stored == "f4" else "f2"
            dtype = self._choice(options["dtype"], _DTYPES) if "dtype" in options else usual
            dim = self._number(options["dim"], 1, DEFAULT_LIMITS.dims) if "dim" in options else None

            def convert(
                value: Any,
                encoder: str = encoder,
                dtype: Dtype = dtype,
                dim: int | None = dim,
                stored: str | None = stored,
            ) -> Any:
                return to_feature(value, encoder, dtype, dim, stored)

            field = self._field(each, f"features.{modality}", convert, also=("encoder", "dtype", "dim", "stored"))
            yield modality, field

    def _attributes(self, node: _Node) -> Iterator[tuple[str, Field]]:
        for each in self._entries(
            node, "a map of attributes, such as {price: price, category: cat}", DEFAULT_LIMITS.attributes
        ):
            name = each.key
            self._check_name(each, name, "the name of the attribute")
            options = self._options(each, ("path", "value", "type", "scale"))
            kind = self._choice(options["type"], tuple(ATTRIBUTE_TYPES)) if "type" in options else "any"
            convert = ATTRIBUTE_TYPES[kind]
            if "scale" in options:
                if kind not in ("any", "number"):
                    self._refuse(options["scale"], f"belongs to numbers, and type is {kind}")
                scale = self._number(options["scale"], 0, MAX_SCALE)

                def convert(value: Any, scale: int = scale) -> Any:
                    return to_decimal(value, scale)

            yield name, self._field(each, f"attributes.{name}", convert, also=("type", "scale"))

    def _test(self, node: _Node, name: str) -> Test:
        """A path to true or false, or one to a value among those in `is`."""
        field = self._field(node, name, _as_is, also=("is",))
        if field.expression.is_constant:
            self._refuse(node, "value: holds of every record or of none; name a path")
        wanted: frozenset[str] | None = None
        if isinstance(node.value, dict) and "is" in node.value:
            values = node.value["is"]
            listed = values if isinstance(values, list) else [values]
            if not listed or any(not isinstance(each, str) for each in listed):
                self._refuse(_Node(f"{node.name}.is", values), "should be a value or a list of values")
            wanted = frozenset(listed)
        return Test(Condition(field.expression, wanted), field)

    def _field(
        self,
        node: _Node,
        name: str,
        convert: Callable[[Any], Any],
        *,
        also: Sequence[str] = (),
        needs_all: bool = False,
    ) -> Field:
        """A path or a template, alone or in `path`; or the same for every record, in `value`."""
        options = self._options(node, ("path", "value", *also))
        if isinstance(node.value, dict):
            if ("path" in options) == ("value" in options):
                given = "both" if "path" in options else "neither"
                self._refuse(node, f"should have path or value, and has {given}")
            if "value" in options:
                text = self._text(options["value"], "a value")
                field = Field(name, self._short(options["value"]), constant(text), convert)
                self._try_constant(options["value"], field)
                return field
            return self._made(options["path"], name, options["path"], convert, needs_all=needs_all)
        return self._made(node, name, node, convert, needs_all=needs_all)

    def _made(
        self, node: _Node, name: str, source: _Node, convert: Callable[[Any], Any], *, needs_all: bool = False
    ) -> Field:
        text = self._text(source, "a path, such as after.sku")
        try:
            found = template(text, needs_all=needs_all) if "{" in text or "}" in text else expression(text)
        except ExpressionError as error:
            self._refuse(source, str(error))
        self._check_variables(source, found)
        return Field(name, self._short(source if source.name in self._file.lines else node), found, convert)

    def _check_variables(self, node: _Node, found: Expression) -> None:
        if "position" in found.variables and self._envelope != "debezium":
            self._refuse(node, "$position is what Debezium says of its source: set envelope: debezium, or name a path")

    def _try_constant(self, node: _Node, field: Field) -> None:
        try:
            field.convert(field.expression.text)
        except ValueError as error:
            self._refuse(node, str(error))

    # ------------------------------------------------------------------ the file

    def _options(self, node: _Node, known: Collection[str]) -> dict[str, _Node]:
        """The entries of a map; none where the value is a text."""
        return self._map(node, known, "option") if isinstance(node.value, dict) else {}

    def _map(self, node: _Node, known: Collection[str], what: str) -> dict[str, _Node]:
        found = {}
        for each in self._entries(node, "a map"):
            if each.key not in known:
                close = difflib.get_close_matches(each.key, list(known), n=1)
                advice = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
                self._refuse(each, f"there is no {what} of that name{advice}")
            found[each.key] = each
        return found

    def _entries(self, node: _Node, what: str, limit: int | None = None) -> Iterator[_Node]:
        if isinstance(node.value, dict) and limit is not None and len(node.value) > limit:
            self._refuse(node, f"has {len(node.value)} entries; a message has at most {limit}")
        if not isinstance(node.value, dict) or (not node.value and node.name):
            self._refuse(node, f"should be {what}")
        for key, value in node.value.items():
            each = _Node(f"{node.name}.{key}" if node.name else key, value, key)
            if value is None:
                self._refuse(each, "has no value")
            yield each

    def _require(self, node: _Node, given: Mapping[str, _Node], name: str) -> None:
        if name not in given:
            self._refuse(node, f"{name} is missing: name the path that holds it, such as {name}: {_EXAMPLES[name]}")

    def _text(self, node: _Node, what: str) -> str:
        if not isinstance(node.value, str):
            self._refuse(node, f"should be {what}, not {'a list' if isinstance(node.value, list) else 'a map'}")
        return node.value

    def _choice(self, node: _Node, known: Sequence[T]) -> T:
        if node.value not in known:
            self._refuse(node, self._not_one_of(node, known))
        return known[known.index(node.value)]

    @staticmethod
    def _not_one_of(node: _Node, known: Sequence[Any]) -> str:
        close = difflib.get_close_matches(str(node.value), [str(each) for each in known], n=1)
        advice = f"; did you mean {close[0]}?" if close else ""
        return f"should be one of {', '.join(map(str, known))}{advice}"

    def _switch(self, node: _Node) -> bool:
        return self._choice(node, ("true", "false")) == "true"

    def _number(self, node: _Node, least: int, most: int) -> int:
        text = node.value
        if not (isinstance(text, str) and text.isascii() and text.isdecimal() and least <= int(text[:9]) <= most):
            self._refuse(node, f"should be a whole number from {least} to {most}")
        return int(text)

    def _modality(self, node: _Node) -> str:
        self._check_name(node, node.key, "the name of the modality")
        return node.key

    def _check_name(self, node: _Node, name: str, what: str) -> None:
        if not 0 < len(name) <= DEFAULT_LIMITS.name_chars:
            self._refuse(node, f"{what} must have 1 to {DEFAULT_LIMITS.name_chars} characters")

    def _short(self, node: _Node) -> str:
        """Where a field is written, for dead letters."""
        return f"{self._file.path.name}, line {self._line(node)}"

    def _line(self, node: _Node) -> int:
        name = node.name
        while name and name not in self._file.lines:
            name = name.rpartition(".")[0]
        return self._file.lines.get(name, 1)

    def _refuse(self, node: _Node, problem: str) -> NoReturn:
        about = f"{shortened(node.name, 80)}: " if node.name else ""
        raise ConfigError(f"the mapping file {self._file.path}, line {self._line(node)}: {about}{problem}")


_EXAMPLES = {
    "item_id": "sku",
    "user_id": "session",
    "event_type": "type",
    "event_time": "{path: ts, unit: iso}",
}


def _as_is(value: Any) -> Any:
    return value


def _content_text(value: Any) -> str | None:
    return (value if type(value) is str else as_text(value)) or None


def _count_or(default: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        found = to_count(value)
        return default if found is None else found

    return convert


def _time_or(default: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        found = to_time_ms(value)
        return default if found is None else found

    return convert
