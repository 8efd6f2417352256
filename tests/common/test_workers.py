"""Worker processes: answers, refusals, and every way in which a worker can end; with real processes of a few lines."""

import os
import re
import signal
import threading
import time

import pytest

from tools.common import workers
from tools.common.files import ROOT
from tools.common.workers import Worker, WorkerError, WorkerRefusal

SERVE = """
import os, sys, subprocess
from tools.common.workers import serve

def answer(message):
    {body}

sys.exit(serve(answer))
"""


@pytest.fixture
def start(tmp_path):
    """`start(program, *arguments)`: a worker that runs this text; all are closed at the end."""
    started = []

    def run(program, *arguments, **options):
        file = tmp_path / f"program{len(started)}.py"
        file.write_text(program)
        started.append(Worker(file, *arguments, **options))
        return started[-1]

    yield run
    for worker in started:
        worker.close()


def test_requests_are_answered_in_order(start):
    worker = start(SERVE.format(body="return {'sum': sum(message['numbers'])}"))
    assert [worker.request({"numbers": [n, 1]}) for n in range(3)] == [{"sum": 1}, {"sum": 2}, {"sum": 3}]
    assert worker.is_alive
    worker.finish()
    assert worker.receive(timeout=60) is None and not worker.is_alive


def test_text_in_any_language_arrives(start):
    worker = start(SERVE.format(body="return message"), environment={"LC_ALL": "C"})
    message = {"text": "Zürich\n東京 \u2028 \U0001f600"}
    assert worker.request(message) == message


def test_a_module_of_the_repository_runs_there_with_arguments_and_environment(start, tmp_path):
    root = tmp_path / "root"
    (root / "package").mkdir(parents=True)
    (root / "package/child.py").write_text(
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['X']]).join(['{\"said\": ', '}']))"
    )
    with Worker("package.child", "a", root / "b", root=root, environment={"X": "y"}) as worker:
        assert list(worker.messages()) == [{"said": [["a", str(root / "b")], str(root), "y"]}]
    assert worker.name == "package.child" and not worker.is_alive


def test_a_refusal_leaves_the_worker_at_work(start):
    worker = start(SERVE.format(body="return {'half': 10 // message['by']}"))
    with pytest.raises(WorkerRefusal, match=r"^integer division or modulo by zero$"):
        worker.request({"by": 0})
    assert worker.request({"by": 2}) == {"half": 5}


def test_an_error_that_is_no_refusal_ends_the_worker_with_its_traceback(start):
    program = SERVE.format(body="raise KeyError('depths')").replace(
        "serve(answer)", "serve(answer, refusals=(ValueError,))"
    )
    worker = start(program)
    with pytest.raises(WorkerError, match=r"failed; its log is \S+:\n(.*\n)*KeyError: 'depths'$") as caught:
        worker.request({})
    assert caught.value.status == 1 and "Traceback" in caught.value.log
    assert len(str(caught.value).splitlines()) <= 1 + workers.LINES_SHOWN


def test_a_message_of_its_own_is_all_that_is_said(start):
    noise = "\\n2024 x\\nWARNING: All log messages\\nE0000 00:00:1 cuda\\nx.py:1: UserWarning: old\\n"
    worker = start(f"import sys; print({noise!r}, file=sys.stderr); sys.exit('file: row: is wrong. Fix: mend it.')")
    with pytest.raises(WorkerError) as caught:
        worker.receive()
    assert str(caught.value).endswith("file: row: is wrong. Fix: mend it.")
    assert "WARNING" not in str(caught.value) and "cuda" not in str(caught.value)


def test_a_silent_failure_names_its_status(start):
    with pytest.raises(WorkerError, match=r"failed with exit status 3\. Fix: run the same command again\.$") as caught:
        start("raise SystemExit(3)").receive()
    assert caught.value.status == 3 and caught.value.log == ""


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            signal.SIGKILL,
            r"was killed by signal 9 \(out of memory\?\); its log is (\S+)\. Fix: run the same command again, ",
        ),
        (
            signal.SIGSEGV,
            r"crashed with signal 11 \(Segmentation fault\); its log is (\S+)\. Fix: correct what the lines ",
        ),
        (signal.SIGRTMIN + 1, r"crashed with signal 35 \(.*\); its log is (\S+)\. Fix: correct what the lines "),
        (signal.SIGTERM, r"was ended by signal 15 \(Terminated\)\. Fix: run the same command again\.$"),
    ],
)
def test_death_by_a_signal_is_told_with_the_last_words_of_the_log(start, tmp_path, number, said):
    program = (
        f"import os, sys\nfor n in range(50): print('line', n, file=sys.stderr)\nos.kill(os.getpid(), {int(number)})"
    )
    with pytest.raises(WorkerError) as caught:
        start(program, kept=tmp_path / "logs/kept.log").request({})
    first, *words = str(caught.value).splitlines()
    assert caught.value.status == -number
    found = re.search(f" {said}", first)
    assert found, first
    assert words == [f"line {n}" for n in range(50 - workers.LINES_SHOWN, 50)]
    for log in found.groups():
        assert log == str(tmp_path / "logs/kept.log") and (tmp_path / "logs/kept.log").read_text() == caught.value.log


def test_the_line_in_which_a_program_crashed_is_shown_and_not_its_stack(start, tmp_path):
    log = ["loading", "F0000 00:00:1 a.cc:1] Check failed: rank == 4", "*** Check failure stack trace: ***"]
    log += [f"    @     0x{n:012x}  frame" for n in range(40)]
    program = f"import os, sys; print({chr(10).join(log)!r}, file=sys.stderr, flush=True); os.abort()"
    with pytest.raises(WorkerError, match=r"crashed with signal 6 \(Aborted\); its log is ") as caught:
        start(program, kept=tmp_path / "kept.log").receive()
    assert str(caught.value).splitlines()[1:] == [log[1]]


def test_a_log_that_cannot_be_kept_hides_nothing(start, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkerError, match=r"crashed with signal 6 \(Aborted\)\. Fix: .*\nwhy$"):
        start(
            "import os, sys; print('why', file=sys.stderr, flush=True); os.abort()", kept=tmp_path / "file/kept.log"
        ).receive()


def test_a_worker_that_ends_without_an_answer(start):
    worker = start("import sys; print('gave up', file=sys.stderr)")
    with pytest.raises(WorkerError, match=r"ended without an answer\. Fix: .*\ngave up$") as caught:
        worker.request({})
    assert caught.value.status == 0
    worker.send({"more": 1})  # to nobody, and no error
    assert worker.receive() is None


def test_a_worker_that_is_late_is_killed(start):
    worker = start(SERVE.format(body="import time; time.sleep(message['seconds']); return {}"))
    assert worker.request({"seconds": 0}, timeout=60) == {}
    with pytest.raises(WorkerError, match=r"took more than 0\.2 s and was ended") as caught:
        worker.request({"seconds": 600}, timeout=0.2)
    assert caught.value.status == -signal.SIGKILL and not worker.is_alive


def test_a_worker_that_closes_its_output_and_stays_is_late_too(start):
    worker = start("import os, time; os.close(1); time.sleep(600)")
    with pytest.raises(WorkerError, match=r"took more than 0\.5 s and was ended"):
        worker.receive(timeout=0.5)
    assert not worker.is_alive


@pytest.mark.parametrize("end", ["os._exit(3)", "time.sleep(600)"])
def test_a_child_that_a_worker_leaves_behind_keeps_nobody_waiting(start, end):
    """It inherited the worker's output, which stays open."""
    child = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\n"
    worker = start(f"{child}print('{{}}', flush=True)\n{end}")
    began = time.monotonic()
    assert worker.receive(timeout=30) == {}
    with pytest.raises(WorkerError, match="exit status 3" if "exit" in end else r"took more than 0\.5 s and was ended"):
        worker.receive(timeout=None if "exit" in end else 0.5)
    worker.close()
    assert time.monotonic() - began < 30


def test_a_worker_that_does_not_read_is_late_too(start):
    worker = start("import time; time.sleep(600)")
    with pytest.raises(WorkerError, match=r"took more than 0\.5 s and was ended"):
        worker.request({"text": "x" * (1 << 20)}, timeout=0.5)  # more than a pipe holds


def test_what_cannot_be_a_message_is_not_sent(start):
    worker = start(SERVE.format(body="return {}"))
    circle = {}
    circle["circle"] = circle
    with pytest.raises(ValueError, match="Circular"):
        worker.send(circle)
    assert worker.request({}) == {}


@pytest.mark.parametrize(
    "noise",
    [
        "print('noise')",
        "os.write(1, b'noise\\n')",
        "subprocess.run(['echo', 'noise'])",
        "sys.stdout.write('no end of line')",
    ],
)
def test_what_is_printed_beside_messages_goes_to_the_log(start, noise):
    worker = start(SERVE.format(body=f"{noise}; return message"))
    assert [worker.request({"n": n}) for n in range(2)] == [{"n": 0}, {"n": 1}]
    worker.finish()
    assert worker.receive() is None
    assert "no" in worker.log_text()


@pytest.mark.parametrize("line", ["noise", "[1]", "{", "\\xff"])
def test_what_is_no_message_ends_the_worker(start, line):
    program = f"import sys, time\nsys.stdout.buffer.write(b'{line}\\n'); sys.stdout.flush(); time.sleep(600)"
    worker = start(program)
    with pytest.raises(WorkerError, match=r"which is no message\. Fix: "):
        worker.receive()
    assert not worker.is_alive


def test_half_a_message_is_none(start):
    with pytest.raises(WorkerError, match=r"wrote '\{\"a\": ', which is no message"):
        start("import sys; sys.stdout.write('{\"a\": ')").receive()
    with pytest.raises(WorkerError, match="was killed by signal 9"):
        start("import os, sys; sys.stdout.write('{\"a\": '); sys.stdout.flush(); os.kill(os.getpid(), 9)").receive()


def test_messages_come_while_the_worker_runs(start):
    worker = start(
        "import json, sys\nfor n in range(3):\n    print(json.dumps({'n': n}), flush=True)\n    sys.stdin.readline()\n"
    )
    found = []
    for message in worker.messages():
        found.append(message["n"])
        worker.send({})
    assert found == [0, 1, 2]


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_close_ends_a_worker_that_another_thread_waits_for(start, moment):
    worker = start("import time; time.sleep(600)")
    ended = []

    def wait():
        try:
            if moment == "writing":
                worker.send({"text": "x" * (1 << 20)})  # more than a pipe holds, and nobody reads
            ended.append(worker.receive())
        except WorkerError as error:
            ended.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.2)
    worker.close()
    thread.join(60)
    assert not thread.is_alive() and not worker.is_alive
    assert isinstance(ended[0], WorkerError)
    worker.close()  # twice is no harm
    worker.send({})


def test_messages_of_several_threads_do_not_mix(start):
    worker = start(SERVE.format(body="return {'length': len(message['text'])}"))
    lengths = [n * 10_000 for n in range(20)]
    threads = [threading.Thread(target=worker.send, args=({"text": "x" * n},)) for n in lengths]
    for thread in threads:
        thread.start()
    assert sorted(worker.receive(timeout=60)["length"] for _ in threads) == lengths
    for thread in threads:
        thread.join()


def test_a_log_may_be_a_file(start, tmp_path):
    log = tmp_path / "worker.log"
    worker = start("import sys; print('said', file=sys.stderr); print('{}')", log=log)
    assert list(worker.messages()) == [{}]
    assert log.read_text() == worker.log_text() == "said\n"


def test_an_interpreter_that_is_missing_is_an_os_error(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(OSError, match="no-python"):
        Worker("x", python=tmp_path / "no-python")
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_workers_run_at_the_root_of_the_repository(start):
    worker = start("import json, os; print(json.dumps({'folder': os.getcwd()}))")
    assert worker.receive() == {"folder": str(ROOT)}
