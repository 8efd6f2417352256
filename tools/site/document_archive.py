"""Any tree of documents in tfhub.dev's format as a site: one page per document, publishers, search, an index.

    report = render(Path("docs"), Path("site"))
    report.written, report.kept, report.problems

The documents are untrusted (see `tools.site.sanitizing`). Pages lie where tfhub.dev had them, below the site's root:
`google/bit/m-r50x1/1/`, `google/lite-model/...`, `google/collections/bit/1/`. Links between documents lead to pages, those to
documents that are not there are marked.

Rendering is incremental: `.pages.json` in the site remembers for every document its size, time and head, and for every page
what it was made from. A page is made again when its document, a page that it links, or a template changed. Pages are
written atomically, the memory file last: whatever is killed whenever, running again finishes the job.
"""

import datetime
import functools
import hashlib
import json
import multiprocessing
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.catalog import vocabularies
from tools.documents import document as grammar
from tools.site import rendering

MEMORY = ".pages.json"
OFFICIAL = "https://tfhub.dev"
VOCABULARIES = rendering.TEMPLATES.parent / "modules/tags"
FED = 50  # documents in the feed
STATIC = ("style.css", "site.js", "search.js")
RESERVED = {"static", "search"}  # folders of the site itself
WORDS = {kind: word for word, kind in grammar.ADDRESS_WORDS.items()}
BYTES = 4_000_000  # a longer document is not one
_FACTS = {
    "task": "task",
    "dataset": "datasets",
    "language": "languages",
    "network-architecture": "network_architecture",
}


# The fields that the facets of the search and a page's tags show, by their vocabulary.
_FIELDS = {
    "task": "task",
    "network_architecture": "network_architecture",
    "dataset": "datasets",
    "language": "languages",
}
KIND = "Documents"  # of index.json, by which a server tells an archive of documents from a hub


class LibraryError(ValueError):
    """The site cannot be made. The message ends with the fix."""


@dataclass
class RenderReport:
    """What was done: pages written, kept and removed, and (file, why and fix) of the documents that have no page."""

    written: int = 0
    kept: int = 0
    removed: int = 0
    documents: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def render(
    root: Path,
    out: Path,
    *,
    url: str = OFFICIAL,
    address: str | None = None,
    title: str = "Hub documents",
    processes: int = 2,
) -> RenderReport:
    """Make or update the site of the documents below `root` in the folder `out`.

    `url` is what handles in the documents begin with, `address` where the site will be, if that is elsewhere. Raises
    `LibraryError` if `root` holds no documents or `out` is not a folder that this function may fill.
    """
    root, out = _root(root), out.resolve()
    if out == root or root in out.parents or out in root.parents:
        raise LibraryError(f"{out} and the documents in {root} lie in each other; choose another folder for the site")
    memory = _remembered(out)
    report = RenderReport()
    entries = _read(root, memory.get("documents", {}), report)
    if not entries:
        raise LibraryError(
            f"{root} holds no document in tfhub.dev's format; name the folder with the publishers' folders"
        )
    report.documents = len(entries)
    address = (address or url).rstrip("/")
    key = _key(url, address, title)
    library = Library(entries, url, title, address)
    if library.problems:
        report.problems += library.problems
    made_before = memory.get("pages", {}) if memory.get("key") == key else {}
    digests: dict[str, str] = {}
    jobs: list[tuple] = []
    for path, inputs, job in library.pages():
        digest = hashlib.blake2b(json.dumps(inputs).encode(), digest_size=12).hexdigest()
        digests[path] = digest
        if made_before.get(path) == digest and os.path.exists(out / path):
            report.kept += 1
        else:
            jobs.append((path, job))
    report.written = _render_all(jobs, library, root, out, processes)
    for file in STATIC:
        data = (rendering.TEMPLATES / "static" / file).read_bytes()
        if memory.get("key") != key or not (out / "static" / file).exists():
            _write(out / "static" / file, data)
    for path in set(memory.get("pages", {})) - set(digests):
        report.removed += _remove(out, path)
    _write(
        out / MEMORY,
        json.dumps({"key": key, "pages": digests, "documents": {e["file"]: e for e in library.entries}}).encode(),
    )
    return report


def _root(folder: Path) -> Path:
    folder = folder.resolve()
    if not folder.is_dir():
        raise LibraryError(f"{folder} is no folder; name the one with the publishers' folders")
    inside = folder / "assets/docs"
    return inside if inside.is_dir() else folder


def _remembered(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / MEMORY).read_bytes())
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()) and not (out / "static/site.js").exists():
            raise LibraryError(f"{out} holds other files; name a folder that is new or empty") from None
        return {}
    except NotADirectoryError:
        raise LibraryError(f"{out} is no folder; name one that is new or empty") from None
    except ValueError:
        return {}  # cut off while it was written by something else: everything is made again


def _key(*settings: str) -> str:
    """Changes when templates, code or vocabularies change, so that every page is made again."""
    digest = hashlib.blake2b("\0".join(settings).encode(), digest_size=12)
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("library", "sanitizing", "rendering", "document")]
    for file in [
        *files,
        *sorted(VOCABULARIES.glob("*.yaml")),
        *sorted((rendering.TEMPLATES / "site").iterdir()),
        *sorted((rendering.TEMPLATES / "static").iterdir()),
    ]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(root: Path, known: dict[str, dict], report: RenderReport) -> list[dict[str, Any]]:
    """The heads of all documents: remembered ones whose size and time are the same, others read."""
    entries = []
    for path, status in _scan(root):
        file = path[len(os.fspath(root)) + 1 :]
        stamp = [status.st_size, status.st_mtime_ns]
        entry = known.get(file)
        if entry is None or entry["stamp"] != stamp:
            try:
                entry = _head(path, file, stamp)
            except (OSError, UnicodeDecodeError, LibraryError) as error:
                reason = "is not UTF-8; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                report.problems.append((file, reason))
                continue
        entries.append(entry)
    entries.sort(
        key=lambda entry: (entry["publisher"], entry["name"], entry["version"] or 0, entry["kind"], entry["file"])
    )
    return entries


def _scan(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    folders.append(each.path)
                elif each.name.endswith(".md") and each.is_file(follow_symlinks=False):
                    yield each.path, each.stat(follow_symlinks=False)


def _head(path: str, file: str, stamp: list[int]) -> dict[str, Any]:
    if stamp[0] > BYTES:
        raise LibraryError(f"has {stamp[0]:,} bytes; a document has at most {BYTES:,}")
    data = Path(path).read_bytes()
    text = data.decode("utf-8")
    document = grammar.parse(text)
    if not document.kind:
        message, fix = grammar.explain_heading(text.partition("\n")[0][:200])
        raise LibraryError(f"{message}; {fix}")
    found: dict[str, Any] = {
        "file": file,
        "stamp": stamp,
        "digest": hashlib.blake2b(data, digest_size=12).hexdigest(),
        "kind": document.kind,
        "publisher": document.publisher,
        "name": document.name.replace("&amp;", "&"),
        "version": document.version,
        "description": _plain(" ".join(document.description))[:300],
        "license": document.value("license"),
        "parent": document.value("parent-model"),
        "asset": document.value("asset-path"),
        "colab": document.value("colab"),
        "fine_tunable": {"true": True, "false": False}.get(document.value("fine-tunable") or ""),
        "addresses": sorted(set(_ADDRESS.findall(text))),
    }
    for name, plural in _FACTS.items():
        found[plural] = document.values(name)
    return found


# Everything that could be an address of a document; the rendered links are looked up among these.
_ADDRESS = re.compile(r"(?i)https?://[^\s<>\"'`()\[\]|\\]+")


def _plain(text: str) -> str:
    """Markdown without its links and emphasis, for one line of a list."""
    text = re.sub(r"!?\[([^\[\]]*)\]\([^()\s]*\)", r"\1", text)
    text = re.sub(
        r"[*`]+|\\(?=[\[\]_*])|[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text
    )  # nor what XML cannot say
    return re.sub(r"\s+", " ", text).strip()


class Library:
    """All documents of a tree and how they belong together."""

    def __init__(self, entries: list[dict[str, Any]], url: str, title: str, address: str | None = None):
        self.url, self.title = url.rstrip("/"), title
        self.address = address or self.url
        self.problems: list[tuple[str, str]] = []
        self.entries: list[dict[str, Any]] = []
        self._addresses: dict[str, str] = {}
        self._own = re.compile(
            rf"(?i)https?://(?:www\.)?{re.escape(self.url.partition('://')[2])}(?:/|$)(.*)", re.DOTALL
        )
        self._by_page: dict[str, dict[str, Any]] = {}
        self._same: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
        for entry in entries:
            self._place(entry)
        self.publishers: dict[str, list[dict[str, Any]]] = {}
        for entry in self.entries:
            self.publishers.setdefault(entry["publisher"], []).append(entry)
            self._same.setdefault((entry["publisher"], entry["name"], entry["kind"] == "Collection"), []).append(entry)
        for publisher in self.publishers:
            self._addresses[publisher] = f"{publisher}/index.html"
        self._listed: dict[str, list[dict[str, Any]]] = {}
        for entry in self.entries:
            if entry["kind"] == "Collection":
                for page in {page for page in map(self.find, entry["addresses"]) if page}:
                    self._listed.setdefault(page, []).append(entry)
        self.newest = self._newest()

    def _place(self, entry: dict[str, Any]) -> None:
        """Give a document its address, unless another one has it."""
        publisher, name, version, kind = (entry[key] for key in ("publisher", "name", "version", "kind"))
        if publisher in RESERVED or any(part == "index.html" for part in name.split("/")):
            self.problems.append((entry["file"], f"{publisher}/{name} is a path of the site itself; rename it"))
            return
        word = "collections" if kind == "Collection" else WORDS.get(kind)
        base = "/".join(part for part in (publisher, word, name) if part)
        if kind == "Publisher":
            base, page = publisher, f"{publisher}/index.html"
        else:
            page = f"{base}/{version}/index.html"
        if page in self._by_page:
            other = self._by_page[page]["file"]
            self.problems.append((entry["file"], f"has the same handle as {other}; keep one of them"))
            return
        entry = {**entry, "page": page}
        self._by_page[page] = entry
        self.entries.append(entry)
        self._addresses[f"{base}/{version}" if name else base] = page
        if name:
            self._addresses[base] = page  # documents come in the order of their versions: the last one stays
            if word in grammar.ADDRESS_WORDS:
                self._addresses.setdefault(f"{publisher}/{name}/{grammar.FORMATS[kind]}/{version}", page)

    def _newest(self) -> set[str]:
        found: dict[tuple, str] = {}
        for entry in self.entries:
            found[entry["publisher"], entry["name"], entry["kind"]] = entry["page"]
        return set(found.values())

    def find(self, address: str) -> str | bool | None:
        """The page of an address: a path of the site, False if it is of this hub and has none, None if it is elsewhere."""
        own = self._own.fullmatch(address)
        if not own:
            return None
        path = re.split(r"[?#]", own[1], maxsplit=1)[0].rstrip("./,;:!*").removesuffix(".tar.gz")
        if not path:
            return "index.html"
        return self._addresses.get(path.replace("&amp;", "&"), False)

    def pages(self) -> Iterator[tuple[str, Any, tuple]]:
        """(path, everything that the page is made from, what to render) of each page."""
        for entry in self.entries:
            if entry["kind"] == "Publisher":
                continue
            around = self._around(entry)
            yield entry["page"], [entry["digest"], around], ("document", entry, around)
        brief = ("page", "kind", "name", "version", "description", "publisher")
        rows = {}
        for publisher, entries in self.publishers.items():
            rows[publisher] = [[e[key] for key in brief] for e in entries if e["page"] in self.newest and e["name"]]
            own = next((e for e in entries if e["kind"] == "Publisher"), None)
            around = self._around(own) if own else {}
            inputs = [own and own["digest"], around, rows[publisher]]
            yield f"{publisher}/index.html", inputs, ("publisher", publisher, own, around)
        every = list(rows.items())
        yield "index.html", every, ("home",)
        yield "search/index.html", every, ("search",)
        yield "404.html", [], ("not_found",)
        index = self.index()
        yield "index.json", index, ("index", index)
        latest = sorted((e for e in self.entries if e["name"]), key=lambda e: (-(e["stamp"][1] // 10**9), e["page"]))[
            :FED
        ]
        yield "feed.xml", [[e["digest"], e["stamp"][1] // 10**9] for e in latest], ("feed", latest)
        yield "sitemap.xml", every, ("sitemap",)

    def _around(self, entry: dict[str, Any]) -> dict[str, Any]:
        """What a page says of other documents: links, versions, other formats, collections that list it."""
        same = self._same[entry["publisher"], entry["name"], entry["kind"] == "Collection"]
        links = {address: page for address in entry["addresses"] if (page := self.find(address)) is not None}
        parent = None
        if entry["parent"]:
            parent = self.find(f"{self.url}/{entry['parent']}") or None
        return {
            "links": links,
            "parent": parent,
            "versions": [[e["version"], e["page"]] for e in reversed(same) if e["kind"] == entry["kind"]],
            "formats": [[e["kind"], e["page"]] for e in same if e["kind"] != entry["kind"]],
            "collections": [[e["name"], e["page"]] for e in self._listed.get(entry["page"], [])][:40],
        }

    def index(self) -> dict[str, Any]:
        """`index.json`: every document, for programs and for the search."""
        documents = [
            {
                "handle": "/".join(
                    str(part) for part in (e["publisher"], e["name"], e["version"]) if part not in ("", None)
                ),
                "publisher": e["publisher"],
                "name": e["name"],
                "version": e["version"],
                "kind": e["kind"],
                "description": e["description"],
                "task": e["task"],
                "datasets": e["datasets"],
                "languages": e["languages"],
                "network_architecture": e["network_architecture"],
                "license": e["license"],
                "fine_tunable": e["fine_tunable"],
                "page": e["page"].removesuffix("index.html"),
                "newest": e["page"] in self.newest,
            }
            for e in self.entries
            if e["name"]
        ]
        return {"schema": 1, "kind": KIND, "url": self.url, "documents": documents}

    @functools.cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """What people read for the values of the vocabularies, by the name of the field and the value."""
        tags = vocabularies.load(VOCABULARIES)
        kinds = {"license", "task", "network_architecture", "dataset", "language"} & set(tags)
        return {kind: {value: tag.display_name for value, tag in tags[kind].items()} for kind in sorted(kinds)}

    def named(self, kind: str, values: list[str] | str | None) -> list[str]:
        """Values as people read them; one that the vocabulary does not know stays as it is."""
        known = self.names.get(kind, {})
        return [known.get(value, value) for value in ([values] if isinstance(values, str) else values or [])]

    def used_names(self) -> dict[str, dict[str, str]]:
        """`names` of the values that occur."""
        used = {
            "license": {e["license"] for e in self.entries},
            **{kind: {v for e in self.entries for v in e[field]} for kind, field in _FIELDS.items()},
        }
        return {
            kind: {value: text for value, text in self.names.get(kind, {}).items() if value in values}
            for kind, values in used.items()
        }


def _render_all(jobs: list[tuple], library: Library, root: Path, out: Path, processes: int) -> int:
    """Render and write; in several processes when it is worth starting them."""
    if len(jobs) < 100 or processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for job in jobs:
            _render(job, library, root, out)
        return len(jobs)
    _WORK[:] = [library, root, out, jobs]  # inherited by the processes; only numbers travel
    try:
        rendering.warm("site")
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            return sum(1 for _ in pool.imap_unordered(_render_numbered, range(len(jobs)), chunksize=24))
    finally:
        _WORK.clear()


_WORK: list = []


def _render_numbered(number: int) -> None:
    library, root, out, jobs = _WORK
    _render(jobs[number], library, root, out)


def _render(job: tuple, library: Library, root: Path, out: Path) -> None:
    path, (kind, *arguments) = job
    text = {
        "document": _document,
        "publisher": _publisher,
        "home": _home,
        "search": _search,
        "not_found": _not_found,
        "index": _index,
        "feed": _feed,
        "sitemap": _sitemap,
    }[kind](library, path, root, *arguments)
    _write(out / path, text.encode("utf-8", "replace"))


def _index(library: Library, path: str, root: Path, index: dict[str, Any]) -> str:
    return json.dumps({**index, "names": library.used_names()}, ensure_ascii=False, separators=(",", ":")) + "\n"


def _feed(library: Library, path: str, root: Path, latest: list[dict[str, Any]]) -> str:
    """The documents that changed last: a file's time is all that an archive knows."""
    documents = [(entry, _time(entry)) for entry in latest]
    return rendering.page(
        "site/document_feed.xml.j2", library=library, documents=documents, updated=documents[0][1], quote=_quoted
    )


def _time(entry: dict[str, Any]) -> str:
    moment = datetime.datetime.fromtimestamp(entry["stamp"][1] // 10**9, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _sitemap(library: Library, path: str, root: Path) -> str:
    pages = ["index.html", *(f"{publisher}/index.html" for publisher in library.publishers)]
    pages += [entry["page"] for entry in library.entries if entry["name"]]
    return rendering.page("site/sitemap.xml.j2", addresses=[(_canonical(library, page), None) for page in pages])


def _canonical(library: Library, path: str) -> str:
    return f"{library.address}/{_quoted(path.removesuffix('index.html'))}"


def _quoted(path: str) -> str:
    return urllib.parse.quote(path, safe="/.-_~&;")


def _document(library: Library, path: str, root: Path, entry: dict, around: dict) -> str:
    text = (root / entry["file"]).read_text(encoding="utf-8")
    link = rendering.linker(path)
    return _page(
        library,
        "document",
        path,
        entry=entry,
        around=around,
        address=f"{library.url}/{path.removesuffix('/index.html')}",
        tags=[name for kind, field in _FIELDS.items() for name in library.named(kind, entry[field])],
        licence=library.named("license", entry["license"]),
        body=_body(library, text, around, link),
        source=text.replace("\0", ""),
    )


def _publisher(library: Library, path: str, root: Path, publisher: str, own: dict | None, around: dict) -> str:
    body = ""
    if own:
        text = (root / own["file"]).read_text(encoding="utf-8")
        body = _body(library, text, around, rendering.linker(path))
    entries = [e for e in library.publishers[publisher] if e["page"] in library.newest and e["name"]]
    return _page(library, "document_publisher", path, publisher=publisher, own=own, body=body, entries=entries)


def _body(library: Library, text: str, around: dict, link: Callable[[str], str]) -> Any:
    from tools.site import sanitizing

    def resolve(target: str) -> str | bool | None:
        found = around["links"].get(target)
        if found is None:
            found = library.find(target)
        return link(found) if isinstance(found, str) else found

    return sanitizing.safe((grammar.parse(text).body or "").replace("\0", ""), resolve)


def _home(library: Library, path: str, root: Path) -> str:
    collections = [e for e in library.entries if e["kind"] == "Collection" and e["page"] in library.newest]
    publishers = {
        name: sum(e["page"] in library.newest and e["name"] != "" for e in each)
        for name, each in library.publishers.items()
    }
    count = sum(publishers.values())
    return _page(library, "document_home", path, publishers=publishers, collections=collections, count=count)


def _search(library: Library, path: str, root: Path) -> str:
    entries = [
        (e["page"], f"{e['publisher']}/{e['name']}", e["description"])
        for e in library.entries
        if e["page"] in library.newest and e["name"]
    ]
    return _page(library, "search", path, entries=entries, what="documents")


def _not_found(library: Library, path: str, root: Path) -> str:
    return _page(library, "not_found", path, example="publisher/name/1")


def _page(library: Library, template: str, path: str, **context: Any) -> str:
    navigation = (("Collections", "index.html", "#collections"), ("All documents", "search/index.html", ""))
    words = f"Documents of {library.url.partition('://')[2]}, as an archive."
    site = rendering.Site(library.title, words, navigation, feed="changed documents")
    return rendering.page(
        f"site/{template}.html.j2",
        site=site,
        link=rendering.linker(path, urllib.parse.urlsplit(library.address).path + "/"),
        canonical=None if path == "404.html" else _canonical(library, path),
        data=None,
        **context,
    )


def _write(path: Path, data: bytes) -> None:
    """All or nothing: a reader sees the old file or the new one."""
    temporary = Path(f"{path}.{os.getpid()}.part")
    try:
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove(out: Path, path: str) -> int:
    """Remove a page that has no document any more, and the folders that it leaves empty."""
    target = (out / path).resolve()
    if out not in target.parents or not target.is_file():
        return 0
    target.unlink()
    for folder in target.parents:
        if folder == out or any(folder.iterdir()):
            break
        folder.rmdir()
    return 1
