"""An evaluation beside the records of the modules that were evaluated: what pages show as measured.

record(plan, totals, hub="gs://bucket/hub", dataset="imagenet-ilsvrc-2012-cls", split="validation", date="2026-01-31T12:00:00Z")
"""

from typing import Any

from tools.evaluation import EvaluationError
from tools.evaluation.counts import Totals
from tools.evaluation.modules import EvaluatedModule
from tools.evaluation.running import Plan


def require_recordable(plan: Plan, hub: str | None, dataset: str | None, url: str | None = None) -> None:
    """Before hours are spent: everything that a record needs is there. Raises EvaluationError."""
    from tools.catalog import vocabularies
    from tools.common.files import ROOT

    if dataset is None:
        raise EvaluationError(
            "say which data set the images are, with --dataset TAG (an id of modules/tags/dataset.yaml)"
        )
    if dataset not in vocabularies.load(ROOT / "modules/tags")["dataset"]:
        raise EvaluationError(f"{dataset!r} is no id of modules/tags/dataset.yaml; choose one with --dataset")
    if plan.skip_broken:
        raise EvaluationError("a record needs every image: leave out --skip-broken or --record")
    for module, mapping in zip(plan.modules, plan.mappings, strict=True):
        if mapping.allowed or -1 in (mapping.columns or ()):
            raise EvaluationError(
                f"{module.title}: not all of its classes compete, or it lacks some, which a record does not say; leave out --record"
            )
        _published(module, _hub(module, hub))
    _addresses(plan, hub, url)


def record(
    plan: Plan,
    totals: Totals,
    summaries,
    *,
    hub: str | None,
    dataset: str,
    split: str,
    date: str,
    url: str | None = None,
) -> list[str]:
    """Add a note for each module that has none with the same, and make the pages of its hub again; sentences on what was done."""
    from tools import catalog
    from tools.hub import notes
    from tools.site.writing import write_pages

    if len(totals.versions) != 1:
        raise EvaluationError(
            f"workers had different versions, and a record states one: {totals.versions}; make them the same"
        )
    addresses = _addresses(plan, hub, url)
    said = []
    for module, found in zip(plan.modules, summaries, strict=True):
        storage = _hub(module, hub)
        measurement: dict[str, Any] = {
            "dataset": dataset,
            "split": split,
            "images": found["images"],
            "top1": found["top1"],
            "top5": found["top5"],
            "versions": totals.versions[0],
            "list_sha256": plan.images.digest,
        }
        note = notes.add_measurement(storage, module.handle, notes.EVALUATION, measurement, date=date)
        said.append(f"{module.handle}: recorded" if note else f"{module.handle}: the same is recorded already")
    rows = catalog.load()
    for storage, base_url in addresses:
        pages = write_pages(rows, storage, base_url)
        said.append(f"{pages} pages written to {storage.url}")
    return said


def _addresses(plan: Plan, hub: str | None, url: str | None):
    """Return each hub of the plan with the address to make its pages for."""
    from tools import catalog
    from tools.hub import address

    storages = {storage.url: storage for storage in (_hub(module, hub) for module in plan.modules)}
    configured = catalog.load().publisher.url
    return [(storage, address.for_writing(storage, url, configured)) for storage in storages.values()]


def _hub(module: EvaluatedModule, hub: str | None):
    """The storage of a module's hub: `hub`, or where the module was read if that can be written."""
    from tools.hub.storage import Storage

    if hub is None and module.handle and "://" in module.archive and module.archive.startswith("http"):
        raise EvaluationError(
            f"{module.address} is read over HTTP; say where its hub can be written: --hub DIR or --hub gs://..."
        )
    if module.handle is None:
        raise EvaluationError(
            f"{module.address} has no record, so nothing can be added to it; give its handle's address"
        )
    return Storage(hub or module.archive.removesuffix(f"/{module.handle}.tar.gz"))


def _published(module: EvaluatedModule, storage) -> None:
    from tools.hub import records

    published = records.load(storage, module.handle)
    if published is None:
        raise EvaluationError(f"{module.handle} is not published in {storage.url}; check --hub")
    if published["archive"]["sha256"] != module.sha256:
        raise EvaluationError(f"{module.handle} of {storage.url} has other bytes than {module.address}; check --hub")
