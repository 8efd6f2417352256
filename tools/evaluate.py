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
.npz with images and labels, WebDataset's tar files, Parquet files of Hugging Face's data sets, TFRecord files, or tfds:NAME. Many
files are a quoted pattern with *, {000..063} or {a,b}, or --images given several times. Images are decoded as PIL does and given to
the module as they are; greys of more than 8 bits are scaled by the range of their format. Counts are exact. They are stored shard
by shard: a run that was killed goes on with the same command, and an evaluation that is complete is not run again. With --runner
they are counted by Apache Beam (its own options are written --option=value); shards of workers that die are evaluated by others.

An image is a regular file inside of the given folder; links are left out, pipes and devices are never opened. What is left out of a
folder is named. An image that is damaged, above a limit, or in another format than JPEG, PNG, WebP, GIF, BMP, TIFF, PPM and JPEG
2000 stops the evaluation, or is left out and named with --skip-broken.

Exit status 0: measured; 1: something failed, the same command goes on; 2: modules, images or options do not fit.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tools.common import scripts
from tools.common.problems import with_fix
from tools.evaluation import MAX_BYTES, MAX_PIXELS


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("evaluate", __doc__)
    arguments.add_argument(
        "addresses",
        nargs="+",
        metavar="URL",
        help="a classifier: its handle's address, its archive, a handle of --hub, or its file for another runtime, as in "
        "HANDLE/portable.onnx",
    )
    arguments.add_argument(
        "--images",
        required=True,
        action="append",
        metavar="DIR|FILE|PATTERN|tfds:NAME",
        help="the labelled images; several times for several tar, Parquet or TFRecord files",
    )
    arguments.add_argument(
        "--image-root", metavar="DIR", help="the folder that holds the images of a CSV (default: the folder of the CSV)"
    )
    arguments.add_argument(
        "--follow-links", action="store_true", help="take links for the files and folders that they lead to, each once"
    )
    limits = arguments.add_argument_group("limits of an image")
    limits.add_argument(
        "--max-pixels",
        type=scripts.positive,
        default=MAX_PIXELS,
        metavar="N",
        help="width x height (default: %(default)s)",
    )
    limits.add_argument(
        "--max-bytes",
        type=scripts.positive,
        default=MAX_BYTES,
        metavar="N",
        help="of a file, or of a member, a row or a record, before it is decoded (default: %(default)s)",
    )

    labels = arguments.add_argument_group("what labels mean")
    labels.add_argument(
        "--labels",
        metavar="NAME|FILE.tsv",
        help="the classes of the data, like imagenet_1k (default: as the images say)",
    )
    labels.add_argument(
        "--first-label",
        type=int,
        choices=(0, 1),
        help="labels are numbers, in whatever holds them, and this is the first class's",
    )
    labels.add_argument(
        "--ground-truth", metavar="FILE", help="the labels of a folder of images that is not in class folders"
    )
    labels.add_argument(
        "--image-key",
        metavar="KEY",
        help="what holds the images: a column of a CSV or of Parquet, the ending of a tar's members, or a feature of TFRecords "
        "(default: the column that can only be meant, any ending of images, image/encoded)",
    )
    labels.add_argument(
        "--label-key",
        metavar="KEY",
        help="what holds the labels, likewise; in a tar a member or a field of .json "
        "(default: the column that can only be meant, cls or the field label, image/class/label)",
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
        "--skip-broken", action="store_true", help="count and name images that cannot be used, and leave them out"
    )

    results = arguments.add_argument_group("results")
    results.add_argument(
        "--format", choices=("text", "json"), default="text", help="of standard output (default: text)"
    )
    results.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write evaluation.json, and of each module classes and confusion as CSV",
    )
    results.add_argument("--record", action="store_true", help="put the measurement beside the modules' records")
    results.add_argument(
        "--hub", help="the hub to record in, and that handles alone are of: a folder or gs://bucket/path"
    )
    scripts.add_url(results)
    results.add_argument("--dataset", metavar="TAG", help="for --record: an id of modules/tags/dataset.yaml")
    results.add_argument("--split", default="test", help="for --record and tfds: (default: %(default)s)")
    scripts.add_signing(arguments)

    work = arguments.add_argument_group("how")
    work.add_argument(
        "--batch", type=scripts.positive, default=32, metavar="N", help="images of one size run together (default: 32)"
    )
    work.add_argument(
        "--threads",
        type=scripts.positive,
        metavar="N",
        help="images decoded at the same time (default: by the processors)",
    )
    work.add_argument(
        "--shard-images", type=scripts.positive, default=500, metavar="N", help="images stored together (default: 500)"
    )
    work.add_argument("--state", metavar="DIR|URL", help="where counts are stored (default: in the cache)")
    scripts.add_cache(work, "modules")
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


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options, others = arguments.parse_known_args(argv)
    if others and not options.runner:
        fix = "see --help; options of Apache Beam go with --runner, and a pattern of several files is quoted"
        arguments.error(with_fix(f"there is no {others[0]}", fix))

    from tools.common import console
    from tools.evaluation import EvaluationError, images, modules, reporting, running
    from tools.evaluation.shards import Options
    from tools.hub import signatures
    from tools.hub.storage import StorageError
    from tools.publishing import evaluations

    try:
        found = images.find(
            options.images,
            Options(
                labels=options.labels,
                first_label=options.first_label,
                ground_truth=options.ground_truth,
                image_root=options.image_root,
                follow_links=options.follow_links,
                split=options.split,
                image_key=options.image_key,
                label_key=options.label_key,
                shard_images=options.shard_images,
                max_pixels=options.max_pixels,
                max_bytes=options.max_bytes,
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
            max_pixels=options.max_pixels,
            max_bytes=options.max_bytes,
        )
        if options.record:
            evaluations.require_recordable(plan, options.hub, options.dataset, options.url)
        signer = signatures.signer(options) if options.record else None
        if options.runner:
            running.require_pipeline(plan, runner=options.runner, state=options.state, images=options.images)
    except (EvaluationError, StorageError, OSError) as error:
        console.problems(error)
        return scripts.USAGE
    for sentence in found.notes:
        console.note(sentence)
    start = time.monotonic()
    try:
        place = options.state or str(options.cache / "evaluations")
        state = running.State(place, plan.key, plan.images.stamps, plan.skip_broken)
        with console.Progress(unit="shards") as progress:

            def report(done: int, images: int) -> None:
                progress.update("evaluate", f"{images:,} images" if images else "", done, len(plan.shards))

            if options.runner:
                totals = running.run_pipeline(
                    plan,
                    state,
                    runner=options.runner,
                    arguments=others,
                    cache=options.cache,
                    report=report,
                    notice=console.note,
                    stall_seconds=60 * options.stall_minutes,
                )
            else:
                totals = running.run_here(plan, state, cache=options.cache, report=report)
        seconds = time.monotonic() - start
        summaries = plan.summaries(totals)
        description = reporting.describe(plan, totals, summaries, dataset=options.dataset, split=options.split)
        if options.out:
            reporting.write(options.out, description, plan, summaries)
        if options.format == "json":
            print(reporting.as_json(description))
        else:
            reporting.show(description, seconds=seconds)
            if options.out:
                console.show(f"written to {options.out}")
        if options.record:
            for sentence in evaluations.record(
                plan,
                totals,
                summaries,
                hub=options.hub,
                dataset=options.dataset,
                split=options.split,
                date=description["date"],
                url=options.url,
                signer=signer,
            ):
                console.note(sentence)
    except (EvaluationError, StorageError, OSError) as error:
        console.problems(error)
        return scripts.FAILED
    return 0


if __name__ == "__main__":
    scripts.run(main, __file__, interrupted="run the same command again, and it goes on from here")
