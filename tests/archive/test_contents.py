"""Contents of an archive, read in one pass, and the signatures of a graph that is read without TensorFlow."""

import gzip
import hashlib
import io
import random

import pytest

from tests.support import made
from tools.archive import contents, saved_model
from tools.archive.members import ArchiveError
from tools.archive.packing import pack
from tools.archive.saved_model import SavedModelError, Tensor

SIGNATURES = {
    "serving_default": ({"images": ("float32", [None, None, None, 3])}, {"logits": ("float32", [None, 10])}),
    "uint8": ({"images": ("uint8", [2, 3])}, {"logits": ("float32", [])}),
}


@pytest.fixture
def archive(tmp_path):
    """A packed module: its bytes, and what `pack` said of it."""
    model = tmp_path / "model"
    files = {
        contents.GRAPH: made.graph(SIGNATURES),
        contents.LABELS: b"zero\none\n",
        contents.MODULE: b"{}",
        "variables/variables.index": b"i",
        "variables/variables.data-00000-of-00001": random.Random(0).randbytes(3_000_000),
    }
    for name, data in files.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(data)
    packed = pack(model, tmp_path / "1.tar.gz")
    return (tmp_path / "1.tar.gz").read_bytes(), packed, files


def test_one_pass_finds_digests_texts_and_signatures(archive):
    data, packed, files = archive
    found = contents.read(io.BytesIO(data), "1.tar.gz")
    assert (found.bytes, found.sha256, found.md5) == (packed.size, packed.sha256, packed.md5)
    assert (found.files, found.unpacked_bytes) == (len(files), packed.unpacked_size)
    assert found.texts == {name: files[name] for name in (contents.GRAPH, contents.LABELS, contents.MODULE)}
    assert found.signatures["serving_default"].inputs == {"images": Tensor("float32", (None, None, None, 3))}
    assert found.signatures["uint8"].outputs == {"logits": Tensor("float32", ())}


def test_weights_are_left_out_where_they_are_not_wanted(archive):
    data, _, files = archive
    stream = io.BytesIO(data)
    found = contents.read(stream, "1.tar.gz", weights=False)
    assert found.texts[contents.LABELS] == files[contents.LABELS] and "serving_default" in found.signatures
    assert found.sha256 == "" and found.bytes == 0 and stream.tell() < len(data) // 2


def test_a_damaged_archive_is_named(archive):
    data, _, _ = archive
    with pytest.raises(ArchiveError, match=r"^p/name/1\.tar\.gz: is truncated"):
        contents.read(io.BytesIO(data[:-1]), "p/name/1.tar.gz")


def test_more_than_may_be_kept_in_memory_is_not_read(archive):
    with pytest.raises(
        ArchiveError, match=r"member 'assets/labels\.txt': has 9 bytes: graph, labels and description may have 5"
    ):
        contents.read(io.BytesIO(archive[0]), "1.tar.gz", memory_bytes=5)


def test_what_is_read_is_hashed():
    data = random.Random(0).randbytes(10_000)
    stream = contents.Hashing(io.BytesIO(data), "x")
    assert stream.read(7) + stream.read() == data
    assert stream.size == len(data) and stream.sha256.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("data", "said"), [(b"", "holds no graph"), (b"\xff" * 20, "no protocol buffer"), (b"\x12\x7f", "truncated"), (b"\x0b", "no protocol buffer"), (gzip.compress(b"x", mtime=0), "")])  # fmt: skip
def test_bytes_that_are_no_saved_model(data, said):
    with pytest.raises(SavedModelError, match=said):
        saved_model.signatures(data)


def test_a_graph_that_is_cut_anywhere_is_refused_or_read(archive):
    """Never another exception: bytes from anywhere come here."""
    graph = archive[2][contents.GRAPH]
    whole = saved_model.signatures(graph)
    refused = 0
    for end in range(len(graph)):
        try:
            assert saved_model.signatures(graph[:end]) != whole
        except SavedModelError:
            refused += 1
    assert refused > len(graph) // 2
