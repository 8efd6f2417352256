"""Files are written whole or not at all, are readable by whom any new file is, and leave nothing behind."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from tools.common import files


@pytest.fixture
def umask_022():
    before = os.umask(0o022)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("data", "expected"), [(b"\x00\xff", b"\x00\xff"), ("Zürich\n", "Zürich\n".encode()), (b"", b"")]
)
def test_bytes_and_text_are_written_as_they_are(tmp_path, data, expected):
    target = tmp_path / "file"
    files.write_atomically(target, data)
    files.write_atomically(str(target), data)  # over the first, by a path of either kind
    assert target.read_bytes() == expected and names(tmp_path) == ["file"]


def test_a_missing_folder_is_made(tmp_path):
    files.write_atomically(tmp_path / "a/b/file", b"x")
    assert (tmp_path / "a/b/file").read_bytes() == b"x"


def test_a_path_without_a_folder_is_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_atomically("file", b"x")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("old", "expected"), [(None, 0o644), (0o600, 0o644), (0o444, 0o644)])
def test_permissions_are_those_of_a_new_file(tmp_path, umask_022, old, expected):
    target = tmp_path / "file"
    if old is not None:
        target.write_bytes(b"old")
        target.chmod(old)
    files.write_atomically(target, b"new")
    assert target.stat().st_mode & 0o777 == expected and target.read_bytes() == b"new"


def test_the_umask_of_the_process_is_left_alone(tmp_path, monkeypatch):
    """It belongs to all threads: one that makes a file meanwhile would make it for everybody to write."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    files.write_atomically(tmp_path / "file", b"x")


def test_a_link_is_replaced_and_its_target_is_not_touched(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    files.write_atomically(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "link").read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() == b"old"


def test_the_longest_name_that_a_file_may_have(tmp_path):
    files.write_atomically(tmp_path / ("x" * 255), b"x")
    assert names(tmp_path) == ["x" * 255]


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def refuse(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    if fails == "replace":
        monkeypatch.setattr(os, "replace", refuse)
    else:
        original = os.fdopen

        def full(*arguments):
            file = original(*arguments)
            return type(
                "Full", (), {"__enter__": lambda s: s, "__exit__": lambda s, *_: file.close(), "write": refuse}
            )()

        monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(target, b"new")
    assert target.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_folder_at_the_path_is_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomically(tmp_path / "folder", b"x")
    assert names(tmp_path) == ["folder"]


def test_readers_see_the_old_content_or_the_new_one(tmp_path):
    target, contents = tmp_path / "file", {bytes([n]) * 200_000 for n in range(2)}
    files.write_atomically(target, min(contents))
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            seen.append(target.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(50):
        for content in contents:
            files.write_atomically(target, content)
    done.set()
    thread.join()
    assert set(seen) <= contents and seen


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256_of_a_file(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert files.sha256_of_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("/elsewhere", "/elsewhere/hubpress"), ("", "/home/me/.cache/hubpress"), (None, "/home/me/.cache/hubpress")],
)
def test_the_default_cache(monkeypatch, variable, expected):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if variable is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert files.default_cache() == Path(expected)


def test_the_root_is_the_repository():
    assert (files.ROOT / "pyproject.toml").is_file() and (files.ROOT / "tools/common/files.py").is_file()


def test_what_is_of_another_kind_in_a_cache_goes_and_nothing_else(tmp_path):
    def kinds():
        files.discard(tmp_path / "x")
        for make in (
            lambda path: path.write_text("x"),
            lambda path: (path / "within").mkdir(parents=True),
            lambda path: path.symlink_to("nowhere"),
            lambda path: path.symlink_to(path),
            lambda path: None,
        ):
            make(tmp_path / "x")
            yield tmp_path / "x"
            files.discard(tmp_path / "x")

    assert [(files.discard_unless_file(path), os.path.lexists(path))[1] for path in kinds()] == [True] + [False] * 4
    assert [(files.discard_unless_folder(path), os.path.lexists(path))[1] for path in kinds()] == [False, True] + [
        False
    ] * 3
    assert [(files.make_cache_folder(path), path.is_dir())[1] for path in kinds()] == [True] * 5
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    files.discard_unless_file(tmp_path / "link")
    assert (tmp_path / "link").read_text() == "kept"
    files.discard(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "kept" and not (tmp_path / "link").exists()
