"""Accuracy and speed of published modules on labelled images, on this machine or on many; `tools/evaluate.py` is its command.

labels.py    what labels mean, and which of a module's logits stands for which class of the data
images.py    labelled images wherever they lie, as shards
modules.py   published modules, downloaded and checked
counts.py    exact counts, their sums, and what follows from them
running.py   the shards that are missing, one after the other; each is stored whole or not at all
pipeline.py  the same as an Apache Beam pipeline
"""


class EvaluationError(RuntimeError):
    """Modules cannot be measured, or not on these images; the message says why, a line a problem, and what to do."""
