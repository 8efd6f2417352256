"""Folders that transformers and timm load: weights under their names, the configuration, and the preprocessing.

save(builders.from_hub("./module"), "./folder", format="transformers")
# transformers: AutoModelForImageClassification.from_pretrained("./folder"), AutoImageProcessor.from_pretrained("./folder")
# timm: timm.create_model("local-dir:./folder", pretrained=True)

What a library cannot express is refused: another GELU than the exact one, an image resized as it resizes none.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import builders
from builders.library.models import Loaded
from tools.common.files import discard

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
FORMATS = ("transformers", "timm")
LARGE = 384  # from this size on ConvNextImageProcessor warps
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
# timm's RegNetY by the widths of their stages (timm/models/regnet.py), which no argument changes.
REGNETY = {
    (24, 56, 152, 368): "002",
    (48, 104, 208, 440): "004",
    (48, 112, 256, 608): "006",
    (64, 128, 320, 768): "008",
    (48, 120, 336, 888): "016",
    (72, 216, 576, 1512): "032",
    (128, 192, 512, 1088): "040",
    (144, 288, 576, 1296): "064",
    (168, 448, 896, 2016): "080",
    (224, 448, 896, 2240): "120",
    (224, 448, 1232, 3024): "160",
    (232, 696, 1392, 3712): "320",
}


class PretrainedError(ValueError):
    """A model that a library cannot express. The message ends with the fix."""


def save(model: Any, folder: str | os.PathLike[str], *, format: str) -> list[str]:
    """Write a classifier with its preprocessing and the names of its classes as `format` saves it; return the files' names.

    Args:
      model: what `builders.create` made by the name of a row, or `builders.from_hub`.
      folder: a new folder, which exists afterwards if everything is in it.
      format: "transformers" or "timm".

    Raises:
      PretrainedError: the format cannot express the network or its preprocessing, or the folder exists.
      RestoreError: the format cannot hold the weights.
    """
    target = Path(folder)
    if target.exists():
        raise PretrainedError(f"{target} exists. Fix: name a new folder.")
    if format not in FORMATS:
        raise PretrainedError(f"{format!r} has no folders of its own. Fix: use {' or '.join(FORMATS)}, or name a file.")
    loaded: Loaded | None = getattr(model, "loaded", None)
    if loaded is None or loaded.preprocessing is None:
        raise PretrainedError(
            f"nothing says how images are made for {model.name}. Fix: pass a model by the name of a row."
        )
    layers = {layer.name: layer for layer in model.layers}
    if "head" not in layers:
        raise PretrainedError(f"{model.name} has no classifier. Fix: pass the model with its top.")
    network = _network(model, layers)
    names = list(loaded.labels or (f"LABEL_{number}" for number in range(layers["head"].units)))
    if len(names) != layers["head"].units:
        names = [f"LABEL_{number}" for number in range(layers["head"].units)]
    write = _transformers if format == "transformers" else _timm
    texts = write(network, names, loaded.preprocessing)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        builders.write(model, scratch / WEIGHTS, format)
        for name, text in texts.items():
            (scratch / name).write_text(json.dumps(text, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        os.replace(scratch, target)
    finally:
        discard(scratch)
    return [WEIGHTS, *texts]


def _network(model: Any, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the family and what the layers of a model say of its architecture."""
    family = builders.family_of(model)
    found: dict[str, Any] = {"family": family, "classes": layers["head"].units, "epsilon": None}
    if family == "vit":
        if any(name.startswith("backbone.") for name in layers):
            raise PretrainedError(
                f"{model.name} is a hybrid, which transformers does not have. Fix: use its .safetensors of timm."
            )
        blocks = sum(name.endswith(".attention") for name in layers)
        first = layers["blocks.0.mlp.fc1"]
        return found | {
            "epsilon": layers["features"].epsilon,
            "gelu": first.activation,
            "patch": layers["embedding"].kernel.shape[0],
            "hidden": layers["embedding"].kernel.shape[-1],
            "mlp": first.units,
            "heads": layers["blocks.0.attention"].heads,
            "layers": blocks,
            "grid": layers["position"].grid,
        }
    if family == "regnety":
        stages = {int(name[1]): 0 for name in layers if name.endswith(".b") and name[0] == "s"}
        for name in layers:
            if name.endswith(".b") and name[0] == "s":
                stages[int(name[1])] += 1
        firsts = [layers[f"s{stage}.b1.b"] for stage in sorted(stages)]
        groups = max(layer.kernel.shape[2] for layer in firsts)
        widths = [layer.filters for layer in firsts]
        return found | {"widths": widths, "depths": [stages[s] for s in sorted(stages)], "group_size": groups}
    if not any(name.startswith("stages.") for name in layers):
        raise PretrainedError(f"{model.name} is isotropic, which neither library has. Fix: use the facebook format.")
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, layer in layers.items():
        if name.endswith(".conv_dw"):
            stage = int(name.split(".")[1])
            depths[stage] = depths.get(stage, 0) + 1
            dims[stage] = layer.kernel.shape[2]
    return found | {
        "epsilon": layers["features"].epsilon,
        "depths": [depths[stage] for stage in sorted(depths)],
        "dims": [dims[stage] for stage in sorted(dims)],
        "scaled": "stages.0.blocks.0.scale" in layers,
    }


# transformers


def _transformers(network: Mapping[str, Any], names: Sequence[str], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    processor, side = _processor(preprocessing)
    class_name, own = _CONFIGURATIONS[network["family"]](network)
    config = {
        "architectures": [f"{class_name}ForImageClassification"],
        "model_type": class_name.lower(),
        "num_channels": 3,
        "image_size": side,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    return {CONFIG: config | own, PREPROCESSOR: processor}


def _convnext(network: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    own = {"depths": network["depths"], "hidden_sizes": network["dims"], "patch_size": 4, "hidden_act": "gelu"}
    own |= {"num_stages": len(network["depths"]), "layer_norm_eps": network["epsilon"], "drop_path_rate": 0.0}
    if network["family"] == "convnextv2":
        return "ConvNextV2", own
    return "ConvNext", own | {"layer_scale_init_value": 1e-6 if network["scaled"] else 0.0}


def _regnet(network: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    own = {"hidden_sizes": network["widths"], "depths": network["depths"], "groups_width": network["group_size"]}
    return "RegNet", own | {
        "embedding_size": 32,
        "layer_type": "y",
        "hidden_act": "relu",
        "downsample_in_first_stage": True,
    }


def _vit(network: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "ViT", {
        "patch_size": network["patch"],
        "hidden_size": network["hidden"],
        "intermediate_size": network["mlp"],
        "num_attention_heads": network["heads"],
        "num_hidden_layers": network["layers"],
        "hidden_act": "gelu",
        "layer_norm_eps": network["epsilon"],
        "qkv_bias": True,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }


_CONFIGURATIONS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    "convnext": _convnext,
    "convnextv2": _convnext,
    "regnety": _regnet,
    "vit": _vit,
}


def _processor(preprocessing: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the configuration of an image processor, and the side of its images."""
    transform, normalization = _of_pil(preprocessing), preprocessing["normalization"]
    common = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalization["mean"]),
        "image_std": list(normalization["std"]),
        "resample": RESAMPLE[transform["interpolation"]],
    }
    if transform["resize"] == "warp":
        side = transform["size"]
        return common | {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}}, side
    side, share = transform["crop"], transform["crop"] / transform["size"]
    if side >= LARGE or int(side / share) != transform["size"]:
        raise PretrainedError(
            f"transformers makes no images of {side} from a short side of {transform['size']}. Fix: use --format timm."
        )
    own = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": side}, "crop_pct": share}
    return common | own, side


def _of_pil(preprocessing: Mapping[str, Any]) -> Mapping[str, Any]:
    transform: Mapping[str, Any] = preprocessing["transform"]
    if transform["library"] != "pil":
        raise PretrainedError(
            f"images are resized as {transform['library']} does it, and both libraries resize as PIL does. "
            "Fix: write the weights alone, to a .safetensors file."
        )
    return transform


# timm


def _timm(network: Mapping[str, Any], names: Sequence[str], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    transform, normalization = _of_pil(preprocessing), preprocessing["normalization"]
    is_warp = transform["resize"] == "warp"
    side = transform["size"] if is_warp else transform["crop"]
    if network["epsilon"] not in (None, 1e-6):
        raise PretrainedError(
            f"timm normalises with an epsilon of 1e-6, not {network['epsilon']}. Fix: use --format transformers."
        )
    name, arguments = _timm_architecture(network, side)
    settings = {
        "input_size": [3, side, side],
        "fixed_input_size": network["family"] == "vit",
        "interpolation": transform["interpolation"],
        "crop_pct": 1.0 if is_warp else side / transform["size"],
        "crop_mode": "squash" if is_warp else "center",
        "mean": list(normalization["mean"]),
        "std": list(normalization["std"]),
        "num_classes": network["classes"],
    }
    config = {"architecture": name, "num_classes": network["classes"], "pretrained_cfg": settings}
    return {CONFIG: config | {"label_names": list(names)} | ({"model_args": arguments} if arguments else {})}


def _timm_architecture(network: Mapping[str, Any], side: int) -> tuple[str, dict[str, Any]]:
    """Return the name of timm's architecture, and the arguments that make it this network."""
    match network["family"]:
        case "regnety":
            number = REGNETY.get(tuple(network["widths"]))
            if number is None:
                widths = ", ".join(map(str, network["widths"]))
                raise PretrainedError(f"timm has no RegNetY of the widths {widths}. Fix: use --format transformers.")
            return f"regnety_{number}", {}
        case "vit":
            return "vit_base_patch16_224", {
                "img_size": side,
                "patch_size": network["patch"],
                "embed_dim": network["hidden"],
                "depth": network["layers"],
                "num_heads": network["heads"],
                "mlp_ratio": network["mlp"] / network["hidden"],
            }
        case family:
            return f"{family}_tiny", {"depths": network["depths"], "dims": network["dims"]}
