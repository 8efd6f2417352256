"""Accuracy and speed of published modules on labelled images, on this machine or on many; `tools/evaluate.py` is its command.

labels.py    sets of classes, and which of a module's logits stands for which class of the data
images.py    labelled images wherever they lie, as shards
modules.py   published modules, downloaded and checked
counts.py    exact counts, their sums, and the results that follow from them
running.py   evaluation of the missing shards, one after the other; each is stored whole or not at all
worker.py    the process with TensorFlow that evaluates shards
pipeline.py  the same as an Apache Beam pipeline
"""

from tools.common.problems import with_fix


class EvaluationError(RuntimeError):
    """Modules cannot be evaluated, or not on these images: the message has a line for each problem, and says what to do.

    `fix` is added to the message in the form that all messages have.
    """

    def __init__(self, message: str, fix: str = ""):
        super().__init__(with_fix(message, fix) if fix else message)


class BadImagesError(EvaluationError):
    """Images or labels cannot be used, whoever tries: the message names each."""
