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
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import shared

from tools.evaluation.counts import Totals
from tools.evaluation.running import Engine, State


class EvaluateShard(beam.DoFn):
    """A shard's number -> its `Totals`. One `Engine` serves all threads of a worker process."""

    def __init__(self, setup: dict, state: dict, cache: str):
        self._setup, self._state_arguments, self._cache = setup, state, cache
        self._shared = shared.Shared()

    def setup(self):
        self._engine = self._shared.acquire(lambda: Engine(self._setup, Path(self._cache)))
        self._state = State(**self._state_arguments)

    def process(self, number):
        yield self._state.evaluated(number, self._engine)


class Sum(beam.CombineFn):
    """Adds up `Totals`; each shard is in the sum once, because a pipeline that fails has no sum."""

    def create_accumulator(self):
        return Totals()

    def add_input(self, accumulator, element):
        return accumulator.add(element)

    def merge_accumulators(self, accumulators):
        totals = Totals()
        for each in accumulators:
            totals.add(each)
        return totals

    def extract_output(self, accumulator):
        return accumulator


def run(order: dict, arguments: list[str]) -> None:
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


def _store(totals: Totals, state: dict) -> None:
    State(**state).keep_sum(totals)


def _end_with_parent() -> None:
    """End this process group, workers and all, when whoever started it is gone: nothing else is ever written to its input."""
    while os.read(0, 1):  # not through sys.stdin, which Python wants for itself when it ends
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run(json.loads(Path(arguments[0]).read_text()), arguments[1:])
    return 0
