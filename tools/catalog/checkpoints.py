"""The checkpoint of a row: its local file, fetched where it is not here yet.

path = fetch_checkpoint(variant, root=catalog.root, cache=cache)
"""

from pathlib import Path

from tools.catalog.catalog import Variant
from tools.common.download import fetch
from tools.common.files import Progress

# A download is refused beyond this: no upstream file has more than a model's weights with their average and the optimizer's two
# moments (16 bytes for each parameter) and some room; LARGEST_BYTES where a row reports no parameters.
PARAMETER_BYTES, ROOM_BYTES, LARGEST_BYTES = 16, 256 << 20, 16 << 30


def fetch_checkpoint(
    variant: Variant,
    *,
    root: Path,
    cache: Path,
    mirrors: str | None = None,
    is_named_alone: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Return the local file of a row's checkpoint: in the repository at `root`, from the mirror, from the cache or from upstream.

    `is_named_alone` is what `Catalog.is_named_alone` says of the row.

    Raises:
      DownloadError: it cannot be fetched, is not what the row pins, or is larger than the row's network can be.
    """
    if "://" not in variant.checkpoint:
        return root / variant.checkpoint
    limit = variant.parameters * PARAMETER_BYTES + ROOM_BYTES if variant.parameters else LARGEST_BYTES
    return fetch(
        variant.checkpoint,
        cache=cache / "checkpoints",
        mirrors=mirrors,
        is_named_alone=is_named_alone,
        sha256=variant.sha256,
        progress=progress,
        limit_bytes=limit,
    )
