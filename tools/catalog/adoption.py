"""A row file of one's own from a model in the format of transformers or timm: `config.json`, preprocessing, card, weights' header.

    adopted = adopt("hf://user/model", "flowers", catalog=load(), folder=Path("own"))
    adopted.files, adopted.said      # what was written, and what a person still has to know or decide

Nothing is guessed: what the files do not say is a TODO that the catalogue refuses, and what cannot be expressed is an error.
"""

import json
import math
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.catalog import labels, preprocessing
from tools.catalog.catalog import Catalog
from tools.catalog.layout import is_name
from tools.catalog.reading import NAME_FIX
from tools.catalog.scaffolding import ScaffoldingError, rendered, toml
from tools.common import remote
from tools.common.download import NotFound, fetch
from tools.common.problems import with_fix

CONFIG, PREPROCESSOR, CARD, WEIGHTS = "config.json", "preprocessor_config.json", "README.md", "model.safetensors"
SMALL_BYTES = 16 << 20
HEADER_BYTES = 100 << 20
FAMILIES = {"convnext": "convnext", "convnextv2": "convnextv2", "regnet": "regnety", "vit": "vit"}  # by `model_type`
# timm's architectures that are those of a family here; others of the same prefix have other activations, epsilons or stems.
TIMM = {
    "convnext": r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge)",
    "convnextv2": r"convnextv2_(atto|femto|pico|nano|tiny|small|base|large|huge)",
    "regnety": r"regnety_\d{3}",
    "vit": r"vit_(tiny|small|base|large)_patch\d+_\d+",
}
INTERPOLATIONS = {
    2: "bilinear",
    3: "bicubic",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
}  # PIL's numbers, timm's names
HEAD_WIDTH = 64  # of an attention head, in every ViT of timm's that is one here
DATASETS_TO_DO = "TODO: ids of modules/tags/dataset.yaml, in the order of training"
LARGE = 384  # from this size on ConvNextImageProcessor warps


@dataclass(frozen=True)
class Adopted:
    """Paths of the written files, relative to their folder, and sentences about what was found, left out or is to be decided."""

    files: list[str]
    said: list[str]


@dataclass(frozen=True)
class _Described:
    """What a model's files say of its network."""

    family: str
    format: str
    architecture: dict[str, Any]
    names: list[str] | None
    classes: int
    resolution: int


def adopt(source: str, name: str, *, catalog: Catalog, folder: Path, licence: str | None = None) -> Adopted:
    """Write `modules/NAME.toml` and what it needs below `folder`.

    Args:
      source: a folder, or `hf://user/model`.
      name: of the classifier; the feature extractor is `NAME_fe`.
      folder: the repository, or a folder of one's own rows (`--catalog`).
      licence: of the weights, an id of modules/tags/license.yaml.

    Raises:
      ScaffoldingError: the model cannot be expressed, its files contradict each other, or a file is there; nothing is written.
      DownloadError: a file cannot be fetched.
    """
    if "/" in name or not is_name(name):
        raise ScaffoldingError(with_fix(f"{name!r} is no module's name", NAME_FIX))
    if licence is not None and licence not in catalog.tags["license"]:
        raise ScaffoldingError(with_fix(f"there is no licence {licence!r}", "use an id of modules/tags/license.yaml"))
    file = f"modules/{name}.toml"
    label_file, weights_file = f"{labels.FOLDER}/{name}.tsv", f"modules/weights/{name}.safetensors"
    for each in (file, label_file, weights_file):
        if (folder / each).exists():
            raise ScaffoldingError(with_fix(f"{each} exists already", "choose another name, or edit it"))
    place = source.rstrip("/")
    is_local = "://" not in place
    with tempfile.TemporaryDirectory() as scratch:
        read = _reader(place, Path(scratch))
        config = _json(read, place, CONFIG, needed=True)
        card = _front_matter(read(CARD))
        processor = _json(read, place, PREPROCESSOR)
    shapes = _shapes(place)
    said: list[str] = []
    described = _timm(place, config, shapes, said) if "architecture" in config else _transformers(place, config, said)
    _check_weights(place, described, shapes)
    settings = (
        _timm_settings(place, config) if described.format == "timm" else _settings(place, processor, described, said)
    )
    transform, normalization, new = _preprocessing(catalog, settings)
    rows = {
        "name": name,
        "source": Path(place).name if is_local else place,
        "facts": next(v for v in catalog.variants if v.family == described.family),
        "described": described,
        "resolution": settings["transform"].get("crop", settings["transform"]["size"]),
        "transform": transform,
        "normalization": normalization,
        "url": "weights/" if is_local else f"{place}/",
        "checkpoint": f"{name}.safetensors" if is_local else WEIGHTS,
        "licence": licence or _licence_to_do(card),
        "trained": _trained(place, card, said),
        "data": _data(card, catalog, said),
        "labels": name if described.names else None,
        "toml": toml,
    }
    if licence is None:
        said.append("the licence of the weights is yours to say: write it in the row file, or pass --licence")
    said.append(
        "the citation is that of the architecture's paper: correct [paper] in the row file if the weights have one of their own"
    )
    texts = {file: rendered(catalog.root, "adopted.toml.j2", **rows)}
    if described.names:
        texts[label_file] = "".join(f"{number}\t{each}\n" for number, each in enumerate(described.names))
    if new:
        known = folder / preprocessing.FILE
        before = known.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if known.exists() else ""
        texts[preprocessing.FILE] = before + new
    if is_local:
        (folder / weights_file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(place, WEIGHTS), folder / weights_file)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return Adopted([*texts, *([weights_file] if is_local else [])], said)


# Files


def _reader(place: str, scratch: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        """Return a small file of the model, or None if it has none."""
        try:
            return fetch(f"{place}/{name}", cache=scratch, limit_bytes=SMALL_BYTES).read_bytes()
        except NotFound:
            return None

    return read


def _json(read: Callable[[str], bytes | None], place: str, name: str, *, needed: bool = False) -> dict[str, Any]:
    data = read(name)
    if data is None:
        if needed:
            fix = "name a folder or hf://user/model that transformers or timm wrote; for a private one log in first"
            raise ScaffoldingError(with_fix(f"{place} has no {name}", fix))
        return {}
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ScaffoldingError(with_fix(f"{place}/{name} is no JSON ({error})", "get it again")) from None
    if not isinstance(found, dict):
        raise ScaffoldingError(with_fix(f"{place}/{name} is no JSON object", "get it again"))
    return found


def _front_matter(card: bytes | None) -> dict[str, Any]:
    """Return the metadata of a model card; empty if there are none that can be read."""
    match = re.match(rb"---\r?\n(.*?)\r?\n---\r?\n", card or b"", re.DOTALL)
    if not match:
        return {}
    import yaml

    try:
        found = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _shapes(place: str) -> dict[str, tuple[int, ...]]:
    """Return `{tensor: shape}` of the weights, of which only the header is read."""
    url = f"{place}/{WEIGHTS}"
    try:
        with remote.open_file(url) if "://" in place else open(url, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_BYTES:
                raise ValueError(f"its header would have {length:,} bytes")
            header = json.loads(file.read(length))
        return {key: tuple(each["shape"]) for key, each in header.items() if key != "__metadata__"}
    except FileNotFoundError:
        fix = "write it with save_pretrained of transformers or timm: one file, not shards and not a pickle"
        raise ScaffoldingError(with_fix(f"{place} has no {WEIGHTS}", fix)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ScaffoldingError(with_fix(f"{url} cannot be read ({error})", "get it again")) from None


# Networks


def _require(place: str, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ScaffoldingError for values of a configuration that the family here cannot express."""
    for key, value in wanted.items():
        found = config.get(key, value)
        if found != value:
            message = f"{place}/{CONFIG}: `{key}` is {found!r}, and the networks here have {value!r}"
            raise ScaffoldingError(with_fix(message, "publish a model of that architecture"))


def _transformers(place: str, config: Mapping[str, Any], said: list[str]) -> _Described:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        message = f"{place}/{CONFIG}: `model_type` is {kind!r}, which is no family here"
        raise ScaffoldingError(with_fix(message, f"use a model of {', '.join(FAMILIES)}"))
    if not any(str(each).endswith("ForImageClassification") for each in config.get("architectures") or ()):
        message = (
            f"{place}/{CONFIG}: `architectures` names no ...ForImageClassification, so that there is no classifier"
        )
        raise ScaffoldingError(with_fix(message, "save the model with its classifier"))
    _require(place, config, {"num_channels": 3})
    try:
        architecture = _ARCHITECTURES[FAMILIES[kind]](place, config)
    except KeyError as error:
        raise ScaffoldingError(with_fix(f"{place}/{CONFIG} has no {error}", "save the model again")) from None
    names = config.get("id2label")
    classes = len(names) if isinstance(names, dict) else config.get("num_labels", 2)
    listed = _listed(place, names, classes) if isinstance(names, dict) else None
    if listed and all(each == f"LABEL_{number}" for number, each in enumerate(listed)):
        said.append(
            "`id2label` has transformers' placeholders LABEL_0, ...: write the names of the classes into the label file"
        )
    size = config.get("image_size", 224)
    resolution = size[0] if isinstance(size, list) and len(set(size)) == 1 else size
    return _Described(FAMILIES[kind], "transformers", architecture, listed, classes, resolution)


def _convnext(place: str, config: Mapping[str, Any]) -> dict[str, Any]:
    _require(place, config, {"hidden_act": "gelu", "patch_size": 4})
    found: dict[str, Any] = {"depths": config["depths"], "dims": config["hidden_sizes"]}
    if config.get("layer_norm_eps", 1e-12) != 1e-12:
        found["final_epsilon"] = float(config["layer_norm_eps"])
    return found


def _convnext_with_scale(place: str, config: Mapping[str, Any]) -> dict[str, Any]:
    scale = {"layer_scale": 0.0} if config.get("layer_scale_init_value", 1e-6) <= 0 else {}
    return _convnext(place, config) | scale


def _regnety(place: str, config: Mapping[str, Any]) -> dict[str, Any]:
    _require(
        place,
        config,
        {"layer_type": "y", "hidden_act": "relu", "embedding_size": 32, "downsample_in_first_stage": True},
    )
    return {"widths": config["hidden_sizes"], "depths": config["depths"], "group_size": config["groups_width"]}


def _vit(place: str, config: Mapping[str, Any]) -> dict[str, Any]:
    _require(place, config, {"hidden_act": "gelu", "qkv_bias": True})
    epsilon = config.get("layer_norm_eps", 1e-12)
    definition = {1e-12: {}, 1e-6: {"definition": "timm"}}.get(epsilon)
    if definition is None:
        _require(place, config, {"layer_norm_eps": 1e-12})
    keys = {
        "patch": "patch_size",
        "hidden": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
    }
    return {ours: config[theirs] for ours, theirs in keys.items()} | (definition or {})


_ARCHITECTURES: dict[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    "convnext": _convnext_with_scale,
    "convnextv2": _convnext,
    "regnety": _regnety,
    "vit": _vit,
}


def _timm(place: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], said: list[str]) -> _Described:
    name = str(config["architecture"])
    family = next((each for each, pattern in TIMM.items() if re.fullmatch(pattern, name)), None)
    if family is None:
        message = f"{place}/{CONFIG}: the architecture {name!r} is none of those that are the same here and in timm"
        raise ScaffoldingError(with_fix(message, f"use one that is called like {', '.join(TIMM.values())}"))
    if config.get("model_args"):
        message = f"{place}/{CONFIG}: `model_args` = {config['model_args']!r} change the network"
        raise ScaffoldingError(with_fix(message, "publish a model without them"))
    architecture = _from_shapes(family, "timm", shapes)
    if not architecture:
        message = f"{place}/{WEIGHTS} has none of the tensors of a {name}"
        raise ScaffoldingError(with_fix(message, "take the weights that belong to the configuration"))
    if family == "vit":
        if architecture["hidden"] % HEAD_WIDTH:
            message = f"{place}/{WEIGHTS}: {architecture['hidden']} channels are no heads of {HEAD_WIDTH}, as timm's {name} has"
            raise ScaffoldingError(with_fix(message, "take the weights that belong to the configuration"))
        architecture["heads"] = architecture["hidden"] // HEAD_WIDTH
        said.append(f"the attention has {architecture['heads']} heads of {HEAD_WIDTH} channels, as every ViT of timm")
    settings = config.get("pretrained_cfg") or {}
    classes = config.get("num_classes") or settings.get("num_classes")
    if not isinstance(classes, int) or classes < 1:
        raise ScaffoldingError(with_fix(f"{place}/{CONFIG} has no `num_classes`", "save the model with its classifier"))
    listed = config.get("label_names")
    described = config.get("label_descriptions") or {}
    names = None
    if isinstance(listed, list):
        names = _listed(place, {number: described.get(each, each) for number, each in enumerate(listed)}, classes)
    size = settings.get("input_size") or [3, 224, 224]
    return _Described(family, "timm", architecture, names, classes, size[-1])


def _listed(place: str, names: Mapping[Any, Any], classes: int) -> list[str]:
    """Return the names of the classes in their order. Raises ScaffoldingError."""
    by_number = {str(number): str(each).strip() for number, each in names.items()}
    listed = [by_number.get(str(number), "") for number in range(len(by_number))]
    wrong = next((number for number, each in enumerate(listed) if not each or not each.isprintable()), None)
    if wrong is not None or len(listed) != classes:
        which = (
            f"class {wrong} has no printable name"
            if wrong is not None
            else f"{len(listed)} names for {classes} classes"
        )
        raise ScaffoldingError(with_fix(f"{place}/{CONFIG}: {which}", "correct the names of the classes there"))
    return listed


# By family and format: the tensor of each block, with the numbers of stage and block, or of the block.
_BLOCKS = {
    ("convnext", "transformers"): r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.weight",
    ("convnextv2", "transformers"): r"convnextv2\.encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.weight",
    ("regnety", "transformers"): r"regnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.1\.convolution\.weight",
    ("vit", "transformers"): r"vit\.encoder\.layer\.(\d+)\.intermediate\.dense\.weight",
    ("convnext", "timm"): r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.weight",
    ("convnextv2", "timm"): r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.weight",
    ("regnety", "timm"): r"s(\d+)\.b(\d+)\.conv2\.conv\.weight",
    ("vit", "timm"): r"blocks\.(\d+)\.mlp\.fc1\.weight",
}
_PATCHES = {"transformers": "vit.embeddings.patch_embeddings.projection.weight", "timm": "patch_embed.proj.weight"}
_HEADS = ("classifier.bias", "classifier.1.bias", "head.fc.bias", "head.bias")


def _from_shapes(family: str, format: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the architecture that the shapes of tensors tell, without what they do not; empty if there are none of its tensors."""
    matches = [(match, shape) for key, shape in shapes.items() if (match := re.fullmatch(_BLOCKS[family, format], key))]
    if not matches:
        return {}
    if family == "vit":
        patches = shapes.get(_PATCHES[format], (0, 0, 0, 0))
        mlp = matches[0][1][0]
        return {"patch": patches[-1], "hidden": patches[0], "mlp": mlp, "layers": len(matches)}
    stages: dict[int, tuple[int, ...]] = {}
    counts: dict[int, int] = {}
    for match, shape in matches:
        stage = int(match[1])
        stages[stage] = shape
        counts[stage] = counts.get(stage, 0) + 1
    widths, depths = [stages[stage][0] for stage in sorted(stages)], [counts[stage] for stage in sorted(stages)]
    if family == "regnety":
        return {"widths": widths, "depths": depths, "group_size": max(shape[1] for shape in stages.values())}
    return {"depths": depths, "dims": widths}


def _check_weights(place: str, described: _Described, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ScaffoldingError if the weights are those of another network, or have another number of classes."""
    told = _from_shapes(described.family, described.format, shapes)
    if not told:
        message = f"{place}/{WEIGHTS} has no tensors called as {described.format} calls those of a {described.family}"
        raise ScaffoldingError(with_fix(message, "save it with save_pretrained"))
    for key, value in told.items():
        if described.architecture.get(key) != value:
            message = (
                f"{place}: {CONFIG} says {key} = {described.architecture.get(key)!r}, and the weights have {value!r}"
            )
            raise ScaffoldingError(with_fix(message, "take the configuration that belongs to the weights"))
    heads = [shapes[key][0] for key in _HEADS if key in shapes]
    if heads != [described.classes]:
        found = f"a classifier of {heads[0]} classes" if heads else "no classifier"
        message = f"{place}: {CONFIG} says {described.classes} classes, and the weights have {found}"
        raise ScaffoldingError(with_fix(message, "take the configuration that belongs to the weights"))


# Preprocessing


def _timm_settings(place: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return transform and normalisation as timm's evaluation has them (timm/data/transforms_factory.py)."""
    found = config.get("pretrained_cfg") or {}
    file = f"{place}/{CONFIG}: pretrained_cfg"
    try:
        _, height, width = found["input_size"]
        mean, std = found["mean"], found["std"]
        mode, share = found.get("crop_mode", "center"), float(found.get("crop_pct", 0.875))
    except (KeyError, ValueError, TypeError) as error:
        raise ScaffoldingError(with_fix(f"{file} lacks {error}", "save the model with push_to_hub of timm")) from None
    if height != width or mode not in ("center", "squash"):
        message = f"{file}: images of {height} x {width} with crop_mode {mode!r} cannot be made here"
        raise ScaffoldingError(with_fix(message, "use square images and crop_mode center or squash"))
    size = math.floor(height / share)
    transform = _transform(file, height, None if mode == "squash" else size, found.get("interpolation"))
    return {"transform": transform, "mean": mean, "std": std}


def _settings(place: str, processor: Mapping[str, Any], described: _Described, said: list[str]) -> dict[str, Any]:
    """Return transform and normalisation as transformers' image processors have them."""
    file = f"{place}/{PREPROCESSOR}"
    if not processor:
        fix = "save the processor beside the model: without it nobody knows how images are made"
        raise ScaffoldingError(with_fix(f"{place} has no {PREPROCESSOR}", fix))
    for key, value in (("do_resize", True), ("do_normalize", True), ("do_rescale", True)):
        if processor.get(key, value) is not value:
            raise ScaffoldingError(
                with_fix(f"{file}: `{key}` is {processor[key]!r}", "a module resizes and normalises")
            )
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        message = f"{file}: `rescale_factor` is {processor['rescale_factor']!r}, not 1/255"
        raise ScaffoldingError(with_fix(message, "use the mean and standard deviation of pixels in [0, 1]"))
    size = processor.get("size", described.resolution)
    sides = size if isinstance(size, dict) else {"shortest_edge": size}
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")
    edge = int(sides.get("shortest_edge") or 0)
    if not isinstance(size, dict) and kind.startswith("ViT"):
        sides = {"height": size, "width": size}
    if "height" in sides:
        if sides["height"] != sides.get("width"):
            raise ScaffoldingError(with_fix(f"{file}: `size` is {size!r}, not a square", "use square images"))
        side, short = sides["height"], None
    elif processor.get("do_center_crop"):
        crop = processor.get("crop_size")
        crop = crop.get("height") if isinstance(crop, dict) else crop
        side, short = crop or edge, edge
    elif kind.startswith("ConvNext") and edge:
        share = processor.get("crop_pct")
        side = edge
        short = None if edge >= LARGE else int(edge / (224 / 256 if share is None else share))
    else:
        message = f"{file}: `size` is {size!r} of a {kind or 'processor without a type'}, which crops nothing"
        raise ScaffoldingError(with_fix(message, "use ViTImageProcessor or ConvNextImageProcessor, or a centre crop"))
    if side != described.resolution:
        said.append(f"images have {side} pixels a side, as {PREPROCESSOR} says; {CONFIG} says {described.resolution}")
        if described.family == "vit":
            message = f"{place}: {PREPROCESSOR} makes images of {side}, and the ViT was made for {described.resolution}"
            raise ScaffoldingError(with_fix(message, "make both agree"))
    try:
        mean, std = processor["image_mean"], processor["image_std"]
    except KeyError as error:
        raise ScaffoldingError(with_fix(f"{file} has no {error}", "write it there")) from None
    return {"transform": _transform(file, side, short, processor.get("resample", 2)), "mean": mean, "std": std}


def _transform(file: str, side: int, short: int | None, interpolation: Any) -> dict[str, Any]:
    """Return a transform of PIL's: to `short` and a crop, or a warp where that is None."""
    if interpolation not in INTERPOLATIONS:
        message = f"{file}: the interpolation {interpolation!r} cannot be expressed"
        raise ScaffoldingError(with_fix(message, "use bilinear (2) or bicubic (3)"))
    kind = INTERPOLATIONS[interpolation]
    found: dict[str, Any] = {"resize": "warp", "size": side, "interpolation": kind, "antialias": True, "library": "pil"}
    if short is not None:
        found |= {"resize": "short_side", "size": short, "crop": side, "crop_offset": "round"}
    return found


def _preprocessing(catalog: Catalog, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the names of the transform and of the normalisation, and the rows of those that the catalogue does not have."""
    shared, new = catalog.preprocessing, ""
    wanted = settings["transform"]
    same = [n for n, row in shared["transforms"].items() if {k: v for k, v in row.items() if k != "text"} == wanted]
    if same:
        transform = same[0]
    else:
        kind = wanted["interpolation"]
        if wanted["resize"] == "warp":
            transform = f"pil_{kind}_{wanted['size']}"
            text = f"both sides to {wanted['size']} whatever the aspect ratio ({kind}, antialiased, as PIL does it)"
        else:
            transform = f"pil_{kind}_{wanted['size']}_{wanted['crop']}"
            text = (
                f"short side to {wanted['size']} ({kind}, antialiased, as PIL does it), centre crop to {wanted['crop']}"
            )
        new += _table(f"transforms.{transform}", wanted | {"text": text})
    numbers = {key: [float(n) for n in settings[key]] for key in ("mean", "std")}
    found = [n for n, row in shared["normalizations"].items() if all(row[key] == numbers[key] for key in numbers)]  # type: ignore[literal-required]
    if found:
        return transform, found[0], new
    mean, std = (", ".join(map(repr, numbers[key])) for key in ("mean", "std"))
    name = "mean_" + "_".join(f"{round(1000 * n):03d}" for n in (*numbers["mean"], *numbers["std"]))
    text = f"mean ({mean}) subtracted, divided by the standard deviation ({std})"
    return transform, name, new + _table(f"normalizations.{name}", numbers | {"text": text})


def _table(name: str, values: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in values.items()) + "\n"


# The card


def _licence_to_do(card: Mapping[str, Any]) -> str:
    said = card.get("license")
    hint = f"; the card says {said!r}" if isinstance(said, str) and said.isprintable() else ""
    return f"TODO: the licence of the weights, an id of modules/tags/license.yaml{hint}"


def _trained(place: str, card: Mapping[str, Any], said: list[str]) -> str:
    """Return who trained the weights, in the words of a row's source."""
    if place.startswith("hf://"):
        user, _, model = place.removeprefix("hf://").partition("/")
        base = card.get("base_model")
        begun = f" from {base}" if isinstance(base, str) and base.isprintable() else ""
        return (
            f"{user} on Hugging Face ({model}), who fine-tuned them{begun}"
            if begun
            else f"{user} on Hugging Face ({model})"
        )
    said.append("who trained the weights is yours to say: `text` of the source in the row file")
    return "TODO: who trained the weights, as in: the botanists of our institute"


def _data(card: Mapping[str, Any], catalog: Catalog, said: list[str]) -> dict[str, Any]:
    """Return the text and the data sets of what the model was trained on."""
    listed = card.get("datasets")
    names = (
        [each for each in listed if isinstance(each, str) and each.isprintable()] if isinstance(listed, list) else []
    )
    if not names:
        said.append(
            "what the weights were trained on is yours to say: `text` and `datasets` of the data in the row file"
        )
        return {
            "text": "TODO: what the weights were trained on, as in: fine-tuned on photographs of flowers",
            "datasets": [DATASETS_TO_DO],
        }
    known = catalog.tags["dataset"]
    unknown = [each for each in names if each not in known]
    if unknown:
        said.append(f"the data sets {', '.join(unknown)} of the card have no tag in modules/tags/dataset.yaml")
    return {
        "text": f"trained on {', '.join(names)}",
        "datasets": [each for each in names if each in known] or [DATASETS_TO_DO],
    }
