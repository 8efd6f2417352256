"""An evaluation as an Apache Beam pipeline: shards are spread over workers, each of which loads the modules once.

    numbers of shards -> Reshuffle -> EvaluateShard (stored counts, or new ones) -> CombineGlobally(Sum) -> the sum, stored

`tools.evaluation.running` starts it with ORDER.json and Beam's own options, and starts it again when it fails. Workers elsewhere
need this repository on their PYTHONPATH, with its requirements (in a container, --sdk_container_image, or as processes,
--environment_type=PROCESS), and must reach the state, the images and the modules.
"""

import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import shared

from tools.evaluation.counts import Totals
from tools.evaluation.running import EvaluationWorker, Order, Setup, State, StateArguments


class EvaluateShard(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Turns a shard's number into its `Totals`. One `EvaluationWorker` serves all threads of a process."""

    def __init__(self, setup: Setup, state: StateArguments, cache: str):
        self._setup, self._state_arguments, self._cache = setup, state, cache
        self._shared = shared.Shared()

    def setup(self) -> None:
        self._worker: EvaluationWorker = self._shared.acquire(lambda: EvaluationWorker(self._setup, Path(self._cache)))
        self._state = State(**self._state_arguments)

    def process(self, number: int) -> Iterator[Totals]:
        yield self._state.evaluate(number, self._worker)


class Sum(beam.CombineFn):  # type: ignore[misc]  # Beam has no types
    """Adds up `Totals`; each shard is in the sum once, because a pipeline that fails has no sum."""

    def create_accumulator(self) -> Totals:
        return Totals()

    def add_input(self, accumulator: Totals, element: Totals) -> Totals:
        return accumulator.add(element)

    def merge_accumulators(self, accumulators: Iterable[Totals]) -> Totals:
        totals = Totals()
        for each in accumulators:
            totals.add(each)
        return totals

    def extract_output(self, accumulator: Totals) -> Totals:
        return accumulator


def run(order: Order, arguments: list[str]) -> None:
    """Run the pipeline of an order and wait for its end. Raises what Beam raises when it fails."""
    state = order["state"]
    with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
        (
            pipeline
            | "Shards" >> beam.Create(range(len(state["stamps"])))
            | "Spread" >> beam.Reshuffle()
            | "Evaluate" >> beam.ParDo(EvaluateShard(order["setup"], state, order["cache"]))
            | "Sum" >> beam.CombineGlobally(Sum())
            | "Store" >> beam.Map(_store, state)
        )


def _store(totals: Totals, state: StateArguments) -> None:
    State(**state).store_sum(totals)


def _end_with_parent() -> None:
    """End this process group, workers and all, when the process that started it is gone: it writes nothing to standard input."""
    while os.read(0, 1):  # not through sys.stdin, which Python wants for itself when it ends
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    order: Any = json.loads(Path(arguments[0]).read_text())
    run(order, arguments[1:])
    return 0
