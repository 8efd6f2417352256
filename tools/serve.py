"""Serve a hub over HTTP: archives for tensorflow_hub and pages for browsers, at the same URLs.

    python tools/serve.py --hub ./hub --port 8000

Stop it with Ctrl-C.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("serve", __doc__)
    scripts.add_hub(arguments)
    arguments.add_argument(
        "--port", type=int, default=8000, help="port to listen at; 0 takes a free one (default: %(default)s)"
    )
    arguments.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    arguments.add_argument(
        "--access-log",
        metavar="FILE",
        help="write a line for each answer, in the combined log format with the seconds it took; `-` for standard error",
    )
    arguments.add_argument(
        "--print-nginx", action="store_true", help="print a configuration of nginx that serves this folder, and stop"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools.common import console
    from tools.hub.storage import StorageError, open_hub

    try:
        storage = open_hub(options.hub)
        if options.print_nginx:
            from tools.server import nginx

            print(nginx.configuration(storage, listen=f"{options.host}:{options.port}"), end="")
            return 0
        from tools.server import server

        def ready(url: str) -> None:
            print(f"Serving {options.hub} at {url}", flush=True)
            made_for = server.other_address(storage, url)
            if made_for:
                console.note(
                    f"The pages were made for {made_for}: their snippets name that address. For this one, run "
                    f"python tools/render.py --hub {options.hub} --url {url}"
                )

        with server.access_log(options.access_log) as log:
            server.run(storage, host=options.host, port=options.port, ready=ready, log=log)
    except StorageError as error:
        console.problems(error)
        return scripts.USAGE
    return 0


if __name__ == "__main__":
    scripts.run(main, __file__)
