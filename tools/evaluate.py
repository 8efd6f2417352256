"""Measure published classifiers on labelled images: top-1, top-5, each class, confusion and speed, several in one pass.

    python tools/evaluate.py http://127.0.0.1:8000/hubpress/convnext_digits/1 --images modules/quickstart/digits_test.npz
    python tools/evaluate.py hubpress/{convnext_tiny_1k_224,regnety800mf_classification}/1 --hub ./hub --images /data/imagenet/val
    python tools/evaluate.py gs://bucket/hub/hubpress/NAME/1 --images 'gs://bucket/val/validation-*' --first-label 1 \\
        --record --dataset imagenet-ilsvrc-2012-cls --split validation
    python tools/evaluate.py URL --images val.csv --runner DirectRunner \\
        --direct_running_mode=multi_processing --direct_num_workers=8
    python tools/evaluate.py gs://bucket/hub/hubpress/NAME/1 --images gs://bucket/val --state gs://bucket/state \\
        --runner DataflowRunner --project=... --region=... --sdk_container_image=...

Images are a folder (of class folders, or ImageNet's validation images with their list), a CSV with the columns path and label, an
.npz with images and labels, a quoted pattern of TFRecord files, or tfds:NAME. They are decoded as PIL does and given to the module
as they are. Counts are exact. They are stored shard by shard: a run that was killed goes on with the same command, and an
evaluation that is complete is not run again. With --runner they are counted by Apache Beam (its own options are written
--option=value); shards of workers that die are evaluated by others.

Exit status 0: measured; 1: something failed, the same command goes on; 2: modules, images or options do not fit.
"""

import argparse
import os
import pathlib
import sys

from tools.common.files import default_cache


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="tools/evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    arguments.add_argument(
        "addresses",
        nargs="+",
        metavar="URL",
        help="a classifier: its handle's address, its archive, or a handle of --hub",
    )
    arguments.add_argument("--images", required=True, metavar="DIR|FILE|PATTERN|tfds:NAME", help="the labelled images")

    labels = arguments.add_argument_group("what labels mean")
    labels.add_argument(
        "--labels",
        metavar="NAME|FILE.tsv",
        help="the classes of the data, like imagenet_1k (default: as the images say)",
    )
    labels.add_argument(
        "--first-label", type=int, choices=(0, 1), help="the number of the first class, where labels are numbers"
    )
    labels.add_argument(
        "--ground-truth", metavar="FILE", help="the labels of a folder of images that is not in class folders"
    )
    labels.add_argument(
        "--image-key", default="image/encoded", metavar="KEY", help="of TFRecords (default: %(default)s)"
    )
    labels.add_argument(
        "--label-key", default="image/class/label", metavar="KEY", help="of TFRecords (default: %(default)s)"
    )
    labels.add_argument(
        "--outputs",
        choices=("all", "data"),
        help="which classes compete where the module has more than the data: all its own, or those of the data",
    )
    labels.add_argument(
        "--missing",
        choices=("refuse", "wrong"),
        default="refuse",
        help="images of classes that the module does not have: refuse, or count them as wrong (default: refuse)",
    )
    labels.add_argument(
        "--skip-broken", action="store_true", help="count images that cannot be decoded, and leave them out"
    )

    results = arguments.add_argument_group("results")
    results.add_argument(
        "--format", choices=("text", "json"), default="text", help="of standard output (default: text)"
    )
    results.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="DIR",
        help="write evaluation.json, and of each module classes and confusion as CSV",
    )
    results.add_argument("--record", action="store_true", help="put the measurement beside the modules' records")
    results.add_argument(
        "--hub", help="the hub to record in, and that handles alone are of: a folder or gs://bucket/path"
    )
    results.add_argument("--url", help="for --record: the hub's public address (default: that of its pages)")
    results.add_argument("--dataset", metavar="TAG", help="for --record: an id of modules/tags/dataset.yaml")
    results.add_argument("--split", default="test", help="for --record and tfds: (default: %(default)s)")

    work = arguments.add_argument_group("how")
    work.add_argument(
        "--batch", type=int, default=32, metavar="N", help="images of one size run together (default: 32)"
    )
    work.add_argument(
        "--threads", type=int, metavar="N", help="images decoded at the same time (default: by the processors)"
    )
    work.add_argument(
        "--shard-images", type=int, default=500, metavar="N", help="images stored together (default: 500)"
    )
    work.add_argument("--state", metavar="DIR|URL", help="where counts are stored (default: in the cache)")
    work.add_argument(
        "--cache", type=pathlib.Path, default=default_cache(), help="where modules are kept (default: %(default)s)"
    )
    work.add_argument(
        "--runner",
        metavar="NAME",
        help="run as an Apache Beam pipeline: DirectRunner, FlinkRunner, DataflowRunner, ...",
    )
    work.add_argument(
        "--stall-minutes",
        type=float,
        default=30,
        metavar="N",
        help="a pipeline is started again after so long without a shard",
    )
    return arguments


def main(argv=None) -> int:
    arguments = parser()
    options, others = arguments.parse_known_args(argv)
    if others and not options.runner:
        arguments.error(f"there is no {others[0]}; options of Apache Beam go with --runner")
    if min(options.batch, options.shard_images, options.threads or 1) < 1:
        arguments.error("--batch, --threads and --shard-images are at least 1")

    from tools.common import console
    from tools.evaluation import EvaluationError, images, modules, running
    from tools.hub.storage import StorageError

    try:
        found = images.find(
            options.images,
            images.Options(
                labels=options.labels,
                first_label=options.first_label,
                ground_truth=options.ground_truth,
                split=options.split,
                image_key=options.image_key,
                label_key=options.label_key,
                shard_images=options.shard_images,
            ),
        )
        chosen = [modules.find(each, cache=options.cache, hub=options.hub) for each in options.addresses]
        plan = running.make_plan(
            chosen,
            found,
            outputs=options.outputs,
            missing=options.missing,
            batch=options.batch,
            threads=options.threads or min(8, 2 * (os.cpu_count() or 1)),
            skip_broken=options.skip_broken,
        )
        if options.record:
            from tools.publishing import evaluations as recording

            recording.require_recordable(plan, options.hub, options.dataset, options.url)
        if options.runner:
            require_pipeline(options, plan)
    except (EvaluationError, StorageError) as error:
        console.problems(error)
        return 2
    for note in found.notes:
        tell(note)
    try:
        totals, seconds = evaluate(options, others, plan)
        summaries = plan.summaries(totals)
        described = describe(options, plan, totals, summaries)
        if options.out:
            write(options.out, described, plan, summaries)
        show(options, described, totals, seconds)
        if options.record:
            from tools.common.clock import now

            for sentence in recording.record(
                plan,
                totals,
                summaries,
                hub=options.hub,
                dataset=options.dataset,
                split=options.split,
                date=now(),
                url=options.url,
            ):
                tell(sentence)
    except (EvaluationError, StorageError, OSError) as error:
        console.problems(error)
        return 1
    except KeyboardInterrupt:
        console.problems("interrupted; the same command goes on from here")
        return 130
    return 0


def require_pipeline(options, plan) -> None:
    """What only a pipeline needs; raises EvaluationError."""
    import importlib.util

    from tools.evaluation import EvaluationError

    if importlib.util.find_spec("apache_beam") is None:
        raise EvaluationError(
            "--runner needs Apache Beam: run `python -m pip install 'apache-beam>=2.60'` (the extra `beam`)"
        )
    if options.runner == "DataflowRunner":
        places = {"--state": options.state or "", "--images": options.images}
        places |= {f"the module {each.title}": each.archive for each in plan.modules}
        if local := [name for name, place in places.items() if "://" not in place]:
            raise EvaluationError(
                f"workers of Dataflow do not see this machine's files: give {', '.join(local)} as a URL"
            )


def evaluate(options, others, plan):
    """Run what is missing, with a bar where somebody watches: (the sum, seconds)."""
    import time

    import rich.progress

    from tools.common import console
    from tools.evaluation import running

    state = running.State(
        options.state or str(options.cache / "evaluations"), plan.key, plan.images.stamps, plan.skip_broken
    )
    columns = (
        "[progress.description]{task.description}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
    )
    columns += ("shards", rich.progress.TimeElapsedColumn(), rich.progress.TimeRemainingColumn())
    hidden = not console.ERR.is_terminal
    start = time.monotonic()
    with rich.progress.Progress(*columns, console=console.ERR, transient=True, disable=hidden) as bar:
        task = bar.add_task("evaluate", total=len(plan.shards))

        def report(done, images):
            bar.update(task, completed=done, description=f"{images:,} images" if images else "evaluate")

        if options.runner:
            totals = running.run_pipeline(
                plan,
                state,
                runner=options.runner,
                arguments=others,
                cache=options.cache,
                report=report,
                notice=tell,
                stall_seconds=60 * options.stall_minutes,
            )
        else:
            totals = running.run_here(plan, state, cache=options.cache, report=report)
    return totals, time.monotonic() - start


def describe(options, plan, totals, summaries) -> dict:
    """The evaluation as JSON."""
    from tools.common.clock import now

    return {
        "schema": 1,
        "kind": "Evaluation",
        "date": now(),
        "images": {
            "source": plan.images.source,
            "list_sha256": plan.images.digest,
            "evaluated": totals.images,
            "broken": totals.broken,
            "broken_names": totals.broken_names,
        },
        "dataset": options.dataset,
        "split": options.split,
        "versions": totals.versions,
        "devices": totals.devices,
        "seconds": round(totals.seconds, 3),
        "modules": [
            {
                "handle": module.handle,
                "address": module.address,
                "archive_sha256": module.sha256,
                "competing_outputs": len(mapping.allowed or ()) or module.outputs,
                **{key: value for key, value in found.items() if key != "confusion"},
            }
            for module, mapping, found in zip(plan.modules, plan.mappings, summaries, strict=True)
        ],
    }


def write(folder: pathlib.Path, described: dict, plan, summaries) -> None:
    """`evaluation.json`, and of each module `NAME.classes.csv` and `NAME.confusion.csv` (the pairs that occurred)."""
    import json

    from tools.evaluation.counts import table

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(
        json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for module, found in zip(plan.modules, summaries, strict=True):
        name = module.handle.replace("/", "-") if module.handle else module.sha256[:12]
        for what in ("classes", "confusion"):
            (folder / f"{name}.{what}.csv").write_bytes(table(found[what]))


def show(options, described: dict, totals, seconds: float) -> None:
    """The results as a table, or as JSON."""
    import json

    from tools.common import console

    if options.format == "json":
        print(json.dumps(described, indent=1, ensure_ascii=False))
        return
    rows = [
        (
            each["handle"] or each["address"],
            *(f"{each[top]['value']:.2f} % ({each[top]['correct']:,})" for top in ("top1", "top5")),
            f"{each['images']:,}",
            f"{each['images_per_second']:,.1f}" if each["images_per_second"] else "",
        )
        for each in described["modules"]
    ]
    console.show(console.table("Module", "Top-1>", "Top-5>", "Images>", "Images/s>", rows=rows))
    broken = f", {totals.broken} that cannot be decoded were left out" if totals.broken else ""
    console.show(
        f"{totals.images:,} images of {described['images']['source']}{broken}; this run took {seconds:.1f} s on "
        f"{', '.join(totals.devices)}; list sha256 {described['images']['list_sha256'][:12]}"
    )
    if options.out:
        console.show(f"written to {options.out}")


def tell(sentence: str) -> None:
    """What is no result, to standard error."""
    from tools.common import console

    console.ERR.print(sentence, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
