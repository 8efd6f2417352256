"""Build one row: checkpoint -> Keras model -> a SavedModel for each head. A process of its own, so that the bytes repeat.

    PYTHONHASHSEED=0 python -m builders.build SPEC.json OUT

SPEC holds `module` (what defines it, and what its `assets.extra/module.json` will say: the catalogue's `row`, `preprocessing`,
`checkpoint`, `versions`), `labels` (names or null), `heads`, `checkpoint_path` (the local file) and `file` (where the row is
written, for errors). OUT gets a folder for each head and `build.json`; progress goes to standard output, one line a stage.
"""

import json
import os
import sys
from pathlib import Path


def build(spec, out):
    """Write the SavedModels of `spec` below `out`; returns what was found out, as `build.json` holds it.

    Raises ValueError (checkpoints.CheckpointError, weights.RestoreError) before anything is written if the checkpoint does not fit.
    """
    import numpy as np

    import builders
    from builders import counting, export, layers

    row, out, where = spec["module"]["row"], Path(out), f"{spec['file']}: {spec['module']['row']['stem']}"
    out.mkdir(parents=True, exist_ok=True)
    path = spec["checkpoint_path"]
    stage("restore")
    with layers.deferred_weights():
        model = builders.create(row["family"], num_classes=row["classes"], **builders.arguments(row))
    format = builders.restore(model, path, resize=False)  # the row says the size that its figures are for
    if format.split("_")[0] != row["format"]:
        raise ValueError(
            f"{where}: {Path(path).name} is in {format} format, the row says {row['format']}; correct one of them"
        )
    images = export.golden_images()
    normalised = export.normalised_images(images, spec["module"])
    found = {"format": format, "heads": {}}
    for head in spec["heads"]:
        stage(f"save {head}")
        part = export.head_model(model, head)
        answers = {k: np.asarray(v) for k, v in export.joint_model(part, head)(normalised, training=False).items()}
        outputs = np.asarray(answers.pop(export.OUTPUTS[head]), np.float32)
        if not np.isfinite(outputs).all():
            raise ValueError(f"{where}: the {head} answers NaN; its checkpoint leaves weights unset or is damaged")
        labels = spec["labels"] if head == "classifier" else None
        directory = export.save(part, head, spec["module"], out / head, labels)
        export.write_golden(directory, images, outputs)
        found["heads"][head] = {
            "parameters": part.count_params(),
            "trainable_parameters": sum(int(np.prod(v.shape)) for v in part.trainable_variables),
            "multiply_adds": counting.multiply_adds(part, row["resolution"]),
            "signature": export.signature(head, row, part),
            "magnitudes": {name: float(np.abs(answer).mean()) for name, answer in answers.items()},
        }
    (out / "build.json").write_text(json.dumps(found))
    return found


def stage(name):
    """Tell the parent process what is being done."""
    print(f"stage {name}", flush=True)


def main(arguments):
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit("set PYTHONHASHSEED=0: without it the same row gives other bytes every time")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    specification, out = arguments
    try:
        build(json.loads(Path(specification).read_text()), out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
