"""Whether one space can follow another in running workers: all that it is made of has to be remembered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from worker.align.space import Space
from worker.align.spec import ModalitySpec, SpaceSpec

ELSE = "a second deployment builds it from the logs (deploy/README.md, Change the space)"


def obstacles(live: SpaceSpec, following: SpaceSpec, roles: Collection[str], *, remembers_features: bool) -> list[str]:
    """Why not; empty where all is well."""
    found: list[str] = []
    if not remembers_features:
        found.append("state.features is false, so there is nothing that vectors could be made of again")
    if following.graph is not None:
        found.append("the next space fuses items with their neighbours (graph), which a rollout does not do yet")
    found += _of_modalities(live, following)
    if "users" in roles:
        found += _of_users(live, following)
    return found


def swap_obstacles(live: Space, following: Space) -> list[str]:
    """Why one space cannot come in the place of another between two batches, into the same topics; empty where it
    may: all but its weights is the same, and it was measured that vectors of the two can stand beside each other."""
    one, other = live.spec, following.spec
    found = [
        f"{name}: it has {_short(getattr(other, name))}, the present one {_short(getattr(one, name))}"
        for name in ("dim", "modalities", "prior", "user")
        if getattr(one, name) != getattr(other, name)
    ]
    if one.graph is not None or other.graph is not None:
        found.append("it is not done for spaces that fuse items with their neighbours (graph)")
    related = live.space_id in following.manifest.compatible_with, following.space_id in live.manifest.compatible_with
    if not any(related):
        found.append("it was not measured that their vectors can be compared (`align-worker space relate`)")
    return found


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each.encoder or 'of any encoder'} ({each.dim})" for name, each in value.items())
    return str(value)


def _of_modalities(live: SpaceSpec, following: SpaceSpec) -> Iterator[str]:
    for name, modality in following.modalities.items():
        known = live.modalities.get(name)
        if known is None:
            yield f"the next space takes {name}, which the present one does not: it is not remembered"
        elif (why := _other(known, modality)) is not None:
            yield f"{name}: the next space takes features {why}, and others are remembered"


def _other(known: ModalitySpec, wanted: ModalitySpec) -> str | None:
    if known.dim != wanted.dim:
        return f"of {wanted.dim} elements instead of {known.dim}"
    if wanted.encoder is not None and known.encoder is not None and known.encoder != wanted.encoder:
        return f"of encoder {wanted.encoder!r} instead of {known.encoder!r}"
    return None


def _of_users(live: SpaceSpec, following: SpaceSpec) -> Iterator[str]:
    if live.user is None:
        return
    if following.user is None:
        yield "the next space says nothing of users"
        return
    if following.user.last > live.user.last:
        yield (
            f"the next space looks at the last {following.user.last} events of a user, of which "
            f"{live.user.last} are remembered"
        )
    if unknown := sorted(following.user.event_weights.keys() - live.user.event_weights.keys()):
        yield f"the next space gives a weight to events of type {', '.join(unknown)}, which are not remembered"
