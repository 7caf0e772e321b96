"""The topics that a process uses: which they are, what they must be like, and making them.

In: the settings, and what the cluster says of its topics. Out: names, groups, what is wrong, and topics. On the
thread of whoever asks, before any record is read.
"""

from worker.topics.check import Finding, check_topics, findings, problems
from worker.topics.create import create_topics, replication_for
from worker.topics.wanted import (
    MAX_WRAPPED_BYTES,
    RoleName,
    RoleTopics,
    needed_topics,
    role_names,
    topics_of,
    topics_of_roles,
    wanted_topics,
)

__all__ = [
    "MAX_WRAPPED_BYTES",
    "Finding",
    "RoleName",
    "RoleTopics",
    "check_topics",
    "create_topics",
    "findings",
    "needed_topics",
    "problems",
    "replication_for",
    "role_names",
    "topics_of",
    "topics_of_roles",
    "wanted_topics",
]
