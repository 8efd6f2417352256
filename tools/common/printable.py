"""Text from anywhere as a terminal may show it: rows, records, labels, names of files, answers of servers hold what they like.

    printable("a\\x1b[31m")              # 'a\\\\x1b[31m'

All that scripts show passes through here: messages (`tools.common.problems`), everything else (`tools.common.console`).
"""

import json
import re
from typing import Any

_UNUSUAL = re.compile(r"[^\n -~]")


def printable(text: str) -> str:
    """Return `text` on one line, with an escape (`\\x1b`, `\\u202e`) for each character that a terminal would obey or hide.

    These are the characters that `repr` escapes: control characters, line ends, marks of direction, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def printable_lines(text: str) -> str:
    """Return `text` with its lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def json_text(value: Any) -> str:
    """Return a value as readable JSON, in which an escape of JSON's stands for each character that is not printable."""
    return _UNUSUAL.sub(_json_escape, json.dumps(value, indent=1, ensure_ascii=False))


def _json_escape(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]
