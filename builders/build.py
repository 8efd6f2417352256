"""Build one row: checkpoint -> Keras model -> a SavedModel for each head. A process of its own, so that the bytes repeat.

    PYTHONHASHSEED=0 python -m builders.build SPEC.json OUT

SPEC holds `module` (what defines it, and what its `assets.extra/module.json` will say: the catalogue's `row`, `preprocessing`,
`checkpoint`, `versions`), `labels` (names or null), `heads`, `checkpoint_path` (the local file) and `file` (where the row is
written, for errors). OUT gets a folder for each head and `HEAD.json` with what was found out. Progress goes to standard output
as lines of JSON: `{"event": "stage", "name": NAME}`, and `{"event": "built", "head": HEAD}` when a head is complete, so that it can
be checked and packed while the next one is made.

Nothing of `tools` is imported: the sources that this program imports decide the bytes of modules.
"""

import contextlib
import gc
import json
import os
import sys
from pathlib import Path


def build(spec, out, say):
    """Write the SavedModels of `spec` below `out`, and what was found out about each as `HEAD.json`.

    `say` is called with messages for the parent process. Raises ValueError (checkpoints.CheckpointError, weights.RestoreError)
    before anything is written if the checkpoint does not fit.
    """
    import numpy as np

    from builders import counting, export, precision

    row, out, where = spec["module"]["row"], Path(out), f"{spec['file']}: {spec['module']['row']['stem']}"
    out.mkdir(parents=True, exist_ok=True)
    images = export.golden_images()
    normalised = export.normalised_images(images, spec["module"])
    exact = None
    if row["precision"] != "float32":
        say(_stage("compute in float32"))
        exact = answers_in_float32(row, spec["checkpoint_path"], where, spec["heads"], normalised)
        gc.collect()  # that model's weights are not to lie in memory beside the next one's
    say(_stage("restore"))
    model = restored(row, spec["checkpoint_path"], where)
    parts = {head: export.head_model(model, head) for head in spec["heads"]}
    answers = answer(model, parts, normalised)
    for head in parts:
        if not np.isfinite(answers[export.OUTPUTS[head]]).all():
            raise ValueError(
                f"{where}: the {head} answers NaN: its checkpoint leaves weights unset or is damaged. Fix: get another one."
            )
    changes = {
        head: precision.difference(answers[export.OUTPUTS[head]], exact[export.OUTPUTS[head]])
        for head in parts
        if exact
    }
    for head, change in changes.items():
        if not change <= precision.LARGEST_CHANGE:
            raise ValueError(
                f"{where}: in {row['precision']} the {head} differs from itself in float32 by {change:.2g}, more than "
                f"{precision.LARGEST_CHANGE}. Fix: publish it in float32."
            )
    for head, part in parts.items():
        say(_stage(f"save {head}"))
        labels = spec["labels"] if head == "classifier" else None
        directory = export.save(part, head, spec["module"], out / head, labels)
        export.write_golden(directory, images, answers[export.OUTPUTS[head]])
        signature = export.signature(head, row, part)
        found = {
            "parameters": part.count_params(),
            "trainable_parameters": sum(int(np.prod(v.shape)) for v in part.trainable_variables),
            "multiply_adds": counting.multiply_adds(part, row["resolution"]),
            "signature": signature,
            "precision_change": changes.get(head),
            # Of the first image: enough to tell one map from another, and the check has to compute one image only.
            "magnitudes": {each["name"]: float(np.abs(answers[each["name"]][0]).mean()) for each in signature["maps"]},
        }
        (out / f"{head}.json").write_text(json.dumps(found))
        say({"event": "built", "head": head})


def restored(row, path, where):
    """Return the Keras model of a row, in its precision, with the weights of the checkpoint at `path`; `where` is for errors."""
    import builders
    from builders import layers, precision

    with layers.deferred_weights(), precision.using(row["precision"]):
        model = builders.create(row["family"], num_classes=row["classes"], **builders.arguments(row))
    format = builders.restore(model, path, resize=False)  # the row says the size that its figures are for
    if format.split("_")[0] != row["format"]:
        raise ValueError(
            f"{where}: {Path(path).name} is in {format} format, the row says {row['format']}. Fix: correct one of them."
        )
    return model


def answers_in_float32(row, path, where, heads, images):
    """Return what `answer` would, were the row in float32."""
    from builders import export

    model = restored(row | {"precision": "float32"}, path, where)
    return answer(model, {head: export.head_model(model, head) for head in heads}, images)


def answer(model, parts, images):
    """Return what the heads answer, and the maps, as `{output: float32 array}`: one pass over the network.

    `images` are normalised. They go through one by one: a model that is called outside a graph keeps every intermediate result.
    """
    import keras
    import numpy as np

    import builders
    from builders import export

    outputs = {export.OUTPUTS[head]: part.output for head, part in parts.items()} | builders.maps(model)
    everything = keras.Model(model.input, outputs)
    found = {name: [] for name in outputs}
    for image in images:
        for name, values in everything(image[None], training=False).items():
            found[name].append(np.array(values[0], np.float32))
    return {name: np.stack(values) for name, values in found.items()}


def _stage(name):
    """Return the message that a stage begins."""
    return {"event": "stage", "name": name}


@contextlib.contextmanager
def _messages_only():
    """Yield a function that writes a message to standard output; what libraries print goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as messages:
        os.dup2(2, 1)

        def say(message):
            messages.write(json.dumps(message) + "\n")
            messages.flush()

        yield say


def main(arguments):
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit(
            "without PYTHONHASHSEED=0 the same row gives other bytes every time. Fix: set PYTHONHASHSEED=0."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    specification, out = arguments
    try:
        with _messages_only() as say:
            build(json.loads(Path(specification).read_text()), out, say)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is written: taking a million objects of Keras and TensorFlow apart would take seconds
