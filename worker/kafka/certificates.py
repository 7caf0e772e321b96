"""The TLS files that settings name, looked at before any broker is: with a bad one the client tries for ever."""

from __future__ import annotations

import ssl
from pathlib import Path

from worker.errors import ConfigError
from worker.settings import KafkaSettings


def check_certificates(settings: KafkaSettings) -> None:
    """Raise `ConfigError`, which names the setting, unless the files are what they should be and fit together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ssl_cafile is not None:
        try:
            context.load_verify_locations(settings.ssl_cafile)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"kafka.ssl_cafile: {settings.ssl_cafile} holds no certificate in PEM form: {_reason(error)}"
            ) from error
    if settings.ssl_certfile is not None:
        _check_own(context, settings, settings.ssl_certfile)
    elif settings.ssl_keyfile is not None:
        raise ConfigError("kafka.ssl_keyfile needs kafka.ssl_certfile")


def _check_own(context: ssl.SSLContext, settings: KafkaSettings, certificate: Path) -> None:
    secret = settings.ssl_key_password
    password = "" if secret is None else secret.get_secret_value()  # None would ask at the terminal
    try:
        context.load_cert_chain(certificate, settings.ssl_keyfile, password)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"kafka.ssl_certfile, kafka.ssl_keyfile and kafka.ssl_key_password do not make a certificate and its key, "
            f"both in PEM form: {_reason(error)}"
        ) from error


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
