"""Every setting that a manifest gives is one that the worker has, and what belongs together agrees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from tests.contract.deploy.artefacts import (
    COMPOSE,
    DEPLOY,
    TARGETS,
    Document,
    base_deployment,
    container,
    document,
    pod_spec,
    rendered,
    the,
    with_components,
    workers_of,
)
from tests.contract.deploy.conftest import LoadSettings
from worker.errors import ConfigError
from worker.settings import CONFIG_FILE_VARIABLE, Settings, setting_names, variable
from worker.topics import topics_of_roles

SECRET = "not-a-real-password"
FILE_VARIABLES = {
    variable(name)
    for name in setting_names()
    if name.rsplit("_", 1)[-1] in ("cafile", "certfile", "keyfile") or name.endswith("_file")
}


def keys_of(volume: Document, configs: Mapping[str, Any]) -> set[str]:
    """File names that a volume is known to bring."""
    if "secret" in volume:
        return {item["path"] for item in volume["secret"].get("items", [])}
    if "configMap" in volume:
        return set(configs[volume["configMap"]["name"]])
    return set()


def mounted(path: str, deployment: Document, configs: Mapping[str, Any]) -> bool:
    """Whether the container finds a file at this path."""
    volumes = {each["name"]: each for each in pod_spec(deployment)["volumes"]}
    place = PurePosixPath(path)
    return any(
        place.parent == PurePosixPath(mount["mountPath"]) and place.name in keys_of(volumes[mount["name"]], configs)
        for mount in container(deployment)["volumeMounts"]
    )


def settings_of(resources: tuple[Document, ...], load_settings: LoadSettings, tmp_path: Path) -> Settings:
    """What the container would run with. Files from Secrets are stood in for; a path that no volume brings fails."""
    deployment = workers_of(resources)
    configs = {each["metadata"]["name"]: each["data"] for each in resources if each["kind"] == "ConfigMap"}
    file, variables = None, {}
    for each in container(deployment)["env"]:
        name, value = each["name"], each.get("value", SECRET)
        assert ("value" in each) != ("valueFrom" in each)
        if name == CONFIG_FILE_VARIABLE or name in FILE_VARIABLES:
            assert mounted(value, deployment, configs), f"{name}: nothing is mounted at {value}"
            stand_in = tmp_path / PurePosixPath(value).name
            texts = [data[stand_in.name] for data in configs.values() if stand_in.name in data]
            stand_in.write_text(texts[0] if texts else f"{SECRET}\n")
            if name == CONFIG_FILE_VARIABLE:
                file = stand_in
                continue
            value = str(stand_in)
        assert name not in variables, f"{name} is given twice"
        variables[name] = value
    return load_settings(variables, file)


def test_the_base_file_loads(worker_settings: Settings) -> None:
    given = yaml.safe_load((DEPLOY / "base" / "worker.yaml").read_text())
    assert worker_settings.kafka.group_id == given["kafka"]["group_id"]


@pytest.mark.parametrize("target", TARGETS)
def test_pods_get_settings_that_load(target: str, load_settings: LoadSettings, tmp_path: Path) -> None:
    settings = settings_of(rendered(target), load_settings, tmp_path)
    ports = {port["name"]: port["containerPort"] for port in container(the("Deployment", rendered(target)))["ports"]}
    assert ports["http"] == settings.http.port


def test_scram_signs_in(load_settings: LoadSettings, tmp_path: Path) -> None:
    kafka = settings_of(with_components(tmp_path, "scram"), load_settings, tmp_path).kafka
    assert (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    assert kafka.sasl_password is not None
    assert kafka.sasl_password.get_secret_value() == SECRET
    assert kafka.ssl_check_hostname


def test_a_secret_of_ones_own_is_mounted_where_settings_may_read_it() -> None:
    spec = pod_spec(base_deployment())
    (volume,) = [each for each in spec["volumes"] if "secret" in each]
    assert volume["secret"] == {"secretName": "align-worker", "optional": True}
    (mount,) = [each for each in container(base_deployment())["volumeMounts"] if each["name"] == volume["name"]]
    assert mount["readOnly"] is True
    assert f"{mount['mountPath']}/password" in (DEPLOY / "README.md").read_text()


def test_no_password_is_in_the_environment() -> None:
    """There every process of the pod has it, and `kubectl describe` and a crash report show where it is from."""
    names = {variable(name) for name in setting_names() if f"{name}_file" in setting_names()}
    for target in TARGETS:
        assert not names & {each["name"] for each in container(workers_of(rendered(target)))["env"]}


def test_no_manifest_holds_a_password() -> None:
    for path in DEPLOY.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            assert not (name.strip(" -").lower().endswith("password") and value.strip(" |>")), f"{path}: {line}"


@pytest.mark.parametrize("target", ["base", "overlays/next-space", "overlays/next-space-users"])
def test_the_space_lies_on_the_volume(target: str, load_settings: LoadSettings, tmp_path: Path) -> None:
    settings = settings_of(rendered(target), load_settings, tmp_path)
    mounts = {
        each["name"]: each["mountPath"] for each in container(the("Deployment", rendered(target)))["volumeMounts"]
    }
    assert settings.space.path is not None
    assert PurePosixPath(mounts["space"]) in PurePosixPath(settings.space.path).parents


@pytest.mark.parametrize(
    ("first", "second"),
    [("base", "overlays/next-space"), ("overlays/users", "overlays/next-space-users")],
    ids=["items", "users"],
)
@pytest.mark.parametrize("roles", [None, "items,users"], ids=["apart", "both roles in one"])
def test_the_next_space_shares_nothing_that_the_worker_writes(
    first: str, second: str, roles: str | None, load_settings: LoadSettings, tmp_path: Path
) -> None:
    now, then = (settings_of(rendered(target), load_settings, tmp_path) for target in (first, second))
    assert now.roles == then.roles
    if roles:
        both = {"roles": frozenset(roles.split(","))}
        now, then = now.model_copy(update=both), then.model_copy(update=both)
    for before, after in zip(topics_of_roles(now), topics_of_roles(then), strict=True):
        assert before.inputs == after.inputs
        for name in ("outputs", "state", "dead_letters", "group_id"):
            assert getattr(before, name) != getattr(after, name)
    assert now.topics.item_vectors != then.topics.item_vectors  # users are made of them
    assert now.space.path != then.space.path


def test_the_next_users_are_made_of_the_next_items(load_settings: LoadSettings, tmp_path: Path) -> None:
    items, users = (
        settings_of(rendered(target), load_settings, tmp_path)
        for target in ("overlays/next-space", "overlays/next-space-users")
    )
    assert (items.topics, items.space, items.kafka) == (users.topics, users.space, users.kafka)


@pytest.mark.parametrize(
    ("first", "second"), [("base", "overlays/users"), ("overlays/full", "overlays/full-users")], ids=["plain", "full"]
)
def test_the_users_deployment_joins_that_of_the_items(
    first: str, second: str, load_settings: LoadSettings, tmp_path: Path
) -> None:
    """One reads what the other writes, in the same space, and they are members of different groups."""
    items, users = (settings_of(rendered(target), load_settings, tmp_path) for target in (first, second))
    assert (items.roles, users.roles) == ({"items"}, {"users"})
    assert (items.topics, items.space, items.kafka) == (users.topics, users.space, users.kafka)
    assert topics_of_roles(items)[0].group_id != topics_of_roles(users)[0].group_id


def test_with_a_disk_workers_remember_on_it_and_are_known_by_name(load_settings: LoadSettings, tmp_path: Path) -> None:
    resources = with_components(tmp_path, "state-volume")
    settings, workers = settings_of(resources, load_settings, tmp_path), workers_of(resources)
    (claim,) = workers["spec"]["volumeClaimTemplates"]
    mounts = {each["name"]: each["mountPath"] for each in container(workers)["volumeMounts"]}
    assert str(settings.state.dir) == mounts[claim["metadata"]["name"]]
    (member,) = [each for each in container(workers)["env"] if each["name"] == "ALIGN_KAFKA__GROUP_INSTANCE_ID"]
    assert member["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    security = pod_spec(workers)["securityContext"]
    assert security["fsGroup"] == security["runAsGroup"]  # or the disk could not be written


def test_the_loader_is_checked_at_the_path_that_workers_use(worker_settings: Settings) -> None:
    assert f"space check {worker_settings.space.path}" in (DEPLOY / "space-volume.yaml").read_text()


@pytest.mark.parametrize("name", ["topics", "space", "worker"])
def test_compose_gives_settings_that_load(name: str, load_settings: LoadSettings) -> None:
    service = document(COMPOSE)["services"][name]
    settings = load_settings(service["environment"], None)
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert str(settings.space.path) == "/space/current"


def test_a_misspelt_variable_would_be_noticed(load_settings: LoadSettings, tmp_path: Path) -> None:
    deployment = base_deployment()
    worker = container(deployment)
    broken = {**worker, "env": [{"name": "ALIGN_KAFKA__GROUPID", "value": "x"}]}
    spec = {**pod_spec(deployment), "containers": [broken]}
    resources = ({**deployment, "spec": {"template": {"spec": spec}}},)
    with pytest.raises(ConfigError, match="GROUPID"):
        settings_of(resources, load_settings, tmp_path)


def test_a_file_that_nothing_mounts_would_be_noticed(load_settings: LoadSettings, tmp_path: Path) -> None:
    deployment = base_deployment()
    unmounted = {**container(deployment), "volumeMounts": []}
    resources = ({**deployment, "spec": {"template": {"spec": {**pod_spec(deployment), "containers": [unmounted]}}}},)
    with pytest.raises(AssertionError, match="nothing is mounted at /etc/align/worker"):
        settings_of(resources, load_settings, tmp_path)
