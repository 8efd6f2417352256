"""The JSON Schemas that a hub publishes, and what breaks them."""

import json

import jsonschema

from tools.site import rendering

INDEX_SCHEMA = json.loads((rendering.TEMPLATES / "static/index.schema.json").read_text(encoding="utf-8"))


def violations(value, schema):
    """Return what breaks a JSON Schema, as messages."""
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return [error.message for error in validator(schema).iter_errors(value)]
