"""Custom resource definitions as JSON Schemas, strict enough to catch a misspelt field.

`ALIGN_TEST_CRDS` names a directory with the definitions of KEDA, Strimzi and the Prometheus operator, as their
projects publish them. They are not part of this project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.contract.deploy.artefacts import ROOT, Document, missing

SIBLING = ROOT.parent / "shared" / "crd"
Schemas = Mapping[tuple[str, str], Mapping[str, Any]]


def load_schemas() -> Schemas:
    """The schema of each (apiVersion, kind). Skips where there are no definitions."""
    directory = Path(os.environ.get("ALIGN_TEST_CRDS") or SIBLING)
    paths = sorted(directory.glob("*.yaml")) if directory.is_dir() else []
    if not paths:
        missing("ALIGN_TEST_CRDS names no directory with custom resource definitions")
    definitions = [
        each for path in paths for each in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if each is not None
    ]
    return {
        (f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"]): _strict(
            version["schema"]["openAPIV3Schema"], is_root=True
        )
        for definition in definitions
        for version in definition["spec"]["versions"]
        if version["served"]
    }


def _strict(schema: Any, *, is_root: bool = False) -> Any:
    """One node of a structural schema: unknown fields are errors, as they are lost in the cluster without a word."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {
        key: _strict(value) for key, value in schema.items() if key != "properties" and not key.startswith("x-kube")
    }
    if isinstance(schema.get("properties"), dict):
        made["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if is_root:
        made["properties"] |= {"metadata": {"type": "object"}, "apiVersion": {}, "kind": {}}
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def problems(schemas: Schemas, resource: Document) -> list[str]:
    """What its definition finds wrong with a resource; an unknown kind is wrong, too."""
    schema = schemas.get((resource["apiVersion"], resource["kind"]))
    if schema is None:
        return [f"no {resource['kind']} in {resource['apiVersion']}"]
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(resource)]
