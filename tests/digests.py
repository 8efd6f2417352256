"""Digests of everything that publishing and rendering write, so that no byte changes unnoticed.

    .venv/bin/python -m tests.digests                 # `make digests`: show what changed, and rewrite tests/digests/*.json
    .venv/bin/python -m tests.digests --keep FOLDER   # write what is digested there instead: diff -r FOLDER OTHER shows changes

Each set of outputs has a JSON file with a line per output: SHA-256 and size. Archives are taken apart, so that a change is named.

What a network computes differs from processor to processor in the last digits. Only this is not compared exactly:

- `outputs.npy` in each module's `golden.npz`: a list of numbers, equal within 1e-4; shape, dtype and images are exact;
- an archive's compressed size: a number, equal within one per thousand; the tar stream around its members is exact;
- an archive's SHA-256, MD5, content SHA-256 and size where records and pages show them: a placeholder takes their place if they
  are those of the archive that lies there, and only then;
- `keras_difference` of a record: a placeholder, if it is below 1e-4; and its `build`, which is a digest of this code.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests/digests"
FIX = (
    "Fix: undo the change; or, if it is meant, run `make digests` and commit tests/digests. To see it, run "
    "`.venv/bin/python -m tests.digests --keep FOLDER` in this and in an unchanged checkout, and compare both with diff -r."
)
TIME = 1_767_225_600  # of publication, in seconds: 2026-01-01T00:00:00Z
TOLERANCE = 1e-4  # of golden outputs, relative to the largest, and of `keras_difference`
SIZE_TOLERANCE = 1e-3  # of an archive's compressed size: another level of the compressor changes more
TEXTS = (".csv", ".html", ".json", ".md", ".xml")  # where digests and sizes of archives are shown


# All that this file takes from the project: each function gives a set of outputs, {path: content}.


def quickstart(folder: Path) -> dict[str, bytes]:
    """The quickstart collection, published by the command at a fixed time and address, and its mirrors."""
    from tests.support.commands import run_script

    hub = ("--hub", folder / "hub", "--url", "https://models.example.org")
    run_script("publish", "quickstart", *hub, SOURCE_DATE_EPOCH=str(TIME), HUBPRESS_FORMATS="none")
    run_script("mirror", "quickstart", *hub, "--out", folder / "mirror")
    return files(folder)


def corpus(folder: Path) -> dict[str, bytes]:
    """The site of the sample of tfhub.dev's documents, each a minute newer than the one before: the feed says when they changed."""
    from tests.support.commands import run_script

    documents = shutil.copytree(ROOT / "tests/documents/corpus/assets/docs", folder / "documents")
    for number, document in enumerate(sorted(documents.rglob("*.md"))):
        os.utime(document, (TIME + 60 * number,) * 2)
    run_script("archive_docs", documents, "--out", folder / "site")
    return files(folder / "site")


def synthetic(_folder: Path) -> dict[str, bytes]:
    """Every page of a hub that has one record of every kind, a yanked version, measurements and benchmarks."""
    from tests.support import synthetic as made_up

    notes = {"yanked": made_up.YANKED, "measurements": made_up.MEASUREMENTS, "benchmarks": made_up.BENCHMARKS}
    return {path: page.data for path, page in made_up.build(made_up.records(), **notes).items()}


def families(_folder: Path) -> dict[str, bytes]:
    """Every page of a hub that has a small and a large row of each family of the catalogue, both heads."""
    from tests.support import made

    return {path: page.data for path, page in made.build([made.record(row) for row in made.each_family()]).items()}


SETS = {each.__name__: each for each in (quickstart, corpus, synthetic, families)}

Outputs = dict[str, bytes | list[float] | int]  # exact, equal within TOLERANCE, equal within SIZE_TOLERANCE
Digests = dict[str, str | list[float] | int]


def files(folder: Path) -> dict[str, bytes]:
    """The files below a folder; hidden ones only remember what need not be written again."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in names.items() if "/." not in f"/{name}"}


def outputs(found: dict[str, bytes]) -> Outputs:
    """Return what is compared: `found` with archives taken apart, and without what depends on the processor."""
    made, golden = {}, {}
    placeholders = shown(found)
    for name, content in sorted(found.items()):
        if name.endswith(".tar.gz"):
            parts = list(unpacked(name, content))
            made[f"{name}/(compressed size)"] = len(content)
        else:
            parts = [(name, content)]
        for part, data in parts:
            if not part.endswith("/golden.npz"):
                made[part] = masked(data, placeholders) if part.endswith(TEXTS) and part == name else data
            elif data in golden:
                made[part] = f"the same as {golden[data]}".encode()
            else:
                golden[data] = part
                made |= golden_outputs(part, data)
        if f"{name.removesuffix('.json')}.tar.gz" in found:
            made[name] = without_machine(made[name])
    return made


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of an archive, and what lies between them: gzip's header, tar's headers and padding."""
    stream, around, end = gzip.decompress(content), [content[:10]], 0
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        for member in archive:
            around.append(stream[end : member.offset_data])
            end = member.offset_data + member.size
            if member.isfile():
                yield f"{name}/{member.name}", stream[member.offset_data : end]
    yield f"{name}/(headers)", b"".join([*around, stream[end:]])


def golden_outputs(name: str, content: bytes) -> Outputs:
    """A golden.npz taken apart: its images exactly, its outputs as numbers, the file around them without checksums."""
    import numpy as np

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        described = [(i.filename, i.date_time, i.compress_type, i.file_size, i.extra) for i in archive.infolist()]
    answers = members.pop("outputs.npy")
    values = np.load(io.BytesIO(answers), allow_pickle=False)
    return {
        f"{name}/(members)": repr(described).encode(),
        **{f"{name}/{member}": data for member, data in members.items()},
        f"{name}/outputs.npy": [float(f"{value:.6g}") for value in values.ravel().tolist()],
        f"{name}/outputs.npy (header)": answers[: len(answers) - values.nbytes],
    }


def shown(found: dict[str, bytes]) -> dict[bytes, bytes]:
    """The digests and sizes of the archives as pages and records show them, with the placeholder of each."""
    placeholders = {}
    for name, content in found.items():
        if name.endswith(".tar.gz"):
            size = len(content)
            placeholders |= {
                hashlib.sha256(content).hexdigest(): f"<SHA-256 of {name}>",
                hashlib.sha256(gzip.decompress(content)).hexdigest(): f"<SHA-256 of what is in {name}>",
                hashlib.md5(content).hexdigest(): f"<MD5 of {name}>",
                str(size): "<size of an archive>",
                f"{size:,}": "<size of an archive, with separators>",
                f"{size / 1e3:.0f} kB": "<size of an archive in kB>",
            }
    return {text.encode(): placeholder.encode() for text, placeholder in placeholders.items()}


def masked(content: bytes, placeholders: dict[bytes, bytes]) -> bytes:
    """A text with placeholders; a number is replaced only where it stands alone, not as a part of another."""
    if not placeholders:
        return content
    pattern = rb"(?<![\w.])(?:" + b"|".join(map(re.escape, placeholders)) + rb")(?!\w)"
    return re.sub(pattern, lambda match: placeholders[match[0]], content)


def without_machine(record: bytes) -> bytes:
    """A record without its `build`, and without the difference that the check measured, if that is small enough."""
    record = re.sub(rb'("build": )\{[^{}]*\}', rb'\1"<build>"', record)
    return re.sub(
        rb'("keras_difference": )(\d+(?:\.\d+)?(?:e-?\d+)?)(?=,?\n)',
        lambda match: match[1] + b'"<below 1e-4>"' if float(match[2]) < TOLERANCE else match[0],
        record,
    )


def digests(made: Outputs) -> Digests:
    """Return what is committed of outputs: SHA-256 and size in bytes, or the numbers."""
    return {
        name: f"{hashlib.sha256(value).hexdigest()} {len(value)}" if isinstance(value, bytes) else value
        for name, value in made.items()
    }


def is_same(old, new) -> bool:
    """Return whether a digest is the committed one, or the numbers are equal within their tolerance."""
    if isinstance(old, list) and isinstance(new, list):
        limit = TOLERANCE * max([1.0, *map(abs, old)])
        return len(old) == len(new) and all(abs(a - b) <= limit for a, b in zip(old, new, strict=True))
    if isinstance(old, int) and isinstance(new, int):
        return abs(old - new) <= SIZE_TOLERANCE * old
    return old == new


def changes(old: Digests, new: Digests) -> list[str]:
    """A line for each output that was added, removed or changed."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            lines.append(f"{'removed' if name in old else 'added'}: {name}")
        elif not is_same(old[name], new[name]):
            was, now = (str(each[name]).rpartition(" ")[2] for each in (old, new))
            both = isinstance(old[name], list) and isinstance(new[name], list)
            worst = max((abs(a - b) for a, b in zip(old[name], new[name], strict=False)), default=0) if both else 0
            hint = f"numbers differ by up to {worst:.2g}" if both else f"{was} -> {now} bytes"
            lines.append(f"changed: {name} ({hint})")
    return lines


def committed(name: str) -> Digests:
    """The committed digests of a set."""
    file = FOLDER / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def main(argv=None) -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--keep", metavar="FOLDER", type=Path, help="write what is digested there, and change nothing"
    )
    options = arguments.parse_args(argv)
    for name, produce in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            made = outputs(produce(Path(folder)))
        for path, value in made.items() if options.keep else ():
            file = options.keep / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(value if isinstance(value, bytes) else json.dumps(value, indent=0).encode())
        if options.keep:
            continue
        old, new = committed(name), digests(made)
        found = changes(old, new)
        print(f"{name}: {len(new)} outputs, {len(found)} changed", *found, sep="\n  ")
        # Numbers that are equal within their tolerance stay as they are, whatever processor computed them again.
        new = {path: old[path] if path in old and is_same(old[path], value) else value for path, value in new.items()}
        lines = ",\n".join(f"{json.dumps(path)}: {json.dumps(new[path])}" for path in sorted(new))
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
