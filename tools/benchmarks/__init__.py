"""Speed beside peers; `tools/benchmark.py` is the command. TensorFlow lives in the processes that are started, not here.

measuring.py        turns, medians, ratios; the machine; the report
rows.py             rows that have peers, and the names of these
engines.py          engines that answer images, each in a process of its own
engine_process.py   that process: run by this Python, or by one that has PyTorch
synthesise.py       networks with random weights
reporting.py        tables, and the files that are written
recording.py        speeds of published modules, as notes beside their records
inference.py load.py publish.py documents.py serve.py startup.py      the commands
"""
