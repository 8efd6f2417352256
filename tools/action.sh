#!/bin/sh
# Run tools/publishing/action.py with the project's Python: what the targets of modules/BUILD.bazel execute, in a sandbox or elsewhere.
#
# The environment is looked for at HUBPRESS_PYTHON (`bazel build --action_env=HUBPRESS_PYTHON=/path/to/python`, which becomes
# a part of every key), then beside the checkout that this file is linked from (.venv, made by `make venv`), then where
# an image for remote execution has it. No path but the first is in a key, so caches fit every checkout and machine.
set -eu
beside=$(dirname "$(dirname "$(readlink -f "$0")")")/.venv/bin/python
for python in "${HUBPRESS_PYTHON:-$beside}" "${HUBPRESS_PYTHON:-/opt/hubpress/bin/python}"; do
  if [ -x "$python" ]; then
    # An empty environment: nothing of the user who runs this reaches the build.
    exec env -i PATH="$PATH" PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 LC_ALL=C.UTF-8 \
      "$python" -m tools.publishing.action "$@"
  fi
done
echo "No Python at ${HUBPRESS_PYTHON:-$beside or /opt/hubpress/bin/python}. Fix: run \`make venv\`, or name an environment that was made from requirements.lock with --action_env=HUBPRESS_PYTHON=/path/to/python." >&2
exit 1
