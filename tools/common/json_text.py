"""JSON that somebody else wrote: read it within limits, with one error for whatever is wrong with it."""

import json
from typing import Any, NoReturn

MAX_BYTES = 16 << 20


class JsonError(ValueError):
    """The text is no JSON that could be used; the message says why, without a full stop."""


def parse(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of a JSON text.

    Raises:
      JsonError: it is no JSON, is too long or too deep, or holds what cannot be written again (NaN, half a surrogate pair).
    """
    if len(data) > max_bytes:
        raise JsonError(f"it has more than {max_bytes:,} bytes")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # the one way to a character that no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise JsonError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"it is no UTF-8, at byte {error.start}") from None
    except UnicodeEncodeError:
        raise JsonError("it holds half of a surrogate pair") from None
    except ValueError as error:  # also for a number of thousands of digits
        raise JsonError(f"it is no JSON: {error}") from None
    return value


def parse_object(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return the JSON object of a text. Raises JsonError, also for JSON that is no object."""
    value = parse(data, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise JsonError(f"it is a JSON {_NAMES[type(value)]} and no object")
    return value


_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
