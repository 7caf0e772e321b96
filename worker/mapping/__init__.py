"""Mapping of foreign data: a mapping file says which value of a record is which field of a message.

In: a file in YAML, and the values of records or rows. Out: fields of items and events, and for what cannot be one of
them, why, with the field and the line of the mapping. Pure, but for the registry of schemas; on any thread.
"""

from worker.mapping.documents import Document
from worker.mapping.events import EventMapping
from worker.mapping.file import MappingFile, read_mapping
from worker.mapping.items import SKIPPED, Deletion, Fields, ItemMapping, Skipped

__all__ = [
    "SKIPPED",
    "Deletion",
    "Document",
    "EventMapping",
    "Fields",
    "ItemMapping",
    "MappingFile",
    "Skipped",
    "read_mapping",
]
