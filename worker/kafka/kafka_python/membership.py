"""Taking a member out of its group from outside, while the member itself can no longer do it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from kafka.admin import KafkaAdminClient, MemberToRemove
from kafka.errors import KafkaTimeoutError, NoError
from kafka.structs import ConsumerGroupMetadata

from worker.kafka.kafka_python.connection import connection_config, open_client
from worker.kafka.kafka_python.translation import translated
from worker.kafka.port import Membership
from worker.settings import KafkaSettings


def leave(settings: KafkaSettings, member: Membership, timeout_s: float) -> None:
    """The same of a member of another library. Raises `worker.errors`."""
    with translated("leaving the group"):
        leave_group(connection_config(settings), ConsumerGroupMetadata(*member), timeout_s)


def leave_group(config: Mapping[str, Any], member: ConsumerGroupMetadata, timeout_s: float) -> None:
    """Raises the library's errors; `KafkaTimeoutError` when it takes too long.

    Both ids go into the request: a process whose name has been taken by another must not put that one out.
    """
    failed: list[BaseException] = []
    thread = threading.Thread(target=_leave, args=(config, member, timeout_s, failed), name="leave", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise KafkaTimeoutError(f"no answer within {timeout_s:g} s")
    if failed:
        raise failed[0]


def _leave(
    config: Mapping[str, Any], member: ConsumerGroupMetadata, timeout_s: float, failed: list[BaseException]
) -> None:
    timeouts = dict.fromkeys(("bootstrap_timeout_ms", "request_timeout_ms"), int(timeout_s * 1000))
    try:
        with contextlib.closing(open_client(KafkaAdminClient, **{**config, **timeouts})) as admin:
            leaving = MemberToRemove(member.member_id, member.group_instance_id)
            for error in admin.remove_group_members(member.group_id, [leaving]).values():
                if error is not NoError:
                    raise error(member.member_id)
    except Exception as error:  # it is raised where the caller is
        failed.append(error)
