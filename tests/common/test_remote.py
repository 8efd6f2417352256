"""File systems elsewhere: one set-up for all who open one, and one message when a service is not there or knows nobody."""

import contextlib
import http.server
import socket
import threading
import time
import uuid

import pytest

from tests.support import made
from tests.support.commands import ROOT, run_script
from tools.common import console, remote
from tools.common.ports import free_port
from tools.evaluation import EvaluationError, images
from tools.hub.storage import Storage, StorageError

# No credentials, and no look for them at Google's own address.
NOBODY = {"GOOGLE_APPLICATION_CREDENTIALS": "", "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "/nowhere"}


@pytest.fixture
def bucket_hub(bucket_service, tmp_path):
    """The address of a hub in the emulated bucket, with a made-up module."""
    folder, url = tmp_path / "hub", f"gs://bucket/{uuid.uuid4().hex}"
    made.publish(folder, made.digits())
    storage = Storage(url, endpoint_url=bucket_service.url, token="anon")
    for path in Storage(folder).list():
        storage.create(path, folder / path)
    return url


def errors(done):
    """What a script wrote to standard error, without what it was waiting for: that depends on the machine."""
    return [line for line in done.stderr.splitlines() if not line.startswith("waiting for ")]


@pytest.mark.slow
def test_every_script_opens_a_bucket_in_the_same_way(bucket_hub, emulator):
    """Without asking for its type, which an emulator never answers, and without looking for credentials, which it does not want."""
    done = run_script("verify", bucket_hub, "--no-replay", **emulator)
    assert "2 verified, nothing wrong" in done.stdout and not errors(done)
    done = run_script("audit", "--hub", bucket_hub, **emulator)
    assert not errors(done)
    address = f"{bucket_hub}/{made.digits()[0].handle}"
    done = run_script("evaluate", address, "--images", f"{bucket_hub}/none.csv", check=False, **emulator)
    assert done.returncode == 2 and len(errors(done)) == 1 and "none.csv" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "gs://bucket/hub"),
        ("publish", "convnext_digits", "--hub", "gs://bucket/hub"),
        ("publish", "convnext_tiny_1k_224", "--checkpoints", "gs://bucket/mirror", "--hub", "{folder}/hub"),
        ("evaluate", "gs://bucket/hub/p/n/1", "--images", "gs://bucket/images.csv"),
    ],
)
@pytest.mark.slow
def test_a_service_that_is_not_there_is_one_message(tmp_path, command):
    port = free_port()
    words = [word.format(folder=tmp_path) for word in command]
    done = run_script(*words, check=False, STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{port}")
    assert done.returncode in (1, 2) and len(errors(done)) == 1, done.stderr
    assert f"the storage cannot be reached (no connection to 127.0.0.1:{port}: Connection refused)" in done.stderr
    assert "Fix: check the network" in done.stderr


@pytest.mark.slow
def test_credentials_that_cannot_be_used_are_one_message(tmp_path):
    """A port listens, so that the service is there; nobody is asked before the credentials are known to be of no use."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        config = tmp_path / "fsspec"
        config.mkdir()
        (config / "conf.json").write_text(
            f'{{"gs": {{"endpoint_url": "http://127.0.0.1:{service.getsockname()[1]}"}}}}'
        )
        environment = NOBODY | {
            "FSSPEC_CONFIG_DIR": str(config),
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "gone.json"),
        }
        for words in (("verify", "gs://bucket/hub"), ("audit", "--hub", "gs://bucket/hub")):
            done = run_script(*words, check=False, **environment)
            assert done.returncode in (1, 2) and len(errors(done)) == 1, done.stderr
            assert "credentials are missing or not accepted (GOOGLE_APPLICATION_CREDENTIALS: " in done.stderr
            assert "gone.json" in done.stderr and "Fix: for gs:// run `gcloud auth" in done.stderr


def test_without_credentials_buckets_are_read_as_anybody_may(monkeypatch):
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)
    remote._google_token.cache_clear()
    try:
        import google.auth._default

        monkeypatch.setattr(google.auth._default, "_get_gce_credentials", lambda *_arguments, **_options: (None, None))
        assert remote._google_token() == "anon"
    finally:
        remote._google_token.cache_clear()


def test_what_is_waited_for_is_said(monkeypatch, capsys):
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.05)

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(0.4)
            self.send_error(404)

        def log_message(self, *_arguments):
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.02,))
        thread.start()
        storage = Storage("gs://bucket/hub", endpoint_url=f"http://127.0.0.1:{service.server_port}", token="anon")
        with pytest.raises(StorageError):
            storage.read("p/n/1.json")
        service.shutdown()
        thread.join()
    assert "waiting for the storage, to read gs://bucket/hub/p/n/1.json ...\n" in capsys.readouterr().err
    with console.waiting("nothing"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_service_that_does_not_answer_is_given_up_and_said(monkeypatch, capsys):
    """A queue of connections that is full: what else arrives is neither accepted nor refused."""
    for name, value in (("FIRST_SECONDS", 0.3), ("PAUSE_SECONDS", 0.01)):
        monkeypatch.setattr(remote, name, value)
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as service, contextlib.ExitStack() as waiting:
        port = service.getsockname()[1]
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        with pytest.raises(
            StorageError, match=rf"cannot be reached \(no connection to 127\.0\.0\.1:{port}: timed out\)"
        ):
            Storage("gs://bucket/hub", endpoint_url=f"http://127.0.0.1:{port}", token="anon")
    assert capsys.readouterr().err == f"waiting for a connection to 127.0.0.1:{port} ...\n" * remote.FIRST_ATTEMPTS


def test_images_that_cannot_be_reached_say_so(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")  # the variable may leave the scheme out
    with pytest.raises(EvaluationError, match=r"the storage cannot be reached .*Fix: check the network"):
        images.find("gs://bucket/images", images.Options())


def test_the_readme_names_the_variable_of_an_emulator():
    assert remote.EMULATOR in (ROOT / "README.md").read_text()
