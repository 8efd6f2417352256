"""Every regular expression that meets text of others takes time in proportion to it: documents, requests, records, lists of images."""

import re

import pytest

from tests.support.patterns import Found, patterns, survives

# Patterns that are made when the code runs, as they are for tfhub.dev.
LOCAL = {
    "tools.documents.document: segment": r"(?!\.+(?:/|$))[A-Za-z0-9_.&;-]+",
    "tools.documents.tree: re.escape": r"://tfhub\.dev/([^\s<>\"'`()\[\]|\\,]+)",
    "tools.site.document_index: f": r"(?is)https?://(?:www\.)?tfhub\.dev(?:/|$)(.*)",
}
SECONDS = 20  # of processor time for three texts of a megabyte; a pattern of quadratic time takes hours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "count"),
    [
        ("tools.documents", 28),
        ("tools.site", 26),
        ("tools.server", 10),
        ("tools.hub", 1),
        ("tools.evaluation", 8),
        ("tools.common", 8),
    ],
)
def test_patterns_read_their_worst_texts(package, count):
    found = list(patterns(package, LOCAL))
    assert len(found) >= count
    slow = [each.place for each in found if not survives(each, SECONDS)]
    assert not slow, "make them linear: no two parts that match the same text, possessive quantifiers (`++`)"


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(a+)+$", "match"),  # exponential
        (r"\s+$", "search"),  # quadratic
        (r"\[`?([^\]`]+)`?\]\(", "findall"),
        (r"(?s)<pre\b.*?</pre>", "sub"),
        (r"bytes=\s*(\d*)\s*-", "match"),
    ],
)
def test_slow_patterns_are_known(pattern, method):
    assert not survives(Found("", re.compile(pattern), frozenset({method})), 1)
