"""Where a change stands in the log of its database, as one number that grows: what Debezium says in `source`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from worker.mapping.problem import MisfitError

_MYSQL_FILE = re.compile(r".*\.(\d{1,9})")
_SQLSERVER_LSN = re.compile(r"([0-9a-fA-F]{8}):([0-9a-fA-F]{8}):([0-9a-fA-F]{4})")
_MAX = 2**63 - 1


def position_of(source: Any) -> int:
    """Position in the source; of two changes of one database, the later has the greater. Raises `MisfitError`."""
    if type(source) is not dict:
        raise MisfitError("$position is what Debezium says in source, which the record lacks")
    connector = source.get("connector")
    made = _CONNECTORS.get(connector) if isinstance(connector, str) else None
    if made is None:
        known = ", ".join(_CONNECTORS)
        raise MisfitError(f"$position is known of the connectors {known}; name a field that grows with each change")
    position = made(source)
    if position is None or not 0 <= position <= _MAX:
        raise MisfitError(f"source.connector is {connector}, and what says the position is missing or out of range")
    return position


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20 else None


def _postgresql(source: Mapping[str, Any]) -> int | None:
    return _whole(source.get("lsn"))


def _mysql(source: Mapping[str, Any]) -> int | None:
    """The number of the binary log, and the place in it, which is below 4 GiB."""
    file, place = source.get("file"), _whole(source.get("pos"))
    found = _MYSQL_FILE.fullmatch(file) if isinstance(file, str) else None
    return int(found[1]) << 32 | place if found and place is not None and 0 <= place < 2**32 else None


def _sqlserver(source: Mapping[str, Any]) -> int | None:
    """File, block and slot of the log: 15 bits are left for the file, of 32."""
    text = source.get("change_lsn") or source.get("commit_lsn")
    found = _SQLSERVER_LSN.fullmatch(text) if isinstance(text, str) else None
    return None if found is None else int(found[1], 16) << 48 | int(found[2], 16) << 16 | int(found[3], 16)


def _oracle(source: Mapping[str, Any]) -> int | None:
    return _whole(source.get("scn"))


def _mongodb(source: Mapping[str, Any]) -> int | None:
    """The second of a change and its number within that."""
    ms, number = _whole(source.get("ts_ms")), _whole(source.get("ord"))
    return None if ms is None or number is None or not 0 <= number < 2**32 else ms // 1000 << 32 | number


_CONNECTORS: Mapping[str, Callable[[Mapping[str, Any]], int | None]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
    "sqlserver": _sqlserver,
    "oracle": _oracle,
    "mongodb": _mongodb,
}
