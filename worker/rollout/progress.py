"""How far a group has brought the next space, as its commits say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from worker.errors import TopicError
from worker.kafka.port import ClientPort, Commit
from worker.partitions.tenure import parse_note
from worker.records import TopicPartition
from worker.rollout.health import RoleHealth, health_objections
from worker.rollout.plan import Plan
from worker.settings import Settings
from worker.topics import topics_of


@dataclass(frozen=True, slots=True)
class RoleProgress:
    num_partitions: int
    num_complete: int
    """Of which the next space has everything."""
    num_left: int
    """Items or users still to be published in it, as far as commits say so."""
    num_missing: int
    """That have no vector in it, although they have one in the present space."""

    @property
    def is_complete(self) -> bool:
        return self.num_complete == self.num_partitions


def progress_of(commits: Collection[Commit | None], space_id: str) -> RoleProgress:
    """Of one role; a commit, or None, for each partition."""
    notes = [None if each is None else parse_note(each.metadata) for each in commits]
    mine = [
        note.next for note in notes if note is not None and note.next is not None and note.next.space_id == space_id
    ]
    return RoleProgress(
        len(commits),
        sum(each.is_complete for each in mine),
        sum(each.num_left for each in mine if not each.is_complete),
        sum(each.num_missing for each in mine),
    )


def group_progress(client: ClientPort, settings: Settings, plan: Plan) -> Mapping[str, RoleProgress]:
    """By role. Raises what the client raises."""
    assert plan.next is not None
    found: dict[str, RoleProgress] = {}
    for role in plan.roles:
        topics = topics_of("items" if role == "items" else "users", settings)
        described = client.describe_topics([topics.inputs]).get(topics.inputs)
        if described is None:
            raise TopicError(f"{topics.settings[0]}: topic {topics.inputs!r} does not exist")
        partitions = [TopicPartition(topics.inputs, number) for number in range(described.num_partitions)]
        commits = client.group_commits(topics.group_id, partitions)
        found[role] = progress_of([commits.get(each) for each in partitions], plan.next.space_id)
    return found


def objections(
    progress: Mapping[str, RoleProgress],
    health: Mapping[str, RoleHealth],
    failure: str,
    accepted_missing: int = 0,
    *,
    accept_health: bool = False,
) -> list[str]:
    """Why readers should not read the next space yet; empty where they may."""
    found = [f"a worker has given the next space up: {failure}"] if failure else []
    for role, each in progress.items():
        if not each.is_complete:
            left = f", {each.num_left} {role} are left" if each.num_left else ""
            found.append(f"{role}: {each.num_complete} of {each.num_partitions} partitions are complete{left}")
        if each.num_missing > accepted_missing:
            found.append(
                f"{role}: {each.num_missing} have no vector in the next space, which the workers' status pages name "
                f"(--accept-missing {each.num_missing} leaves them out)"
            )
    return found if accept_health else [*found, *health_objections(health)]
