"""Image files with a label each: in class folders, in a folder with a list of labels, or in a list of files.

    images = find_folder("/data/val", Options())
    images = find_list("/data/val.csv", Options(first_label=0))

Lists are CSV (with commas, semicolons or tabs) whose first line names columns, or have a format of ImageNet's validation images.
"""

import csv
import hashlib
import io
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.common.printable import printable
from tools.evaluation import EvaluationError, UnusableImage
from tools.evaluation import files as files_
from tools.evaluation.files import is_remote, leads_out, lines, read_limited, read_small, stamp, walk
from tools.evaluation.labels import WHOLE_NUMBER, load, unlisted
from tools.evaluation.shards import FilesShard, Images, Item, Options, Shard, digest_of

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2")
GROUND_TRUTHS = (
    "ILSVRC2012_validation_ground_truth.txt",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
)
KAGGLE = "predictionstring"  # the column of LOC_val_solution.csv: a label, four numbers, and so on
IMAGENET = "imagenet_1k"
META_BYTES = 1 << 20  # of meta.mat, which is compressed inside; ILSVRC2012's has less than a tenth
# Names of columns without case, blanks and signs between words.
_FILE_COLUMNS = ("file", "filename", "filepath", "path", "name", "id", "url")
_IMAGE_COLUMNS = ("image", "imagepath", "imagefile", "imagename", "imageid", "img")
_CLASS_COLUMNS = (
    "class",
    "classid",
    "classname",
    "cls",
    "target",
    "category",
    "categoryid",
    "synset",
    "wnid",
    "wordnetid",
)
IMAGE_COLUMNS = frozenset((*_FILE_COLUMNS, *_IMAGE_COLUMNS))
LABEL_COLUMNS = frozenset(("label", "labels", "labelid", "labelname", *_CLASS_COLUMNS, KAGGLE))

_Pair = tuple[str, int | str]  # the path of an image, and its label: the number of a class, its id or its name


# Folders


def find_folder(source: str, options: Options) -> Images:
    """List the images of a folder. Raises EvaluationError."""
    left_out: list[tuple[str, str]] = []
    stamps: dict[str, str] = {}
    others: list[str] = []
    for found in walk(source, follow_links=options.follow_links):
        if found.reason:
            left_out.append((found.name, found.reason))
        elif found.name.lower().endswith(ENDINGS):
            stamps[found.name] = found.stamp
        else:
            others.append(found.name)
    images = sorted(stamps)
    if not images:
        raise _no_images(source, others, left_out)
    truths = [name for name in GROUND_TRUTHS if name in others]
    left_out += [(name, "no image by its name") for name in others if name not in truths]
    left_out.sort()
    nested = [name for name in images if "/" in name]
    if nested and not options.ground_truth and not truths:
        if len(nested) < len(images):
            stray = next(name for name in images if "/" not in name)
            raise EvaluationError(
                f"{source} holds class folders, and {stray} beside them, which has no label", "move it away"
            )
        pairs = [(name, _label(name.split("/", 1)[0], options, source)) for name in images]
        return _listed(source, source, pairs, options, left_out=left_out, stamps=stamps)
    if not options.ground_truth and len(truths) != 1:
        what = f"{' and '.join(truths)}" if truths else f"none of {', '.join(GROUND_TRUTHS)}, and no class folders"
        raise EvaluationError(f"{source} holds {what}", "say with --ground-truth FILE where the labels are")
    truth = options.ground_truth or f"{source}/{truths[0]}"
    pairs, meaning = _ground_truth(truth, images, options)
    return _listed(source, source, pairs, options, meaning=meaning, left_out=left_out, stamps=stamps)


def _no_images(source: str, others: Sequence[str], left_out: Sequence[tuple[str, str]]) -> EvaluationError:
    fix = "give the folder of the images"
    for ending in (".tar", ".parquet"):
        if any(name.endswith(ending) for name in others):
            return EvaluationError(
                f"{source} holds no images, but {ending} files",
                f"give a pattern of these, quoted, like '{source}/*{ending}'",
            )
    if any(reason == files_.LINK for _, reason in left_out):
        fix = "take the files that its links lead to (--follow-links)"
    elif others:
        fix += ", or for TFRecords a pattern, like DIR/validation-*"
    return EvaluationError(f"{source} holds no images (files named {', '.join(ENDINGS[:3])}, ...)", fix)


def _label(text: str, options: Options, where: str) -> int | str:
    """Return a label as the options read it: with --first-label a number from 0, else text."""
    if options.first_label is None:
        return printable(text)
    if not WHOLE_NUMBER.fullmatch(text):
        raise EvaluationError(f"{where}: the label {text!r} is no number", "leave out --first-label")
    return int(text) - options.first_label


# Lists


@dataclass(frozen=True)
class _Row:
    """A line of a list: its number, the name of an image, and its label."""

    line: int
    name: str
    label: str


def _table(file: str, options: Options) -> tuple[Iterator[_Row], str]:
    """Read a list with named columns; return its rows, and the name of the column with labels, in small letters."""
    rows = lines(file)
    first = next(rows, "")
    delimiter = max(",;\t", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    columns = {name: plain_name(name) for name in header}
    image = _column(file, columns, options.image_key, "path", IMAGE_COLUMNS, "image")
    label = _column(file, columns, options.label_key, "label", LABEL_COLUMNS, "label")
    if image == label:
        raise EvaluationError(f"{file}:1: {image!r} is the column of both images and labels", "name two columns")
    return _rows(file, csv.reader(rows, delimiter=delimiter), header.index(image), header.index(label)), columns[label]


def _rows(file: str, reader: Iterator[list[str]], image: int, label: int) -> Iterator[_Row]:
    number = 1
    try:
        for number, cells in enumerate(reader, 2):
            if not cells:
                continue
            name, text = (cells[column] if column < len(cells) else "" for column in (image, label))
            if not name.strip() or not text.strip():
                raise EvaluationError(f"{file}:{number}: it lacks a path or a label", "write a path and a label")
            if "\0" in name:
                raise EvaluationError(f"{file}:{number}: the name has a NUL byte, which no file's has", "correct it")
            yield _Row(number, name, text.strip())
    except csv.Error as error:
        raise EvaluationError(f"{file}:{number + 1}: it is no line of a CSV file: {error}", "correct it") from error


def _column(
    file: str, columns: Mapping[str, str], wanted: str | None, documented: str, usual: frozenset[str], what: str
) -> str:
    """Return the column that holds images or labels: the one that an option names, the documented one, or the only usual one."""
    exact = wanted or documented
    if exact in columns:
        return exact
    fitting = [name for name, plain in columns.items() if plain in usual and not wanted]
    if len(fitting) == 1:
        return fitting[0]
    has = f"no column {wanted!r}" if wanted else f"{len(fitting) or 'no'} columns that may hold the {what}"
    raise EvaluationError(
        f"{file}:1: it has {has}, among {', '.join(name[:40] for name in list(columns)[:20]) or 'none'}",
        f"name it with --{what}-key COLUMN, or let the first line be path,label",
    )


def plain_name(name: str) -> str:
    """Return the name of a column without case, blanks and signs."""
    return re.sub(r"[\W_]", "", name.casefold())


def _ground_truth(file: str, images: Sequence[str], options: Options) -> tuple[list[_Pair], str | None]:
    """Read the labels of the images of a folder; return (image, label) pairs, and the classes that labels are of if that is known.

    The formats, told by the first line: CSV with columns, Kaggle's LOC_val_solution.csv (`ImageId,PredictionString`) among it;
    Caffe's val.txt (a name and a number, 0 for the first WordNet id, or an id); one WordNet id for each image in the order of
    their names; one number likewise, ILSVRC2012's own, whose meaning only the meta.mat of its development kit tells.
    """
    first = next((line for line in lines(file) if line.strip()), "")
    if not first:
        raise EvaluationError(f"{file} is empty", "give the labels of the images")
    if file.lower().endswith((".csv", ".tsv")) or any(sign in first for sign in ",;") or options.label_key:
        table, column = _table(file, options)
        if column == KAGGLE:
            return _joined(file, [(row.name, row.label.split()[0]) for row in table], images), IMAGENET
        pairs = [(row.name, _label(row.label, options, f"{file}:{row.line}")) for row in table]
        return _joined(file, pairs, images), None
    words = [(number, line.split()) for number, line in enumerate(lines(file), 1) if line.strip()]
    if len(words[0][1]) == 2:
        return _joined(file, list(_caffe(file, words, options)), images), IMAGENET
    if len(words[0][1]) != 1:
        raise EvaluationError(
            f"{file}: its first line is no label and names no columns",
            f"give CSV, or one of {', '.join(GROUND_TRUTHS)}",
        )
    if len(words) != len(images):
        raise EvaluationError(
            f"{file} has {len(words)} labels for {len(images)} images", "give the list of these images"
        )
    labels = [" ".join(label) for _, label in words]
    own_numbers = os.path.basename(file) == GROUND_TRUTHS[0]
    if options.first_label is not None and own_numbers:
        raise EvaluationError(f"{file} holds ILSVRC2012's own numbers, which begin with 1", "leave out --first-label")
    if labels[0].isdecimal() and options.first_label is None:
        ids = _ilsvrc_ids(file)
        try:
            return [(name, ids[int(label)]) for name, label in zip(images, labels, strict=True)], IMAGENET
        except (KeyError, ValueError) as error:
            raise EvaluationError(f"{file}: {error} is none of ILSVRC2012's numbers", "give the right list") from error
    return [(name, _label(label, options, file)) for name, label in zip(images, labels, strict=True)], IMAGENET


def _caffe(file: str, words: Iterable[tuple[int, list[str]]], options: Options) -> Iterator[_Pair]:
    """Yield the pairs of Caffe's val.txt, whose numbers begin with 0."""
    for number, line in words:
        if len(line) != 2:
            raise EvaluationError(f"{file}:{number}: it is not two words", "write the name of an image and its label")
        is_number = bool(WHOLE_NUMBER.fullmatch(line[1]))
        yield line[0], int(line[1]) - (options.first_label or 0) if is_number else line[1]


def _joined(file: str, rows: Sequence[_Pair], images: Sequence[str]) -> list[_Pair]:
    """Give each image of a folder its label from a list, which names it with or without its folder and its ending."""
    by_name: dict[str, list[str]] = {}
    for image in images:
        base = posixpath.basename(image)
        for name in {image, base, posixpath.splitext(image)[0], posixpath.splitext(base)[0]}:
            by_name.setdefault(name, []).append(image)
    labels: dict[str, int | str] = {}
    missing = 0
    first_missing = ""
    for name, label in rows:
        found = by_name.get(name.removeprefix("./"), []) or by_name.get(
            posixpath.splitext(posixpath.basename(name))[0], []
        )
        if len(found) > 1:
            raise EvaluationError(
                f"{file}: {name} may be {' or '.join(found[:2])}", "write the path of the image, relative to the folder"
            )
        if not found:
            missing, first_missing = missing + 1, first_missing or name
        elif found[0] in labels:
            raise EvaluationError(f"{file} names the image {found[0]} twice", "give each image one label")
        else:
            labels[found[0]] = label
    if missing:
        raise EvaluationError(
            f"{file}: {first_missing} is in the list but not in the folder, one of {missing}",
            "give the list of these images",
        )
    if unlabelled := [image for image in images if image not in labels]:
        raise EvaluationError(
            f"{file}: {unlabelled[0]} is in the folder but not in the list, one of {len(unlabelled)}",
            "give the list of these images",
        )
    return [(image, labels[image]) for image in images]


def _ilsvrc_ids(file: str) -> dict[int, str]:
    """Return the WordNet id of each of ILSVRC2012's own numbers, which are not in the order of the ids that every model uses."""
    folder = file.rpartition("/")[0]
    for place in (f"{folder}/meta.mat", f"{folder}/data/meta.mat", f"{folder}/ILSVRC2012_devkit_t12/data/meta.mat"):
        if not files_.exists(place):
            continue
        try:
            import scipy.io  # type: ignore[import-untyped]  # its stubs are a package of their own
        except ImportError as error:
            raise EvaluationError(
                f"{place} needs scipy, which is not installed", "run `python -m pip install scipy`"
            ) from error
        content = io.BytesIO(read_small(place, META_BYTES))
        try:
            synsets = scipy.io.loadmat(content, squeeze_me=True)["synsets"]
            return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        except Exception as error:  # scipy raises whatever damaged numbers lead to
            raise EvaluationError(f"{place} is not the development kit's: {error!r}", "get the right one") from error
    raise EvaluationError(
        f"{file} holds numbers, which for ILSVRC2012 are not in the order of the WordNet ids",
        "put meta.mat of the development kit beside it, or give a list with WordNet ids "
        "(imagenet_2012_validation_synset_labels.txt)",
    )


def find_list(source: str, options: Options) -> Images:
    """List the image files that a list names.

    Paths are relative to the folder of images, by default that of the list. One that leads out of it is relative to the list, as
    long as it is below the folder then. Raises EvaluationError.
    """
    folder = source.rpartition("/")[0]
    root = options.image_root or folder
    pairs: list[_Pair] = []
    stamps: dict[str, str] = {}
    outside: list[str] = []
    names: set[str] = set()
    table, column = _table(source, options)
    for row in table:
        if (plain := posixpath.normpath(row.name)) in names:
            raise EvaluationError(f"{source}:{row.line}: {row.name} is named twice", "give each image one line")
        names.add(plain)
        text = row.label.split()[0] if column == KAGGLE else row.label
        name = row.name
        if not _is_below(_place(root, name), root) and not (is_remote(name) or os.path.isabs(name)):
            name = posixpath.relpath(posixpath.normpath(_place(folder, name)), root)
        if not _is_below(place := _place(root, name), root):
            outside.append(row.name)
        elif not is_remote(place):
            stamps[name] = stamp(place)
        pairs.append((name, _label(text, options, f"{source}:{row.line}")))
    if outside:
        raise EvaluationError(
            f"{source}: {outside[0]}, one of {len(outside)}, is outside of {root}",
            "name the folder that holds the images with --image-root DIR",
        )
    return _listed(source, root, pairs, options, stamps=stamps)


def _place(root: str, path: str) -> str:
    return path if is_remote(path) or os.path.isabs(path) or not root else f"{root}/{path}"


def _is_below(place: str, root: str) -> bool:
    """Return whether the name of a place is below a folder, whatever links lead to."""
    if is_remote(place):
        return place.startswith(f"{root}/") and ".." not in place.split("/")
    if is_remote(root):
        return False
    folder = os.path.normpath(root)
    return os.path.normpath(place).startswith(folder.rstrip("/") + "/")


def _listed(
    source: str,
    root: str,
    pairs: Sequence[_Pair],
    options: Options,
    *,
    meaning: str | None = None,
    left_out: Sequence[tuple[str, str]] = (),
    stamps: Mapping[str, str],
) -> Images:
    """Make shards of (path, label) pairs, with labels that are numbers, ids or names; `stamps` by path where they are known."""
    if not pairs:
        raise EvaluationError(f"{source} lists no images", "give some")
    meaning = options.labels or meaning
    classes = load(meaning) if meaning else None
    texts = sorted({label for _, label in pairs if isinstance(label, str)})
    numbered: list[tuple[str, int]]
    if texts:
        if len(texts) < len({label for _, label in pairs}):
            raise EvaluationError(
                f"{source}: some labels are numbers and others are text", "make them one or the other"
            )
        classes = classes or unlisted(source, texts)
        numbers = {text: number for text in texts if (number := classes.number(text)) is not None}
        if unknown := [text for text in texts if text not in numbers]:
            fix = "correct it, or say what labels mean (--labels)"
            if unknown[0].isdecimal():
                fix = "if labels are numbers, say which the first class has (--first-label 0 or 1)"
            raise EvaluationError(
                f"{source}: {unknown[0]!r}, one of {len(unknown)} labels, is no id or name of a class of {classes.title}",
                fix,
            )
        numbered = [(path, numbers[str(label)]) for path, label in pairs]
    else:
        numbered = [(path, int(label)) for path, label in pairs]
        for path, number in numbered:
            if number < 0 or (classes and number >= len(classes)):
                raise EvaluationError(
                    f"{source}: the label of {path} is class {number}, which there is not", "correct --first-label"
                )
    digest = hashlib.sha256()
    for path, number in numbered:
        digest.update(f"{path}\t{classes.ids[number] if classes else number}\n".encode("utf-8", "surrogateescape"))
    pieces = [numbered[start : start + options.shard_images] for start in range(0, len(numbered), options.shard_images)]
    shards: list[Shard] = [
        {"kind": "files", "root": root, "follow_links": options.follow_links, "items": piece} for piece in pieces
    ]
    changes = [digest_of("\n".join(stamps.get(path, "") for path, _ in piece)) for piece in pieces]
    return Images(source, shards, classes, digest.hexdigest(), len(numbered), list(left_out), changes)


# Reading


def items(shard: FilesShard, max_bytes: int) -> Iterator[Item]:
    """Yield the images of a shard, each with a function that reads it."""
    for path, label in shard["items"]:
        place = _place(shard["root"], path)
        root = None if shard["follow_links"] or is_remote(place) else shard["root"]
        yield place, label, _Reader(place, root, max_bytes)


@dataclass(frozen=True)
class _Reader:
    """Function that reads a file, which must lie in the folder `root` if there is one, and have at most `limit` bytes."""

    place: str
    root: str | None
    limit: int

    def __call__(self) -> bytes:
        if self.root is not None and leads_out(self.place, self.root):
            raise UnusableImage(f"it is a link that leads out of {self.root} (--follow-links)")
        return read_limited(self.place, self.limit)
