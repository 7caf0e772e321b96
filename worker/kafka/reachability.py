"""Whether there is a broker to connect to at all, told without a client library: a probe over TCP."""

from __future__ import annotations

import socket

from worker.settings import broker_addresses

PROBE_TIMEOUT_S = 1.0


def reachable(bootstrap_servers: str) -> bool:
    """Whether some broker accepts a connection right now."""
    return not unreachable_because(bootstrap_servers)


def unreachable_because(bootstrap_servers: str) -> str:
    """Why no broker accepts a connection right now, a cause for each; empty if one does."""
    causes = []
    for host, port in broker_addresses(bootstrap_servers):
        try:
            with socket.create_connection((host, port), PROBE_TIMEOUT_S):
                return ""
        except (socket.gaierror, UnicodeError):
            causes.append(f"the name {host} cannot be resolved")
        except ConnectionRefusedError:
            causes.append(f"nothing listens at {host}:{port}")
        except TimeoutError:
            causes.append(f"{host}:{port} does not answer")
        except OSError as error:
            causes.append(f"{host}:{port} cannot be reached: {error.strerror or error}")
    return ", ".join(dict.fromkeys(causes))
