"""Rows that have peers, and the names of these; nothing is imported here, so that `--help` is fast.

rows.row_of("convnext_tiny")  # "convnext_tiny_1k_224"
"""

OURS = "hubpress"
# Rows of the catalogue: timm's name of the same architecture, and keras.applications' where it has it.
PEERS = {
    "convnext_tiny_1k_224": ("convnext_tiny", "ConvNeXtTiny"),
    "convnext_base_1k_224": ("convnext_base", "ConvNeXtBase"),
    "convnextv2_tiny_1k_224": ("convnextv2_tiny", None),
    "regnety800mf": ("regnety_008", None),
    "regnety4_0gf": ("regnety_040", None),
    "vit_s16": ("vit_small_patch16_224", None),
    "vit_r26_s32_lightaug": ("vit_small_r26_s32_224", None),
    "vit_b16": ("vit_base_patch16_224", None),
}
# What --engines may choose from.
ENGINES = ("onnxruntime", "openvino", "timm", "compile", "keras")
TRAINERS = ENGINES[2:]  # the other two answer only
DEFAULTS = {
    "inference": ("convnext_tiny_1k_224", "regnety800mf", "vit_s16"),
    "train": ("convnext_tiny_1k_224",),
    "load": ("convnext_tiny_1k_224", "convnext_base_1k_224"),
    "publish": ("convnext_tiny_1k_224",),
}


def row_of(name: str) -> str:
    """Return the catalogue's row for a name: its own, or timm's of one that is in `PEERS`."""
    return next((row for row, (timm, _) in PEERS.items() if timm == name), name)
