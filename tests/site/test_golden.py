"""Compare the Hub documents with those that somebody last read: one of each family, size and head, and every collection."""

import pytest

from tests.site import golden

MADE = golden.documents()
KEPT = sorted(path.relative_to(golden.FOLDER).as_posix() for path in golden.FOLDER.rglob("*.md"))
AGAIN = "read the difference, and run `.venv/bin/python -m tests.site.golden` if it is meant"


def test_there_is_a_golden_page_for_every_family_and_collection():
    assert sorted(MADE) == KEPT, AGAIN


@pytest.mark.parametrize("path", KEPT)
def test_page_is_the_golden_one(path):
    assert MADE.get(path) == (golden.FOLDER / path).read_text(encoding="utf-8"), AGAIN
