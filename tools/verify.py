"""Verify published modules from outside: a module by its handle's URL, an archive, or a whole hub.

    python tools/verify.py http://127.0.0.1:8000/hubpress/convnext_digits/1
    python tools/verify.py https://hub.example/hubpress/convnext_digits/1.tar.gz
    python tools/verify.py https://hub.example --all --format json
    python tools/verify.py https://hub.example/hubpress/convnext_digits/1 --key publisher.pub
    python tools/verify.py ./hub gs://bucket/hub

Downloads the archive, compares size and digests with the record, looks at its members, its signature and its document, and
replays the golden input that it carries: the answer must agree within the record's tolerance. Any server of the hub's files will
do. With --key or --identity, the record and the notes must be signed, too (docs/signing.md).

Replaying runs the module's graph, which is a program: leave it out (--no-replay) for a hub whose publisher you do not trust.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("verify", __doc__)
    arguments.add_argument(
        "addresses",
        nargs="+",
        metavar="URL",
        help="a handle with its version, an archive, or a hub; a folder or gs:// works too",
    )
    arguments.add_argument(
        "--all", action="store_true", help="of a hub every version, withdrawn ones too (default: the newest of each)"
    )
    arguments.add_argument("--no-replay", action="store_true", help="do not run the modules")
    scripts.add_trust(arguments)
    limits = arguments.add_argument_group("limits", "what a server may make this command spend on each module")
    limits.add_argument(
        "--max-seconds", type=scripts.positive, metavar="N", help="seconds of downloads (default: 3600)"
    )
    limits.add_argument(
        "--max-requests", type=scripts.positive, metavar="N", help="requests to the server (default: 200)"
    )
    limits.add_argument(
        "--max-bytes",
        type=scripts.positive,
        metavar="N",
        help="bytes of downloads, and of an unpacked archive (default: 16 GiB)",
    )
    limits.add_argument(
        "--max-memory",
        type=scripts.positive,
        metavar="N",
        help="bytes of graph, labels and description, which are read into memory (default: 256 MiB)",
    )
    arguments.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools.common import console
    from tools.hub import signatures
    from tools.verification import reporting
    from tools.verification.verify import (
        NothingThereError,
        Verification,
        VerificationError,
        VerificationLimits,
        VerificationResult,
    )

    chosen = {
        "seconds": options.max_seconds,
        "requests": options.max_requests,
        "bytes": options.max_bytes,
        "memory_bytes": options.max_memory,
    }
    limits = VerificationLimits(**{name: value for name, value in chosen.items() if value is not None})
    try:
        trust = signatures.trust(options)
    except signatures.SigningError as error:
        console.problems(error)
        return scripts.status(error)
    results: list[VerificationResult] = []
    statuses = {0}
    with Verification(replay=not options.no_replay, limits=limits, trust=trust) as verification:
        for address in options.addresses:
            try:
                targets = verification.find(address, every=options.all)
            except (NothingThereError, VerificationError) as error:
                console.problems(error)
                statuses.add(scripts.status(error))
                continue
            results += [verification.verify(target) for target in targets]
    if options.format == "json":
        console.show_json([result.described() for result in results])
    elif results:
        reporting.show_verified(results)
    return max(statuses | {0 if result.ok else scripts.FAILED for result in results})


if __name__ == "__main__":
    scripts.run(main, __file__)
