"""Archives: the same bytes each time, only what a module may hold, and checks that survive hostile input."""

import contextlib
import gzip
import hashlib
import io
import os
import pathlib
import random
import subprocess
import sys
import tarfile
import textwrap
import time
import tracemalloc
import types

import pytest

from tools.archive import packing as packing_module
from tools.archive.members import ArchiveError, Member
from tools.archive.packing import pack
from tools.archive.reading import Limits, checked_members, inspect, unpack
from tools.common.files import ROOT

FILES = {
    "assets.extra/module.json": b"{}",
    "assets/labels.txt": b"zero\none\n",
    "assets/words/a.txt": b"a",
    "fingerprint.pb": b"fingerprint",
    "saved_model.pb": b"graph" * 1000,
    "variables/variables.data-00000-of-00001": bytes(range(256)) * 4096,
    "variables/variables.index": b"index",
}
ORDER = [
    "assets",
    "assets/labels.txt",
    "assets/words",
    "assets/words/a.txt",
    "assets.extra",
    "assets.extra/module.json",
    "fingerprint.pb",
    "saved_model.pb",
    "variables",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
]


@pytest.fixture
def saved_model(tmp_path):
    return write_model(tmp_path / "model", FILES)


def write_model(directory: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


# Packing


def test_what_is_packed(saved_model, tmp_path):
    out = tmp_path / "1.tar.gz"
    seen = []
    archive = pack(saved_model, out, progress=lambda done, total: seen.append((done, total)))
    data = out.read_bytes()
    assert archive.size == len(data)
    assert archive.sha256 == hashlib.sha256(data).hexdigest()
    assert archive.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert archive.content_sha256 == hashlib.sha256(gzip.decompress(data)).hexdigest()
    assert archive.unpacked_size == sum(map(len, FILES.values()))
    assert [member.name for member in archive.members] == ORDER
    assert seen[-1] == (archive.unpacked_size, archive.unpacked_size)
    assert data[3:8] == bytes(5)  # no name, no time in the gzip header
    with tarfile.open(out) as tar:
        assert tar.format == tarfile.USTAR_FORMAT or not tar.pax_headers
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.mode == (0o755 if member.isdir() else 0o644)
            if member.isfile():
                assert tar.extractfile(member).read() == FILES[member.name]
    assert inspect(out) == list(archive.members)
    with open(out, "rb") as file:
        assert inspect(file) == list(archive.members)


def test_the_same_model_gives_the_same_bytes(saved_model, tmp_path):
    first = pack(saved_model, tmp_path / "1.tar.gz")
    other = tmp_path / "other"
    for name in reversed(FILES):  # another order of making, other times and rights
        write_model(other, {name: FILES[name]})
        os.utime(other / name, (1, 1))
        os.chmod(other / name, 0o600)
    (other / "assets/empty").mkdir()
    second = pack(other, tmp_path / "2.tar.gz")
    assert first == second
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()


def test_a_slow_hash_gets_every_byte(saved_model, tmp_path, monkeypatch):
    """Blocks are used again and again, but not before they are hashed."""

    class Slow:
        def __init__(self):
            self.digest = hashlib.sha256()
            self.hexdigest = self.digest.hexdigest

        def update(self, data):
            time.sleep(0.002)
            self.digest.update(data)

    write_model(saved_model, {"variables/variables.data-00000-of-00001": random.Random(0).randbytes(20_000_000)})
    monkeypatch.setattr(packing_module, "hashlib", types.SimpleNamespace(sha256=Slow, md5=hashlib.md5))
    archive = pack(saved_model, tmp_path / "1.tar.gz")
    data = (tmp_path / "1.tar.gz").read_bytes()
    assert archive.sha256 == hashlib.sha256(data).hexdigest()
    assert archive.content_sha256 == hashlib.sha256(gzip.decompress(data)).hexdigest()


def test_a_long_name_is_kept(saved_model, tmp_path):
    name = "assets/" + "long" * 50 + "/" + "ü" * 60 + ".txt"
    write_model(saved_model, {name: b"x"})
    pack(saved_model, tmp_path / "1.tar.gz")
    assert name in [member.name for member in inspect(tmp_path / "1.tar.gz")]
    with tarfile.open(tmp_path / "1.tar.gz") as tar:
        assert tar.extractfile(name).read() == b"x"


def test_memory_stays_flat(saved_model, tmp_path):
    generator = random.Random(0)
    with open(saved_model / "variables/variables.data-00000-of-00001", "wb") as file:
        for _ in range(48):
            file.write(generator.randbytes(1 << 20))
    tracemalloc.start()
    try:
        pack(saved_model, tmp_path / "1.tar.gz")
        inspect(tmp_path / "1.tar.gz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda model: (model / "README.md").write_text("x"),
            r"README\.md: is no file of a SavedModel\. Fix: remove it \(a module holds",
        ),
        (lambda model: (model / ".DS_Store").write_text("x"), r"\.DS_Store: has a path with .* begins with a dot"),
        (lambda model: (model / "assets/.keep").write_text("x"), r"assets/\.keep: .* begins with a dot"),
        (lambda model: (model / "extra").mkdir(), r"extra: is no folder of a SavedModel"),
        (lambda model: (model / "variables/more").mkdir(), r"variables/more: is no folder"),
        (
            lambda model: (model / "variables/checkpoint").write_text("x"),
            r"variables/checkpoint: is no file of variables/",
        ),
        (lambda model: (model / "assets/none.txt").write_text(""), r"assets/none\.txt: is empty.* put a byte in it"),
        (
            lambda model: (model / "assets/link").symlink_to("labels.txt"),
            r"assets/link: is a link\. Fix: put the file itself",
        ),
        (lambda model: os.mkfifo(model / "assets/pipe"), r"assets/pipe: is neither a file nor a folder"),
        (lambda model: (model / "saved_model.pb").unlink(), r"saved_model\.pb: is missing\. Fix: export"),
        (lambda model: (model / "assets/a\nb").write_text("x"), r"control character"),
    ],
)
def test_what_is_not_packed(saved_model, tmp_path, change, reason):
    change(saved_model)
    with pytest.raises(ArchiveError, match=reason):
        pack(saved_model, tmp_path / "1.tar.gz")
    assert not (tmp_path / "1.tar.gz").exists()


def test_all_problems_are_named_at_once(saved_model, tmp_path):
    write_model(saved_model, {"one.txt": b"x", "two.txt": b"x"})
    with pytest.raises(ArchiveError, match=r"one\.txt: .*\.\n.*two\.txt: "):
        pack(saved_model, tmp_path / "1.tar.gz")


def test_no_folder_to_pack(tmp_path):
    with pytest.raises(ArchiveError, match="is not a folder"):
        pack(tmp_path / "nothing", tmp_path / "1.tar.gz")


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_file_that_changes_meanwhile(saved_model, tmp_path, size):
    variables = saved_model / "variables/variables.data-00000-of-00001"

    def change(done, total):
        variables.write_bytes(bytes(size))

    with pytest.raises(ArchiveError, match="changed while it was packed"):
        pack(saved_model, tmp_path / "1.tar.gz", progress=change)
    assert not (tmp_path / "1.tar.gz").exists()


def test_a_full_disk_is_said(saved_model, tmp_path):
    """A real write past a real limit: the kernel refuses, in a process of its own."""
    code = textwrap.dedent(f"""
        import resource, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tools.archive.members import ArchiveError
        from tools.archive.packing import pack
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            pack({str(saved_model)!r}, {str(tmp_path / "1.tar.gz")!r})
        except ArchiveError as error:
            print(error)
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be packed into" in result.stdout
    assert "File too large. Fix: free some space" in result.stdout
    assert not (tmp_path / "1.tar.gz").exists()


# Inspecting


def entry(name: str, content: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    information = tarfile.TarInfo(name)
    information.size = len(content)
    for key, value in fields.items():
        setattr(information, key, value)
    return information, content


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, b"", type=tarfile.DIRTYPE)


GRAPH = entry("saved_model.pb", b"graph")


def tar_of(*entries, format=tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for information, content in entries:
            tar.addfile(information, io.BytesIO(content))
    return buffer.getvalue()


def archive_of(*entries, **options) -> io.BytesIO:
    return io.BytesIO(gzip.compress(tar_of(*entries, **options), 1))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_others(format):
    long = "assets/" + "x" * 98
    entries = [folder("."), folder("assets"), entry("./assets/a.txt"), entry(long), GRAPH]
    for information, _ in entries:
        information.mtime = 1.5 if format == tarfile.PAX_FORMAT else 1
    members = inspect(archive_of(*entries, format=format))
    assert members == [
        Member("assets", 0, True),
        Member("assets/a.txt", 1),
        Member(long, 1),
        Member("saved_model.pb", 5),
    ]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("../saved_model.pb")], r"'\.\./saved_model\.pb': has a path .* begins with a dot"),
        ([entry("/saved_model.pb")], "absolute"),
        ([folder("assets"), entry("assets/../../x"), GRAPH], "begins with a dot"),
        ([folder("assets"), entry("assets\\x"), GRAPH], "is no file|backslash"),
        ([folder("assets"), entry("assets/a\nb"), GRAPH], "control character"),
        ([entry("saved_model.pb", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "is a link, a device"),
        ([GRAPH, entry("fingerprint.pb", b"", type=tarfile.LNKTYPE, linkname="saved_model.pb")], "is a link, a device"),
        ([GRAPH, entry("fingerprint.pb", b"", type=tarfile.CHRTYPE)], "is a link, a device"),
        ([GRAPH, entry("fingerprint.pb", b"", type=tarfile.FIFOTYPE)], "is a link, a device"),
        ([GRAPH, entry("fingerprint.pb", b"", type=tarfile.GNUTYPE_SPARSE)], "is a link, a device|damaged"),
        ([GRAPH, GRAPH], "'saved_model.pb': is there twice"),
        ([entry("assets/a.txt"), folder("assets"), GRAPH], "comes before its folder 'assets'"),
        ([GRAPH, entry("fingerprint.pb", b"")], "is empty, and tensorflow_hub drops"),
        ([GRAPH, entry("setup.py")], r"'setup\.py': is no file of a SavedModel"),
        ([folder("model"), entry("model/saved_model.pb")], "'model': is no folder of a SavedModel"),
        ([GRAPH, entry(".git")], "begins with a dot"),
        ([folder("variables"), entry("variables/checkpoint"), GRAPH], "is no file of variables/"),
        ([entry("fingerprint.pb")], "has no saved_model.pb at its root"),
        ([], "has no saved_model.pb at its root"),
    ],
)
def test_what_an_archive_must_not_hold(entries, reason, tmp_path):
    with pytest.raises(ArchiveError, match=reason):
        inspect(archive_of(*entries))
    with pytest.raises(ArchiveError, match=reason):
        unpack(archive_of(*entries), tmp_path / "model")


def test_extended_headers_that_deceive():
    renamed = entry("saved_model.pb", b"graph", pax_headers={"path": "../../evil"})
    with pytest.raises(ArchiveError, match="evil"):
        inspect(archive_of(renamed, format=tarfile.PAX_FORMAT))
    resized = entry("saved_model.pb", b"graph", pax_headers={"size": "-5"})
    with pytest.raises(ArchiveError, match=r"unusable size|damaged"):
        inspect(archive_of(resized, format=tarfile.PAX_FORMAT))
    sparse = entry("saved_model.pb", b"graph", pax_headers={"GNU.sparse.major": "1"})
    with pytest.raises(ArchiveError, match="sparse"):
        inspect(archive_of(sparse, format=tarfile.PAX_FORMAT))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil"}) as tar:
        tar.addfile(GRAPH[0], io.BytesIO(GRAPH[1]))
    with pytest.raises(ArchiveError, match="global header"):
        inspect(io.BytesIO(gzip.compress(buffer.getvalue())))


def test_damage_of_every_kind(saved_model, tmp_path):
    pack(saved_model, tmp_path / "1.tar.gz")
    data = (tmp_path / "1.tar.gz").read_bytes()
    for wrong, reason in [
        (b"", "truncated"),
        (b"<!doctype html><p>Not found", "not compressed with gzip"),
        (gzip.decompress(data), "not compressed with gzip"),
        (gzip.compress(b"nonsense" * 1000), "not a tar file"),
        (data + b"more", "behind the end of the gzip stream"),
        (data + data, "behind the end of the gzip stream"),
        (gzip.compress(gzip.decompress(data) + b"more"), "behind the end of the tar file"),
        (data[:-1], "truncated"),
        (data[:-8] + bytes(4) + data[-4:], "damaged"),
    ]:
        with pytest.raises(ArchiveError, match=reason):
            inspect(io.BytesIO(wrong))
    with pytest.raises(ArchiveError, match="cannot be read"):
        inspect(tmp_path / "nothing.tar.gz")


@pytest.mark.parametrize("seed", range(8))
def test_truncated_and_flipped_anywhere(saved_model, tmp_path, seed):
    """Cut anywhere, an archive is refused; with a bit turned anywhere, it is refused or means the same."""
    pack(saved_model, tmp_path / "1.tar.gz")
    data = (tmp_path / "1.tar.gz").read_bytes()
    expected = inspect(io.BytesIO(data))
    generator = random.Random(seed)
    for _ in range(6):
        with pytest.raises(ArchiveError):
            inspect(io.BytesIO(data[: generator.randrange(len(data))]))
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        with contextlib.suppress(ArchiveError):
            assert inspect(io.BytesIO(bytes(flipped))) == expected  # the gzip header's time, say


@pytest.mark.parametrize("seed", range(10))
def test_we_read_what_pythons_tarfile_reads(seed):
    """No archive that passes means something else to the consumer, who reads it with `tarfile`."""
    generator = random.Random(seed)
    passed = 0
    for _ in range(150):
        tar = bytearray(
            tar_of(
                folder("assets"),
                entry("assets/" + "x" * 98, b"12345"),
                GRAPH,
                folder("variables"),
                entry("variables/variables.index", b"i"),
                format=generator.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
            )
        )
        for _ in range(generator.randrange(3)):
            tar[generator.randrange(5000) % len(tar)] = generator.choice(b"\x00 /.05x12LKgS")
        data = gzip.compress(bytes(tar), 1)
        try:
            members = inspect(io.BytesIO(data))
        except ArchiveError:
            continue
        passed += 1
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as theirs:
            assert [(member.name, member.size, member.isdir()) for member in theirs] == [
                (member.name, member.size, member.is_folder) for member in members
            ]
    assert passed > 10


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(members=2), "more than 2 members"),
        (Limits(member_size=100), "exceeds the limit"),
        (Limits(unpacked_size=1000), "exceeds the limit"),
        (Limits(name_length=10), "more than 10 characters"),
    ],
)
def test_limits(saved_model, tmp_path, limits, reason):
    pack(saved_model, tmp_path / "1.tar.gz")
    with pytest.raises(ArchiveError, match=reason):
        inspect(tmp_path / "1.tar.gz", limits)


@pytest.mark.parametrize("declared", [1 << 30, 7])
def test_a_zip_bomb(declared):
    """Much in little, as content or behind the end, is refused long before it is unpacked."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        information = tarfile.TarInfo("saved_model.pb")
        information.size = declared
        file.write(information.tobuf())
        file.write(b"graph12" + bytes(505 + 1024) if declared == 7 else b"")
        for _ in range(230):
            file.write(bytes(1 << 20))
    buffer.seek(0)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="zip bomb"):
            inspect(buffer)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_unpack(saved_model, tmp_path):
    pack(saved_model, tmp_path / "1.tar.gz")
    members = unpack(tmp_path / "1.tar.gz", tmp_path / "unpacked")
    assert members == inspect(tmp_path / "1.tar.gz")
    unpacked = {
        path.relative_to(tmp_path / "unpacked").as_posix(): path.read_bytes()
        for path in (tmp_path / "unpacked").rglob("*")
        if path.is_file()
    }
    assert unpacked == FILES
    with pytest.raises(ArchiveError, match="is not empty"):
        unpack(tmp_path / "1.tar.gz", tmp_path / "unpacked")
    assert pack(tmp_path / "unpacked", tmp_path / "2.tar.gz").sha256 == pack(saved_model, tmp_path / "3.tar.gz").sha256


def test_members_come_with_their_contents(saved_model, tmp_path):
    """Read, read in part, or not read: the next member begins where it should."""
    pack(saved_model, tmp_path / "1.tar.gz")
    for size in (-1, 1, 0):
        found = {member.name: content.read(size) for member, content in checked_members(tmp_path / "1.tar.gz")}
        assert list(found) == ORDER
        assert {name: data for name, data in found.items() if name in FILES} == {
            name: data[: None if size < 0 else size] for name, data in FILES.items()
        }
        assert not any(data for name, data in found.items() if name not in FILES)


def test_packing_twice_in_two_processes(saved_model, tmp_path):
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tools.archive.packing import pack
        print(pack({str(saved_model)!r}, sys.argv[1]).sha256)
        assert not [name for name in sys.modules if name.startswith("tensorflow")]
    """)
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{number}.tar.gz")], capture_output=True, text=True, check=True
        ).stdout
        for number in range(2)
    }
    assert len(found) == 1
