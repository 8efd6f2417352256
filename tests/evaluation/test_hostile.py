"""Images from anywhere: links in circles, pipes, devices, bombs and damage, in a process that may have 1.5 GB.

Each set is one line of a table: what is written, and what is said of it. One process reads them all, so that a set that takes too
much memory or never ends takes the rest with it.
"""

import functools
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import PIL.Image
import pytest

from tests.support.commands import ROOT, environment
from tests.support.image_sets import encoded, parquet_of, tar_of

pytestmark = pytest.mark.slow  # some bombs take a while to write

MEMORY_BYTES, CPU_SECONDS = 1_500_000_000, 120
ONE = encoded(np.zeros((8, 8, 3), np.uint8))
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["zero", "one"]}}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n0 0 moveto 8 8 lineto stroke showpage\n%%EOF\n"
PIXELS, BYTES, DAMAGE = r"more than 64,000,000 pixels \(--max-pixels\)", r"bytes \(--max-bytes\)", "cannot be decoded"


@functools.cache
def png(width, height, *chunks):
    """A PNG of one colour, small however large its size is."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def enlarged(kind):
    """A small image of a format whose header says that it is the largest that the format can be."""
    data = bytearray(encoded(PIL.Image.new("RGB", (8, 8)), kind, **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "GIF":
        data[6:10] = b"\xff\xff\xff\xff"
    elif kind == "BMP":
        data[18:26] = struct.pack("<II", 60_000, 60_000)
    elif kind == "PPM":
        return b"P6\n60000 60000\n255\n" + bytes(100)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    elif kind == "WEBP":
        at = data.index(b"VP8L") + 9
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") | (1 << 28) - 1).to_bytes(4, "little")
    elif kind == "JPEG2000":
        at = data.index(b"ihdr") + 4
        data[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    elif kind == "TIFF":
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[at : at + 4] = struct.pack("<I", 60_000)
    return bytes(data)


def npz(folder, *members, compressed=True):
    """An .npz of (name, header, content, repeated) members."""
    with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED if compressed else 0) as archive:
        for name, header, content, times in members:
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(header)
                for _ in range(times):
                    member.write(content)
    return folder / "set.npz"


def npy_header(shape, kind="|u1", version=1, length=None):
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", length or len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def folder_with(folder, **contents):
    """A class folder `one` with a good image and these."""
    (folder / "one").mkdir()
    (folder / "one/good.png").write_bytes(ONE)
    for name, content in contents.items():
        (folder / f"one/{name}.png").write_bytes(content)
    return folder


# Sets: each writes into a folder and returns the source.


def links_in_circles(folder):
    folder_with(folder)
    for name, target in {"one/self": ".", "one/up": "..", "a": ".", "b": ".", "c": "one"}.items():
        (folder / name).symlink_to(target)
    return folder


def pipe_in_a_folder(folder):
    folder_with(folder)
    os.mkfifo(folder / "one/pipe.png")
    (folder / "one/null.png").symlink_to("/dev/zero")
    return folder


def pipe_as_a_list(folder):
    os.mkfifo(folder / "list.csv")
    return folder / "list.csv"


def pipe_as_a_set(folder):
    os.mkfifo(folder / "val-000.tar")
    return folder / "val-000.tar"


def device_in_a_list(folder):
    (folder / "list.csv").write_text("path,label\n/dev/zero,one\n/dev/stdin,one\n")
    return folder / "list.csv"


def pipe_in_a_list(folder):
    folder_with(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "list.csv").write_text("path,label\none/good.png,one\npipe.png,one\n")
    return folder / "list.csv"


def device_as_a_ground_truth(folder):
    (folder / "1.png").write_bytes(ONE)
    (folder / "LOC_val_solution.csv").symlink_to("/dev/zero")
    return folder


def bombs(folder):
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))
    return folder_with(folder, a=png(9_000, 9_000), b=png(8, 8, text), c=POSTSCRIPT, d=png(1, 65_535))


def enlarged_headers(folder):
    kinds = ("GIF", "BMP", "PPM", "JPEG", "WEBP", "JPEG2000", "TIFF")  # libwebp asks for 2 GB, and gets none here
    return folder_with(folder, **{kind: enlarged(kind) for kind in kinds})


def large_file(folder):
    folder_with(folder)
    with (folder / "one/large.png").open("wb") as file:
        file.write(ONE)
        file.truncate(20 << 30)
    return folder


def large_member(folder):
    """A tar whose images are large, and bombs in it: nothing of the large one is read."""
    tar_of(folder / "set.tar", [("1.png", png(9_000, 9_000)), ("1.cls", b"1"), ("2.png", POSTSCRIPT), ("2.cls", b"1")])
    content = (folder / "set.tar").read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    header, label = tarfile.TarInfo("3.png"), tarfile.TarInfo("3.cls")
    header.size, label.size = 20 << 30, 1
    with (folder / "set.tar").open("wb") as file:
        file.write(content + header.tobuf())
        file.seek(header.size, os.SEEK_CUR)
        file.write(label.tobuf() + b"1".ljust(512, b"\0") + bytes(1024))
    return folder / "set.tar"


def bombs_in_a_parquet(folder):
    """A row of 100 MB, a bomb and PostScript."""
    images = [{"bytes": content, "path": ""} for content in (bytes(100_000_000), png(9_000, 9_000), POSTSCRIPT, ONE)]
    parquet_of(folder / "set.parquet", images, [1] * 4, features=FEATURES, compression="none")
    return folder / "set.parquet"


def parquet_that_repeats(folder):
    """2000 rows of an image of 5 MB, which the file holds once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = np.random.default_rng(0).bytes(5_000_000)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([image], pa.binary()))
    table = pa.table({"image": column, "label": pa.array([1] * 2000)})
    pq.write_table(table, folder / "set.parquet", dictionary_pagesize_limit=1 << 30, store_schema=False)
    return folder / "set.parquet"


def parquet_bomb(folder):
    parquet_of(folder / "set.parquet", [bytes(1_000_000)] * 50, [1] * 50, compression="zstd", use_dictionary=False)
    return folder / "set.parquet"


def npz_bomb(folder):
    return npz(
        folder,
        ("images.npy", npy_header((500_000, 8, 8, 3)), bytes(192_000), 500),
        ("labels.npy", npy_header((500_000,)), bytes(500_000), 1),
    )


def npz_of(folder, shape, *, content=b"", times=1, labels=1, **header):
    return npz(
        folder,
        ("images.npy", npy_header(shape, **header), content, times),
        ("labels.npy", npy_header((labels,)), bytes(labels), 1),
    )


def npz_with_a_long_header(folder):
    header = npy_header((1, 8, 8, 3), version=2, length=4_000_000_000) + bytes(1000)
    return npz(folder, ("images.npy", header, bytes(4_000_000), 2), ("labels.npy", npy_header((1,)), b"\0", 1))


def npz_of_nothing(folder):
    return npz_of(folder, (10**15, 0, 0, 3), labels=1)


def npz_with_a_large_image(folder):
    return npz_of(folder, (1, 20_000, 20_000, 3), content=bytes(12_000_000))


def npz_that_is_short(folder):
    return npz_of(folder, (1, 8, 8, 3), content=bytes(10))


def npz_that_is_long(folder):
    return npz_of(folder, (1, 8, 8, 3), content=bytes(200))


def npz_of_objects(folder):
    np.savez(folder / "set.npz", images=np.array([[[[{}] * 3]]]), labels=np.array([0]))
    return folder / "set.npz"


def npz_cut_or_damaged(folder, change):
    np.savez_compressed(
        folder / "set.npz", images=np.arange(19200, dtype=np.uint8).reshape(100, 8, 8, 3), labels=np.zeros(100, int)
    )
    content = (folder / "set.npz").read_bytes()
    (folder / "set.npz").write_bytes(change(content))
    return folder / "set.npz"


def npz_cut(folder):
    return npz_cut_or_damaged(folder, lambda content: content[: len(content) // 2])


def npz_damaged(folder):
    return npz_cut_or_damaged(folder, lambda content: content[:100] + bytes(20) + content[120:])


def npz_encrypted(folder):
    def mark(content):
        at = content.index(b"PK\1\2") + 8
        return content[:at] + b"\1" + content[at + 1 :]

    return npz_cut_or_damaged(folder, mark)


def list_with_a_long_field(folder):
    field = "\n".join(["a" * 60_000] * 3)
    (folder / "list.csv").write_text(f'path,label\n"{field}",zero\n')
    return folder / "list.csv"


def list_with_a_long_line(folder):
    with (folder / "list.csv").open("w") as file:
        file.write("path,label\n")
        file.truncate(20 << 30)
    return folder / "list.csv"


def list_with_a_nul(folder):
    (folder / "list.csv").write_text("path,label\na\0.png,one\n")
    return folder / "list.csv"


# What is written, options of --images, what is said, and how many images are good (None: all of it is refused).
SETS = [
    (links_in_circles, {}, "a link: --follow-links", 1),
    (links_in_circles, {"follow_links": True}, "taken under another name", 1),
    (pipe_in_a_folder, {}, "no regular file", 1),
    (pipe_in_a_folder, {"follow_links": True}, "no regular file", 1),
    (pipe_as_a_list, {}, "no regular file", None),
    (pipe_as_a_set, {}, "no regular file", None),
    (device_in_a_list, {}, "outside of", None),
    (device_in_a_list, {"image_root": "/dev"}, "no regular file", 0),
    (pipe_in_a_list, {}, "no regular file", 1),
    (device_as_a_ground_truth, {}, "holds none of", None),
    (device_as_a_ground_truth, {"follow_links": True}, "holds none of", None),
    (bombs, {}, f"{PIXELS}.*{DAMAGE}.*{DAMAGE}", 2),
    (enlarged_headers, {}, ".*".join([PIXELS] * 6), 1),
    (large_file, {}, BYTES, 1),
    (large_member, {}, f"{PIXELS}.*{DAMAGE}.*{BYTES}", 0),
    (bombs_in_a_parquet, {}, f"{BYTES}.*{PIXELS}.*{DAMAGE}", 1),
    (parquet_that_repeats, {"first_label": 0, "max_bytes": 1000}, BYTES, 0),
    (parquet_bomb, {"first_label": 0}, "unpack to far more", None),
    (npz_bomb, {}, "unpack to far more", None),
    (npz_with_a_long_header, {}, "has the version", None),
    (npz_of_nothing, {}, r"labels \[1\]", None),
    (npz_with_a_large_image, {}, "--max-pixels", None),
    (npz_that_is_short, {}, "ends too early", None),
    (npz_that_is_long, {}, "more than its shape", None),
    (npz_of_objects, {}, "object", None),
    (npz_cut, {}, "damaged, or no .npz", None),
    (npz_damaged, {}, "damaged, or no .npz", None),
    (npz_encrypted, {}, "damaged, or no .npz", None),
    (list_with_a_long_field, {}, "field larger than", None),
    (list_with_a_long_line, {}, "more than 65,536 bytes", None),
    (list_with_a_nul, {}, "NUL", None),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with a Ghostscript that leaves a file where it was started."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {folder}/started\n")
    (folder / "gs").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def answers(programs, tmp_path_factory):
    lines = []
    for write, options, *_ in SETS:
        lines.append(json.dumps([str(write(tmp_path_factory.mktemp(write.__name__))), options]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile_images", str(MEMORY_BYTES), str(CPU_SECONDS)],
        input="\n".join(lines),
        cwd=ROOT,
        env=environment(PATH=f"{programs}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(SETS), f"{SETS[len(found)][0].__name__}: {done.returncode} {done.stderr[-2000:]}"
    return found


@pytest.mark.parametrize(
    "number", range(len(SETS)), ids=[f"{write.__name__} {options or ''}" for write, options, *_ in SETS]
)
def test_hostile_sets(number, answers):
    _, _, said, good = SETS[number]
    answer = answers[number]
    if good is None:
        assert re.search(said, answer["error"]), answer
    else:
        assert answer.get("images") == good, answer
        text = " ".join([*answer["left_out"].values(), *answer["unusable"]])
        assert re.search(said, text), answer


def test_no_image_starts_a_program(answers, programs):
    assert sorted(each.name for each in programs.iterdir()) == ["gs"]
