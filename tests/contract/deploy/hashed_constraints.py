"""The versions of constraints.txt that the image is made of, with the hashes of their files.

`python -m tests.contract.deploy.hashed_constraints` writes them again after a change of constraints.txt or of the
dependencies. It has uv (from PyPI) ask the package index; options are uv's (`--index-url`).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.contract.deploy.artefacts import DEPLOY, ROOT, tool

CORE = DEPLOY / "constraints-hashed.txt"
EXTRAS = DEPLOY / "constraints-hashed-extras.txt"
TEXTS = {
    CORE: "What the worker imports and what that needs, but for torch: the Dockerfile installs all of it.",
    EXTRAS: "What builds the package, and what its extras need beyond that: the Dockerfile installs what is asked for.",
}
EXTRA_NAMES = ("media", "encoders", "remote", "parquet", "plots", "json", "avro", "protobuf", "pgvector")
_ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)
_OF_TORCH = re.compile(r"torch$|triton$|nvidia-|cuda-")
"""torch itself and what its CUDA build brings along: which files these are depends on torch's index."""


def entries(text: str) -> dict[str, str]:
    """Name to `name==version` with its hashes."""
    return {found[1]: found[0] for found in _ENTRY.finditer(text)}


def versions(path: Path) -> dict[str, str]:
    return {found[1]: found[2] for found in _ENTRY.finditer(path.read_text())}


def compiled(requirements: Sequence[str], options: Sequence[str]) -> dict[str, str]:
    """All that these need, at the versions of constraints.txt."""
    with tempfile.TemporaryDirectory() as directory:
        wanted, output = Path(directory) / "wanted.in", Path(directory) / "compiled.txt"
        wanted.write_text("\n".join(requirements))
        uv = tool("uv", package="PyPI package uv")
        subprocess.run(
            [uv, "pip", "compile", "--quiet", "--generate-hashes", "--strip-extras", "--no-annotate", "--no-header",
             "--no-emit-index-url", "--python-version", "3.11", "--constraint", ROOT / "constraints.txt",
             "--output-file", output, *options, wanted],
            check=True,
        )  # fmt: skip
        found = entries(output.read_text())
    return {name: entry for name, entry in found.items() if not _OF_TORCH.match(name)}


def write(path: Path, found: dict[str, str]) -> None:
    header = f"# {TEXTS[path]}\n# Made by `python -m tests.contract.deploy.hashed_constraints`.\n"
    path.write_text(header + "".join(found[name] for name in sorted(found)))


if __name__ == "__main__":
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = configuration["project"]
    extras = [each for name in EXTRA_NAMES for each in project["optional-dependencies"][name]]
    extras = [each for each in extras if not each.startswith(project["name"])]
    core = compiled(project["dependencies"], sys.argv[1:])
    everything = compiled([*project["dependencies"], *extras, *configuration["build-system"]["requires"]], sys.argv[1:])
    write(CORE, core)
    write(EXTRAS, {name: entry for name, entry in everything.items() if name not in core})
