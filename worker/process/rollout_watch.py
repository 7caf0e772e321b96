"""What the control topic says, carried out in this process: which space is published beside the live one, and when the
live one is another.

A thread of its own reads the topic, loads and warms the next space while the live one works, and hands it to the loops.
What fails of it is written to the topic, so that everybody knows.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.errors import WorkerError
from worker.kafka.port import ClientPort
from worker.loop.pipeline import Pipeline
from worker.process.hot_swap import HotSwap
from worker.roles.next_space import NextSpace
from worker.rollout.control import ControlFollower, write_failure, write_health
from worker.rollout.health import LEAST_JUDGED, ProcessHealth, RoleHealth, health_of
from worker.rollout.plan import Failure, Phase, Plan, PlannedSpace, Standing
from worker.rollout.progress import RoleProgress, group_progress
from worker.settings import Settings
from worker.topics import RoleName

log = logging.getLogger(__name__)

PROGRESS_S, COMPLETE_S = 4.0, 30.0
"""How often the group's commits are asked for: it takes a connection of its own each time."""
HEALTH_S, UNTOLD_S = 2.0, 30.0
RETRY_S = 1.0


class NextModel(Protocol):
    """The next space, loaded and warm."""

    def space_of(self, role: RoleName, hooks: Hooks) -> NextSpace: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the next space of a role asks and tells."""

    is_read: Callable[[], bool]
    are_items_complete: Callable[[], bool]
    on_failed: Callable[[str], None]


class RolloutWatch:
    """`standing` and `progress` are read by other threads: each is one reference, replaced whole."""

    def __init__(
        self,
        client: ClientPort,
        settings: Settings,
        live_space_id: str,
        pipelines: Callable[[], Sequence[Pipeline]],
        load: Callable[[PlannedSpace], NextModel],
        on_rebase: Callable[[], None],
        swap: HotSwap,
        on_swapped: Callable[[PlannedSpace], None],
    ) -> None:
        """`load` may take seconds. `on_rebase` is called once another space is to be the live one, `on_swapped` when
        one has come in its place."""
        self._client = client
        self._settings = settings
        self._live_space_id = live_space_id
        self._pipelines = pipelines
        self._load = load
        self._on_rebase = on_rebase
        self._swap = swap
        self._on_swapped = on_swapped
        self._follower = ControlFollower(client, settings)
        self._failures: queue.SimpleQueue[Failure] = queue.SimpleQueue()
        self._applied: tuple[int, str] | None = None
        self._spaces: list[NextSpace] = []
        self._is_undone = False
        """What was to be done could not be, and is to be tried again."""
        self._next_progress = self._next_health = 0.0
        self._process = uuid.uuid4().hex[:16]
        """This one among those whose findings are in the topic."""
        self._told: ProcessHealth | None = None
        self.standing = Standing()
        self.progress: Mapping[str, RoleProgress] = {}
        """Of the whole group, by role, while a rollout is under way."""
        self.swap_waits = ""
        """What a swap waits for here."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollout", daemon=True)

    def begin(self, standing: Standing) -> None:
        """Carry out what stood in the topic at the start, before the loops begin: what they publish from the first
        record on is published in both spaces."""
        self.standing = standing
        self._carry_out(standing)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is None:
            self._follower.close()
        else:
            self._thread.join(5.0)
        self._drop()

    def _run(self) -> None:
        """The follower is closed here: a client that is closed while another thread polls it may live on."""
        try:
            self._follow()
        finally:
            self._follower.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                standing = self._follower.step()
                self._tell_failures()
                if self._follower.is_read and (standing != self.standing or self._is_undone):
                    self.standing, self._is_undone = standing, False
                    self._carry_out(standing)
                self._tell_health()
                self._look_at_progress()
            except Exception as error:  # this thread has to go on, or no rollout is heard of any more
                detail = error.one_line() if isinstance(error, WorkerError) else repr(error)
                log.warning("%s", detail, extra={"action": "rollout_failed"})
                self._stop.wait(RETRY_S)

    # ------------------------------------------------------------------ what is to be done

    def _carry_out(self, standing: Standing) -> None:
        plan = standing.plan
        if self.swap_waits and (plan is None or not plan.is_swap or standing.failure):
            self._swap.give_up()
        self.swap_waits = ""
        if plan is not None and plan.primary.space_id != self._live_space_id:
            before = plan.swapped_from
            if plan.is_swap and before is not None and before.space_id == self._live_space_id:
                if not standing.failure:
                    self._bring_in(plan)
            elif plan.phase is Phase.STABLE:
                log.info("space %s becomes the live one", plan.primary.space_id, extra={"action": "rebase"})
                self._on_rebase()
            else:
                self._refuse(plan, f"a worker publishes space {self._live_space_id}, not {plan.primary.space_id}")
            return
        wanted = standing.published_beside
        if plan is None or wanted is None:
            self._drop()
        elif self._applied != (plan.begun, wanted.space_id):
            self._drop()
            self._install(plan, wanted)

    def _bring_in(self, plan: Plan) -> None:
        """The space that is to come in the place of the live one."""
        try:
            self._swap.expect([plan.primary.space_id])
            self.swap_waits = self._swap.step(plan.primary)
        except Exception as error:  # whatever it is, the live space goes on
            detail = error.one_line() if isinstance(error, WorkerError) else repr(error)
            log.error("space %s is not swapped in: %s", plan.primary.space_id, detail, extra={"action": "swap_failed"})
            self._refuse(plan, f"a worker cannot swap to {plan.primary.path}: {detail}")
            return
        if self.swap_waits:
            self._is_undone = True
            return
        self._live_space_id = plan.primary.space_id
        self._on_swapped(plan.primary)

    def _install(self, plan: Plan, wanted: PlannedSpace) -> None:
        self._applied = plan.begun, wanted.space_id
        pipelines = [each for each in self._pipelines() if not each.role.topics.is_relay]
        if others := [each.role.topics.role for each in pipelines if each.role.topics.role not in plan.roles]:
            self._refuse(plan, f"the group publishes {', '.join(others)}, too, which this rollout does not move")
            return
        try:
            model = self._load(wanted)
            for pipeline in pipelines:
                hooks = Hooks(self._is_read, self._are_items_complete, lambda detail: self._refuse(plan, detail))
                space = model.space_of(pipeline.role.topics.role, hooks)
                self._spaces.append(space)
                pipeline.backfilling.install(space)
        except Exception as error:  # whatever it is, the live space goes on
            if plan.phase is Phase.SWITCHED:
                self._applied, self._is_undone = None, True
                raise
            detail = error.one_line() if isinstance(error, WorkerError) else repr(error)
            log.error("the next space cannot be used: %s", detail, extra={"action": "next_failed"})
            self._refuse(plan, f"a worker cannot use the next space: {detail}")
            return
        log.info("space %s is published beside the live one", wanted.space_id, extra={"action": "next_space"})

    def _drop(self) -> None:
        self._applied = self._told = None
        for pipeline in self._pipelines():
            pipeline.backfilling.install(None)
        spaces, self._spaces = self._spaces, []
        for space in spaces:
            space.close()

    def _is_read(self) -> bool:
        return self.standing.plan is not None and self.standing.plan.phase is Phase.SWITCHED

    def _are_items_complete(self) -> bool:
        items = self.progress.get("items")
        return items is not None and items.is_complete

    # ------------------------------------------------------------------ what is to be told

    def _refuse(self, plan: Plan, detail: str) -> None:
        """Any thread."""
        self._failures.put(Failure(plan.begun, detail))

    def _tell_failures(self) -> None:
        while not self._failures.empty():
            failure = self._failures.get()
            if self.standing.failure or not failure.concerns(self.standing.plan):
                continue
            try:
                write_failure(self._client, self._settings, failure)
            except WorkerError as error:
                log.warning("%s", error.one_line(), extra={"action": "failure_untold"})
                self._failures.put(failure)
                return

    def _tell_health(self) -> None:
        """Say in the topic what is found of the next space's vectors here, where it has changed."""
        now = time.monotonic()
        if now < self._next_health or self._applied is None:
            return
        self._next_health = now + HEALTH_S
        found = ProcessHealth(
            self._applied[1],
            {
                "items" if space.is_of_items else "users": RoleHealth.of(space.watch.decide(LEAST_JUDGED))
                for space in self._spaces
                if space.watch is not None
            },
        )
        if not found.says_something or found == self._told:
            return
        try:
            write_health(self._client, self._settings, self._process, found)
        except WorkerError as error:
            log.warning("%s", error.one_line(), extra={"action": "health_untold"})
            self._next_health = now + UNTOLD_S
        else:
            self._told = found

    @property
    def health(self) -> Mapping[str, RoleHealth]:
        """Of the next space's vectors, by role, as the whole group has found it. Any thread."""
        plan = self.standing.plan
        return {} if plan is None or plan.next is None else health_of(self._follower.health, plan.next.space_id)

    def _look_at_progress(self) -> None:
        plan, now = self.standing.plan, time.monotonic()
        if plan is None or plan.next is None:
            self.progress = {}
        elif now >= self._next_progress:
            self._next_progress = now + PROGRESS_S
            self.progress = group_progress(self._client, self._settings, plan)
            if all(each.is_complete for each in self.progress.values()):
                self._next_progress = now + COMPLETE_S
