"""The checkpoint of a row: its local file, fetched where it is not here yet.

path = fetch_checkpoint(variant, catalog, cache=cache)
"""

from pathlib import Path

from tools.catalog.catalog import Catalog, Variant
from tools.common.download import fetch
from tools.common.files import Progress

# A download is refused beyond this: no upstream file has more than a model's weights with their average and the optimizer's two
# moments (16 bytes for each parameter) and some room; LARGEST_BYTES where a row reports no parameters.
PARAMETER_BYTES, ROOM_BYTES, LARGEST_BYTES = 16, 256 << 20, 16 << 30


def fetch_checkpoint(
    variant: Variant,
    catalog: Catalog,
    *,
    cache: Path,
    mirrors: str | None = None,
    is_named_alone: bool | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the local file of a row's checkpoint: in the catalogue's folders, from the mirror, from the cache or from upstream.

    `is_named_alone` is by default what `Catalog.is_named_alone` says of the row.

    Raises:
      DownloadError: it cannot be fetched, is not what the row pins, or is larger than the row's network can be.
    """
    if "://" not in variant.checkpoint:
        return catalog.path(variant.checkpoint)
    limit = variant.parameters * PARAMETER_BYTES + ROOM_BYTES if variant.parameters else LARGEST_BYTES
    return fetch(
        variant.checkpoint,
        cache=cache / "checkpoints",
        mirrors=mirrors,
        is_named_alone=catalog.is_named_alone(variant) if is_named_alone is None else is_named_alone,
        sha256=variant.sha256,
        progress=progress,
        limit_bytes=limit,
    )
