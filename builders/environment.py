"""Environment of a process that makes or checks modules: what its user has set up for other work does not count.

    environment.isolate()        # before Keras or TensorFlow is imported

Variables change what Keras, TensorFlow, XLA and oneDNN compute, and can break them; `~/.keras/keras.json` changes the backend, and
the type and the layout of what layers compute.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

Say = Callable[[Mapping[str, Any]], None]  # writes a message to whoever started this process

PREFIXES = ("KERAS_", "TF_", "TF2_", "XLA_", "ONEDNN_", "DNNL_")
# These stay: how much is said, how many threads compute, and with which instructions of the processor. No archive depends on them.
KEPT = (
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
)


def isolate() -> None:
    """Remove the user's settings for Keras and TensorFlow from the variables of this process."""
    for name in [each for each in os.environ if each.startswith(PREFIXES) and each not in KEPT]:
        del os.environ[name]
    os.environ["KERAS_HOME"] = os.devnull  # where keras.json can neither be nor be written


@contextlib.contextmanager
def messages_only() -> Iterator[Say]:
    """Yield a function that writes a message to standard output; what libraries print goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as messages:
        os.dup2(2, 1)

        def say(message: Mapping[str, Any]) -> None:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

        yield say


def run(work: Callable[[Say], object], refusal: type[Exception]) -> int:
    """Do the work of a program that another process started, in an environment of its own; return the exit status.

    A `refusal` is an error in words, for standard error; any other exception is a fault of the program.
    """
    isolate()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with messages_only() as say:
            work(say)
    except refusal as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def end(status: int) -> NoReturn:
    """End this process, of which all is written: taking a million objects of Keras and TensorFlow apart would take seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
