"""JSON Schemas that a hub publishes, `templates/static/NAME.schema.json`, and checking values against them.

    schema_problems(record, "record")        # ["signature.inputs[0].dtype: 7 is not of type 'string'"], or []

Numbers are finite and an integer is written without a point, which JSON Schema alone does not ask for.
"""

import functools
import hashlib
import json
import math
import pathlib
from typing import Any

from tools.common.files import ROOT

MOST_PROBLEMS = 20  # that are named of one value


def schema_problems(value: Any, name: str) -> list[str]:
    """Return what breaks the schema `name` in a value that JSON could hold: where in it, and what; nothing if it is valid."""
    errors = sorted(_validator(name).iter_errors(value), key=lambda error: [str(step) for step in error.absolute_path])
    return [_describe(error) for error in errors[:MOST_PROBLEMS]]


def is_valid(value: Any, name: str) -> bool:
    """Return whether a value obeys the schema `name`."""
    return bool(_validator(name).is_valid(value))


@functools.cache
def schemas_digest() -> str:
    """Return a digest of all schemas and of what checks values, for those who remember what was valid."""
    files = [pathlib.Path(__file__), *sorted((ROOT / "templates/static").glob("*.schema.json"))]
    return hashlib.blake2b(b"\0".join(file.read_bytes() for file in files), digest_size=8).hexdigest()


@functools.cache
def _validator(name: str) -> Any:
    """Read and compile a schema, once; jsonschema is imported only by those who check something."""
    import jsonschema

    base = jsonschema.Draft202012Validator
    checker = base.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    schema = json.loads((ROOT / f"templates/static/{name}.schema.json").read_text(encoding="utf-8"))
    strict: Any = jsonschema.validators.extend  # has no types
    return strict(base, type_checker=checker)(schema)


def _is_integer(_checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_checker: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _describe(error: Any) -> str:
    where = error.json_path.removeprefix("$").removeprefix(".")
    message = error.message if len(error.message) <= 160 else f"{error.message[:157]}..."
    described = error.schema.get("description") if where and error.validator != "required" else None
    text = f"{where}: {message}" if where else str(message)
    return f"{text} ({described})" if described else text
