"""What `align-worker space rollout` does: each step looks at what there is, and writes one record."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from schemas import ItemVector, SchemaError, decode_vector
from worker.align.space import Space
from worker.errors import ConfigError, RolloutError, TopicError
from worker.kafka.port import ClientPort, TopicDescription
from worker.records import TopicPartition
from worker.rollout import plan as plans
from worker.rollout.compatible import ELSE, obstacles, swap_obstacles
from worker.rollout.control import CONFIGURATION, SETTING, forget_health, read_board, read_standing, write_plan
from worker.rollout.health import RoleHealth, health_of
from worker.rollout.plan import Phase, Plan, PlannedSpace, Standing, topic_of
from worker.rollout.progress import RoleProgress, group_progress, objections
from worker.settings import Settings
from worker.topics.wanted import COMPACTED

READ_TIMEOUT_S = 30.0
ROLES = ("items", "users")


@dataclass(frozen=True, slots=True)
class Report:
    """Where a rollout stands."""

    standing: Standing
    progress: Mapping[str, RoleProgress]
    health: Mapping[str, RoleHealth] = field(default_factory=dict)
    """Of the vectors of the next space, by role, as all processes together have found it."""

    @property
    def objections(self) -> Sequence[str]:
        """What keeps the cutover shut, while there is one to come."""
        plan = self.standing.plan
        if plan is None or plan.next is None or plan.phase is Phase.SWITCHED:
            return ()
        return objections(self.progress, self.health, self.standing.failure)


def begin(client: ClientPort, settings: Settings, path: Path) -> tuple[Plan, Sequence[str]]:
    """Have the workers fill the topics of another space; returns those that it has made."""
    roles = [role for role in ROLES if role in settings.roles]
    standing = read_standing(client, settings)
    present = standing.plan or plans.stable(_present(settings), roles, _now_ms())
    live = Space.load(present.primary.path)
    if live.space_id != present.primary.space_id:
        raise RolloutError(f"{present.primary.path} holds space {live.space_id}, not {present.primary.space_id}")
    path = path.absolute()
    following = Space.load(path)
    found = obstacles(live.spec, following.spec, roles, remembers_features=settings.state.features)
    if found:
        raise RolloutError(f"{path} cannot follow {present.primary.path}: {'; '.join(found)}; {ELSE}")
    space_id, names = following.space_id, settings.topics
    planned = PlannedSpace(
        space_id, str(path), topic_of(names.item_vectors, space_id), topic_of(names.user_vectors, space_id)
    )
    plan = plans.begun(present, planned, roles, _now_ms())
    described = client.describe_topics(
        [names.items, names.events, names.rollouts, present.primary.item_vectors, present.primary.user_vectors,
         planned.item_vectors, planned.user_vectors]
    )  # fmt: skip
    _require_roles(described, present.primary, roles, names.events)
    _require_published(client, described, present, live)
    made = _make_topics(client, described, present.primary, planned, roles, names.rollouts)
    write_plan(client, settings, plan)
    return plan, made


def swap(client: ClientPort, settings: Settings, path: Path) -> Plan:
    """Have the workers put another space of equal contract in the place of the present one."""
    roles = [role for role in ROLES if role in settings.roles]
    standing = read_standing(client, settings)
    present = standing.plan or plans.stable(_present(settings), roles, _now_ms())
    live, path = Space.load(present.primary.path), path.absolute()
    following = Space.load(path)
    planned = replace(present.primary, space_id=following.space_id, path=str(path))
    plan = plans.swapped(present, planned, _now_ms())
    if found := swap_obstacles(live, following):
        raise RolloutError(
            f"{path} cannot come in the place of {present.primary.path}: {'; '.join(found)}; `space rollout {path}` "
            "moves to it by topics of its own"
        )
    control = settings.topics.rollouts
    described = client.describe_topics([control, present.primary.item_vectors, present.primary.user_vectors])
    _require_published(client, described, present, live)
    if control not in described:
        _create(client, control, CONFIGURATION, 1, described[present.primary.item_vectors].replication)
    write_plan(client, settings, plan)
    return plan


def report(client: ClientPort, settings: Settings) -> Report:
    standing, health = read_board(client, settings)
    plan = standing.plan
    if plan is None or plan.next is None:
        return Report(standing, {})
    return Report(standing, group_progress(client, settings, plan), health_of(health.values(), plan.next.space_id))


def cut_over(client: ClientPort, settings: Settings, accepted_missing: int, *, accept_health: bool = False) -> Plan:
    found = report(client, settings)
    against = objections(
        found.progress, found.health, found.standing.failure, accepted_missing, accept_health=accept_health
    )
    plan = plans.cut_over(_plan(found.standing), against, _now_ms())
    write_plan(client, settings, plan)
    return plan


def roll_back(client: ClientPort, settings: Settings) -> Plan:
    plan = plans.rolled_back(_plan(read_standing(client, settings)), _now_ms())
    write_plan(client, settings, plan)
    return plan


def finish(client: ClientPort, settings: Settings, *, abandon: bool) -> Plan:
    standing, health = read_board(client, settings)
    plan = plans.finished(_plan(standing), _now_ms(), abandon=abandon)
    write_plan(client, settings, plan)
    forget_health(client, settings, health)
    return plan


def _plan(standing: Standing) -> Plan:
    if standing.plan is None:
        raise RolloutError("no rollout is under way: `space rollout PATH` begins one")
    return standing.plan


def _present(settings: Settings) -> PlannedSpace:
    if settings.space.path is None:
        raise ConfigError("space.path is not set: name the directory of the space that the workers publish now")
    path = settings.space.path.absolute()
    return PlannedSpace(
        Space.load(path).space_id, str(path), settings.topics.item_vectors, settings.topics.user_vectors
    )


def _require_roles(
    described: Mapping[str, TopicDescription], primary: PlannedSpace, roles: Collection[str], events: str
) -> None:
    """Items and users of two spaces say nothing of each other: they move together."""
    if "items" not in roles:
        raise ConfigError("roles: a rollout moves items, or items and users: set it to items or items,users")
    if "users" not in roles and events in described and primary.user_vectors in described:
        raise RolloutError(
            f"there is a topic {primary.user_vectors!r}, so users are published, and they have to be moved with the "
            "items: give --roles items,users"
        )


def _require_published(
    client: ClientPort, described: Mapping[str, TopicDescription], present: Plan, live: Space
) -> None:
    """What is taken for the space that is published now has to be that, or one that may stand beside it."""
    primary, before = present.primary, present.swapped_from
    allowed = {live.space_id, *live.manifest.compatible_with, *(() if before is None else (before.space_id,))}
    topic = described.get(primary.item_vectors)
    if topic is None:
        raise TopicError(f"topics.item_vectors: topic {primary.item_vectors!r} does not exist")
    log = client.log()
    try:
        for number in range(topic.num_partitions):
            partition = TopicPartition(primary.item_vectors, number)
            end = log.end(partition, READ_TIMEOUT_S)
            for records in log.read(partition, end, at_least_last=8, timeout_s=READ_TIMEOUT_S):
                for record in records:
                    try:
                        found = decode_vector(ItemVector, record.value or b"", check_values=False).space_id
                    except SchemaError:
                        continue
                    if found not in allowed:
                        raise RolloutError(
                            f"topic {primary.item_vectors!r} holds vectors of space {found}, and {primary.path} is "
                            f"space {primary.space_id}: name what the workers publish now in space.path"
                        )
                    return
    finally:
        log.close()


def _make_topics(
    client: ClientPort,
    described: Mapping[str, TopicDescription],
    primary: PlannedSpace,
    planned: PlannedSpace,
    roles: Collection[str],
    control: str,
) -> Sequence[str]:
    """Those of the next space are like those of the present one; the control topic has one partition."""
    made = []
    for role in roles:
        like, name = described.get(primary.outputs(role)), planned.outputs(role)
        if like is None:
            raise TopicError(f"topic {primary.outputs(role)!r} does not exist")
        if name in described:
            if described[name].num_partitions != like.num_partitions:
                raise TopicError(
                    f"topic {name!r} has {described[name].num_partitions} partitions, {primary.outputs(role)!r} has "
                    f"{like.num_partitions}: delete it, and this makes it"
                )
            continue
        _create(client, name, COMPACTED, like.num_partitions, like.replication)
        made.append(name)
    if control not in described:
        _create(client, control, CONFIGURATION, 1, described[primary.item_vectors].replication)
        made.append(control)
    elif described[control].num_partitions != 1:
        raise TopicError(f"{SETTING}: topic {control!r} has {described[control].num_partitions} partitions, not one")
    return made


def _create(
    client: ClientPort, name: str, configuration: Mapping[str, str], num_partitions: int, replication: int | None
) -> None:
    copies = replication or 1
    in_sync = {"min.insync.replicas": str(max(1, copies - 1))}
    client.create_topics({name: {**configuration, **in_sync}}, num_partitions, copies)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
