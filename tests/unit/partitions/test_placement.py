"""Which partitioners explain where keys lie; the hashes are those of the clients."""

import zlib
from typing import Any

import pytest
from kafka.partitioner.default import murmur2 as kafka_murmur2

from worker.partitions.placement import NUM_KEYS, PARTITIONERS, Placement, fnv1a, murmur2

KEYS = [f"item-{number}".encode() for number in range(200)] + ["ü".encode() * number for number in range(9)]
JAVA, CRC32, FNV = PARTITIONERS


def placed(*partitioners: str, num_partitions: int = 3, keys: Any = KEYS) -> Placement:
    """Keys as producers with these partitioners place them, one after the other."""
    made = Placement()
    for number, key in enumerate(keys):
        hashed = PARTITIONERS[partitioners[number % len(partitioners)]]
        made.look([key], hashed(key) % num_partitions, num_partitions)
    return made


def test_murmur2_is_that_of_the_clients() -> None:
    for key in KEYS:
        assert murmur2(key) == kafka_murmur2(key) & 0x7FFFFFFF


@pytest.mark.parametrize(("key", "hashed"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)])
def test_fnv1a_is_that_of_its_authors(key: bytes, hashed: int) -> None:
    assert fnv1a(key) in (hashed, 2**32 - hashed)
    assert 0 <= fnv1a(key) <= 2**31


@pytest.mark.parametrize("name", PARTITIONERS)
@pytest.mark.parametrize("num_partitions", [2, 3, 16])
def test_producers_that_agree_are_explained_by_what_they_use(name: str, num_partitions: int) -> None:
    assert placed(name, num_partitions=num_partitions).explanations() == [name]


@pytest.mark.parametrize("names", [(JAVA, CRC32), (CRC32, FNV), (JAVA, FNV)])
def test_producers_that_disagree_are_explained_by_both(names: tuple[Any, ...]) -> None:
    assert placed(*names).explanations() == [name for name in PARTITIONERS if name in names]


def test_a_single_key_of_another_producer_is_seen() -> None:
    stray = next(key for key in KEYS if zlib.crc32(key) % 16 != murmur2(key) % 16 and zlib.crc32(key) % 16 != 0)
    made = placed(JAVA, num_partitions=16)
    made.look([stray], zlib.crc32(stray) % 16, 16)
    assert made.explanations() == [JAVA, CRC32]


def test_an_empty_key_says_nothing_because_librdkafka_puts_it_anywhere() -> None:
    made = placed(CRC32)
    for partition in range(3):
        made.look([b""], partition, 3)
    assert made.explanations() == [CRC32]


def test_keys_placed_by_hand_are_explained_by_none() -> None:
    made = Placement()
    made.look(KEYS, 0, 16)
    assert made.explanations() == []


def test_nothing_is_said_of_a_few_keys_or_a_single_partition() -> None:
    assert placed(JAVA, CRC32, keys=KEYS[: NUM_KEYS - 1]).explanations() is None
    single = Placement()
    single.look(KEYS, 0, 1)
    assert single.explanations() is None
