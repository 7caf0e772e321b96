"""Points in time as people give them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
EXAMPLES = "5m, 2h or 3d ago, 2026-11-30T14:05:00+01:00, 2026-11-30 (in UTC without a zone), or milliseconds since 1970"


def moment(text: str, now_ms: int) -> tuple[int, bool]:
    """Milliseconds since 1970, and whether UTC was taken for want of a zone. Raises `ValueError`, with examples."""
    text = text.strip()
    if ago := re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhdw])", text, re.ASCII):
        return now_ms - round(float(ago[1]) * _UNITS_MS[ago[2]]), False
    if re.fullmatch(r"\d{9,15}", text, re.ASCII):
        return int(text), False
    try:
        time = datetime.fromisoformat(text)
        has_zone = time.tzinfo is not None
        return round((time if has_zone else time.replace(tzinfo=UTC)).timestamp() * 1000), not has_zone
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; give {EXAMPLES}") from None
