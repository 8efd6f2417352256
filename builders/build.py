"""Build one row: checkpoint -> Keras model -> a SavedModel for each head. A process of its own, so that the bytes repeat.

    PYTHONHASHSEED=0 python -m builders.build SPEC.json OUT

SPEC holds `module` (what defines it, and what its `assets.extra/module.json` will say: the catalogue's `row`, `preprocessing`,
`checkpoint`, `versions`), `labels` (names or null), `heads`, `checkpoint_path` (the local file) and `file` (where the row is
written, for errors). OUT gets a folder for each head and `HEAD.json` with what was found out. Progress goes to standard output
as lines of JSON: `{"event": "stage", "name": NAME}`, and `{"event": "built", "head": HEAD}` when a head is complete, so that it can
be checked and packed while the next one is made.

Nothing of `tools` is imported: the sources that this program imports decide the bytes of modules.
"""

import collections
import json
import os
import sys
from pathlib import Path

from builders import environment


def build(spec, out, say):
    """Write the SavedModels of `spec` below `out`, and what was found out about each as `HEAD.json`.

    `say` is called with messages for the parent process. Raises ValueError (checkpoints.CheckpointError, weights.RestoreError)
    before anything is written if the checkpoint does not fit.
    """
    import numpy as np

    from builders import counting, export, precision

    row, out, where = spec["module"]["row"], Path(out), f"{spec['file']}: {spec['module']['row']['stem']}"
    out.mkdir(parents=True, exist_ok=True)
    say(_stage("restore"))
    model = restored(row, spec["checkpoint_path"], where)
    taken = model.restored.taken()
    described = spec["module"] | {"checkpoint": spec["module"]["checkpoint"] | taken}
    parts = {head: export.head_model(model, head) for head in spec["heads"]}
    say(_stage("compute the golden outputs"))
    images = export.golden_images(spec["module"]["preprocessing"]["transform"])
    normalised = export.normalised_images(images, spec["module"])
    with precision.in_float64(model):
        golden = {name: precision.rounded(values) for name, values in answer(model, parts, normalised).items()}
    for head in parts:
        if not np.isfinite(golden[export.OUTPUTS[head]]).all():
            raise ValueError(
                f"{where}: the {head} answers NaN: its checkpoint leaves weights unset or is damaged. Fix: get another one."
            )
    changes = {}
    if row["precision"] != "float32":
        own = answer(model, parts, normalised)
        changes = {
            head: precision.difference(own[name], golden[name])
            for head, name in export.OUTPUTS.items()
            if head in parts
        }
    for head, change in changes.items():
        if not change <= precision.LARGEST_CHANGE:
            raise ValueError(
                f"{where}: in {row['precision']} the {head} differs from itself in float64 by {change:.2g}, more than "
                f"{precision.LARGEST_CHANGE}. Fix: publish it in float32."
            )
    for head, part in parts.items():
        say(_stage(f"save {head}"))
        labels = spec["labels"] if head == "classifier" else None
        directory = export.save(part, head, described, out / head, labels)
        export.write_golden(directory, images, golden[export.OUTPUTS[head]])
        signature = export.signature(head, row, part)
        found = {
            "parameters": part.count_params(),
            "trainable_parameters": sum(int(np.prod(v.shape)) for v in part.trainable_variables),
            "multiply_adds": counting.multiply_adds(part, row["resolution"]),
            "signature": signature,
            "precision_change": changes.get(head),
            "taken": taken,
            # Of the first image: enough to tell one map from another, and the check has to compute one image only.
            "magnitudes": {each["name"]: float(np.abs(golden[each["name"]][0]).mean()) for each in signature["maps"]},
        }
        (out / f"{head}.json").write_text(json.dumps(found))
        say({"event": "built", "head": head})


def restored(row, path, where):
    """Return the Keras model of a row, in its precision, with the weights of the checkpoint at `path`; `where` is for errors.

    Its attribute `restored` is what `builders.restore` returned.
    """
    import builders
    from builders import layers, precision

    with layers.deferred_weights(), precision.using(row["precision"]):
        model = builders.create(row["family"], num_classes=row["classes"], **builders.arguments(row))
    # Not resized: the row says the size that its figures are for.
    format = builders.restore(model, path, key=row.get("checkpoint_key"), resize=False)
    if format.shards:
        raise ValueError(
            f"{where}: {Path(path).name} is an index, whose digest does not cover its {format.shards} shards. Fix: write them into "
            'one file with builders.checkpoints: write("x.safetensors", read(INDEX).tensors).'
        )
    if format.split("_")[0] != row["format"]:
        raise ValueError(
            f"{where}: {Path(path).name} is in {format} format, the row says {row['format']}. Fix: correct one of them."
        )
    model.restored = format
    return model


def answer(model, parts, images):
    """Return what the heads answer, and the maps, as `{output: float64 array}`: one pass over the network.

    `images` are normalised. They go through one by one, for the memory.
    """
    import keras
    import numpy as np

    import builders
    from builders import export

    outputs = {export.OUTPUTS[head]: part.output for head, part in parts.items()} | builders.maps(model)
    everything = keras.Model(model.input, list(outputs.values()))
    found = [_run(everything, image[None]) for image in images]
    return {name: np.concatenate(values) for name, *values in zip(outputs, *found, strict=True)}


def _run(model, images):
    """Return the outputs of a functional model on a batch as float64 arrays, outside of a graph.

    Keras itself would keep every intermediate result to the end; here each is forgotten after its last use.
    """
    import numpy as np

    depths = sorted(model._nodes_by_depth.items(), reverse=True)  # private, and pinned by the lock
    nodes = [node for _, each in depths for node in each if not node.is_input]
    uses = collections.Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(map(id, model.outputs))
    values = {id(model.inputs[0]): images}
    for node in nodes:
        arguments, keywords = node.arguments.fill_in(values)
        values[id(node.outputs[0])] = node.operation(*arguments, **keywords)
        del arguments, keywords
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                del values[id(tensor)]
    return [np.array(values[id(tensor)], np.float64) for tensor in model.outputs]


def _stage(name):
    """Return the message that a stage begins."""
    return {"event": "stage", "name": name}


def main(arguments):
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit(
            "without PYTHONHASHSEED=0 the same row gives other bytes every time. Fix: set PYTHONHASHSEED=0."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    specification, out = arguments
    return environment.run(lambda say: build(json.loads(Path(specification).read_text()), out, say), ValueError)


if __name__ == "__main__":
    environment.end(main(sys.argv[1:]))
