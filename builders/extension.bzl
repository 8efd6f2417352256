"""What MODULE.bazel needs to declare the checkpoints; a file of its own because Bazel 4 has no module extensions."""

load(":checkpoints.bzl", declare = "checkpoints")

def _checkpoints(_module_ctx):
    declare()

checkpoints = module_extension(implementation = _checkpoints)
