"""Assertions of the battery are rewritten like those of a test file, so that a failure shows its values."""

import pytest

pytest.register_assert_rewrite("tests.builders.battery")
