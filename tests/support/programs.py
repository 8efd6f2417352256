"""Programs that some tests need and not every machine has.

A test that needs one is skipped without it; where CI=true is set, it fails, so that a build server does not pass by skipping.
`.ci/run` installs them.
"""

import os
import shutil

import pytest

PROGRAMS = {  # names to look for, and Debian's package
    "bazel": (("bazel",), "bazel-bootstrap"),
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium"),
    "nginx": (("nginx",), "nginx"),
    "wrk": (("wrk",), "wrk"),
}


def find(program):
    """Return the path of one of `PROGRAMS`, or None."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return next(filter(None, (shutil.which(name, path=path) for name in PROGRAMS[program][0])), None)


def requires(program):
    """Return the path of one of `PROGRAMS`; without it skip the test or the file that asks, or fail where CI=true."""
    if found := find(program):
        return found
    reason = f"{program} is not installed. Fix: apt-get install {PROGRAMS[program][1]} (Debian)."
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
