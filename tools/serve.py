"""Serves a hub over HTTP: archives for tensorflow_hub and pages for browsers, at the same URLs.

python tools/serve.py --hub hub --port 8000
"""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tools/serve.py", description=__doc__.partition("\n")[0], epilog="Stop it with Ctrl-C."
    )
    parser.add_argument(
        "--hub", required=True, metavar="DIR|URL", help="the hub: a folder, or a URL like gs://bucket/hub"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes a free one (default: 8000)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument(
        "--access-log",
        metavar="FILE",
        help="write a line for each answer, in the combined log format with the seconds it took; `-` for standard error",
    )
    parser.add_argument(
        "--print-nginx", action="store_true", help="print a configuration of nginx that serves this folder, and stop"
    )
    options = parser.parse_args(arguments)

    from tools.hub.storage import Storage, StorageError

    try:
        storage = Storage(options.hub)
        if not storage.is_there():
            raise StorageError(
                f"There is no hub at {storage.url}. Publish one: python tools/publish.py NAME --hub {options.hub}"
            )
        if options.print_nginx:
            from tools.server import nginx

            print(nginx.configuration(storage, listen=f"{options.host}:{options.port}"), end="")
            return 0
        from tools.server import server

        def ready(url: str) -> None:
            print(f"Serving {options.hub} at {url}", flush=True)
            made_for = server.other_address(storage, url)
            if made_for:
                print(
                    f"The pages were made for {made_for}: their snippets name that address. For this one, run "
                    f"python tools/render.py --hub {options.hub} --url {url}",
                    file=sys.stderr,
                    flush=True,
                )

        with server.access_log(options.access_log) as log:
            server.run(storage, host=options.host, port=options.port, ready=ready, log=log)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
