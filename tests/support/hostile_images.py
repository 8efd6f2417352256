"""Find and read sets of images in a process with little memory: one line of JSON about each set on standard input.

    python -m tests.support.hostile_images BYTES SECONDS

A line holds the arguments of `images.find`; the answer has `error`, or `images`, `left_out` and why images cannot be used.
"""

import json
import resource
import sys

from tools.evaluation import MAX_BYTES, MAX_PIXELS, EvaluationError, UnusableImage, images, labels, worker


def answer(source, options):
    try:
        found = images.find(source, images.Options(**options))
        classes = found.classes or labels.load("digits")
        good, unusable = 0, []
        for shard in found.shards:
            for name, _, content in worker.items(shard, classes, options.get("max_bytes", MAX_BYTES)):
                pixels = worker.decode_ahead(name, content, MAX_PIXELS)
                if isinstance(pixels, bytes):
                    pixels = worker.decode_large(pixels, MAX_PIXELS)
                if isinstance(pixels, UnusableImage):
                    unusable.append(f"{name}: {pixels}")
                else:
                    good += 1
        return {"images": good, "left_out": dict(found.left_out), "unusable": unusable}
    except EvaluationError as error:
        return {"error": str(error)}


def main():
    for kind, limit in ((resource.RLIMIT_DATA, int(sys.argv[1])), (resource.RLIMIT_CPU, int(sys.argv[2]))):
        resource.setrlimit(kind, (limit, limit))
    for line in sys.stdin:
        source, options = json.loads(line)
        print(json.dumps(answer(source, options)), flush=True)


if __name__ == "__main__":
    main()
