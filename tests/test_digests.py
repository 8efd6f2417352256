"""Every byte that publishing and rendering write is the committed one (tests/digests.py), and that guard sees what it must see."""

import gzip
import io
import re
import sys
import tarfile

import numpy as np
import pytest

from tests import digests

RECORD = "hub/hubpress/convnext_digits/1.json"
ARCHIVE = "hub/hubpress/convnext_digits/1.tar.gz"
GOLDEN = f"{ARCHIVE}/assets.extra/golden.npz/outputs.npy"


@pytest.fixture(scope="module", params=list(digests.SETS))
def found(request, published, tmp_path_factory):
    """(name of a set, {path: content} of what is written now); `published` has built what the quickstart needs."""
    return request.param, digests.SETS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def quickstart(published, tmp_path_factory):
    """{path: content} of the published quickstart, and the outputs that are digested."""
    written = digests.quickstart(tmp_path_factory.mktemp("quickstart"))
    return written, digests.outputs(written)


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def named(before, after):
    """The names of the outputs that changed."""
    lines = digests.changes(digests.digests(before), digests.digests(after))
    return {line.partition(": ")[2].rpartition(" (")[0] for line in lines if line.startswith("changed: ")}


def test_every_byte_is_the_committed_one(found):
    name, written = found
    if name == "quickstart" and sys.version_info[:2] != (3, 11):
        pytest.skip("records state the Python that built a module, and the committed digests are those of 3.11")
    changed = digests.changes(digests.committed(name), digests.digests(digests.outputs(written)))
    assert not changed, "\n".join([f"{len(changed)} outputs of tests/digests/{name}.json:", *changed, digests.FIX])


@pytest.mark.parametrize("position", [0, -1, "middle"])
def test_a_changed_byte_of_any_file_is_detected(found, position):
    _, written = found
    kept = {name: content for name, content in written.items() if name.endswith((".tar.gz", "golden.npz"))}
    others = {name: content for name, content in written.items() if name not in kept}
    changed = {
        name: flipped(content, len(content) // 2 if position == "middle" else position % len(content))
        for name, content in others.items()
    }
    assert named(digests.outputs(written), digests.outputs(kept | changed)) == set(others)


def test_of_a_record_only_the_build_and_the_measured_difference_are_hidden(quickstart):
    written, _ = quickstart
    content, placeholders = written[RECORD], digests.shown(written)

    def digested(record):
        return digests.without_machine(digests.masked(record, placeholders))

    before = digested(content)
    hidden = {at for at in range(len(content)) if digested(flipped(content, at)) == before}
    build, difference = (
        set(range(*re.search(pattern, content).span(1)))
        for pattern in (rb'(?s)"build": {(.*?)}', rb'"keras_difference": ([^,\n]+)')
    )
    assert build <= hidden <= build | difference and len(hidden) > len(build)


@pytest.mark.parametrize("name", [RECORD.replace(".json", ".md"), "hub/hubpress/collections/quickstart/1/table.csv"])
def test_no_digit_of_a_page_can_change_unnoticed(quickstart, name):
    """Not even of an archive's digest: it is masked only as long as it is right."""
    written, made = quickstart
    placeholders = digests.shown(written)
    digits = [position for position, byte in enumerate(written[name]) if chr(byte).isdigit()]
    assert len(digits) > 200 and made[name].count(b"<SHA-256 of ") >= 2
    for position in digits:
        assert digests.masked(flipped(written[name], position), placeholders) != made[name], position


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.data-00000-of-00001", "(headers)"])
def test_a_changed_byte_inside_an_archive_is_named(quickstart, part):
    written, made = quickstart
    stream = gzip.decompress(written[ARCHIVE])
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        members = {member.name: member for member in archive}
        member = members["saved_model.pb" if part == "(headers)" else part]
    position = member.offset_data - 1 if part == "(headers)" else member.offset_data + member.size // 2
    again = gzip.compress(flipped(stream, position), mtime=0)
    changed = named(made, digests.outputs(written | {ARCHIVE: again}))
    assert f"{ARCHIVE}/{part}" in changed
    assert RECORD in changed  # whose digests are no longer those of the archive


def golden(outputs, images=b"tiles", **options):
    file = io.BytesIO()
    np.savez(file, images=np.frombuffer(images, np.uint8), outputs=outputs, **options)
    return digests.golden_outputs("golden.npz", file.getvalue())


def test_golden_outputs_are_compared_as_numbers_and_the_rest_exactly():
    outputs = np.linspace(-8, 8, 20, dtype=np.float32).reshape(2, 10)
    before = golden(outputs)
    assert named(before, golden(outputs + np.float32(5e-4))) == set()  # the tolerance is relative to the largest
    assert named(before, golden(outputs + np.float32(1e-3))) == {"golden.npz/outputs.npy"}
    assert named(before, golden(outputs * np.float32(np.nan))) == {"golden.npz/outputs.npy"}
    assert "golden.npz/outputs.npy (header)" in named(before, golden(outputs.T))
    assert "golden.npz/outputs.npy (header)" in named(before, golden(outputs.astype(np.float64)))
    assert named(before, golden(outputs, b"tilEs")) == {"golden.npz/images.npy"}
    assert "golden.npz/(members)" in named(before, golden(outputs, more=outputs))


def test_large_differences_are_not_masked():
    for difference, is_hidden in (("2.5e-07", True), ("0.0", True), ("0.00011", False), ("-1e-07", False)):
        record = f' "keras_difference": {difference},\n'.encode()
        assert (digests.without_machine(record) != record) == is_hidden
    size = digests.committed("quickstart")[f"{ARCHIVE}/(compressed size)"]
    assert digests.is_same(size, size + 100) and not digests.is_same(size, size - 2000)


def test_numbers_of_an_archive_are_masked_only_where_they_stand_alone():
    placeholders = digests.shown({"a.tar.gz": gzip.compress(np.random.default_rng(1).bytes(712_000))})
    size = next(text for text, placeholder in placeholders.items() if placeholder == b"<size of an archive>").decode()
    for text in (f"1{size}", f"{size}0", f"0.{size}", f"a{size}", f"{size}px"):
        assert digests.masked(text.encode(), placeholders) == text.encode()
    for text in (f">{size}<", f"0,{size},0", f'"{size}"', f"{size}."):
        assert digests.masked(text.encode(), placeholders) == text.replace(size, "<size of an archive>").encode()


def test_the_maker_says_what_changed_and_writes_it_once(tmp_path, monkeypatch, capsys):
    written = {"a.html": b"1", "b.html": b"2"}
    monkeypatch.setattr(digests, "FOLDER", tmp_path / "digests")
    monkeypatch.setattr(digests, "SETS", {"small": lambda folder: written})
    assert digests.main([]) == 0 and "added: a.html" in capsys.readouterr().out
    before = (tmp_path / "digests/small.json").read_bytes()
    assert digests.main([]) == 0 and "2 outputs, 0 changed" in capsys.readouterr().out
    assert (tmp_path / "digests/small.json").read_bytes() == before
    assert before.count(b"\n") == 4
    del written["a.html"]
    written["b.html"] = b"22"
    digests.main(["--keep", str(tmp_path / "kept")])
    assert (tmp_path / "kept/small/b.html").read_bytes() == b"22"
    assert (tmp_path / "digests/small.json").read_bytes() == before
    capsys.readouterr()
    digests.main([])
    said = capsys.readouterr().out
    assert "removed: a.html" in said and "changed: b.html (1 -> 2 bytes)" in said
