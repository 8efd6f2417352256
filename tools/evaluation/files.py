"""Files of image sets, here and wherever `tools.hub.storage` reaches: listed, opened only if regular, read within limits.

    for found in walk("/data/val", follow_links=False): ...       # found.name, found.stamp, or found.reason to leave it out
    with open_file("gs://bucket/val/1.png") as file: ...

A place is a path, or a URL (with ://). A file of this machine that is a pipe, a device or a socket is never opened.
"""

import functools
import glob
import io
import itertools
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import BinaryIO

from tools.evaluation import EvaluationError, UnusableImage
from tools.hub.json_objects import REMOTE_READERS
from tools.hub.storage import NotThere, ObjectInfo, Storage

LINE_BYTES = 64 << 10  # of a list; no name and no label is longer
SMALL_BYTES = 16 << 20  # of a file that is read whole, like what TensorFlow Datasets say of a data set
FETCHED_BYTES = 4 << 20  # of an object at a time, where it is read in small pieces
MAX_PATTERN_FILES = 100_000

LINK = "a link: --follow-links takes what it leads to"
HIDDEN = "the name begins with a dot"
NO_FILE = "no regular file"
AGAIN = "a link to what is taken under another name"
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


class NotRegularError(OSError):
    """Something is neither a regular file nor a link to one."""


@dataclass(frozen=True)
class Found:
    """A file below a folder: its name relative to that, and `stamp`, a text that changes with it, or why it is left out."""

    name: str
    stamp: str = ""
    reason: str = ""


def is_remote(place: str) -> bool:
    """Return whether a place is a URL."""
    return "://" in place


@functools.lru_cache(maxsize=16)
def _storage(url: str) -> Storage:
    return Storage(url)


def _object(place: str) -> tuple[Storage, str]:
    """Return the storage of an object's folder, and its name there."""
    folder, _, name = place.rpartition("/")
    return _storage(folder), name


def open_file(place: str) -> BinaryIO:
    """Open a regular file or an object, seekable. Raises OSError (NotRegularError), StorageError."""
    if is_remote(place):
        storage, name = _object(place)
        return storage.open(name)
    if not stat.S_ISREG(os.stat(place).st_mode):  # asked first: opening a device may be enough to move it
        raise NotRegularError("it is no regular file")
    descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError("it is no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_stream(place: str) -> BinaryIO:
    """Open a file to read it in small pieces, mostly forwards: objects are fetched in few large ones. Raises as `open_file`."""
    file = open_file(place)
    if isinstance(file, io.BufferedReader | io.BytesIO):
        return file
    return io.BufferedReader(file, FETCHED_BYTES)  # type: ignore[type-var]  # fsspec's files are raw streams


def read_limited(place: str, limit: int) -> bytes:
    """Return the bytes of an image.

    Raises UnusableImage: they are more than `limit`, or it is no regular file; or as `open_file`.
    """
    try:
        with open_file(place) as file:
            content = file.read(limit + 1) if is_remote(place) or os.fstat(file.fileno()).st_size <= limit else None
    except NotRegularError as error:
        raise UnusableImage(str(error)) from error
    if content is None or len(content) > limit:
        raise too_large(limit)
    return content


def too_large(limit: int) -> UnusableImage:
    """Return what is said of an encoded image above the limit."""
    return UnusableImage(f"it has more than {limit:,} bytes (--max-bytes)")


def read_small(place: str, limit: int = SMALL_BYTES) -> bytes:
    """Return the content of a small file. Raises EvaluationError: it is large, or as `open_file`."""
    with open_file(place) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise EvaluationError(f"{place} has more than {limit:,} bytes", "give the right file")
    return content


def lines(place: str) -> Iterator[str]:
    """Yield the lines of a list, with their ends; bytes that are not UTF-8 as in names of files.

    Raises EvaluationError: a line is longer than any name is; or as `open_file`.
    """
    with open_stream(place) as file:
        for number in itertools.count(1):
            line = file.readline(LINE_BYTES + 1)
            if len(line) > LINE_BYTES:
                raise EvaluationError(
                    f"{place}:{number}: the line has more than {LINE_BYTES:,} bytes", "write a line for each image"
                )
            if not line:
                return
            yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def is_folder(place: str) -> bool:
    """Return whether a place is a folder: of this machine, or objects whose names begin with it."""
    return _storage(place).is_there() if is_remote(place) else os.path.isdir(place)


def exists(place: str) -> bool:
    """Return whether there is a file or an object."""
    if not is_remote(place):
        return os.path.exists(place)
    storage, name = _object(place)
    return storage.exists(name)


def facts(place: str) -> tuple[int, str]:
    """Return the size of a file and a text that changes with it, as far as is known without reading it. Raises as `open_file`."""
    if is_remote(place):
        storage, name = _object(place)
        return _facts_of(storage.stat(name))
    status = os.stat(place)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(f"{place} is no regular file")
    return status.st_size, _stamp_of(status)


def stamp(place: str) -> str:
    """Return a text that changes with a file of this machine; "" for one that is not there: whoever reads it says so."""
    try:
        return _stamp_of(os.stat(place))
    except (OSError, ValueError):
        return ""


def _stamp_of(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


def _facts_of(info: ObjectInfo) -> tuple[int, str]:
    return info.size, info.tag


def leads_out(place: str, root: str) -> bool:
    """Return whether a file of this machine lies outside of a folder once all links are followed."""
    folder = os.path.realpath(root)
    return os.path.commonpath([folder, os.path.realpath(place)]) != folder


# Listing


def walk(source: str, *, follow_links: bool) -> Iterator[Found]:
    """Yield what lies below a folder.

    Links are left out. With `follow_links` they stand for what they lead to, each folder and each file once: behind everything
    that is no link. Raises EvaluationError: a folder cannot be read.
    """
    if is_remote(source):
        for name, info in _storage(source).list_objects().items():
            yield Found(name, info.tag if info else "")
        return
    seen: set[tuple[int, int]] = set()  # folders and files that are taken, by device and number
    waiting, links = [(source, "")], list[tuple[str, str]]()
    behind_links = False
    while waiting or links:
        if not waiting:
            waiting.append(links.pop(0))
            behind_links = True
        place, name = waiting.pop()
        try:
            status = os.stat(place)
        except OSError:
            yield Found(name, reason="a link that leads nowhere")
            continue
        identity = (status.st_dev, status.st_ino)
        if behind_links and identity in seen:
            yield Found(name, reason=AGAIN)
            continue
        if follow_links:
            seen.add(identity)
        if stat.S_ISREG(status.st_mode):
            yield Found(name, _stamp_of(status))
        elif not stat.S_ISDIR(status.st_mode):
            yield Found(name, reason=NO_FILE)
        else:
            for entry in reversed(_entries(place)):
                below = f"{name}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    yield Found(below, reason=HIDDEN)
                elif not entry.is_symlink():
                    waiting.append((entry.path, below))
                elif follow_links:
                    links.append((entry.path, below))
                else:
                    yield Found(below, reason=LINK)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise EvaluationError(
            f"{folder}: cannot be read: {error.strerror}", "give this user the right to it"
        ) from error


def matches(pattern: str) -> dict[str, tuple[int, str]]:
    """Return the files of a pattern with `facts` of each: {a,b}, {000..146}, and then *, ? and [...] in the names of files.

    Raises EvaluationError: a file that is named in full is not there, or nothing matches.
    """
    chosen: dict[str, tuple[int, str]] = {}
    named: list[str] = []
    for each in expand(pattern):
        if any(sign in each for sign in "*?["):
            found = _globbed(each)
            if not found:
                raise EvaluationError(f"{each}: no file matches", "give a pattern of files, quoted")
            chosen.update(found)
        else:
            named.append(each)
    with ThreadPoolExecutor(REMOTE_READERS if is_remote(pattern) else 1) as pool:
        for each, known in zip(named, pool.map(_facts_or_none, named), strict=True):
            if known is None:
                raise EvaluationError(f"{each}: there is no such file or folder", "give the address of the images")
            chosen[each] = known
    return dict(sorted(chosen.items()))


def _facts_or_none(place: str) -> tuple[int, str] | None:
    try:
        return facts(place)
    except (FileNotFoundError, NotADirectoryError, NotThere):
        return None


def _globbed(pattern: str) -> dict[str, tuple[int, str]]:
    if not is_remote(pattern):
        return {file: facts(file) for file in glob.glob(pattern) if os.path.isfile(file)}
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]  # the folder above the first sign
    wanted = pattern[len(fixed) + 1 :]
    return {
        f"{fixed}/{name}": _facts_of(info)
        for name, info in _storage(fixed).list_objects().items()
        if info and name.count("/") == wanted.count("/") and fnmatchcase(name, wanted)
    }


def expand(pattern: str) -> list[str]:
    """Expand {a,b} and {000..146}, as shells do; a file whose own name has braces is itself.

    The `glob` module knows no braces. Raises EvaluationError: they stand for too many files.
    """
    if not is_remote(pattern) and os.path.lexists(pattern):
        return [pattern]
    waiting, expanded = [pattern], list[str]()
    while waiting:
        each = waiting.pop()
        match = _BRACES.search(each)
        if not match:
            expanded.append(each)
            continue
        parts = match[1].split(",")
        if numbers := _NUMBERS.fullmatch(match[1]):
            first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1]) if numbers[1][0] == "0" else 0
            parts = [f"{number:0{width}}" for number in range(first, min(last, first + MAX_PATTERN_FILES) + 1)]
        elif len(parts) == 1:
            raise EvaluationError(f"{pattern}: {match[0]} is no pattern", "write {000..146}, {a,b} or *")
        if len(waiting) + len(expanded) + len(parts) > MAX_PATTERN_FILES:
            raise EvaluationError(f"{pattern} stands for more than {MAX_PATTERN_FILES:,} files", "give fewer")
        waiting += [each[: match.start()] + part + each[match.end() :] for part in reversed(parts)]
    return expanded


def local_place(address: str) -> str:
    """Return an address as a place: `~` and file:// become absolute paths, other URLs lose a slash at their end."""
    if address.startswith("file://"):
        from tools.common.download import plain_address

        address = plain_address(address)
    if is_remote(address):
        return address.rstrip("/")
    return os.path.abspath(os.path.expanduser(address))
