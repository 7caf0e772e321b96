"""Where a Kafka to start comes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SIBLING_HOME = Path(__file__).parents[3] / "shared" / "kafka"


@dataclass(frozen=True)
class Distribution:
    """Kafka's jars, and a Java to run them."""

    home: Path
    java: str

    @property
    def class_path(self) -> str:
        return f"{self.home / 'libs'}/*"


def find_distribution(environment: Mapping[str, str] = os.environ) -> Distribution | str:
    """The distribution that KAFKA_HOME names, or the reason why there is none."""
    named = environment.get("KAFKA_HOME")
    home = Path(named) if named else _SIBLING_HOME
    if not any((home / "libs").glob("kafka_*.jar")):
        problem = f"no libs/kafka_*.jar in KAFKA_HOME={named}" if named else "KAFKA_HOME is not set"
        return f"{problem}: point it at an unpacked Apache Kafka distribution"
    java_home = environment.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(java_home) / "bin") if java_home else None)
    if java is None:
        return "no java command: install a Java 17 runtime, or set JAVA_HOME to one"
    return Distribution(home.resolve(), java)
