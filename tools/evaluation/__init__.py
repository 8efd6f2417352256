"""Accuracy and speed of published modules on labelled images, on this machine or on many; `tools/evaluate.py` is its command.

labels.py      sets of classes, and which of a module's logits stands for which class of the data
images.py      labelled images wherever they lie, as shards: find them, whatever they are in
shards.py      what a list of images and its shards are
files.py       files here and elsewhere: listed, opened if they are regular files, read within limits
lists.py       image files in folders or in lists
arrays.py      arrays in .npz files
tfrecords.py   TFRecord files, and what TensorFlow Datasets prepared
tars.py        WebDataset's tar files
parquets.py    Parquet files with images, as Hugging Face's data sets have them
decoding.py    encoded images to pixels
modules.py     published modules, downloaded and checked
counts.py      exact counts, their sums, and the results that follow from them
running.py     evaluation of the missing shards, one after the other; each is stored whole or not at all
worker.py      the process with TensorFlow that evaluates shards
pipeline.py    the same as an Apache Beam pipeline
reporting.py   results as JSON, files and tables
"""

from tools.common.printable import printable_lines
from tools.common.problems import with_fix

MAX_PIXELS, MAX_BYTES = 64_000_000, 64 << 20  # of an image, unless options say otherwise


class EvaluationError(RuntimeError):
    """Modules cannot be evaluated, or not on these images: the message has a line for each problem, and says what to do.

    `fix` is added to the message in the form that all messages have. What a terminal would not print is escaped.
    """

    def __init__(self, message: str, fix: str = ""):
        text = with_fix(message, fix) if fix else message
        super().__init__(printable_lines(text))


class BadImagesError(EvaluationError):
    """Images or labels cannot be used, whoever tries: the message names each."""


class UnusableImage(Exception):
    """One image cannot be used, and all others can: the text says why."""
