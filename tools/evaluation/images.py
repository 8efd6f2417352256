"""Labelled images wherever they lie, as shards that a process can evaluate on its own.

    images = find("/data/imagenet/val", options)      # images.shards, images.classes, images.count, images.digest

| `--images` | labels |
|---|---|
| a folder of class folders | the folders' names: ids (WordNet's), names of classes, or numbers with `--first-label` |
| a folder of images, ImageNet's validation layout | a file in it, or `--ground-truth FILE`: see `lists.py` |
| FILE.csv with the columns `path` and `label` | ids, names, or numbers with `--first-label`; paths are relative to the file |
| FILE.npz with `images` and `labels` | numbers, the first class is 0 |
| WebDataset's tar files | `.cls`, whose first class is 0, or a field of `.json`: an id, a name, or a number with `--first-label` |
| Parquet files, as Hugging Face's data sets have them | a column: numbers of the classes in the schema, ids, names |
| TFRecord files | a feature of each record: a number with `--first-label`, an id, or a name |
| `tfds:NAME`, `tfds:/data/NAME/1.0.0` | as TensorFlow Datasets prepared them |

Folders and files may be URLs that `tools.hub.storage` reaches; tar, Parquet and TFRecord files may be several, or patterns with
`*`, `{000..063}` and `{a,b}`. Only names are read here, and what files say of themselves: memory is bounded by the list of names.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from tools.evaluation import EvaluationError, arrays, lists, parquets, tars, tfrecords
from tools.evaluation.files import exists, is_folder, is_remote, local_place, matches, open_file
from tools.evaluation.shards import Images, Options, Shard
from tools.hub.storage import StorageError

__all__ = ["Images", "Options", "Shard", "find"]

PREPARED = "tfds:"
_PATTERN_SIGNS = "*?[{"
_KINDS = {"tar": tars, "Parquet": parquets, "TFRecord": tfrecords}
# What files begin with, of what people may take for a set of images, and what to do with it.
_MAGIC = {
    b"PK": ("a zip file, and no .npz by its name", "unpack it, and give the folder"),
    b"\x1f\x8b": ("compressed with gzip", "decompress it"),
    b"BZh": ("compressed with bzip2", "decompress it"),
    b"\xfd7zXZ": ("compressed with xz", "decompress it"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "decompress it"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    b"\x89HDF": ("an HDF5 file", "write its images as .npz"),
    b"\x93NUMPY": ("a single array", "write images and labels as .npz"),
    b"\xff\xd8": ("a single image", "give the folder of the images, or a list of them"),
    b"\x89PNG": ("a single image", "give the folder of the images, or a list of them"),
}
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257


def find(source: str | Sequence[str], options: Options | None = None) -> Images:
    """List the images that an address, or several of files of one kind, names.

    Raises EvaluationError: there are none, they cannot be reached, or what their labels mean is not certain.
    """
    options = options or Options()
    sources = [source] if isinstance(source, str) else list(source)
    options = dataclasses.replace(
        options,
        ground_truth=options.ground_truth and local_place(options.ground_truth),
        image_root=options.image_root and local_place(options.image_root),
    )
    is_prepared = len(sources) == 1 and sources[0].startswith(PREPARED)
    places = sources if is_prepared else [local_place(each) for each in sources]
    name = " ".join(places)
    try:
        if is_prepared:
            _require_no(options, "a prepared data set", "ground_truth", "image_root", "image_key", "label_key")
            return tfrecords.find_prepared(name, options)
        if len(places) == 1 and (os.path.lexists(name) or not any(sign in name for sign in _PATTERN_SIGNS)):
            return _find_one(name, options)
        return _find_files(name, {file: known for place in places for file, known in matches(place).items()}, options)
    except EvaluationError:
        raise
    except StorageError as error:
        raise EvaluationError(f"{name}: {error}") from error
    except Exception as error:
        if not isinstance(error, OSError | ValueError) and not is_remote(name):
            raise
        # Each of fsspec's file systems has errors of its own.
        raise EvaluationError(f"{name}: cannot be read: {error}", "give the address of the images") from error


def _find_one(place: str, options: Options) -> Images:
    if place.lower().endswith((".csv", ".tsv")):
        _require_no(options, "a list", "ground_truth")
        return lists.find_list(place, options)
    if place.lower().endswith(".npz"):
        _require_no(options, "an .npz file", "ground_truth", "image_root", "image_key", "label_key")
        return arrays.find(place, options)
    if os.path.isdir(place) or (is_remote(place) and not exists(place) and is_folder(place)):
        _require_no(options, "a folder", "image_root")
        if not options.ground_truth:
            _require_no(options, "a folder without --ground-truth", "image_key", "label_key")
        return lists.find_folder(place, options)
    return _find_files(place, matches(place), options)


def _find_files(name: str, files: Mapping[str, tuple[int, str]], options: Options) -> Images:
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise EvaluationError(f"{name}: the files are of several kinds", "give files of one kind")
    kind = kinds.pop()
    _require_no(options, f"a {kind} file", "ground_truth", "image_root")
    found: Images = _KINDS[kind].find(name, files, options)
    return found


def _kind(file: str) -> str:
    """Return what a file is: by its name, else by what it begins with. Raises EvaluationError: it is no set of images."""
    for ending, kind in ((".tar", "tar"), (".parquet", "Parquet")):
        if file.lower().endswith(ending):
            return kind
    with open_file(file) as stream:
        start = stream.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    if start.startswith(b"PAR1"):
        return "Parquet"
    if start.endswith(_TAR_MAGIC):
        return "tar"
    for magic, (what, fix) in _MAGIC.items():
        if start.startswith(magic):
            raise EvaluationError(f"{file} is {what}", fix)
    return "TFRecord"


def _require_no(options: Options, what: str, *names: str) -> None:
    """Refuse options that would be ignored."""
    for name in names:
        if getattr(options, name) is not None:
            raise EvaluationError(f"--{name.replace('_', '-')} is not for {what}", "leave it out")
