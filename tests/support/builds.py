"""Builds of the quickstart's rows: their specifications, and copies that another version of the code could have made."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from unittest import mock

from tools import catalog
from tools.catalog.checkpoints import fetch_checkpoint
from tools.publishing import build, specification
from tools.publishing.specification import Specification, specify


def specification_of(name: str) -> Specification:
    """The specification of a row whose checkpoint lies in the repository."""
    rows = catalog.load()
    variant = rows.find(name).variant
    return specify(variant, rows, fetch_checkpoint(variant, rows, cache=Path("nowhere")))


def other_sources(digest: str):
    """A context in which the code that makes archives has this digest."""
    return mock.patch.object(specification, "build_sources", return_value=digest)


def other_build(name: str, cache: Path, target: Path, number: int) -> str:
    """Make a cache `target` with the build of a row that `cache` has, in other bytes, as changed code would make it.

    Returns the digest of that code, for `other_sources`. `number` is from 1 to 9.
    """
    sources = f"{number:064}"
    key = specification_of(name)["build"]["key"]
    with other_sources(sources):
        other = specification_of(name)["build"]["key"]
    assert other != key
    made = target / "builds" / other
    shutil.copytree(cache / "builds" / key, made)
    manifest = json.loads((made / "made.json").read_text())
    for head, packed in manifest["packed"].items():
        file = made / f"{head}.tar.gz"
        data = gzip.compress(gzip.decompress(file.read_bytes()), number, mtime=number)
        file.write_bytes(data)
        packed |= {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        }
    (made / "made.json").write_text(json.dumps(build.sealed(manifest | {"build_key": other})))
    return sources
