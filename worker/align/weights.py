"""The parameters of a space: which there are, how they start, and what makes a file of them unusable."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worker.align.model import AlignModel
from worker.align.spec import SpaceSpec
from worker.align.users import UserModel
from worker.errors import SpaceError

Weights = Mapping[str, Tensor]
"""float32, on the CPU, by the model's parameter names."""

IN_FLOAT32 = ("user.", "graph.")
"""Parameters that are not rounded to the dtype of the model: what they work on is float32."""
START_AS_IDENTITY = ("value.weight", "merge.weight", "output.weight")
START_AT_ZERO = ("narrow.weight", "score.weight", "fusion.filling")
START_AT: Mapping[str, float] = {
    "graph.strength": 0.5,
}
HALF_LIFE_EVENTS = (
    3  # of the first head's weights at the start, as measured to be good; each further head's is 10 times
)
TYPE_EMBEDDING = 0.02  # standard deviation at the start: far below that of a token, which is 1
EMBEDDINGS = ("head_", "places_")


def expected_shapes(spec: SpaceSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in AlignModel(spec).state_dict().items()}


def initial_weights(spec: SpaceSpec, seed: int) -> dict[str, Tensor]:
    """Untrained parameters that depend on the spec and the seed alone.

    An untrained space averages random projections of the modalities that an item has, which keeps the neighbourhoods
    of its features: the maps after the heads start as the identity, the feed-forward part and the learned tokens at
    zero. The rest keeps the variance of its input (LeCun et al. 1998). Only uniform draws: they do not depend on the
    processor.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _initial(name, shape, generator) for name, shape in sorted(expected_shapes(spec).items())}


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name in START_AT:
        return torch.full(shape, START_AT[name])
    if name == "user.pool.decay":
        half_lives = [HALF_LIFE_EVENTS * 10**head for head in range(shape[0])]
        return torch.tensor([math.log(math.expm1(math.log(2) / half_life)) for half_life in half_lives])  # of softplus
    if name == "user.pool.merge.weight":
        heads = shape[1] // shape[0]
        return torch.cat([torch.eye(shape[0]) / heads] * heads, 1)
    if name.endswith(START_AS_IDENTITY) or (name.startswith("alone_") and len(shape) == 2):
        return torch.eye(*shape)
    is_embedding = name.startswith(EMBEDDINGS) and not name.endswith("weight")
    if name.endswith(START_AT_ZERO) or (len(shape) == 1 and not is_embedding):
        return torch.zeros(shape)
    deviation = TYPE_EMBEDDING if is_embedding else shape[1] ** -0.5
    uniform: Tensor = torch.rand(shape, generator=generator)
    return torch.mul(uniform * 2 - 1, math.sqrt(3) * deviation)


def build_model(
    spec: SpaceSpec, weights: Weights, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> AlignModel:
    """The model for inference: parameters in `dtype` on `device`, without gradients."""
    with torch.device("meta"):
        model = AlignModel(spec)
    parameters = {
        name: tensor.to(device, torch.float32 if name.startswith(IN_FLOAT32) else dtype)
        for name, tensor in weights.items()
    }
    model.load_state_dict(parameters, assign=True)
    model.requires_grad_(False)
    model.eval()
    return model


def build_user_model(spec: SpaceSpec, weights: Weights, device: str = "cpu") -> UserModel:
    """The user model of a space, for inference. Raises `SpaceError` for a space without one."""
    if spec.user is None:
        raise SpaceError("space.path: the space says nothing of users; make one with `user` in space.json")
    model = UserModel(spec.user, spec.dim)
    own = {name.removeprefix("user."): weight for name, weight in weights.items() if name.startswith("user.")}
    model.load_state_dict(own, assign=True)
    return model.requires_grad_(False).eval().to(device)


def content_id(spec: SpaceSpec, weights: Weights) -> str:
    """The space_id: 16 hexadecimal digits of a SHA-256 over everything that determines a vector.

    That is the format version, all that the spec says, and every parameter by name, shape and value. Evaluation
    figures, notes, the fingerprint of the training data and the layout of the file are not part of it.
    """
    digest = hashlib.sha256(spec.canonical())
    for name, tensor in sorted(weights.items()):
        digest.update(f"\n{name} {list(tensor.shape)}\n".encode())
        digest.update(_little_endian(tensor))
    return digest.hexdigest()[:16]


def _little_endian(tensor: Tensor) -> bytes:
    array = tensor.detach().contiguous().numpy()
    return (array.byteswap() if sys.byteorder == "big" else array).tobytes()


def write_weights(path: Path, weights: Weights) -> None:
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in weights.items()}))


def read_weights(path: Path, spec: SpaceSpec) -> dict[str, Tensor]:
    """The parameters in the file, or a `SpaceError` if they are not exactly those the spec asks for."""
    try:
        weights = load(path.read_bytes())
    except FileNotFoundError as error:
        raise SpaceError(f"space.path: {path} does not exist; the space is incomplete") from error
    except (OSError, SafetensorError) as error:
        raise SpaceError(f"space.path: {path} cannot be read: {error}") from error
    check_weights(weights, spec)
    return weights


def check_weights(weights: Weights, spec: SpaceSpec) -> None:
    """Raise `SpaceError` unless there is every parameter of the spec and no other, finite float32 of its shape."""
    expected = expected_shapes(spec)
    if missing := sorted(expected.keys() - weights.keys()):
        raise SpaceError(f"weights.safetensors: tensors are missing: {_some(missing)}")
    if extra := sorted(weights.keys() - expected.keys()):
        raise SpaceError(f"weights.safetensors: tensors that space.json has no place for: {_some(extra)}")
    for name, shape in expected.items():
        tensor = weights[name]
        if tuple(tensor.shape) != shape:
            raise SpaceError(f"weights.safetensors: {name} is {list(tensor.shape)}; space.json asks for {list(shape)}")
        if tensor.dtype != torch.float32:
            raise SpaceError(f"weights.safetensors: {name} is {str(tensor.dtype)[6:]}; weights are kept in float32")
        if not tensor.isfinite().all():
            raise SpaceError(f"weights.safetensors: {name} holds NaN or infinite values")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
