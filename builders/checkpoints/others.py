"""What people hand over instead of a checkpoint: files and folders of other programs, recognised, and what to do about each."""

import mmap
import pathlib
import re
import string
from collections.abc import Callable, Iterable

from builders.checkpoints.errors import AGAIN, Refusal, listing, printable

_WEIGHTS = r"\.(safetensors|npz|pth|pt|pyth|bin|ckpt)$"
_TEXT = string.printable.encode()

_SOURCE = "give the checkpoint that it was made from, as safetensors, npz or torch.save wrote it"
_UNPACK = "unpack it, and name the file of the weights inside"
_CHECK = f"check that this is the file of the weights; {AGAIN}"
_ARRAYS = "write its arrays with builders.checkpoints.write under the names of a format of the family"
_KERAS = (
    "if it was saved from a model of builders, load it with Keras (keras.models.load_model, model.load_weights); else give the "
    "upstream checkpoint"
)
_TENSORFLOW = f"read it with tf.train.load_checkpoint and {_ARRAYS}, or give the upstream checkpoint"
_NPZ = "save the parameters with numpy.savez('x.npz', **flax.traverse_util.flatten_dict(parameters, sep='/'))"
_FLAX = f"read it with flax.serialization.msgpack_restore and {_NPZ}"
_ORBAX = f"restore it with Orbax and {_NPZ}"


def _begins(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(beginnings)


def _is_web_page(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _is_openvino(start: bytes) -> bool:
    return re.match(rb"\s*<\?xml[^>]*>\s*<net\b", start) is not None


def _is_onnx(start: bytes) -> bool:
    """Recognise ModelProto: field 1, the version of the format, then the name of the producer, the graph or the operator sets."""
    return re.match(rb"\x08[\x01-\x20](\x12[\x00-\x40][ -~]|[\x3a\x42])", start, re.DOTALL) is not None


def _is_msgpack(start: bytes) -> bool:
    """Recognise a map with a text as its first key."""
    pattern = rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[\w/. -]"
    return re.match(pattern, start, re.DOTALL) is not None


# By the first bytes of a file.
_BEGINNINGS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (_begins(b"version https://git-lfs"), "is a Git LFS pointer, not the file it points to", "run `git lfs pull`"),
    (_begins(b"\x89HDF"), "is an HDF5 file, as Keras saves weights and models (.h5)", _KERAS),
    (_begins(b"\x93NUMPY"), "is a single .npy array, not a checkpoint", "use the .npz of the whole network"),
    (_begins(b"\x1f\x8b"), "is compressed with gzip", "decompress it first (a .tar.gz with tar)"),
    (_begins(b"BZh"), "is compressed with bzip2", "decompress it first (a .tar.bz2 with tar)"),
    (_begins(b"\xfd7zXZ\0"), "is compressed with xz", "decompress it first (a .tar.xz with tar)"),
    (_begins(b"\x28\xb5\x2f\xfd"), "is compressed with zstandard", "decompress it first (a .tar.zst with tar)"),
    (_begins(b"7z\xbc\xaf\x27\x1c"), "is a 7z archive", _UNPACK),
    (_begins(b"Rar!"), "is a RAR archive", _UNPACK),
    (lambda start: start[257:262] == b"ustar", "is a tar archive", _UNPACK),
    (_begins(b"GGUF"), "is a GGUF file, as llama.cpp has it", _SOURCE),
    (lambda start: start[4:8] == b"TFL3", "is a LiteRT (TensorFlow Lite) model", _SOURCE),
    (_begins(b"\x12\x01\0\0\0\0\0\0"), "is a parameter file of MXNet", _SOURCE),
    (
        _begins(b"model_checkpoint_path:"),
        "is the list of a folder of TensorFlow checkpoints, without weights",
        _TENSORFLOW,
    ),
    (_begins(b"\x08\x01\x12"), "is the graph of a TensorFlow SavedModel", _SOURCE),
    (_is_onnx, "looks like an ONNX model", _SOURCE),
    (_is_msgpack, "looks like a msgpack file, as Flax saves parameters", _FLAX),
    (_is_openvino, "is an OpenVINO model (.xml)", _SOURCE),
    (_is_web_page, "looks like a web page", "open the URL in a browser: the file has moved, or it needs a login"),
)
# By the name, where the bytes say nothing.
_ENDINGS: tuple[tuple[str, str, str], ...] = (
    (r"\.data-\d{5}-of-\d{5}$", "is the data of a TensorFlow checkpoint", _TENSORFLOW),
    (r"\.pb$", "looks like a TensorFlow graph", _SOURCE),
    (r"\.onnx(\.data)?$", "looks like an ONNX model, or its weights", _SOURCE),
    (r"\.(mlmodel|mlpackage)$", "looks like a Core ML model", _SOURCE),
    (r"\.(msgpack|flax)$", "looks like a msgpack file, as Flax saves parameters", _FLAX),
)
_SSTABLE = bytes.fromhex("57fb808b247547db")  # the last bytes of a TensorFlow checkpoint's index
# By the names inside a folder, and inside a zip.
_FOLDERS: tuple[tuple[str, str, str], ...] = (
    (r"saved_model\.pb$", "is the folder of a TensorFlow SavedModel", _SOURCE),
    (
        r"(_CHECKPOINT_METADATA|_METADATA|manifest\.ocdbt|ocdbt\.process_0)$",
        "is the folder of an Orbax checkpoint",
        _ORBAX,
    ),
    (r".*\.index$", "is a folder of TensorFlow checkpoints", _TENSORFLOW),
    (
        r"(\.metadata|.*\.distcp)$",
        "is the folder of a torch.distributed checkpoint",
        "run `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE` and name that file",
    ),
    (
        r"zero_to_fp32\.py$",
        "is the folder of a DeepSpeed checkpoint",
        "run its zero_to_fp32.py, and name the file that it writes",
    ),
    (r"Manifest\.json$", "is the folder of a Core ML package", _SOURCE),
)
_ARCHIVES: tuple[tuple[str, str, str], ...] = (
    (r".*\.weights\.h5$", "is a model that Keras saved (.keras)", _KERAS),
    (
        r"(.*/)?(archive_format|serialized_exported_program\.json)$",
        "is a program of torch.export, not a checkpoint",
        _SOURCE,
    ),
    (r"MAR-INF/MANIFEST\.json$", "is an archive of TorchServe", _UNPACK),
    (r"(.*/)?saved_model\.pb$", "is an archive of a TensorFlow SavedModel", _SOURCE),
)


def is_json(start: bytes) -> bool:
    """Tell whether a file begins like a JSON object: a safetensors file whose first byte is `{` goes on with zeros."""
    return start.lstrip()[:1] == b"{" and all(byte in _TEXT for byte in start[:8])


def file(path: pathlib.Path, memory: mmap.mmap) -> Refusal:
    """Return why a file is no checkpoint, and what to do."""
    start = memory[:1024]
    for recognises, what, fix in _BEGINNINGS:
        if recognises(start):
            return Refusal(what, fix)
    if memory[-8:] == _SSTABLE:
        return Refusal("is the index of a TensorFlow checkpoint", _TENSORFLOW)
    for pattern, what, fix in _ENDINGS:
        if re.search(pattern, path.name):
            return Refusal(what, fix)
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        return Refusal("lies beside an .xml file: together they look like an OpenVINO model", _SOURCE)
    if is_json(start):
        begun = printable(" ".join(start.decode("ascii", "replace").split()))[:60]
        return Refusal(
            f"is a JSON file without the `weight_map` of an index ({begun} ...)", "name the file of the weights"
        )
    if all(byte in _TEXT for byte in start):
        return Refusal(f"is a text ('{printable(start.decode())[:60]}') and no safetensors, torch or npz file", _CHECK)
    return Refusal("is no safetensors, torch or npz file", _CHECK)


def folder(path: pathlib.Path) -> Refusal:
    """Return what a folder is, and what to do."""
    names = sorted(each.name for each in path.iterdir())
    if found := _known(names, _FOLDERS):
        return found
    indexes = [name for name in names if name.endswith(".index.json")]
    weights = indexes or [name for name in names if re.search(_WEIGHTS, name)]
    fix = f"name the checkpoint itself: it has {listing(weights, 4)}" if weights else "name the checkpoint itself"
    return Refusal("is not a file but a folder", fix)


def missing(path: pathlib.Path) -> Refusal | None:
    """Return what a path stands for under which there is no file, if it is known."""
    if path.with_name(f"{path.name}.index").is_file():
        return Refusal("is what the files of a TensorFlow checkpoint are named after", _TENSORFLOW)
    return None


def archive(names: Iterable[str]) -> Refusal | None:
    """Return what a zip with members of these names is, if it is known, but no checkpoint."""
    names = list(names)
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return None
    if found := _known(names, _ARCHIVES):
        return found
    weights = [name for name in names if re.search(_WEIGHTS, name)]
    return (
        Refusal(f"is a zip archive with {listing(weights, 4)} in it", "unpack it, and name that file")
        if weights
        else None
    )


def _known(names: Iterable[str], table: tuple[tuple[str, str, str], ...]) -> Refusal | None:
    names = list(names)
    for pattern, what, fix in table:
        if any(re.match(pattern, name) for name in names):
            return Refusal(what, fix)
    return None
