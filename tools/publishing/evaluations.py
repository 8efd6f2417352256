"""Record an evaluation beside the records of the modules that were evaluated, which pages then show as measured.

record(plan, totals, summaries, hub="gs://bucket/hub", dataset="imagenet-ilsvrc-2012-cls", split="validation", date=now())
"""

from collections.abc import Sequence

from tools import catalog
from tools.catalog.layout import archive_path
from tools.evaluation import EvaluationError
from tools.evaluation.counts import Summary, Totals
from tools.evaluation.modules import EvaluatedModule
from tools.evaluation.running import Plan
from tools.hub import address, notes, records
from tools.hub.signatures import Signer
from tools.hub.storage import Storage
from tools.site.writing import write_pages


def require_recordable(plan: Plan, hub: str | None, dataset: str | None, url: str | None = None) -> None:
    """Check before hours are spent that an evaluation can be recorded; the arguments are those of `record`.

    Raises:
      EvaluationError: the evaluation lacks something that a record needs, or a module is not published in its hub.
      StorageError: nobody can tell which address the pages of a hub are for, or it cannot be read.
    """
    if dataset is None:
        raise EvaluationError(
            "the data set of the images is not known", "name it with --dataset TAG (an id of modules/tags/dataset.yaml)"
        )
    if dataset not in catalog.load_usable().tags["dataset"]:
        raise EvaluationError(f"{dataset!r} is no id of modules/tags/dataset.yaml", "choose one with --dataset")
    if plan.skip_broken:
        raise EvaluationError("a record needs every image", "leave out --skip-broken or --record")
    for module, mapping in zip(plan.modules, plan.mappings, strict=True):
        if module.format:
            fix = "leave out --record, or measure the module itself"
            raise EvaluationError(f"{module.title}: notes are about modules, not about their files", fix)
        if mapping.allowed or -1 in (mapping.columns or ()):
            raise EvaluationError(
                f"{module.title}: not all of its classes compete, or it lacks some, which a record does not say",
                "leave out --record",
            )
        _check_published(module, hub)
    _addresses(plan, hub, url)


def record(
    plan: Plan,
    totals: Totals,
    summaries: Sequence[Summary],
    *,
    hub: str | None,
    dataset: str,
    split: str,
    date: str,
    url: str | None = None,
    signer: Signer | None = None,
) -> list[str]:
    """Add a note for each module that has none with the same results, and make the pages of its hub again.

    Args:
      plan: the evaluation.
      totals: its counts.
      summaries: the results of each module.
      hub: where notes are written; None for the hubs that the modules were read from.
      dataset: an id of modules/tags/dataset.yaml.
      split: the name of the split.
      date: of the notes.
      url: the hub's public address; by default `address.for_writing` decides.
      signer: signs the notes.

    Returns:
      Sentences on what was done.

    Raises:
      EvaluationError: the workers had different versions.
      StorageError: a hub cannot be written.
    """
    if len(totals.versions) != 1:
        raise EvaluationError(
            f"workers had different versions, and a record states one: {totals.versions}",
            "make them the same, and evaluate again with a new --state",
        )
    addresses = _addresses(plan, hub, url)
    done = []
    for module, found in zip(plan.modules, summaries, strict=True):
        storage, handle = _published_at(module, hub)
        measurement: notes.EvaluationMeasurement = {
            "dataset": dataset,
            "split": split,
            "images": found["images"],
            "top1": found["top1"],
            "top5": found["top5"],
            "versions": totals.versions[0],
            "list_sha256": plan.images.digest,
        }
        note = notes.add_measurement(storage, handle, notes.EVALUATION, measurement, date=date, signer=signer)
        done.append(f"{handle}: recorded" if note else f"{handle}: the same is recorded already")
    rows = catalog.load_usable()
    for storage, base_url in addresses:
        pages = write_pages(rows, storage, base_url)
        done.append(f"{pages} pages written to {storage.url}")
    return done


def _addresses(plan: Plan, hub: str | None, url: str | None) -> list[tuple[Storage, str]]:
    """Return each hub of the modules with the address to make its pages for."""
    storages = {storage.url: storage for storage, _ in (_published_at(module, hub) for module in plan.modules)}
    configured = catalog.load_usable().publisher.url
    return [(storage, address.for_writing(storage, url, configured)) for storage in storages.values()]


def _published_at(module: EvaluatedModule, hub: str | None) -> tuple[Storage, str]:
    """Return the storage of a module's hub, `hub` or where the module was read, and its handle."""
    if module.handle is None:
        raise EvaluationError(
            f"{module.address} has no record, so nothing can be added to it", "give its handle's address"
        )
    if hub is None and module.archive.startswith(("http://", "https://")):
        raise EvaluationError(
            f"{module.address} is read over HTTP", "say where its hub can be written: --hub DIR or --hub gs://..."
        )
    return Storage(hub or module.archive.removesuffix(f"/{archive_path(module.handle)}")), module.handle


def _check_published(module: EvaluatedModule, hub: str | None) -> None:
    storage, handle = _published_at(module, hub)
    published = records.load(storage, handle)
    if published is None:
        raise EvaluationError(f"{handle} is not published in {storage.url}", "check --hub")
    if published["archive"]["sha256"] != module.sha256:
        raise EvaluationError(f"{handle} of {storage.url} has other bytes than {module.address}", "check --hub")
