"""Encoders of one's own: `text=plugin:NAME` or `text=plugin:NAME:ARGUMENT`.

An installed distribution names a function under the entry points `align_worker.encoders`:

    [project.entry-points."align_worker.encoders"]
    acme = "acme.encoder:make"

    def make(argument: str, device: str) -> Encoder: ...

`argument` is what the setting says behind the second colon, empty if nothing; `device` is `auto`, `cpu`, `cuda` or
`cuda:N`. What it returns keeps `worker.encode.encoder.Encoder`, and is held to `worker.encode.contract` when it is
loaded.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from worker.encode.contract import problems
from worker.encode.encoder import Encoder
from worker.errors import ConfigError

GROUP = "align_worker.encoders"
PREFIX = "plugin:"


def load_plugin(model: str, device: str) -> Encoder:
    """Raises `ConfigError` for a name that nothing installed has, and for an encoder that breaks its contract."""
    name, _, argument = model.removeprefix(PREFIX).partition(":")
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise ConfigError(f"encode.encoders: no plug-in {name!r} is installed; installed are {known} ({GROUP})")
    try:
        encoder: Encoder = found[name].load()(argument, device)
    except Exception as error:  # whatever code of others raises
        said = " ".join(str(error).split())
        raise ConfigError(f"encode.encoders: the plug-in {name} fails: {type(error).__name__}: {said}") from error
    if broken := problems(encoder):
        raise ConfigError(f"encode.encoders: the plug-in {name} breaks its contract: {'; '.join(broken)}")
    return encoder
