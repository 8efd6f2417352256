"""What `tools/benchmark.py` measures, a file for each command; no TensorFlow here, but in the processes that are started.

measuring.py        turns, medians, ratios; the machine; the report (its schema is there)
rows.py             which rows have peers, and under which names
engines.py          engines that answer images, each in a process of its own: what the parent sees of them
engine_process.py   the other end: run by this Python, or by one that has PyTorch
synthesise.py       networks with random weights
reporting.py        tables, and the files that are written
inference.py load.py publish.py documents.py serve.py startup.py      the commands
"""
