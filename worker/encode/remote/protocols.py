"""The protocols: how each asks for vectors, what its answers look like, and how a server says what it serves. Pure.

Answers are read strictly: how many vectors, in which order, of how many dimensions, of finite numbers and with a
length. What is not that is `ServerFault`, whatever its status said.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from worker.encode.encoder import unit_rows
from worker.encode.media.forms import Form, ImageForm, TextForm
from worker.encode.remote.faults import DeniedError, OtherModelError, RefusedError, ServerFault
from worker.encode.remote.identity import SAMPLE
from worker.json_text import read_json

JSON = {"Content-Type": "application/json"}
MAX_CHARS = 32_768
CHARS_PER_TOKEN = 32  # no tokenizer makes fewer tokens of readable text than one per so many characters
IMAGE_PATCH, IMAGE_PATCHES = 28, 324
NAMES_SHOWN = 5
LENGTH_HEADER = "Inference-Header-Content-Length"
KSERVE_OUTPUTS = ("embedding", "embeddings", "sentence_embedding", "text_embeds", "image_embeds", "pooler_output")
FLOATS: Mapping[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "FP64": np.dtype("<f8")}

Payload = str | NDArray[np.uint8]
"""A text, or the pixels of an image [H, W, 3]."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """In lower case."""
    body: bytes


class Call(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: bytes


class Announced(NamedTuple):
    """A server's description of itself."""

    model: str
    revision: str = ""
    max_batch: int | None = None
    max_tokens: int | None = None
    max_requests: int | None = None


class Ask(Protocol):
    """A GET of a path below the base. Raises what `faults` has, but for 404, which is an answer."""

    async def __call__(self, path: str) -> Answer: ...


class WireProtocol(Protocol):
    sample: Payload
    """Encoded beside what is to be encoded, or before it."""
    batches: bool
    """Whether one request may ask for several vectors."""

    async def announce(self, ask: Ask) -> Announced: ...

    def forms(self, num_vectors: int, max_tokens: int | None) -> tuple[Form, ...]: ...

    def call(self, payloads: Sequence[Payload]) -> Call: ...

    def rows(self, answer: Answer, num: int) -> NDArray[np.float32]:
        """Vectors of unit length, [N, D]. Raises `ServerFault` for an answer that is none."""
        ...

    def plainer(self) -> bool:
        """Ask in a form that older servers know, from now on. False if there is none."""
        ...


def text_form(max_tokens: int | None) -> TextForm:
    return TextForm(MAX_CHARS if max_tokens is None else min(MAX_CHARS, CHARS_PER_TOKEN * max_tokens))


class OpenAi:
    """`POST …/embeddings`: OpenAI, vLLM, Infinity, LiteLLM, Ollama and most gateways."""

    sample: Payload = SAMPLE
    batches = True

    def __init__(self, model: str) -> None:
        self._model = model
        self._encoding = "base64"

    async def announce(self, ask: Ask) -> Announced:
        answer = await ask("/models")
        if answer.status in (404, 405, 501):
            return Announced(self._model)
        entries = _objects(_json(answer.body).get("data"))
        names = [str(entry.get("id")) for entry in entries]
        if self._model not in names:
            raise OtherModelError(_other(names, self._model))
        entry = entries[names.index(self._model)]
        revision = entry.get("revision")
        return Announced(
            self._model,
            revision if isinstance(revision, str) else "",
            max_tokens=_count(entry.get("max_model_len")),
        )

    def forms(self, num_vectors: int, max_tokens: int | None) -> tuple[Form, ...]:
        return (text_form(max_tokens),)

    def call(self, payloads: Sequence[Payload]) -> Call:
        asked = {"model": self._model, "input": list(payloads), "encoding_format": self._encoding}
        return Call("/embeddings", JSON, json.dumps(asked).encode())

    def rows(self, answer: Answer, num: int) -> NDArray[np.float32]:
        entries = _objects(_json(answer.body).get("data"))
        numbers = [entry.get("index", place) for place, entry in enumerate(entries)]
        if sorted(number if isinstance(number, int) else -1 for number in numbers) != list(range(num)):
            raise ServerFault(f"{len(entries)} vectors for {num} texts, or not each of them once")
        vectors = dict(zip(numbers, (_vector(entry.get("embedding")) for entry in entries), strict=True))
        return checked([vectors[number] for number in range(num)], num)

    def plainer(self) -> bool:
        was, self._encoding = self._encoding, "float"
        return was != "float"


class Tei:
    """`POST /embed` and `GET /info` of Text Embeddings Inference."""

    sample: Payload = SAMPLE
    batches = True

    def __init__(self, model: str) -> None:
        self._model = model

    async def announce(self, ask: Ask) -> Announced:
        answer = await ask("/info")
        if answer.status == 404:
            raise DeniedError("it has no /info: is it a server of Text Embeddings Inference?")
        info = _json(answer.body)
        model, revision = info.get("model_id"), info.get("model_sha")
        if not isinstance(model, str) or not model:
            raise ServerFault("/info names no model_id")
        if self._model and model != self._model:
            raise OtherModelError(_other([model], self._model))
        return Announced(
            model,
            revision if isinstance(revision, str) else "",
            _count(info.get("max_client_batch_size")),
            _count(info.get("max_input_length")),
            _count(info.get("max_concurrent_requests")),
        )

    def forms(self, num_vectors: int, max_tokens: int | None) -> tuple[Form, ...]:
        return (text_form(max_tokens),)

    def call(self, payloads: Sequence[Payload]) -> Call:
        return Call("/embed", JSON, json.dumps({"inputs": list(payloads), "truncate": True}).encode())

    def rows(self, answer: Answer, num: int) -> NDArray[np.float32]:
        found = _loaded(answer.body)
        if not isinstance(found, list):
            raise ServerFault("the answer is no list of vectors")
        return checked([_vector(each) for each in found], num)

    def plainer(self) -> bool:
        return False


class VllmMessages:
    """`POST …/embeddings` with `messages`: the pooling models of vLLM that see images. One vector per request, and
    texts by the same way as images, so that the two compare."""

    sample: Payload = SAMPLE
    batches = False

    def __init__(self, model: str) -> None:
        self._model = model
        self._openai = OpenAi(model)
        self._encoding = "base64"

    async def announce(self, ask: Ask) -> Announced:
        return await self._openai.announce(ask)

    def forms(self, num_vectors: int, max_tokens: int | None) -> tuple[Form, ...]:
        side = IMAGE_PATCH * int(IMAGE_PATCHES**0.5)
        seen = ImageForm(side, side, "patches", frames=num_vectors, patch=IMAGE_PATCH, most_patches=IMAGE_PATCHES)
        return (seen, text_form(max_tokens))

    def call(self, payloads: Sequence[Payload]) -> Call:
        (payload,) = payloads
        message = {"role": "user", "content": [_part(payload)]}
        asked = {"model": self._model, "messages": [message], "encoding_format": self._encoding}
        return Call("/embeddings", JSON, json.dumps(asked).encode())

    def rows(self, answer: Answer, num: int) -> NDArray[np.float32]:
        return self._openai.rows(answer, num)

    def plainer(self) -> bool:
        was, self._encoding = self._encoding, "float"
        return was != "float"


class KServe:
    """`POST /v2/models/MODEL/infer` of the open inference protocol, as Triton and others speak it, with tensors in
    binary. What the model takes is read from its metadata: texts (BYTES), or images (UINT8, [-1, H, W, 3])."""

    batches = True

    def __init__(self, model: str) -> None:
        self._model = model
        self._base = f"/v2/models/{quote(model)}"
        self._path = self._base
        self._input: dict[str, Any] = {}
        self._output = ""
        self._side: tuple[int, int] | None = None
        self.sample: Payload = SAMPLE

    async def announce(self, ask: Ask) -> Announced:
        answer = await ask(self._base)
        if answer.status == 404:
            raise OtherModelError(f"it has no model {self._model!r}")
        said = _json(answer.body)
        versions = [str(version) for version in said.get("versions") or []]
        newest = max(versions, key=lambda version: (len(version), version), default="")
        inputs, outputs = _objects(said.get("inputs")), _objects(said.get("outputs"))
        self._take(inputs, outputs)
        self._path = self._base + (f"/versions/{newest}" if newest else "")
        config = await ask(f"{self._base}/config")
        max_batch = _count(_json(config.body).get("max_batch_size")) if config.status == 200 else None
        if config.status == 200 and max_batch is None:
            max_batch = 1  # 0: the model knows no batches
        return Announced(self._model, newest, max_batch)

    def _take(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        if len(inputs) != 1:
            raise DeniedError(f"model {self._model!r} has {len(inputs)} inputs; one with one input is needed")
        (taken,) = inputs
        shape, kind = list(taken.get("shape") or []), taken.get("datatype")
        if kind == "UINT8" and len(shape) == 4 and shape[3] == 3 and min(shape[1:]) > 0:
            self._side = (int(shape[1]), int(shape[2]))
            grey_HW3 = np.full((*self._side, 3), 128, np.uint8)
            grey_HW3[: self._side[0] // 2, : self._side[1] // 3] = (200, 40, 90)
            self.sample = grey_HW3
        elif kind != "BYTES":
            raise DeniedError(
                f"model {self._model!r} takes {kind} {shape}; supported are texts (BYTES) and images (UINT8, "
                "[-1, height, width, 3])"
            )
        floats = [str(output.get("name")) for output in outputs if output.get("datatype") in FLOATS]
        named = [name for name in floats if name in KSERVE_OUTPUTS]
        if len(floats) != 1 and len(named) != 1:
            raise DeniedError(
                f"model {self._model!r} has the outputs {', '.join(floats) or 'none'}; it must have one, or one called "
                f"{' or '.join(KSERVE_OUTPUTS)}"
            )
        self._input, self._output = dict(taken), (floats if len(floats) == 1 else named)[0]

    def forms(self, num_vectors: int, max_tokens: int | None) -> tuple[Form, ...]:
        if self._side is not None:
            return (ImageForm(self._side[0], self._side[1], frames=num_vectors),)
        return (text_form(max_tokens),)

    def call(self, payloads: Sequence[Payload]) -> Call:
        if self._side is None:
            texts = [str(payload).encode() for payload in payloads]
            data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
            shape = [len(payloads)] + [1] * (len(self._input["shape"]) - 1)
        else:
            data = b"".join(np.ascontiguousarray(payload).tobytes() for payload in payloads)
            shape = [len(payloads), *self._side, 3]
        taken = {
            "name": self._input["name"],
            "datatype": self._input["datatype"],
            "shape": shape,
            "parameters": {"binary_data_size": len(data)},
        }
        wanted = {"name": self._output, "parameters": {"binary_data": True}}
        head = json.dumps({"inputs": [taken], "outputs": [wanted]}).encode()
        headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
        return Call(f"{self._path}/infer", headers, head + data)

    def rows(self, answer: Answer, num: int) -> NDArray[np.float32]:
        length = answer.headers.get(LENGTH_HEADER.lower(), str(len(answer.body)))
        if not length.isdigit() or int(length) > len(answer.body):
            raise ServerFault(f"{LENGTH_HEADER} is {length[:20]!r}")
        head, rest = _json(answer.body[: int(length)]), answer.body[int(length) :]
        start = 0
        for output in _objects(head.get("outputs")):
            parameters = output.get("parameters") or {}
            size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
            if output.get("name") == self._output:
                values = output.get("data") if size is None else rest[start : start + int(size)]
                return checked(_tensor(output, values, num), num)
            start += int(size or 0)
        raise ServerFault(f"the answer has no output {self._output!r}")

    def plainer(self) -> bool:
        return False


def protocol(name: str, model: str) -> WireProtocol:
    kinds: dict[str, Any] = {"openai": OpenAi, "tei": Tei, "kserve": KServe, "vllm": VllmMessages}
    made: WireProtocol = kinds[name](model)
    return made


def checked(vectors: Sequence[NDArray[np.float32]], num: int) -> NDArray[np.float32]:
    """The vectors as rows of unit length. Raises `ServerFault` for what cannot be vectors of one space."""
    if len(vectors) != num:
        raise ServerFault(f"{len(vectors)} vectors for {num} contents")
    if len({len(vector) for vector in vectors}) != 1 or not len(vectors[0]):
        raise ServerFault("vectors of several sizes, or of none")
    rows_ND = np.stack(vectors)
    lengths_N = np.linalg.norm(rows_ND.astype(np.float64), axis=1)
    if not np.isfinite(lengths_N).all() or (lengths_N < 1e-6).any() or (lengths_N > 1e6).any():
        raise ServerFault("a vector that is not finite, or of no length")
    return unit_rows(rows_ND)


def _part(payload: Payload) -> dict[str, Any]:
    if isinstance(payload, str):
        return {"type": "text", "text": payload}
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(payload).save(file, "PNG", compress_level=1)
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _vector(value: Any) -> NDArray[np.float32]:
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
        if isinstance(value, list):
            made = np.asarray(value, np.float32)
            if made.ndim == 1:
                return made
    except (ValueError, TypeError, OverflowError) as error:
        raise ServerFault("a vector that cannot be read") from error
    raise ServerFault("a vector that is none")


def _tensor(output: Mapping[str, Any], values: Any, num: int) -> list[NDArray[np.float32]]:
    kind = FLOATS.get(str(output.get("datatype")))
    if kind is None:
        raise ServerFault(f"an output of {output.get('datatype')}")
    try:
        flat = np.frombuffer(values, kind) if isinstance(values, bytes) else np.asarray(values, kind).reshape(-1)
        return list(flat.astype(np.float32).reshape(num, -1))
    except (ValueError, TypeError, OverflowError) as error:
        raise ServerFault(f"an output that is not {num} vectors") from error


def _loaded(body: bytes) -> Any:
    try:
        return read_json(body)
    except ValueError as error:
        raise ServerFault("the answer is no JSON") from error


def _json(body: bytes) -> dict[str, Any]:
    found = _loaded(body)
    if not isinstance(found, dict):
        raise ServerFault("the answer is no JSON object")
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ServerFault("the answer has no list of objects where one belongs")
    return value


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _other(served: Sequence[str], wanted: str) -> str:
    shown = ", ".join(repr(name[:80]) for name in served[:NAMES_SHOWN]) or "nothing"
    return f"it serves {shown}, not {wanted!r}"


__all__ = ["Announced", "Answer", "Ask", "Call", "Payload", "RefusedError", "WireProtocol", "protocol"]
