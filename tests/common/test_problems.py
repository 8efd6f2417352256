"""A problem reads `file: row: what is wrong. Fix: what to do.`, whatever parts it has."""

import pytest

from tools.common.problems import WARNING, Problem, with_fix


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.toml", "`size` is missing", "add it"), "a.toml: `size` is missing. Fix: add it."),
        (Problem("a.toml", "is wrong", "mend it", row="variant 3"), "a.toml: variant 3: is wrong. Fix: mend it."),
        (Problem("a.md", "is wrong", "mend it", line=7), "a.md:7: is wrong. Fix: mend it."),
        (Problem("a.md", "is wrong", "mend it", row="table", line=7), "a.md:7: table: is wrong. Fix: mend it."),
        (Problem("a.toml", "is wrong.", "mend it."), "a.toml: is wrong. Fix: mend it."),
        (Problem("a.toml", "is unknown", "did you mean `b`?"), "a.toml: is unknown. Fix: did you mean `b`?"),
    ],
)
def test_the_one_form_of_a_message(problem, text):
    assert str(problem) == text


def test_a_problem_is_an_error_unless_it_says_otherwise():
    assert Problem("a", "b", "c").is_error
    assert not Problem("a", "b", "c", severity=WARNING).is_error


def test_a_message_and_its_fix():
    assert with_fix("There is no hub", "publish one") == "There is no hub. Fix: publish one."
