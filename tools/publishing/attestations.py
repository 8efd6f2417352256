"""What is written beside the record of a module that is signed: signatures, a bill of materials, a statement of its provenance.

    attest(storage, record, archive=Path("classifier.tar.gz"), source=source_of(root), by=signer)
    is_attested(storage, record, by=signer)

| file | what it is |
|---|---|
| `<version>.json.sig` | signature of the record, and through its digests of the archive |
| `<version>.bundle` | signature of the unpacked archive, for `model_signing verify` |
| `<version>.cdx.json`, `.cdx.json.sig` | CycloneDX 1.6 ML-BOM: the record as tools of supply chains read it |
| `<version>.provenance.json`, `.provenance.json.sig` | in-toto statement, SLSA provenance v1 |

Each is only ever created, in this order, after the record. Whatever is killed, the same command adds what is missing.
"""

import hashlib
import os
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.archive import reading
from tools.catalog import layout
from tools.common.files import sha256_of_file
from tools.common.problems import with_fix
from tools.hub import json_objects, records, signatures
from tools.hub.records import Record
from tools.hub.signatures import SignatureError, Signer
from tools.hub.storage import AlreadyThere, NotThere, Storage

BUILD_TYPE = "urn:hubpress:build:1"
BUILDER_VARIABLE = "HUBPRESS_BUILDER"  # the address of whoever builds, for the statement of provenance
BUILDER = "urn:hubpress:builder:unnamed"
LOCK = "requirements.lock"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:hubpress:bom")


@dataclass(frozen=True)
class Source:
    """The checkout that publishes: its commit, if it is one of git, with or without uncommitted changes; the digest of its lock."""

    commit: str | None
    is_changed: bool
    lock_sha256: str | None


def source_of(root: Path) -> Source:
    """Return the commit and the lock of a checkout."""
    lock = root / LOCK
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return Source(
        _git(root, "rev-parse", "HEAD") or None, bool(changes), sha256_of_file(lock) if lock.is_file() else None
    )


def attest(storage: Storage, record: Record, *, archive: Path, source: Source, by: Signer) -> None:
    """Create everything that is not there yet beside a published record; `archive` is the one that was built here.

    Raises:
      SignatureError: something else lies there, or is signed by somebody who does not count.
    """
    handle = record["handle"]
    signatures.sign(storage, layout.record_path(handle), records.encode(record), by)
    bundle = layout.bundle_path(handle)
    with tempfile.TemporaryDirectory(prefix="hubpress-sign-") as folder:
        tree = Path(folder) / record["name"].rpartition("/")[2]
        reading.unpack(archive, tree)
        signatures.create_signature(storage, bundle, tree, by, name=tree.name)
    for path, content in _statements(record, source).items():
        _create_signed(storage, path, json_objects.encode(content), by)


def is_attested(storage: Storage, record: Record, by: Signer) -> bool:
    """Return whether everything lies there, and what is signed as it stands is signed by somebody who counts."""
    handle = record["handle"]
    paths = (layout.record_path(handle), layout.bom_path(handle), layout.provenance_path(handle))
    try:
        for path in paths:
            data, signature = storage.read(path), storage.read(layout.signature_path(path))
            by.trust.check(data, signature, name=storage.url_for(path))
        return storage.exists(layout.bundle_path(handle))
    except (NotThere, SignatureError):
        return False


def bom(record: Record) -> dict[str, Any]:
    """Return the bill of materials of a module, CycloneDX 1.6 with a model card: the same for the same record."""
    row, archive, checkpoint = record["row"], record["archive"], record["checkpoint"]
    model = f"pkg:generic/{record['handle'].rpartition('/')[0]}@{record['version']}"
    weights = f"sha256:{checkpoint['sha256']}"
    packages = [
        {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref}
        for name, version in sorted(record["versions"].items())
        if (ref := f"pkg:{'generic' if name in ('python', 'hubpress') else 'pypi'}/{name.replace('_', '-')}@{version}")
    ]
    card: dict[str, Any] = {
        "modelParameters": {
            "task": record["task"],
            "architectureFamily": row["family"],
            "modelArchitecture": row["stem"],
            "datasets": [{"type": "dataset", "name": name} for name in row["datasets"]],
            "inputs": [{"format": f"{each['dtype']} {each['shape']}"} for each in record["signature"]["inputs"]],
            "outputs": [{"format": f"{each['dtype']} {each['shape']}"} for each in record["signature"]["outputs"]],
        }
    }
    if top1 := record["measured"]["top1"]:
        metric = {
            "type": "top-1 accuracy (%)",
            "value": str(top1["value"]),
            "slice": f"{top1['dataset']}, {top1['split']}",
        }
        card["quantitativeAnalysis"] = {"performanceMetrics": [metric]}
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": model,
        "publisher": record["publisher"],
        "name": record["name"],
        "version": str(record["version"]),
        "description": f"{row['title']}, {row['data_text']}",
        "hashes": [{"alg": "MD5", "content": archive["md5"]}, {"alg": "SHA-256", "content": archive["sha256"]}],
        # A tag of the vocabulary, which need not be one of SPDX.
        "licenses": [{"license": {"name": row["licence"]}}],
        "purl": model,
        "externalReferences": [{"type": "documentation", "url": row["paper"]["url"]}],
        "modelCard": card,
        "properties": [
            {"name": "hubpress:build.key", "value": record["build"]["key"]},
            {"name": "hubpress:parameters", "value": str(record["measured"]["parameters"])},
        ],
    }
    source = {
        "type": "data",
        "bom-ref": weights,
        "name": checkpoint["file"],
        "hashes": [{"alg": "SHA-256", "content": checkpoint["sha256"]}],
        "externalReferences": [{"type": "distribution", "url": checkpoint["url"]}],
    }
    identity = f"{record['handle']} {archive['sha256']}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, identity)}",
        "version": 1,
        "metadata": {"timestamp": record["published"], "component": component},
        "components": [source, *packages],
        "dependencies": [{"ref": model, "dependsOn": [weights, *(each["bom-ref"] for each in packages)]}],
    }


def provenance(record: Record, source: Source) -> dict[str, Any]:
    """Return the statement of where a module comes from: the row, the checkpoint, the commit, the lock and the builder.

    It has no time of its own, so that the same command from the same checkout writes the same bytes.
    """
    checkpoint, version = record["checkpoint"], record["versions"].get("hubpress")
    dependencies: list[dict[str, Any]] = [
        {"name": "checkpoint", "uri": checkpoint["url"], "digest": {"sha256": checkpoint["sha256"]}}
    ]
    if source.commit:
        annotations = {"annotations": {"uncommitted changes": True}} if source.is_changed else {}
        dependencies.append({"name": "source", "digest": {"gitCommit": source.commit}, **annotations})
    if source.lock_sha256:
        dependencies.append({"name": LOCK, "digest": {"sha256": source.lock_sha256}})
    builder: dict[str, Any] = {"id": os.environ.get(BUILDER_VARIABLE) or BUILDER}
    if version:
        builder["version"] = {"hubpress": version}
    record_sha256 = hashlib.sha256(records.encode(record)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": record["archive"]["path"], "digest": {"sha256": record["archive"]["sha256"]}},
            {"name": layout.record_path(record["handle"]), "digest": {"sha256": record_sha256}},
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"head": record["head"], "row": record["row"]},
                "internalParameters": {"build": record["build"], "versions": record["versions"]},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": builder, "metadata": {"invocationId": record["build"]["key"]}},
        },
    }


def _statements(record: Record, source: Source) -> dict[str, dict[str, Any]]:
    handle = record["handle"]
    return {layout.bom_path(handle): bom(record), layout.provenance_path(handle): provenance(record, source)}


def _create_signed(storage: Storage, path: str, data: bytes, by: Signer) -> None:
    """Create a file and its signature; another file is as good if it is signed by somebody who counts."""
    try:
        storage.create(path, data)
    except AlreadyThere:
        existing = storage.read(path)
        if existing != data:
            where = storage.url_for(path)
            try:
                signature = storage.read(layout.signature_path(path))
            except NotThere:
                message = f"{where} is there, is not signed, and is not what would be written here"
                fix = "delete it, and run the same command again"
                raise SignatureError(with_fix(message, fix)) from None
            by.trust.check(existing, signature, name=where)
            return
    signatures.sign(storage, path, data, by)


def _git(root: Path, *arguments: str) -> str:
    """Return what git says of a checkout; nothing where there is no git, or `root` is no checkout."""
    command = ["git", "-C", str(root), *arguments]
    if not (root / ".git").exists():
        return ""  # a folder above it may be another repository
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
