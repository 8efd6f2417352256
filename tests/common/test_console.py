"""What reaches a terminal: escapes for whatever it would obey, tables that are never cut, JSON that is JSON."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from tests.support.commands import ROOT, command, environment
from tools import catalog
from tools.common import console
from tools.common.printable import json_text, printable, printable_lines
from tools.common.problems import Problem, about, with_fix

# What a terminal obeys or hides, and how it is shown
HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "a\x07b": "a\\x07b",
    "a\rb": "a\\rb",
    "a\tb": "a\\tb",
    "\x9b2J": "\\x9b2J",
    "a\u202eb": "a\\u202eb",
    "a\u2028b": "a\\u2028b",
    "a\u200bb": "a\\u200bb",
    "a\x00b\x7f": "a\\x00b\\x7f",
    "a\ud800": "a\\ud800",
    "a\U000e0041": "a\\U000e0041",
}
PLAIN = ["", "Zürich 東京 😀", "[red]not markup[/red] [/]", "back\\slash \\[x]", ":smile:"]


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=map(ascii, HOSTILE))
def test_what_a_terminal_would_obey_is_an_escape(capsys, text, shown):
    assert printable(text) == shown and printable_lines(f"{text}\n{text}") == f"{shown}\n{shown}"
    console.problems(text)
    console.warning(text)
    console.note(text)
    console.show(text)
    console.show(console.table("Name", rows=[(text,)]))
    output, errors = capsys.readouterr()
    assert errors == f"error: {shown}\nwarning: {shown}\n{shown}\n"
    assert output.startswith(f"{shown}\n") and f" {shown} \n" in output
    for message in (
        with_fix(f"{text} is wrong", f"delete {text}"),
        str(Problem(text, f"{text} is wrong", text, row=text)),
    ):
        assert message.isprintable() and shown in message
    assert json.loads(json_text({text: text})) == {text: text} and printable_lines(json_text([text])) == json_text(
        [text]
    )


@pytest.mark.parametrize("text", PLAIN)
def test_all_else_is_shown_as_it_is(capsys, text):
    assert printable(text) == text
    console.show(text)
    console.show(console.table("Name", rows=[(text,)]))
    output = capsys.readouterr().out
    assert output.startswith(f"{text}\n") and f" {text} " in output
    assert json_text(text) == json.dumps(text, ensure_ascii=False)


def test_a_line_end_in_a_name_begins_no_line_of_its_own(capsys):
    """Where an own message has lines, each is one; a quoted name that has some is one line."""
    console.problems(Problem("a\nerror: b", "is wrong", "delete it"))
    console.problems("first\nsecond\n")
    assert capsys.readouterr().err == "error: a\\nerror: b: is wrong. Fix: delete it.\nerror: first\nerror: second\n"


def test_a_message_names_its_place_once():
    assert about("a.toml: x", ValueError("it is wrong")) == "a.toml: x: it is wrong"
    assert about("a.toml: x", ValueError("a.toml: x: it is wrong\nmore")) == "a.toml: x: it is wrong\nmore"
    assert about("a.toml: x", KeyError()) == "a.toml: x: KeyError"


def in_a_terminal(columns, words, **variables):
    """Return what a command writes to a terminal of so many columns."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {"TERM": "dumb", "COLUMNS": str(columns), **variables}
    process = subprocess.Popen(words, cwd=ROOT, stdout=theirs, stderr=theirs, env=environment(**variables))
    os.close(theirs)
    output = b""
    try:
        while data := os.read(mine, 1 << 16):
            output += data
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(mine)
    assert process.wait(60) == 0
    return output.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_plan_names_every_handle_whole_in_a_narrow_terminal(columns):
    output = in_a_terminal(columns, command("publish", "--dry-run"))
    for module in catalog.load().modules:
        assert f" {module.handle} " in output and module.variant.file_name in output
    assert "…" not in output


def test_colours_are_this_programs_own():
    """In a terminal with colours, too, what is quoted has none."""
    code = "from tools.common import console; console.problems('x \\x1b[32m'); console.show(console.table('A', rows=[('\\x1b[32m',)]))"
    output = in_a_terminal(80, [sys.executable, "-c", code], TERM="xterm-256color", FORCE_COLOR="1")
    assert "\x1b[1;31merror" in output and "\x1b[32m" not in output and output.count("\\x1b[32m") == 2
