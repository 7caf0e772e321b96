"""Which partitioner puts the keys of a topic where they lie. Pure, and bounded: counts, no keys.

The order of a key is that of its partition. Two producers whose partitioners differ write one key to two partitions,
and each worker that has one of them holds it for all of the key. No worker sees both, but each sees keys that lie where
the one partitioner puts them and the other does not.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

NUM_KEYS = 12  # before which nothing is said: with few keys two partitioners explain what a third has done
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """MurmurHash2 of 32 bits with Kafka's seed, without its sign, as the Java client uses it."""
    mix, hashed = 0x5BD1E995, (0x9747B28C ^ len(key)) & _MASK
    end = len(key) & ~3
    for start in range(0, end, 4):
        word = int.from_bytes(key[start : start + 4], "little") * mix & _MASK
        word = (word ^ word >> 24) * mix & _MASK
        hashed = hashed * mix & _MASK ^ word
    if rest := key[end:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * mix & _MASK
    hashed = (hashed ^ hashed >> 13) * mix & _MASK
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF


def fnv1a(key: bytes) -> int:
    """FNV-1a of 32 bits, without its sign, as Sarama and segmentio use it."""
    hashed = 0x811C9DC5
    for byte in key:
        hashed = (hashed ^ byte) * 0x01000193 & _MASK
    return 0x100000000 - hashed if hashed >> 31 else hashed


PARTITIONERS: Mapping[str, Callable[[bytes], int]] = {
    "murmur2 (Java, kafka-python, franz-go, kafkajs)": murmur2,
    "crc32 (librdkafka's default)": zlib.crc32,
    "fnv1a (Sarama)": fnv1a,
}
_NAMES = tuple(PARTITIONERS)


class Placement:
    """Evidence from the keys of one topic so far. One thread."""

    def __init__(self) -> None:
        self._found: Counter[int] = Counter()
        """Keys by which partitioners explain where they lie, a bit for each."""

    def look(self, keys: Sequence[bytes], partition: int, num_partitions: int) -> None:
        """Take note of keys in a partition. With a single one there is nothing to learn, nor of a key without a byte:
        librdkafka takes it for none, and puts it anywhere."""
        if num_partitions < 2:
            return
        for key in filter(None, keys):
            found = 0
            for bit, hashed in enumerate(PARTITIONERS.values()):
                found |= (hashed(key) % num_partitions == partition) << bit
            self._found[found] += 1

    def explanations(self) -> Sequence[str] | None:
        """The fewest partitioners that explain all keys: one where all is well; none where they cannot. None: it is
        too early to say."""
        num_keys = sum(self._found.values())
        for count in range(1, len(_NAMES)):
            for chosen in combinations(range(len(_NAMES)), count):
                if all(any(found >> bit & 1 for bit in chosen) for found in self._found):
                    return [_NAMES[bit] for bit in chosen] if num_keys >= NUM_KEYS else None
        return [] if num_keys >= NUM_KEYS else None
