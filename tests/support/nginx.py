"""nginx with the configuration that `tools/serve.py --print-nginx` prints.

with running(nginx, hub, tmp_path) as url: ...
"""

import contextlib
import socket
import subprocess
import time

from tests.support.commands import run_script

AROUND = """
daemon off; master_process off; pid {folder}/pid; error_log stderr; user root;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    include {folder}/hub.conf;
}}
"""


@contextlib.contextmanager
def running(nginx, hub, base):
    """Yield the address at which nginx, the program, serves the folder of a hub; `base` is an empty folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    printed = run_script("serve", "--hub", hub, "--port", port, "--print-nginx")
    (base / "hub.conf").write_text(printed.stdout)
    (base / "nginx.conf").write_text(AROUND.format(folder=base))
    process = subprocess.Popen([nginx, "-p", base, "-c", base / "nginx.conf"], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)
