"""Digests that records, indexes and other files of strangers state: a digest may become a path, so what is none is refused.

parse_sha256(record["archive"]["sha256"], "archive.sha256")
"""

import re

_SHA256 = re.compile("[0-9a-fA-F]{64}")


def parse_sha256(value: object, what: str = "the SHA-256") -> str:
    """Return a SHA-256 as 64 hexadecimal digits in lower case; `what` names it in the message.

    Raises:
      ValueError: it is anything else, of whatever type.
    """
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value.lower()
    shown = ascii(value[:80] if isinstance(value, str) else value)
    raise ValueError(f"{what} is {shown[:100]}, not 64 hexadecimal digits")
