"""YAML files of settings and of mappings, read so that a value means the same in a file as in a variable or a flag.

A scalar is its text as written: whether `on`, `010` or `1_000` is a name, a switch or a number is for the setting to
say, not for YAML. What editors and people do to such files is told with the line it stands in.
"""

from __future__ import annotations

import codecs
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from worker.errors import ConfigError
from worker.printable import shortened

MAX_BYTES = 256 * 1024
MAX_NODES = 10_000
"""Keys and values, each counted as often as an alias brings it."""
MAX_DEPTH = 20
_STANDARD = "tag:yaml.org,2002:"
_NULL, _MERGE = f"{_STANDARD}null", f"{_STANDARD}merge"
_TAGS = {f"{_STANDARD}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "value", "seq", "map")}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class ConfigFile:
    """Values that a file sets: text, lists of text and maps; and their lines."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    """By dotted name, counted from 1."""

    def place(self, name: str) -> str:
        """The place of a setting, as errors tell it."""
        return f"{self.path}, line {self.lines[name]}"


def read_config(
    path: Path, kind: str = "configuration file", holds: str = "settings, such as kafka: {group_id: …}"
) -> ConfigFile:
    """The file, every map of it with each key once. Raises `ConfigError` on one line, with the place in the file.

    `kind` is what errors call it, and `holds` what they say it must hold.
    """
    named = f"the {kind} {path}"
    text = _text(path, named)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None or root.tag == _NULL:
            return ConfigFile(path, {})
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{named} must hold {holds}")
        reading = _Reading(named)
        return ConfigFile(path, reading.map(root, "", 0), reading.lines)
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(named, text, error)) from None
    except RecursionError:
        raise ConfigError(f"{named} is nested too deeply") from None


def _text(path: Path, named: str) -> str:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise ConfigError(f"{named} is a directory: name the file in it")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {named}: {error.strerror}") from None
    except ValueError:  # a zero byte in the name
        raise ConfigError(f"cannot read the file {str(path)!r}: no such name") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{named} is larger than {MAX_BYTES // 1024} KiB: it is not one")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{named}, line {line}: byte 0x{data[error.start]:02x} is not {encoding.upper()}: save the file as UTF-8"
        ) from None


def _not_yaml(named: str, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        problem = f"it holds the character U+{int(error.character):04X}"
        if int(error.character) == 0:
            problem += ", as UTF-16 without its mark does: save the file as UTF-8"
    else:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        told = (getattr(error, name, None) for name in ("context", "problem"))
        problem = " ".join(str(each) for each in told if each) or str(error)
        if "'\\t'" in problem:
            problem = "a tab where only spaces may indent"
    return f"{named}, line {line} is not YAML: {problem}"


class _Reading:
    """Counts what it takes, so that a few lines of aliases of aliases do not become millions of values."""

    def __init__(self, named: str) -> None:
        self.lines: dict[str, int] = {}
        self._named = named
        self._num_nodes = 0

    def map(self, node: yaml.MappingNode, prefix: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key, value in self._pairs(node, depth):
            name = prefix + key.value
            line = key.start_mark.line + 1
            if key.value in own:
                raise self._refused(key, f"{shortened(name)} is given twice, first in line {own[key.value]}")
            own[key.value] = line
            self.lines[name] = line
            found[key.value] = self._value(value, f"{name}.", depth + 1)
        return found

    def _pairs(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Key and value, each key once but for repetitions in the same map: what `<<` brings gives way to what is
        written beside it, and to what an earlier one brings."""
        self._count(node, depth)
        own: list[tuple[yaml.ScalarNode, yaml.Node]] = []
        merged: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _NULL:
                raise self._refused(key, "a key must be a name")
            if key.tag != _MERGE:
                own.append((key, value))
                continue
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(each, yaml.MappingNode):
                    raise self._refused(key, "<< takes a map")
                for inner, brought in self._pairs(each, depth + 1):
                    merged.setdefault(inner.value, (inner, brought))
        written = {key.value for key, _ in own}
        yield from own
        yield from (pair for name, pair in merged.items() if name not in written)

    def _value(self, node: yaml.Node, prefix: str, depth: int) -> Any:
        if node.tag not in _TAGS:
            raise self._refused(node, f"the tag {shortened(node.tag.replace(_STANDARD, '!!'))} is not taken")
        if isinstance(node, yaml.MappingNode):
            return self.map(node, prefix, depth)
        self._count(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, prefix, depth + 1) for each in node.value]
        return None if node.tag == _NULL else node.value

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._num_nodes += 1
        if depth > MAX_DEPTH:
            raise self._refused(node, "nested too deeply")
        if self._num_nodes > MAX_NODES:
            raise self._refused(node, f"more than {MAX_NODES:,} values")

    def _refused(self, node: yaml.Node, why: str) -> ConfigError:
        return ConfigError(f"{self._named}, line {node.start_mark.line + 1}: {why}")
