"""One worker process: puts the parts together, runs them, and takes them down in order."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry

from schemas import AnyFeature, as_json
from worker.align import AlignRuntime, Contract, Space, WarmUpReport
from worker.align.device import resolve_device
from worker.align.padding import rising_sizes
from worker.align.result import Embeddings
from worker.align.weights import build_user_model
from worker.codes import Codebooks, read_codebooks
from worker.encode.content import ContentEncoder
from worker.encode.setup import content_encoder
from worker.errors import ConfigError, SpaceError, TopicError, WorkerError
from worker.item_vectors.dependents import Dependents
from worker.item_vectors.follower import ItemVectorFollower
from worker.item_vectors.table import ItemTable
from worker.item_vectors.waiting import Waiting
from worker.kafka import ClientPort, make_client
from worker.loop.pipeline import Pipeline, StopFlag
from worker.mapping.inputs import NO_INPUTS, Inputs, make_inputs
from worker.monitoring.health import Health
from worker.monitoring.http import HttpServer
from worker.monitoring.metrics import ByRole, EncodeMetrics, Metrics, ProcessMetrics, RemoteMetrics
from worker.monitoring.status import ProcessState, Status
from worker.monitoring.watchdog import RED_BEFORE_EXIT_S, Vitals, Watchdog
from worker.process.device_watch import DeviceWatch
from worker.process.hot_swap import HotSwap
from worker.process.member_name import with_member_name
from worker.process.rollout_watch import Hooks, RolloutWatch
from worker.process.status_board import StatusBoard
from worker.records import Change, Item, Recompute
from worker.roles.coded import CodedItems, CodeUse, with_codes
from worker.roles.items import ItemFormat, ItemsRole
from worker.roles.neighbors import NeighborFusion
from worker.roles.next_space import NextItems, NextSpace, NextUsers
from worker.roles.relay import RelayRole, events_translator, items_translator
from worker.roles.role import Role
from worker.roles.user_pool import UserPool
from worker.roles.users import UserFormat, UsersRole
from worker.roles.watched import WatchedItems, WatchedUsers
from worker.rollout.compatible import obstacles, swap_obstacles
from worker.rollout.control import settings_of, standing_if_allowed
from worker.rollout.plan import Plan, PlannedSpace, Standing
from worker.settings import GraphSettings, PublishSettings, Settings, UserSettings
from worker.stages.encode import EncodeStage
from worker.stages.fuse import NO_VECTOR, Result, Vector
from worker.state import Stores
from worker.state.items import ItemState
from worker.topics import RoleName, RoleTopics, check_topics, role_names, topics_of, topics_of_roles
from worker.vector_health import CHECKS, References, VectorWatch, read_references

log = logging.getLogger(__name__)

# The compute thread needs the interpreter for an instant between two long stretches without it, and waits for this
# long each time while the other threads are busy. With a shorter one these change places so often that a seventh of
# the rate is lost (`tests/bench/README.md`).
SWITCH_INTERVAL_S = 0.002
ENCODE_LANES = 2  # one batch is read, cut into tokens or sent while a server or a GPU is at the other one
GC_THRESHOLD = 100_000  # allocations without release; the interpreter's 700 is reached with every few records


class ModelEmbedder:
    """The runtime as the fuse stage of the items role sees it; with graph fusion, where the space has it."""

    def __init__(
        self, runtime: AlignRuntime, vector_dtype: Literal["f2", "f4"], graph: NeighborFusion | None = None
    ) -> None:
        self._runtime = runtime
        self._graph = graph
        self._dtype = vector_dtype
        self._has_prior = runtime.space.spec.prior is not None

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        if self._graph is not None:
            return self._among_neighbors(self._graph, [_state(entry) for entry in entries])
        features = [entry.features if isinstance(entry, Item) else _state(entry).features for entry in entries]
        return self.of(features)

    def of(self, features: Sequence[Mapping[str, AnyFeature]]) -> list[Result]:
        """Of what is in the items alone."""
        results = self._results(self._runtime.embed(features))
        return [result if each else NO_VECTOR for result, each in zip(results, features, strict=True)]

    def _among_neighbors(self, graph: NeighborFusion, states: Sequence[ItemState]) -> list[Result]:
        embedded = self._runtime.embed([state.features for state in states])
        moved = graph(embedded.vectors, [state.neighbors.ids if state.neighbors else () for state in states])
        bases = embedded.rows(self._dtype)
        results = self._results(replace(embedded, vectors=moved.vectors_BD))
        for index, (state, is_moved) in enumerate(zip(states, moved.is_moved_B.tolist(), strict=True)):
            result = results[index]
            if not state.parts:  # a message that brings neighbours alone may come first
                results[index] = NO_VECTOR
            elif is_moved and not np.isfinite(moved.vectors_BD[index]).all():
                results[index] = None
            elif is_moved and isinstance(result, Vector):
                results[index] = result._replace(base=bases[index])
        return results

    def _results(self, embedded: Embeddings) -> list[Result]:
        rows, bad = embedded.rows(self._dtype), embedded.bad_rows
        alone = [None] * len(rows) if embedded.modality_vectors is None else embedded.modality_rows(self._dtype)
        priors = embedded.priors.tolist() if self._has_prior else [None] * len(rows)
        return [
            None if index in bad else Vector(*values)
            for index, values in enumerate(zip(rows, embedded.modalities, alone, priors, strict=True))
        ]

    def padded_size(self, num_entries: int) -> int:
        return self._runtime.padded_size(num_entries)

    def probe(self) -> None:
        self._runtime.probe()


def _state(entry: Change) -> ItemState:
    state = entry.state if isinstance(entry, Item | Recompute) else None
    assert isinstance(state, ItemState)  # past the gate of the items role it is
    return state


def make_role(
    settings: Settings,
    topics: RoleTopics,
    client: ClientPort,
    model: Model | None,
    metrics: Metrics,
    inputs: Inputs = NO_INPUTS,
) -> Role:
    """A half of the worker for the space that is loaded, or a relay, which needs none. Raises `SpaceError` for one that
    says nothing of users."""
    max_future_s = settings.limits.max_future_s
    if topics.role == "relay-items":
        return RelayRole(topics, items_translator(inputs.relayed_items), max_future_s)
    if topics.role == "relay-events":
        return RelayRole(topics, events_translator(inputs.relayed_events), max_future_s)
    assert model is not None  # the others have been asked for
    space, dtype = model.space, settings.publish.vector_dtype
    device, user = model.runtime.device, space.spec.user
    sizes = rising_sizes(settings.batch.max_records, settings.batch.padded_sizes)
    if topics.role == "items":
        graph, dependents = None, None
        if space.spec.graph is not None:
            base = ItemTable(space.spec.dim, settings.graph.table_dtype, device)
            graph = NeighborFusion(space, base, sizes, device)
            dependents = make_dependents(
                settings, client, space, base, settings.graph, is_base=True, beside=model.beside
            )
        embedder = ModelEmbedder(model.runtime, dtype, graph)
        use = None if model.codebooks is None else CodeUse(model.codebooks)
        return ItemsRole(
            item_format(settings.publish, topics, space, model.codebooks, model.beside),
            Contract(space.spec),
            embedder if use is None else CodedItems(embedder, use, dtype),
            keep_features=settings.state.features,
            encoding=None if model.encoder is None else make_encoding(settings, model.encoder, metrics),
            dependents=dependents,
            max_future_s=settings.limits.max_future_s,
            foreign=inputs.items,
            watch=VectorWatch(model.references, space.spec.dim),
            code_use=use,
        )
    users = build_user_model(space.spec, space.weights, device)
    watch = VectorWatch(None, space.spec.dim)
    assert user is not None  # or there would be no model
    table = ItemTable(space.spec.dim, settings.users.table_dtype, device)
    return UsersRole(
        UserFormat(topics, space.space_id, dtype, space.spec.dim, form_of(settings.publish)),
        WatchedUsers(
            UserPool(users, table, user.event_weights, user.last, sizes, dtype, device),
            watch,
            dtype,
            table,
            user.event_weights,
        ),
        make_dependents(settings, client, space, table, settings.users, is_base=False, beside=model.beside),
        user.event_weights,
        user.last,
        settings.limits.max_future_s,
        inputs.events,
        watch,
    )


def item_format(
    settings: PublishSettings,
    topics: RoleTopics,
    space: Space,
    books: Codebooks | None,
    beside: frozenset[str] = frozenset(),
    *,
    is_next: bool = False,
) -> ItemFormat:
    return ItemFormat(
        topics,
        space.space_id,
        settings.vector_dtype,
        space.spec.dim,
        settings.modality_vectors,
        form_of(settings),
        is_next,
        None if books is None else books.code_space_id,
        beside,
    )


def form_of(settings: PublishSettings) -> Callable[[bytes], bytes] | None:
    """How vectors are written, where not as they are encoded. Raises `ConfigError` without what that needs."""
    if settings.format == "msgpack":
        return None
    try:
        import_module("orjson")
    except ImportError:
        raise ConfigError(
            f"publish.format={settings.format}: orjson is not installed: pip install 'align-worker[json]'"
        ) from None
    return partial(as_json, envelope=settings.format, elements=settings.json_vectors)


def make_dependents(
    settings: Settings,
    client: ClientPort,
    space: Space,
    table: ItemTable,
    follow: GraphSettings | UserSettings,
    *,
    is_base: bool,
    topic: str | None = None,
    beside: Collection[str] = (),
) -> Dependents:
    """`topic`: of the item vectors, where it is not the live one. `beside`: spaces whose vectors count, too."""
    topic, spec = topic or settings.topics.item_vectors, space.spec
    catalogue = ItemVectorFollower(
        client, topic, space.space_id, spec.dim, table, is_base=is_base, compatible_ids=beside
    )
    return Dependents(catalogue, Waiting(follow.max_waiting), follows_changes=follow.follow_changes)


def make_encoding(settings: Settings, encoder: ContentEncoder, metrics: Metrics) -> EncodeStage:
    measured = EncodeMetrics(metrics, encoder.routes, sorted(encoder.contents))
    if remote := encoder.remote_figures():
        metrics.registry.register(RemoteMetrics(remote))
    is_elsewhere = encoder.has_remote or resolve_device(settings.device) != "cpu"
    return EncodeStage(encoder, settings.batch, measured.observe, lanes=ENCODE_LANES if is_elsewhere else 1)


class Service:
    """Runs a worker until it is told to stop. Assembled in `run`, because each part needs the ones before it."""

    def __init__(
        self,
        settings: Settings,
        client: ClientPort | None = None,
        *,
        until_caught_up: bool = False,
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        """`until_caught_up`: the roles run one after the other, items first, each until it has done everything that was
        there when it began. `exit_process` is what the watchdog calls, from its own thread, when nothing moves."""
        if settings.space.path is None and needs_model(settings):
            raise ConfigError(
                "space.path is not set: make a space with `align-worker space create PATH --modality …` and name it"
            )
        self._inputs = make_inputs(settings)
        settings, self._member_name = with_member_name(settings) if client is None else (settings, None)
        self.settings = settings
        self.until_caught_up = until_caught_up
        self._configured = self.settings
        self._rebase = threading.Event()
        self._exit_process = exit_process
        self.is_caught_up = False
        """Whether what was to be done is done."""
        self.num_expired = 0
        """Records that the logs had dropped before they were read, once it has ended."""
        self.health = Health(role_names(settings))
        self.registry = CollectorRegistry()
        self.process_metrics = ProcessMetrics(self.registry)
        self._register_roles()
        for metrics in self.metrics.values():  # until a broker has answered
            metrics.silence.set_since([metrics.topic], time.monotonic())
        self.client = client or make_client(settings.kafka)
        self._board = StatusBoard(settings, self.metrics, time.time_ns() // 1_000_000)
        self.http = HttpServer(
            settings.http.host,
            settings.http.port,
            self.registry,
            self.health,
            self.status,
            allowed_hosts=settings.http.allowed_hosts,
        )
        self.running = threading.Event()

    def status(self) -> Status:
        return self._board.status

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, or what was to be done is done; returns after a drain. Raises the `WorkerError`
        that ends the process."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.http.start()
        logging.getLogger().addHandler(self._board.recent_warnings)
        log.info("serving metrics and status at %s", self.http.address, extra={"action": "http"})
        try:
            self._run(stop)
        except Exception as error:
            detail = error.one_line() if isinstance(error, WorkerError) else repr(error)
            self.health.dead(detail)
            self._board.set_state(ProcessState.FAILED, detail)
            time.sleep(RED_BEFORE_EXIT_S)
            raise
        finally:
            logging.getLogger().removeHandler(self._board.recent_warnings)
            self.http.close()
            if self._member_name is not None:
                self._member_name.close()
            if self._inputs.registry is not None:
                self._inputs.registry.close()

    def _run(self, stop: threading.Event) -> None:
        with ThreadPoolExecutor(1, "load") as loader:  # the model loads while we wait for a broker
            loading = loader.submit(_load_model, self.settings) if needs_model(self.settings) else None
            self.client.connect()
            standing = standing_if_allowed(self.client, self._configured) if loading is not None else Standing()
            plan = standing.live
            self.settings = as_planned(self._configured, plan)
            for metrics in self.metrics.values():  # from here on the loop of each role says
                metrics.silence.set_since([metrics.topic], None)
            for finding in check_topics(self.client, self.settings):
                log.warning(
                    "%s", finding.told(self.settings.kafka.bootstrap_servers), extra={"action": "topic_warning"}
                )
            model = None if loading is None else _planned_model(loading, self.settings, plan)
        while True:
            self._rebase.clear()
            self._run_with(model, standing, stop)
            if not self._rebase.is_set() or stop.is_set() or self.until_caught_up:
                break
            standing = standing_if_allowed(self.client, self._configured)
            plan = standing.live
            self.settings = as_planned(self._configured, plan)
            self._count_anew()
            model = _load_model(self.settings)
            _require_planned(model, plan)
            self.health.begin_again()
        self._board.set_state(ProcessState.STOPPED)

    def _register_roles(self) -> None:
        """Metrics of each role, from 0."""
        self.metrics = {
            topics.role: Metrics(CollectorRegistry(), topics.inputs) for topics in topics_of_roles(self.settings)
        }
        self._by_role = ByRole({role: metrics.registry for role, metrics in self.metrics.items()})
        self.registry.register(self._by_role)

    def _count_anew(self) -> None:
        """Figures as after a restart: the live space is another one, and so are its topics."""
        self.registry.unregister(self._by_role)
        self._register_roles()
        before = self._board
        self._board = StatusBoard(self.settings, self.metrics, before.status.started_at_ms, before.recent_warnings)

    def _run_with(self, model: Model | None, standing: Standing, stop: threading.Event) -> None:
        """The loops, with one live space."""
        settings = self.settings
        if model is not None:
            model = model._replace(beside=_beside(model.space, standing.plan))
            self._describe_model(model)
        pipelines = [self._pipeline(topics, model) for topics in topics_of_roles(settings)]
        watch = None if model is None else self._watch_rollout(model, pipelines)
        if watch is not None:
            self._board.rollout = watch
            watch.begin(standing)
        _calm_garbage_collector()
        phases = [[pipeline] for pipeline in pipelines] if self.until_caught_up else [pipelines]
        running = list(phases[0])
        watchdog = Watchdog(
            settings.watchdog,
            self.health,
            lambda: all_vitals(running),
            self._exit_process,
            self.process_metrics.watchdog.set,
            lambda timeout_s: leave_groups(running, timeout_s),
        )
        device_watch = None if model is None else DeviceWatch(model.runtime.device, self.process_metrics.gpu.set)
        if device_watch is not None:
            device_watch.start()
        self.health.started()
        self._board.set_state(ProcessState.RUNNING)
        watchdog.start()
        if watch is not None:
            watch.start()
        self.running.set()
        ends = _EitherEvent(stop, self._rebase)
        try:
            while phases and not ends.is_set():
                running[:] = phases.pop(0)
                run_together(running, ends, self._board.observe)
        finally:
            watchdog.stop()
            if watch is not None:
                watch.close()
            if device_watch is not None:
                device_watch.stop()
            for phase in phases:  # stopped before their turn
                for pipeline in phase:
                    pipeline.abort()
        self.is_caught_up = self.until_caught_up and all(pipeline.is_caught_up for pipeline in pipelines)
        self.num_expired += sum(pipeline.ledger.num_expired for pipeline in pipelines)

    def _watch_rollout(self, model: Model, pipelines: Sequence[Pipeline]) -> RolloutWatch:
        """With the settings that were given: groups, and the topics' names that others are made of."""
        live = [model]

        loaded: list[LoadedSwap] = []

        def load_swap(planned: PlannedSpace) -> LoadedSwap:
            loaded[:] = [LoadedSwap(self.settings, live[0], planned)]
            return loaded[0]

        def swapped(planned: PlannedSpace) -> None:
            before, live[0] = live[0], loaded.pop().model
            self.settings = settings_of(self.settings, planned)
            self._describe_model(live[0])
            for metrics in self.metrics.values():
                metrics.forget_vector_health(before.space.space_id, CHECKS)

        return RolloutWatch(
            self.client,
            self._configured,
            model.space.space_id,
            lambda: pipelines,
            lambda planned: load_next(self.settings, self.client, live[0].space, planned),
            self._rebase.set,
            HotSwap([each for each in pipelines if not each.role.topics.is_relay], load_swap),
            swapped,
        )

    def _pipeline(self, topics: RoleTopics, model: Model | None) -> Pipeline:
        settings = self.settings
        role = make_role(settings, topics, self.client, model, self.metrics[topics.role], self._inputs)
        stores = Stores(settings.state.dir if topics.state else None, topics.state, topics.group_id)
        metrics = self.metrics[topics.role]
        return Pipeline(settings, self.client, role, stores, metrics, self.health, until_caught_up=self.until_caught_up)

    def _describe_model(self, model: Model) -> None:
        space, report = model.space, model.report
        device = {
            "device_requested": self.settings.device,
            "device_active": report.device,
            "dtype_requested": self.settings.dtype,
            "dtype_active": report.dtype,
        }
        self.process_metrics.device_info.info(device)
        self.process_metrics.space_info.info({"space_id": space.space_id, "dim": str(space.spec.dim)})
        self._board.describe(
            {"space_id": space.space_id, "dim": space.spec.dim, "modalities": list(space.spec.modalities)},
            device,
        )
        log.info(
            "model ready on %s in %s",
            report.device,
            report.dtype,
            extra={"action": "warm_up", "report": asdict(report)},
        )


class _EitherEvent:
    """Set when one of the two is."""

    def __init__(self, first: StopFlag, second: StopFlag) -> None:
        self._events = (first, second)

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._events)


def run_together(pipelines: Sequence[Pipeline], stop: StopFlag, observe: Callable[[Pipeline, bool], None]) -> None:
    """Run each on a thread, the first on this one. When one fails the others drain, and its error is raised."""
    failed: list[BaseException] = []
    failing = threading.Event()
    ends = _EitherEvent(stop, failing)

    def run(pipeline: Pipeline) -> None:
        try:
            pipeline.run(ends, lambda: observe(pipeline, ends.is_set()))
        except BaseException as error:
            failed.append(error)
            failing.set()
            pipeline.abort()

    threads = [threading.Thread(target=run, args=[pipeline], name="poll") for pipeline in pipelines[1:]]
    for thread in threads:
        thread.start()
    run(pipelines[0])
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def leave_groups(pipelines: Sequence[Pipeline], timeout_s: float) -> None:
    """Take the process out of its groups, all at the same time. What does not work in time is left to the session."""

    def leave(pipeline: Pipeline) -> None:
        try:
            pipeline.leave(timeout_s)
        except WorkerError as error:
            log.warning("%s", error.one_line(), extra={"action": "leave_failed"})

    threads = [threading.Thread(target=leave, args=[each], name="leave", daemon=True) for each in pipelines]
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def all_vitals(pipelines: Sequence[Pipeline]) -> Vitals:
    vitals = [pipeline.vitals() for pipeline in pipelines]
    moved_at = {name: at for each in vitals for name, at in each.moved_at.items()}
    return Vitals(moved_at, all(each.group_stable for each in vitals), vitals[0].reachable)


def _calm_garbage_collector() -> None:
    """Look for cycles rarely: records make hardly any, but millions of objects that live for an instant.

    What start-up has made stays, and is left out of every search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def needs_model(settings: Settings) -> bool:
    """Whether a role of this process computes vectors."""
    return bool(settings.roles & {"items", "users"})


class Model(NamedTuple):
    space: Space
    runtime: AlignRuntime
    report: WarmUpReport
    encoder: ContentEncoder | None
    """Encoder of raw content; None where no encoders are configured."""
    references: References | None = None
    """What its vectors are compared with; None where the space has none."""
    codebooks: Codebooks | None = None
    """None: vectors are published without codes."""
    beside: frozenset[str] = frozenset()
    """Other spaces whose vectors may stand in its topics, too."""


def _load_model(settings: Settings) -> Model:
    assert settings.space.path is not None  # checked at construction
    space = Space.load(settings.space.path)
    if space.spec.graph is not None and "items" in settings.roles and not settings.state.features:
        raise ConfigError(
            f"state.features: {settings.space.path} fuses items with their neighbours (graph), so an item is computed "
            "anew when a neighbour appears, which needs its features: set it to true, or take a space without graph"
        )
    runtime = _runtime(settings, space)
    encoder = _load_encoder(settings, space)
    codebooks = read_codebooks(settings.space.path, space.space_id) if "items" in settings.roles else None
    references = _load_references(settings.space.path, space) if "items" in settings.roles else None
    return Model(space, runtime, runtime.warm_up(), encoder, references, codebooks)


def _beside(space: Space, plan: Plan | None) -> frozenset[str]:
    """Spaces whose vectors may stand in its topics."""
    swapped = () if plan is None or plan.swapped_from is None else (plan.primary.space_id, plan.swapped_from.space_id)
    return frozenset((*space.manifest.compatible_with, *swapped)) - {space.space_id}


def as_planned(settings: Settings, plan: Plan | None) -> Settings:
    """With the space, and its topics, that a rollout has made the live one."""
    return settings if plan is None else settings_of(settings, plan.primary)


def _planned_model(loading: Future[Model], settings: Settings, plan: Plan | None) -> Model:
    """The model of the space that is to be published: the one of `space.path`, or that which a rollout has put in its
    place."""
    if plan is None:
        return loading.result()
    try:
        model = loading.result()
        if model.space.space_id == plan.primary.space_id:
            return model
    except SpaceError as error:
        log.warning("space.path: %s", error.one_line(), extra={"action": "space_replaced"})
    log.warning(
        "space %s in %s is published, which a rollout has put in the place of the one in space.path",
        plan.primary.space_id, plan.primary.path, extra={"action": "space_replaced"},
    )  # fmt: skip
    model = _load_model(settings)
    _require_planned(model, plan)
    return model


def _require_planned(model: Model, plan: Plan | None) -> None:
    if plan is not None and model.space.space_id != plan.primary.space_id:
        raise SpaceError(
            f"{plan.primary.path} holds space {model.space.space_id}; the one to be published is "
            f"{plan.primary.space_id} (`align-worker space rollout status`): put it there"
        )


def load_next(settings: Settings, client: ClientPort, live: Space, planned: PlannedSpace) -> LoadedNext:
    """Load and warm the next space beside the live one. Raises `SpaceError` for one that cannot follow that."""
    space = Space.load(planned.path)
    if space.space_id != planned.space_id:
        raise SpaceError(f"{planned.path} holds space {space.space_id}, not {planned.space_id}")
    found = obstacles(live.spec, space.spec, settings.roles, remembers_features=settings.state.features)
    if found:
        raise SpaceError("; ".join(found))
    runtime = _runtime(settings, space)
    runtime.warm_up()
    return LoadedNext(settings, client, space, runtime, planned)


class LoadedSwap:
    """Implements `hot_swap.Candidate`: a space that comes in the place of the live one."""

    def __init__(self, settings: Settings, live: Model, planned: PlannedSpace) -> None:
        """Raises `SpaceError` for one that cannot."""
        space = Space.load(planned.path)
        if space.space_id != planned.space_id:
            raise SpaceError(f"{planned.path} holds space {space.space_id}, not {planned.space_id}")
        if found := swap_obstacles(live.space, space):
            raise SpaceError("; ".join(found))
        runtime = _runtime(settings, space)
        has_items = "items" in settings.roles
        self.model = Model(
            space,
            runtime,
            runtime.warm_up(),
            live.encoder,
            _load_references(planned.path, space) if has_items else None,
            read_codebooks(planned.path, space.space_id) if has_items else None,
            frozenset((*space.manifest.compatible_with, *live.beside, live.space.space_id)) - {space.space_id},
        )
        self.dim, self.dtype = space.spec.dim, settings.publish.vector_dtype
        self.references = self.model.references
        measured = space.manifest.compatible_with.get(live.space.space_id)
        measured = measured or live.space.manifest.compatible_with.get(space.space_id, {})
        self.expected_cosine = measured.get("cosine", 0.0)
        self._settings = settings
        self._embedder = ModelEmbedder(runtime, self.dtype)

    def vectors(self, features: Sequence[Mapping[str, AnyFeature]]) -> list[Result]:
        return self._embedder.of(features)

    def take_over(self, pipeline: Pipeline) -> None:
        role, model, settings = pipeline.role, self.model, self._settings
        space, topics = model.space, role.topics
        if isinstance(role, ItemsRole):
            use = None if model.codebooks is None else CodeUse(model.codebooks)
            made = item_format(settings.publish, topics, space, model.codebooks, model.beside)
            output = replace(made, earlier=role.output)
            embedder = self._embedder if use is None else CodedItems(self._embedder, use, self.dtype)
            pipeline.compute.serve(role.use(output, embedder, VectorWatch(model.references, self.dim), use), output)
        elif isinstance(role, UsersRole):
            user, table, watch = space.spec.user, role.dependents.catalogue.table, VectorWatch(None, self.dim)
            assert user is not None  # as in the live space, which has users
            users = build_user_model(space.spec, space.weights, model.runtime.device)
            sizes = rising_sizes(settings.batch.max_records, settings.batch.padded_sizes)
            pool = UserPool(users, table, user.event_weights, user.last, sizes, self.dtype, model.runtime.device)
            written = UserFormat(topics, space.space_id, self.dtype, self.dim, form_of(settings.publish))
            watched = WatchedUsers(pool, watch, self.dtype, table, user.event_weights)
            pipeline.compute.serve(role.use(written, watched, watch), written)


class LoadedNext:
    """Implements `rollout_watch.NextModel`."""

    def __init__(
        self, settings: Settings, client: ClientPort, space: Space, runtime: AlignRuntime, planned: PlannedSpace
    ) -> None:
        self._settings = settings
        self._client = client
        self._space = space
        self._runtime = runtime
        self._planned = planned

    def space_of(self, role: RoleName, hooks: Hooks) -> NextSpace:
        settings, space = self._settings, self._space
        topics = topics_of(role, settings)
        name = self._planned.outputs(role)
        described = self._client.describe_topics([name, topics.inputs])
        if name not in described:
            raise TopicError(f"topic {name!r} does not exist")
        if described[name].num_partitions != described[topics.inputs].num_partitions:
            raise TopicError(
                f"topic {name!r} has {described[name].num_partitions} partitions, {topics.inputs!r} has "
                f"{described[topics.inputs].num_partitions}"
            )
        topics, topic_id = replace(topics, outputs=name), described[name].topic_id
        dtype = settings.publish.vector_dtype
        if role == "items":
            embedder = ModelEmbedder(self._runtime, dtype)
            books = read_codebooks(self._planned.path, space.space_id)
            use = None if books is None else CodeUse(books)
            items = NextItems(
                embedder.of if use is None else lambda features: with_codes(embedder.of(features), use, dtype),
                embedder.probe,
                Contract(space.spec),
            )
            references = _load_references(self._planned.path, space)
            return NextSpace(
                item_format(settings.publish, topics, space, books, is_next=True),
                items,
                watched=WatchedItems(items, VectorWatch(references, space.spec.dim), dtype),
                topic_id=topic_id,
                is_read=hooks.is_read,
                on_failed=hooks.on_failed,
            )
        model, users = build_user_model(space.spec, space.weights, self._runtime.device), space.spec.user
        if model is None or users is None:
            raise SpaceError("the next space says nothing of users")
        sizes = rising_sizes(settings.batch.max_records, settings.batch.padded_sizes)
        table = ItemTable(space.spec.dim, settings.users.table_dtype, self._runtime.device)
        pool = UserPool(model, table, users.event_weights, users.last, sizes, dtype, self._runtime.device)
        dependents = make_dependents(
            settings, self._client, space, table, settings.users, is_base=False, topic=self._planned.item_vectors
        )
        dependents.stage.start()
        pooled = NextUsers(pool, users.last)
        return NextSpace(
            UserFormat(topics, space.space_id, dtype, space.spec.dim, form_of(settings.publish)),
            pooled,
            dependents,
            watched=WatchedUsers(pooled, VectorWatch(None, space.spec.dim), dtype, table, users.event_weights),
            topic_id=topic_id,
            may_begin=hooks.are_items_complete,
            is_read=hooks.is_read,
            on_failed=hooks.on_failed,
        )


def _runtime(settings: Settings, space: Space) -> AlignRuntime:
    return AlignRuntime(
        space,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        max_batch=settings.batch.max_records,
        padded_sizes=settings.batch.padded_sizes,
        modality_vectors=settings.publish.modality_vectors,
    )


def _load_references(path: str | Path, space: Space) -> References | None:
    """None, and a word about it, where there are none that can be used: vectors go on all the same."""
    try:
        references = read_references(path, space.space_id)
    except SpaceError as error:
        log.warning("%s", error.one_line(), extra={"action": "no_references"})
        return None
    if references is None:
        log.info(
            "the space has no references, so of its vectors only collapse, silent inputs and jumps are told "
            "(`align-worker space reference %s --items FILE` measures them)",
            path, extra={"action": "no_references"},
        )  # fmt: skip
    return references


def _load_encoder(settings: Settings, space: Space) -> ContentEncoder | None:
    if not settings.encode.encoders or "items" not in settings.roles:
        return None
    encoder = content_encoder(settings.encode, space=space.spec, device=settings.device, dtype=settings.dtype)
    encoder.warm_up()
    return encoder
