"""The access log: a line for each response, in the combined format of Apache and nginx."""

import contextlib
import datetime
import re
import sys
from collections.abc import Callable, Iterator

from starlette.types import Scope

from tools.common.problems import with_fix
from tools.hub.storage import StorageError

LOGGED_BYTES = 1000  # of each text that a client sends

Log = Callable[[str], object]


@contextlib.contextmanager
def access_log(file: str | None) -> Iterator[Log | None]:
    """Open a file for appending, or standard error for `-`, and yield its `write`; yield None for None.

    Raises:
      StorageError: if the file cannot be written.
    """
    if file is None:
        yield None
    elif file == "-":
        yield sys.stderr.write
    else:
        with contextlib.ExitStack() as stack:
            try:
                # Line by line, so that a reader sees no half line, and a second server may append to it, too.
                opened = stack.enter_context(open(file, "a", buffering=1, encoding="ascii"))
            except OSError as error:
                message = f"Cannot write the access log {file}: {error.strerror}"
                raise StorageError(with_fix(message, "choose another file")) from error
            yield opened.write


def line(scope: Scope, status: int, size: int, seconds: float) -> str:
    """Return the line of a response: the combined format, and the seconds until the last byte was handed over.

    All that a client sent is escaped: it can neither end its field nor begin a line of its own.
    """

    def safe(value: bytes) -> str:
        text = value[:LOGGED_BYTES].decode("latin-1")
        return re.sub(r"[^ !#-\[\]-~]", lambda match: f"\\x{ord(match[0]):02x}", text) or "-"

    headers = dict(reversed(scope["headers"]))  # the first of each name
    target = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    client = scope.get("client") or ("-", 0)
    moment = datetime.datetime.now(datetime.UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    request = f"{safe(scope['method'].encode())} {safe(target)} HTTP/{scope.get('http_version', '1.1')}"
    client_fields = f'"{safe(headers.get(b"referer", b""))}" "{safe(headers.get(b"user-agent", b""))}"'
    sent = 0 if scope["method"] == "HEAD" else size
    return f'{client[0]} - - [{moment}] "{request}" {status} {sent} {client_fields} {seconds:.3f}\n'
