"""Which client library the worker has that is tested."""

from __future__ import annotations

import os

LIBRARIES = ("kafka-python", "confluent-kafka")
VARIABLE = "ALIGN_TEST_KAFKA_CLIENT"
"""Says which one where a test does not choose."""

current = os.environ.get(VARIABLE, LIBRARIES[0])
