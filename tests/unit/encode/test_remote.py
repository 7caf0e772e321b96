"""Encoders that are servers: right vectors or none, whatever the server does."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.brokers.certificates import Authority
from tests.remote_server import DIM, GARBAGE, MODEL, RemoteServer, vector
from worker.encode.encoder import RemoteEncoder, UnavailableError
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Images, Text
from worker.encode.remote.address import parse_remote
from worker.encode.remote.client import ServerEncoder
from worker.encode.remote.load import load_remote
from worker.encode.shortened import shortened
from worker.errors import ConfigError, UnreachableError
from worker.settings import RemoteSettings

PROTOCOLS = ("openai", "tei", "kserve", "vllm")
TEXTS = [f"text number {number} " + "word " * (number % 17) for number in range(100)]


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with RemoteServer() as made:
        yield made


def settings(server: RemoteServer, **changes: Any) -> RemoteSettings:
    quick = {"timeout_s": 5.0, "deadline_s": 1.0, "start_timeout_s": 0.5}
    return RemoteSettings(hosts=(f"127.0.0.1:{server.port}",), **{**quick, **changes})


opened: list[ServerEncoder] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


def load(address: str, settings: RemoteSettings, **prompts: Any) -> ServerEncoder:
    opened.append(load_remote(address, settings, **prompts))
    return opened[-1]


def encoder(server: RemoteServer, protocol: str = "openai", prompt: str = "", **changes: Any) -> ServerEncoder:
    return load(server.url(protocol), settings(server, **changes), prompt=prompt)


def rows(made: Any, texts: list[str], trace: str = "") -> list[Any]:
    nothing = [None] * (len(made.forms(1)) - 1)
    return made.rows([piece for text in texts for piece in made.pieces([*nothing, Text(text)])], lambda: None, trace)


def are_right(found: list[Any], texts: list[str], model: str = MODEL) -> bool:
    return len(found) == len(texts) and all(
        isinstance(row, np.ndarray) and float(row @ vector(text, model)) > 0.9999
        for row, text in zip(found, texts, strict=True)
    )


# ---------------------------------------------------------------------- protocols


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_gives_the_vectors_of_its_texts_in_order(server: RemoteServer, protocol: str) -> None:
    made = encoder(server, protocol)
    assert isinstance(made, RemoteEncoder)
    assert (made.dim, made.name) == (DIM, f"{MODEL}@5f1c")
    texts = TEXTS[:20] if protocol == "vllm" else TEXTS
    server.manners.seconds = 0.01
    assert are_right(rows(made, texts), texts)
    assert server.seen.most_in_flight > 1
    assert server.seen.largest <= server.manners.max_batch


@pytest.mark.parametrize("protocol", ["tei", "kserve"])
@pytest.mark.parametrize("max_batch", [1, 2, 5])
def test_a_request_has_no_more_than_the_server_announces(server: RemoteServer, protocol: str, max_batch: int) -> None:
    server.manners.max_batch = max_batch
    assert are_right(rows(encoder(server, protocol), TEXTS[:30]), TEXTS[:30])
    assert server.seen.largest == max_batch


def test_a_server_that_announces_nothing_is_found_out_by_halving(server: RemoteServer) -> None:
    server.manners.max_batch = 3
    assert are_right(rows(encoder(server), TEXTS), TEXTS)


def test_a_server_that_knows_no_base64_is_asked_for_lists(server: RemoteServer) -> None:
    server.manners.base64 = False
    assert are_right(rows(encoder(server), TEXTS[:9]), TEXTS[:9])


def test_vectors_in_another_order_are_put_in_order(server: RemoteServer) -> None:
    server.manners.shuffled = True
    assert are_right(rows(encoder(server), TEXTS), TEXTS)


def test_a_picture_is_sent_as_a_message_and_never_as_an_address(server: RemoteServer) -> None:
    made = encoder(server, "vllm")
    pixels = np.full((1, 56, 84, 3), 70, np.uint8)
    (piece,) = made.pieces([Images(pixels, (0.0,)), None])
    (row,) = made.rows([piece], lambda: None)
    assert isinstance(row, np.ndarray)
    assert row.shape == (DIM,)


def test_a_prompt_stands_before_texts_and_in_the_name(server: RemoteServer) -> None:
    made = encoder(server, prompt="passage: ")
    assert are_right(rows(made, TEXTS[:3]), [f"passage: {text}" for text in TEXTS[:3]])
    assert made.name.startswith(f"{MODEL}+")
    asking = load(server.url(), settings(server), prompt="passage: ", query_prompt="query: ")
    assert asking.name == made.name
    assert are_right(rows(asking, TEXTS[:3]), [f"query: {text}" for text in TEXTS[:3]])


def test_the_first_dimensions_are_cut_and_named(server: RemoteServer) -> None:
    short = shortened(encoder(server), 8, "text")
    (row,) = rows(short, ["sea"])
    expected = vector("sea")[:8]
    assert np.allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
    assert (short.dim, short.name) == (8, f"{MODEL}@5f1c-first8")
    with pytest.raises(ConfigError, match=r"encode\.dims: text=33: .* has 32 dims"):
        shortened(encoder(server), 33, "text")


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize("protocol", ["openai", "tei", "kserve"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_no_nonsense_becomes_a_vector(server: RemoteServer, protocol: str, kind: str) -> None:
    made = encoder(server, protocol, deadline_s=30.0)
    server.manners.garbage, server.manners.garbage_share = kind, 0.4
    assert are_right(eventually(made, TEXTS), TEXTS)


def eventually(made: Any, texts: list[str], timeout_s: float = 60.0) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return rows(made, texts)
        except UnavailableError as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(max(0.01, error.retry_at - time.monotonic()))


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_a_server_that_fails_on_everything_ends_the_call_and_blames_no_content(
    server: RemoteServer, status: int
) -> None:
    made = encoder(server)
    server.manners.status = status
    with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{server.port}.*status {status}"):
        rows(made, TEXTS)
    server.manners.status = 200
    assert are_right(eventually(made, TEXTS), TEXTS)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_no_longer_lets_us_in_blames_no_content(server: RemoteServer, status: int) -> None:
    made = encoder(server)
    server.manners.status = status
    with pytest.raises(UnavailableError, match=f"status {status}"):
        rows(made, TEXTS)
    server.manners.status = 200
    assert are_right(eventually(made, TEXTS), TEXTS)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_less_and_later(server: RemoteServer, status: int) -> None:
    made = encoder(server, deadline_s=30.0)
    server.manners.status, server.manners.retry_after = status, "0.2"
    relief = threading.Timer(0.5, lambda: setattr(server.manners, "status", 200))
    relief.start()
    started = time.monotonic()
    assert are_right(rows(made, TEXTS), TEXTS)
    assert time.monotonic() - started > 0.4
    assert made.figures.busy > 0
    assert made.figures.busy < 40
    relief.join()


def test_a_server_that_stays_busy_is_waited_for(server: RemoteServer) -> None:
    made = encoder(server, deadline_s=0.3)
    server.manners.status = 429
    with pytest.raises(UnavailableError, match="has taken nothing for"):
        rows(made, TEXTS)


def test_a_server_that_is_killed_and_comes_back_loses_nothing(server: RemoteServer) -> None:
    made = encoder(server)
    server.stop()
    with pytest.raises(UnavailableError, match="no connection"):
        rows(made, TEXTS)
    server.start()
    assert are_right(eventually(made, TEXTS), TEXTS)


def test_an_answer_that_does_not_come_is_given_up(server: RemoteServer) -> None:
    made = encoder(server, timeout_s=0.2, deadline_s=0.3)
    server.manners.seconds = 5.0
    with pytest.raises(UnavailableError, match=r"no answer in 0\.2 s"):
        rows(made, TEXTS[:2])


def test_an_answer_that_drips_is_given_up(server: RemoteServer) -> None:
    made = encoder(server, timeout_s=0.3, deadline_s=0.3)
    server.manners.drip_s = 0.05  # each byte comes in time
    with pytest.raises(UnavailableError, match=r"no answer in 0\.3 s"):
        rows(made, TEXTS[:2])


def test_a_server_is_asked_by_one_call_at_a_time_whether_it_is_well_again(server: RemoteServer) -> None:
    made = encoder(server)
    server.stop()
    with pytest.raises(UnavailableError) as down:
        rows(made, TEXTS)
    with pytest.raises(UnavailableError):  # at once: it is not time yet
        made.require_well(lambda: None)
    server.start()
    time.sleep(max(0.0, down.value.retry_at - time.monotonic()))
    made.require_well(lambda: None)
    assert not made.figures.is_open
    assert server.seen.requests["/v1/models"] == 2


def test_whoever_waits_can_give_up(server: RemoteServer) -> None:
    class GivenUpError(Exception):
        pass

    def beat() -> None:
        raise GivenUpError

    made = encoder(server)
    server.manners.seconds = 5.0
    with pytest.raises(GivenUpError):
        made.rows(made.pieces([Text("sea")]), beat)


# ---------------------------------------------------------------------- whose fault it is


def test_one_text_that_is_refused_costs_only_itself(server: RemoteServer) -> None:
    texts = [*TEXTS[:40], "poison", *TEXTS[40:]]
    found = rows(encoder(server), texts)
    assert isinstance(found[40], ContentError)
    assert "a token that is not allowed" in found[40].detail
    assert are_right([*found[:40], *found[41:]], TEXTS)


def test_one_text_that_breaks_the_server_each_time_costs_only_itself(server: RemoteServer) -> None:
    made = encoder(server, deadline_s=0.4)
    found = eventually(made, ["crash", *TEXTS[:5]])
    assert isinstance(found[0], ContentError)
    assert are_right(found[1:], TEXTS[:5])


def test_a_text_that_is_too_long_is_cut_until_it_is_taken(server: RemoteServer) -> None:
    server.manners.max_chars = 1_000
    long = "word " * 1_000
    found = rows(encoder(server), [long, "short"])
    assert are_right(found, [long[:625], "short"])


def test_too_many_bytes_are_halved(server: RemoteServer) -> None:
    made = encoder(server)
    server.manners.max_bytes = 2_000
    assert are_right(rows(made, TEXTS), TEXTS)


# ---------------------------------------------------------------------- who is there


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_deployed_in_place_of_another_is_noticed_in_the_very_answer(
    server: RemoteServer, protocol: str
) -> None:
    made = encoder(server, protocol)
    server.manners.weights = "acme/other"  # of the same name, revision and dims
    with pytest.raises(UnavailableError, match="has become another encoder"):
        rows(made, TEXTS[:10])
    server.manners.weights = MODEL
    assert are_right(eventually(made, TEXTS[:10]), TEXTS[:10])


@pytest.mark.parametrize("change", [{"revision": "77aa"}, {"dim": 16}, {"model": "acme/renamed"}])
def test_another_model_revision_or_size_is_another_encoder(server: RemoteServer, change: dict[str, Any]) -> None:
    made = encoder(server, check_s=1e-9)
    for name, value in change.items():
        setattr(server.manners, name, value)
    with pytest.raises(UnavailableError, match=r"has become another encoder|serves 'acme/renamed'|no such model"):
        rows(made, TEXTS)


def test_half_of_the_servers_behind_a_balancer_having_another_model_gives_no_wrong_vector(
    server: RemoteServer,
) -> None:
    made = encoder(server)
    server.manners.other_share = 0.3
    assert are_right(eventually(made, TEXTS), TEXTS)


def test_without_a_revision_the_name_tells_models_apart_and_bears_rounding(server: RemoteServer) -> None:
    server.manners.revision = ""
    made = encoder(server)
    other = made.name
    assert other.startswith(f"{MODEL}~")
    server.manners.weights = "acme/other"
    changed = encoder(server)
    assert changed.name != other
    assert not changed.adopt(other)
    nearly = other[:-1] + ("a" if other[-1] != "a" else "i")  # a bit or two
    assert made.adopt(nearly)
    assert made.name == nearly


# ---------------------------------------------------------------------- keys and hosts


def test_a_key_is_sent_and_neither_printed_nor_sent_elsewhere(
    server: RemoteServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text("sk-very-secret\n")
    server.manners.key = "sk-very-secret"
    keys = {"127.0.0.1": file}
    made = encoder(server, key_files=keys)
    assert are_right(rows(made, TEXTS), TEXTS)
    server.manners.key = "sk-another"
    with pytest.raises(UnavailableError, match="refuses us") as refused:
        rows(made, TEXTS)
    assert "sk-very-secret" not in str(refused.value) + caplog.text
    file.write_text("sk-another")
    assert are_right(eventually(made, TEXTS), TEXTS)
    with pytest.raises(ConfigError, match=r"encode\.remote\.key_files") as missing:
        encoder(server)
    assert "sk-" not in str(missing.value)


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("models", ("127.0.0.1",))
    server = RemoteServer()
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.tls.load_cert_chain(mine.certificate, mine.key)
    with server:
        made = encoder(server, cafile=authority.certificate)
        assert are_right(rows(made, TEXTS), TEXTS)
        with pytest.raises(ConfigError, match="certificate is not trusted"):
            encoder(server)


def test_a_trace_is_carried_on(server: RemoteServer) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    rows(encoder(server), TEXTS, trace)
    assert server.seen.headers[-1]["traceparent"] == trace
    assert server.seen.headers[-1]["idempotency-key"]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h", "http://h/v1"),
        ("http://h/", "http://h"),
        ("http://h/v1/", "http://h/v1"),
        ("http://h/api/v2", "http://h/api/v2"),
    ],
)
def test_a_slash_alone_is_the_root_and_nothing_is_the_usual_path(url: str, base: str) -> None:
    assert str(parse_remote(f"openai+{url}#m", ["h"]).base) == base


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("openai+http://elsewhere.test/v1#m", r"host 'elsewhere\.test' is not in encode\.remote\.hosts"),
        ("openai+http://me:pw@127.0.0.1/v1#m", "credentials"),
        ("http://127.0.0.1/v1#m", "PROTOCOL is openai, tei, kserve, vllm"),
        ("grpc+http://127.0.0.1/v1#m", "PROTOCOL is openai, tei, kserve, vllm"),
        ("openai+http://127.0.0.1/v1", "names no model"),
        ("openai+ftp://127.0.0.1/v1#m", "PROTOCOL"),
        ("openai+http://127.0.0.1/v1?key=sk-1#m", "a query"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_in_one_line(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load_remote(address, RemoteSettings(hosts=("127.0.0.1",)))
    assert "pw" not in str(refused.value)
    assert "sk-1" not in str(refused.value)


def test_a_server_that_is_not_there_is_waited_for_and_then_named(server: RemoteServer) -> None:
    server.stop()
    with pytest.raises(UnreachableError, match=r"has not answered in 0\.5 s .*no connection"):
        encoder(server)


@pytest.mark.parametrize("protocol", ["openai", "tei", "kserve"])
def test_a_model_that_is_not_served_is_refused_at_the_start(server: RemoteServer, protocol: str) -> None:
    address = server.url(protocol).partition("#")[0] + "#acme/nowhere"
    with pytest.raises(ConfigError, match="acme/nowhere"):
        load_remote(address, settings(server))
