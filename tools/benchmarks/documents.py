"""Measure validating and rendering a tree of Hub documents, beside tfhub.dev's validator, MkDocs and Hugo.

    section = measure_validate(None, DocumentSettings())      # the corpus of the tests, repeated to 2,819 documents
    section = measure_render(pathlib.Path("assets/docs"), DocumentSettings())

Each measurement is a process, from its start to its end, as somebody at a command line waits for it.
"""

import contextlib
import functools
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmarks import engines, measuring
from tools.benchmarks.measuring import BenchmarkError, Contestant, Settings
from tools.benchmarks.rows import OURS
from tools.common.files import ROOT
from tools.common.problems import with_fix

Command = Sequence[str | pathlib.Path]

CORPUS = ROOT / "tests/documents/corpus"
DOCUMENTS = 2819  # what tfhub.dev's repository held
PATIENCE = 30.0  # seconds of a turn, after which there is no other: MkDocs takes minutes
VALIDATOR = "tfhub.dev's validator"
RENDER_NOTES = (
    "MkDocs and Hugo turn each document's Markdown into a page; they know nothing of modules, and make no collection tables, "
    "filters or plots.",
)


@dataclass(frozen=True, kw_only=True)
class DocumentSettings(Settings):
    """Settings with the number of documents, and the command line of tfhub.dev's validator, in which `{docs}` is the folder."""

    documents: int = DOCUMENTS
    validator: str | None = None


def measure_validate(docs: pathlib.Path | None, settings: DocumentSettings) -> dict[str, Any]:
    """Measure validation; return the report's section."""
    with _tree(docs, settings) as (folder, count, subject):
        contestants = {OURS: functools.partial(_run, [sys.executable, ROOT / "tools/validate.py", folder, "--quiet"])}
        absent = {}
        if settings.validator:
            command = [word.replace("{docs}", str(folder)) for word in shlex.split(settings.validator)]
            contestants[VALIDATOR] = functools.partial(_run, command)
        else:
            absent[VALIDATOR] = with_fix("its command line is not known", "give it with --validator")
        comparison = _compare(subject, f"validate {count:,} documents", contestants, absent, settings)
    return _section([comparison], settings, ())


def measure_render(docs: pathlib.Path | None, settings: DocumentSettings) -> dict[str, Any]:
    """Measure rendering, a site from nothing, then again after one document changed; return the report's section."""
    with _tree(docs, settings) as (folder, count, subject), tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch)
        site = out / "site"
        render: Command = [sys.executable, ROOT / "tools/archive_docs.py", folder, "--out", site]
        contestants = {OURS: functools.partial(_fresh, site, render)}
        absent: dict[str, str] = {}
        peers: dict[str, tuple[pathlib.Path, Command]] = {}
        for name, command in (("MkDocs", _mkdocs(folder, out)), ("Hugo", _hugo(folder, out))):
            if isinstance(command, str):
                absent[name] = command
            else:
                peers[name] = command
                contestants[name] = functools.partial(_fresh, *command)
        cold = _compare(subject, f"render {count:,} documents", contestants, absent, settings)
        changed = sorted(folder.rglob("*.md"))[count // 2]
        original = changed.read_text(encoding="utf-8")
        number = [0]

        def again(command: Command) -> float:
            number[0] += 1
            changed.write_text(f"{original}\nChanged {number[0]} times.\n", encoding="utf-8")
            return _run(command)

        contestants = {OURS: functools.partial(again, render)}
        contestants |= {name: functools.partial(again, command) for name, (_, command) in peers.items()}
        warm = _compare(subject, "render again after one changed", contestants, absent, settings)
    return _section([cold, warm], settings, RENDER_NOTES, **_hugo_version())


def _compare(
    subject: str,
    case: str,
    contestants: Mapping[str, Callable[[], float]],
    absent: Mapping[str, str],
    settings: DocumentSettings,
) -> dict[str, Any]:
    turns = measuring.take_turns(
        contestants,
        turns=settings.turns,
        patience=PATIENCE,
        report=lambda turn, name: settings.report(f"{case}: turn {turn + 1}, {name}"),
    )
    found = [Contestant(name, tuple(values), name == OURS) for name, values in turns.items()]
    found += [Contestant(name, absent=why) for name, why in absent.items()]
    return measuring.compare(subject, case, "s", "less", found)


def _section(
    comparisons: list[dict[str, Any]], settings: DocumentSettings, notes: tuple[str, ...], **versions: str
) -> dict[str, Any]:
    return measuring.section(
        comparisons,
        threads=settings.threads,
        versions=measuring.versions(("cmarkgfm", "nh3", "jinja2", "mkdocs")) | versions,
        settings={"turns": settings.turns},
        notes=notes,
    )


@contextlib.contextmanager
def _tree(docs: pathlib.Path | None, settings: DocumentSettings) -> Iterator[tuple[pathlib.Path, int, str]]:
    """Make a folder of documents that may be changed; yield it, how many there are, and their description."""
    with tempfile.TemporaryDirectory(prefix="hubpress-bench-") as scratch:
        folder = pathlib.Path(scratch, "assets/docs")
        if docs is None:
            repeat(CORPUS, folder, settings.documents)
            subject = "documents of tfhub.dev, repeated"
        else:
            shutil.copytree(docs, folder)
            subject = f"documents in {docs.name}"
            tags = docs.parent.parent / "tags"
            if tags.is_dir():
                shutil.copytree(tags, folder.parent.parent / "tags")
        count = sum(1 for _ in folder.rglob("*.md"))
        if not count:
            raise BenchmarkError(f"there are no documents in {docs}", "give the folder of the publishers' folders")
        yield folder, count, subject


def repeat(corpus: pathlib.Path, folder: pathlib.Path, count: int) -> None:
    """Copy the documents below `corpus/assets/docs` until there are `count`, each copy with publishers of its own names."""
    # Publishers first and collections last, so that all links of a copy that is cut off lead somewhere.
    sources = sorted(
        (corpus / "assets/docs").rglob("*.md"),
        key=lambda file: (file.parent.name != file.stem, "collections" in file.parts, file),
    )
    publishers = sorted({file.relative_to(corpus / "assets/docs").parts[0] for file in sources}, key=len, reverse=True)
    made = 0
    for copy in range(count):
        for source in sources:
            if made == count:
                return
            publisher, *rest = source.relative_to(corpus / "assets/docs").parts
            text = source.read_text(encoding="utf-8")
            name = publisher
            if copy:
                name = f"{publisher}-{copy}"
                for each in publishers:  # in handles, links and file names alike
                    text = text.replace(f"{each}/", f"{each}-{copy}/")
                text = text.replace(f"# Publisher {publisher}", f"# Publisher {name}")
                rest = [part.replace(f"{publisher}.md", f"{name}.md") for part in rest]
            target = folder.joinpath(name, *rest)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            made += 1


def _run(command: Command) -> float:
    """Run a command and return the seconds that it takes; exit status 1 says that it found something wrong with documents."""
    start = time.perf_counter()
    program, fix = pathlib.Path(command[0]).name, "correct what it says, and measure again"
    measuring.run(command, f"{program} fails", fix, accepted=(0, 1))
    return time.perf_counter() - start


def _fresh(out: pathlib.Path, command: Command) -> float:
    """Run a command without the output of the time before."""
    shutil.rmtree(out, ignore_errors=True)
    return _run(command)


def _mkdocs(folder: pathlib.Path, out: pathlib.Path) -> tuple[pathlib.Path, Command] | str:
    """Return where MkDocs writes, and its command line; or why it is absent."""
    if engines.has(engines.HERE, "mkdocs"):
        command = [engines.HERE, "-m", "mkdocs"]
    elif found := shutil.which("mkdocs"):
        command = [found]
    else:
        return with_fix("it is not installed", "pip install mkdocs")
    settings, site = out / "mkdocs.yml", out / "mkdocs"
    settings.write_text(f"site_name: Documents\ndocs_dir: {folder}\nsite_dir: {site}\nuse_directory_urls: true\n")
    return site, [*command, "build", "--quiet", "--config-file", settings]


def _hugo(folder: pathlib.Path, out: pathlib.Path) -> tuple[pathlib.Path, Command] | str:
    """Return where Hugo writes, and its command line; or why it is absent."""
    found = shutil.which("hugo")
    if found is None:
        return with_fix("it is not on the PATH", "install Hugo")
    source, site = out / "hugo-source", out / "hugo"
    layouts = source / "layouts" / "_default"
    layouts.mkdir(parents=True)
    page = "<!doctype html><title>{{ .Title }}</title>{{ .Content }}"
    (layouts / "single.html").write_text(page)
    (layouts / "list.html").write_text(page + "{{ range .Pages }}<a href={{ .RelPermalink }}>{{ .Title }}</a>{{ end }}")
    (source / "hugo.toml").write_text('baseURL = "http://127.0.0.1/"\n')
    return site, [found, "--quiet", "--source", source, "--contentDir", folder, "--destination", site]


def _hugo_version() -> dict[str, str]:
    """Return the version of Hugo, like `{"hugo": "v0.111.3+extended"}`; nothing where it is not installed."""
    found = shutil.which("hugo")
    words = subprocess.run([found, "version"], capture_output=True, text=True).stdout.split() if found else []
    return {"hugo": words[1].partition("-")[0]} if len(words) > 1 else {}
