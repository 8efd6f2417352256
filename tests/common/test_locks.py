"""Locks between processes: waiting, refusing, ending with their holder, and places that have none."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.support.commands import ROOT
from tools.common import locks
from tools.common.locks import LockHeld, LocksUnsupported, acquire, lock, may_be_held

HOLDER = """
import sys, time
from tools.common.locks import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
WITHOUT = [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF]


@pytest.fixture(params=["file", "folder"])
def path(request, tmp_path):
    """A file, and a folder: both can be locked."""
    found = tmp_path / "locked"
    found.mkdir() if request.param == "folder" else found.touch()
    return found


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def fail_with(monkeypatch, code):
    def fail(*_arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", fail)


def test_a_lock_is_of_one_process_and_ends_with_it(path, holder):
    with pytest.raises(LockHeld), lock(path, wait=False):
        pass
    assert may_be_held(path)
    entered = threading.Event()

    def wait():
        with lock(path):
            entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.2)
    holder.send_signal(signal.SIGKILL)
    assert entered.wait(30)
    waiting.join()
    assert not may_be_held(path)


def test_a_lock_is_released_after_an_error(path):
    with contextlib.suppress(ZeroDivisionError), lock(path, wait=False):
        assert may_be_held(path)
        raise ZeroDivisionError
    assert not may_be_held(path)
    with lock(path, wait=False):
        pass


def test_a_lock_that_was_acquired_lasts_until_its_file_is_closed(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        acquire(file.fileno(), wait=False)
        assert may_be_held(tmp_path / "file")
    assert not may_be_held(tmp_path / "file")


@pytest.mark.parametrize("code", WITHOUT)
@pytest.mark.parametrize("wait", [True, False])
def test_a_file_system_without_locks(path, monkeypatch, code, wait):
    fail_with(monkeypatch, code)
    with pytest.raises(LocksUnsupported), lock(path, wait=wait):
        pass
    assert may_be_held(path)  # nobody can know


def test_a_system_without_locks(path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(LocksUnsupported), lock(path):
        pass
    assert may_be_held(path)


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EACCES])
def test_both_ways_to_say_that_it_is_held(path, monkeypatch, code):
    fail_with(monkeypatch, code)
    with pytest.raises(LockHeld), lock(path, wait=False):
        pass


def test_other_errors_are_no_answer(path, monkeypatch):
    fail_with(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as failed, lock(path):
        pass
    assert not isinstance(failed.value, LockHeld | LocksUnsupported)


def test_what_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(FileNotFoundError), lock(tmp_path / "nothing"):
        pass
    with pytest.raises(FileNotFoundError):
        may_be_held(tmp_path / "nothing")


def test_descriptors_are_closed(path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with lock(path):
            assert may_be_held(path)
    assert len(os.listdir("/proc/self/fd")) == before
