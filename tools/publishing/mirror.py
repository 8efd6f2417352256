"""Copy published modules for other hubs: into folders that are ready to upload to Hugging Face and Kaggle.

    folders = write(records, storage=storage, hub=gather(snapshot(storage), catalog, url), directory=Path("mirror"))

    mirror/huggingface/NAME/                    README.md (a model card), the SavedModel, and the files for other runtimes
        huggingface-cli upload PUBLISHER/NAME mirror/huggingface/NAME
    mirror/kaggle/FAMILY/                       model-metadata.json
        kaggle models create -p mirror/kaggle/FAMILY
    mirror/kaggle/FAMILY/tensorFlow2/NAME/      model-instance-metadata.json and the SavedModel
        kaggle models instances create -p mirror/kaggle/FAMILY/tensorFlow2/NAME --dir-mode tar

Everything comes from the records; formats: https://huggingface.co/docs/hub/model-cards and
https://github.com/Kaggle/kaggle-api/blob/main/docs/models_metadata.md.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.archive.contents import GRAPH
from tools.catalog import Catalog
from tools.common.problems import with_fix
from tools.documents.document import parse
from tools.hub import unpacked
from tools.hub.formats import FormatFile
from tools.hub.records import HubSnapshot, Record
from tools.hub.storage import CHUNK_BYTES, Storage, StorageError
from tools.site import pages, rendering
from tools.site.gathering import Hub
from tools.site.published_module import PublishedModule

PIPELINES = {"image-classification": "image-classification", "image-feature-vector": "image-feature-extraction"}
# Our data sets under the names that they have there; one that has none is left out of `datasets`.
DATASETS = {"imagenet-ilsvrc-2012-cls": "ILSVRC/imagenet-1k"}
HUGGING_FACE_LICENCES = frozenset(
    [
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-2.1",
        "lgpl-3.0",
        "mit",
        "mpl-2.0",
        "epl-2.0",
        "cc-by-nc-4.0",
        "cc-by-sa-4.0",
        "cc-by-4.0",
        "cc-by-nc-sa-4.0",
        "cc0-1.0",
    ]
)
KAGGLE_LICENCES = {
    "apache-2.0": "Apache 2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "gpl-2.0": "GPL 2",
    "gpl-3.0": "GPL 3",
    "lgpl-3.0": "GNU Lesser General Public License 3.0",
    "mit": "MIT",
    "cc-by-nc-4.0": "Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)",
    "cc-by-sa-4.0": "CC BY-SA 4.0",
}
FRAMEWORK = "tensorFlow2"
CARD, MODEL, INSTANCE = "README.md", "model-metadata.json", "model-instance-metadata.json"


class MirrorError(ValueError):
    """A module cannot be mirrored: the message names it and ends with the fix."""

    def __init__(self, message: str, fix: str):
        super().__init__(with_fix(message, fix))


def gather(hub: HubSnapshot, catalog: Catalog, base_url: str) -> Hub:
    """Return everything that is published in a hub, as its pages see it."""
    return pages.gather(
        hub.records,
        publisher=catalog.publisher,
        collections=catalog.collections,
        base_url=base_url,
        tags=catalog.tags,
        yanked=hub.yanked,
        measurements=hub.measurements,
        formats=hub.formats,
    )


def write(published: Iterable[Record], *, storage: Storage, hub: Hub, directory: Path) -> list[Path]:
    """Write the folders of some of a hub's modules; those of an earlier run are replaced. Return the folders.

    `published` are the records of the modules, `storage` holds their archives, and `hub` is what `gather` returns for it.

    Raises:
      MirrorError: a licence has no name there, or a folder holds something else.
      StorageError: an archive is not the recorded one.
    """
    folders: list[Path] = []
    for record in published:
        module = hub.modules[record["handle"]]
        card = model_card(module, hub)
        instance = kaggle_instance(module, hub)
        family = directory / "kaggle" / _slug(module.row["family"])
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mirror-", dir=directory) as temporary:
            model = Path(temporary) / "model"
            unpacked.unpack(storage, module.handle, module.archive["sha256"], model)
            copy = Path(temporary) / "copy"
            shutil.copytree(model, copy, copy_function=_link)
            for each in module.formats:
                _fetch(storage, each.file, model / each.file_name)
            (model / CARD).write_text(card, encoding="utf-8")
            (copy / INSTANCE).write_text(_json(instance), encoding="utf-8")
            folders.append(_replace(model, directory / "huggingface" / module.name.replace("/", "-"), CARD))
            folders.append(_replace(copy, family / FRAMEWORK / instance["instanceSlug"], INSTANCE))
        (family / MODEL).write_text(_json(kaggle_model(module, hub)), encoding="utf-8")
    return folders


def model_card(module: PublishedModule, hub: Hub) -> str:
    """Return the README.md of a Hugging Face repository: YAML front matter, then the page of the module as Markdown."""
    import yaml

    row = module.row
    front: dict[str, Any] = {}
    if row["licence"] in HUGGING_FACE_LICENCES:
        front["license"] = row["licence"]
    else:
        front |= {"license": "other", "license_name": row["licence"]}
        if module.licence.url:
            front["license_link"] = module.licence.url
    front["library_name"] = "tf-keras"
    front["pipeline_tag"] = PIPELINES[module.task]
    front["tags"] = ["tensorflow", "tf-hub", "saved-model", row["network_architecture"]]
    front["tags"] += ["onnx"] * bool(module.onnx) + ["tflite"] * bool(module.lite)
    if datasets := [DATASETS[name] for name in row["datasets"] if name in DATASETS]:
        front["datasets"] = datasets
    if results := _results(module):
        front["model-index"] = [{"name": module.name, "results": results}]
    document = parse(pages.module_markdown(module.record, hub))
    text = rendering.text(
        "mirror/huggingface.md.j2",
        module=module,
        description="\n".join(document.description),
        body=document.body,
        repository=f"{module.publisher}/{module.name.replace('/', '-')}",  # their names have no slashes
    )
    written: str = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{written}---\n\n{text}"


def _results(module: PublishedModule) -> list[dict[str, Any]]:
    """Return the results of the model-index, reported by the source and measured here, each with who says so."""
    row, found = module.row, module.evaluation
    results = []
    if module.reported["top1"] is not None:
        metrics = [_accuracy("Top-1 accuracy (%), reported", module.reported["top1"])]
        if module.reported["top5"] is not None:
            metrics.append(_accuracy("Top-5 accuracy (%), reported", module.reported["top5"]))
        source = {"name": "as reported by the source of the weights", "url": row["numbers"]}
        results.append(_result(module, row["datasets"][-1], "validation", metrics, source))
    if found is not None:
        metrics = [_accuracy("Top-1 accuracy (%), measured", found.top1)]
        if found.top5 is not None:
            metrics.append(_accuracy("Top-5 accuracy (%), measured", found.top5))
        source = {"name": f"as measured by {module.publisher} on the published module", "url": module.url}
        results.append(_result(module, found.dataset, found.split, metrics, source))
    return results


def _accuracy(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "type": "accuracy", "value": value}


def _result(
    module: PublishedModule, dataset: str, split: str, metrics: list[dict[str, Any]], source: dict[str, str]
) -> dict[str, Any]:
    name = module.tags["dataset"][dataset].display_name if dataset in module.tags["dataset"] else dataset
    return {
        "task": {"type": PIPELINES[module.task], "name": module.task_name},
        "dataset": {"name": name, "type": DATASETS.get(dataset, dataset), "split": split},
        "metrics": metrics,
        "source": source,
    }


def kaggle_model(module: PublishedModule, hub: Hub) -> dict[str, Any]:
    """Return Kaggle's model-metadata.json of a module's family, whose variations are the hub's modules of that family."""
    members = [each for each in hub.names if each.row["family"] == module.row["family"]]
    members.sort(key=lambda each: each.name)
    papers = {each.row["paper"]["key"]: each.row["paper"] for each in members}
    return {
        "ownerSlug": module.publisher,
        "title": module.row["title"],
        "slug": _slug(module.row["family"]),
        "subtitle": f"{module.row['title']} image models as TF-Hub modules"[:80],
        "isPrivate": True,
        "description": rendering.text(
            "mirror/kaggle_model.md.j2",
            module=module,
            members=members,
            papers=list(papers.values()),
            describe=rendering.describe,
        ),
        "publishTime": min(each.published for each in members)[:10],
        "provenanceSources": "\n".join(sorted({each.checkpoint["url"] for each in members})),
    }


def kaggle_instance(module: PublishedModule, hub: Hub) -> dict[str, Any]:
    """Return Kaggle's model-instance-metadata.json of one module. Raises MirrorError if Kaggle has no such licence."""
    licence = module.row["licence"]
    if licence not in KAGGLE_LICENCES:
        raise MirrorError(
            f"{module.handle}: Kaggle has no licence {licence!r}",
            "leave this module out, or add its name there to KAGGLE_LICENCES in tools/publishing/mirror.py",
        )
    model, instance = _slug(module.row["family"]), _slug(module.name)
    document = parse(pages.module_markdown(module.record, hub))
    usage = rendering.text(
        "mirror/kaggle_usage.md.j2",
        module=module,
        body=document.body,
        repository=f"{module.publisher}/{model}/{FRAMEWORK}/{instance}",
    )
    return {
        "ownerSlug": module.publisher,
        "modelSlug": model,
        "instanceSlug": instance,
        "framework": FRAMEWORK,
        "overview": "\n".join(document.description),
        "usage": usage,
        "licenseName": KAGGLE_LICENCES[licence],
        "fineTunable": module.row["fine_tunable"],
        "trainingData": [tag.display_name for tag in module.datasets],
        "modelInstanceType": "Unspecified",
        "baseModelInstance": "",
        "externalBaseModelUrl": "",
    }


def _fetch(storage: Storage, file: FormatFile, target: Path) -> None:
    """Copy a file for another runtime from the hub; raises StorageError if it is not the recorded one."""
    digest = hashlib.sha256()
    with storage.open(file["path"]) as stream, target.open("xb") as out:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != file["sha256"]:
        message = f"{storage.url_for(file['path'])} has not the SHA-256 that its record says, {file['sha256']}"
        raise StorageError(with_fix(message, "check the whole hub with tools/audit.py, and restore the published file"))


def _slug(name: str) -> str:
    """Return a name in Kaggle's letters: lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _link(source: str, target: str) -> None:
    """Copy a file; the second copy of a large model costs no space where the file system can link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _replace(made: Path, target: Path, marker: str) -> Path:
    """Put a folder in place of the one that an earlier run made there."""
    if target.exists():
        if any(target.iterdir()) and not ((target / marker).is_file() and (target / GRAPH).is_file()):
            raise MirrorError(
                f"{target} holds something else than a mirrored module", "remove it or name another --out"
            )
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    made.rename(target)
    return target
