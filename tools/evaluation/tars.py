"""WebDataset's tar files: members with the same name up to its first dot, one behind the other, are an image and its label.

    images = find("val-{000..063}.tar", matches("val-{000..063}.tar"), Options())

    0001.jpg  0001.cls  0001.json  0002.jpg ...        a label is in .cls, a number from 0; else in a field of .json

Files of this machine are cut into pieces of `shard_images` samples; others are left whole, to read nothing of them. `tarfile` is no
help here: it reads headers of any size, and does not say where a member begins before it has read what is behind it.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tools.evaluation import BadImagesError, EvaluationError
from tools.evaluation.files import is_remote, open_stream, too_large
from tools.evaluation.labels import WHOLE_NUMBER, Labels, class_number, load
from tools.evaluation.lists import ENDINGS, LABEL_COLUMNS, plain_name
from tools.evaluation.shards import Images, Item, Options, Shard, TarShard, digest_of, keys_of

NAME_BYTES = 8 << 10  # of a header with a long name; Linux knows no path of more than 4096
LABEL_BYTES = 1 << 20  # of .cls and .json
SAMPLE_MEMBERS = 64
CLS = "cls"
_IMAGE_MEMBERS = tuple(ending.removeprefix(".") for ending in ENDINGS)
_AGAIN = "get the right file"
_WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)


@dataclass
class _Sample:
    """Members with one key: where the first header begins, and (offset, size) of the content of each by its ending."""

    start: int
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


def find(source: str, files: Mapping[str, tuple[int, str]], options: Options) -> Images:
    """List the images of tar files, given with `facts` of each. Raises EvaluationError."""
    digest = hashlib.sha256(json.dumps(keys_of(options)).encode())
    shards: list[Shard] = []
    stamps: list[str] = []
    left_out: list[tuple[str, str]] = []
    count: int | None = 0
    for file, (size, stamp) in files.items():
        digest.update(f"{file.rpartition('/')[2]}\t{size}\n".encode("utf-8", "surrogateescape"))
        pieces: list[tuple[int, int | None]] = [(0, None)]
        if is_remote(file):
            count = None
        else:
            starts, samples = _starts(file, options, left_out)
            pieces = list(zip(starts, [*starts[1:], size], strict=True))
            count = None if count is None else count + samples
        for start, end in pieces:
            stamps.append(digest_of(stamp))
            shards.append(
                {
                    "kind": "tar",
                    "file": file,
                    "start": start,
                    "end": end,
                    "image_key": options.image_key or "",
                    "label_key": options.label_key or "",
                    "first_label": options.first_label,
                }
            )
    if not shards:
        raise EvaluationError(f"{source}: the files hold no images with labels", "give others")
    classes = load(options.labels) if options.labels else None
    return Images(source, shards, classes, digest.hexdigest(), count, left_out, stamps)


def _starts(file: str, options: Options, left_out: list[tuple[str, str]]) -> tuple[list[int], int]:
    """Return where every `shard_images`th sample of a tar file begins, and how many there are."""
    starts, keys = list[int](), set[str]()
    with open_stream(file) as stream:
        for sample in _samples(stream, file, 0, None, left_out):
            if sample.key in keys:
                raise EvaluationError(
                    f"{file}: the members of {sample.key} do not follow each other",
                    "sort the tar by its members' names",
                )
            if len(keys) % options.shard_images == 0:
                starts.append(sample.start)
            _image_member(sample, file, options.image_key or "")
            if not keys:
                _label(stream, sample, file, options.label_key or "")
            keys.add(sample.key)
    return starts, len(keys)


def _samples(
    stream: BinaryIO, file: str, start: int, end: int | None, left_out: list[tuple[str, str]] | None = None
) -> Iterator[_Sample]:
    """Yield the samples of a tar file that begin between two positions. Raises BadImagesError: the file is damaged."""
    sample: _Sample | None = None
    for position, header, content in _headers(stream, file, start):
        folder, slash, base = header.name.rpartition("/")
        stem, dot, ending = base.partition(".")
        reason = ""
        if header.isdir() or header.name.startswith("__"):  # such names describe the file
            continue
        if not header.isreg():
            reason = "no regular file"
        elif not stem or not dot:
            reason = "the name has no ending, or begins with a dot"
        if reason:
            if left_out is not None:
                left_out.append((f"{file}: {header.name}", reason))
            continue
        key = folder + slash + stem
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            if end is not None and position >= end:
                return
            sample = _Sample(position, key)
        ending = ending.lower()
        if ending in sample.members or len(sample.members) == SAMPLE_MEMBERS:
            what = f"two members .{ending}" if ending in sample.members else f"more than {SAMPLE_MEMBERS} members"
            raise BadImagesError(f"{file}: {key} has {what}", "give each sample a name of its own")
        sample.members[ending] = (content, header.size)
    if sample is not None:
        yield sample


def _headers(stream: BinaryIO, file: str, position: int) -> Iterator[tuple[int, tarfile.TarInfo, int]]:
    """Yield where a member begins, its header, and where its content begins. Raises BadImagesError: the file is damaged."""
    start, overrides = position, dict[str, str]()
    while True:
        stream.seek(position)
        block = stream.read(tarfile.BLOCKSIZE)
        if not any(block):
            if len(block) == tarfile.BLOCKSIZE:
                return
            raise BadImagesError(f"{file} is cut off: it has no end", "download it again")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            compressed = block.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
            what = "is compressed" if compressed else f"is damaged or no tar file: {error}"
            raise BadImagesError(f"{file} {what}", "decompress it" if compressed else _AGAIN) from error
        if not 0 <= header.size < 1 << 62:
            raise BadImagesError(f"{file}: {header.name} has no size", _AGAIN)
        content = position + tarfile.BLOCKSIZE
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if header.size > NAME_BYTES:
                raise BadImagesError(f"{file}: a header has {header.size:,} bytes", _AGAIN)
            overrides |= _overrides(stream.read(header.size), header.type, file)
        elif header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            if header.type == tarfile.GNUTYPE_SPARSE or "GNU.sparse.major" in overrides:
                raise BadImagesError(f"{file}: {header.name} is a sparse file", "write the tar without --sparse")
            header.name = overrides.get("path", header.name)
            size = overrides.get("size", str(header.size))
            if not WHOLE_NUMBER.fullmatch(size):
                raise BadImagesError(f"{file}: {header.name} has no size", _AGAIN)
            header.size = int(size)
            if header.type == tarfile.AREGTYPE and header.name.endswith("/"):
                header.type = tarfile.DIRTYPE
            yield start, header, content
            overrides = {}
        position = content
        if header.type not in _WITHOUT_CONTENT:
            position += -(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if not overrides:
            start = position


def _overrides(data: bytes, kind: bytes, file: str) -> dict[str, str]:
    """Return what an extended header says of the next member: its path, its size, whether it is sparse."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    records, position = dict[str, str](), 0
    while position < len(data):  # "LENGTH KEY=VALUE\n", the length is that of all of it
        digits = data[position : position + 6].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[position + len(digits) + 1 : position + length].rstrip(b"\n").partition(b"=")
        if not equals or position + length > len(data):
            raise BadImagesError(f"{file} is damaged: an extended header cannot be read", _AGAIN)
        if key in (b"path", b"size", b"GNU.sparse.major"):
            records[key.decode()] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


# Reading


def items(shard: TarShard, classes: Labels, max_bytes: int) -> Iterator[Item]:
    """Yield the images of a shard. Raises BadImagesError: the file is damaged, or a sample has no image or no label."""
    file = shard["file"]
    with open_stream(file) as stream:
        for sample in _samples(stream, file, shard["start"], shard["end"]):
            ending = _image_member(sample, file, shard["image_key"])
            name = f"{file}: {sample.key}.{ending}"
            label, is_cls = _label(stream, sample, file, shard["label_key"])
            first_label = 0 if is_cls and shard["first_label"] is None else shard["first_label"]
            number = class_number(label, classes, first_label, name)
            is_small = sample.members[ending][1] <= max_bytes
            yield name, number, _read(stream, sample, ending, file) if is_small else too_large(max_bytes)


def _read(stream: BinaryIO, sample: _Sample, ending: str, file: str) -> bytes:
    offset, size = sample.members[ending]
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        raise BadImagesError(f"{file} is cut off in {sample.key}.{ending}", "download it again")
    return content


def _image_member(sample: _Sample, file: str, image_key: str) -> str:
    """Return the ending of the image of a sample."""
    found = [ending for ending in sample.members if ending in ((image_key.lower(),) if image_key else _IMAGE_MEMBERS)]
    if len(found) != 1:
        raise BadImagesError(
            f"{file}: {sample.key} has {len(found) or 'no'} images, among {_named(sample.members)}",
            "say which members are images with --image-key ENDING, like jpg",
        )
    return found[0]


def _label(stream: BinaryIO, sample: _Sample, file: str, label_key: str) -> tuple[int | str, bool]:
    """Return the label of a sample, of the member that `label_key` names, else of .cls, else of a field of .json; is it of .cls?"""
    name, member = f"{file}: {sample.key}", label_key.lower() or CLS
    for ending in (member, "json"):
        if ending in sample.members and sample.members[ending][1] > LABEL_BYTES:
            raise BadImagesError(f"{name}.{ending} has more than {LABEL_BYTES:,} bytes", "make it smaller")
    if member in sample.members and member != "json":
        return _read(stream, sample, member, file).decode("utf-8", "replace").strip(), member == CLS
    fields: dict[str, Any] = {}
    if "json" in sample.members:
        try:
            fields = json.loads(_read(stream, sample, "json", file))
            fields.keys()
        except (ValueError, AttributeError, RecursionError) as error:
            raise BadImagesError(f"{name}.json is no JSON object: {error}", "correct it") from error
    key = label_key or "label"
    if key not in fields and not label_key:
        usual = [each for each in fields if plain_name(each) in LABEL_COLUMNS]
        key = usual[0] if len(usual) == 1 else key
    label = fields.get(key)
    if isinstance(label, int | str) and not isinstance(label, bool):
        return label, False
    has = f"members {_named(sample.members)}" + (f", in .json {_named(fields)}" if fields else "")
    raise BadImagesError(
        f"{name} has no label{f' {label_key!r}' if label_key else ''}, only {has}",
        "name a member, or a field of .json, with --label-key, or unpack the tar and give the folder",
    )


def _named(keys: Mapping[str, Any]) -> str:
    return ", ".join(str(key)[:40] for key in list(keys)[:20])
