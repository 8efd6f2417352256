"""Upstream checkpoints as declared inputs: @checkpoints//:LABEL, for each file that modules/checkpoints.bzl lists.

    bazel build //modules:convnext_tiny_1k_224                                                  # downloaded from upstream
    bazel build --repo_env=HUBPRESS_CHECKPOINTS=/data/checkpoints //modules:convnext_tiny_1k_224   # from a folder

Nothing is fetched in an action. Each file is a repository of its own, fetched when a target needs it and kept by Bazel.
HUBPRESS_CHECKPOINTS is a folder, or the base URL of a mirror, that is asked *instead of* upstream for a file's whole path, and then
for its name where no other file has that, as `tools/publish.py --checkpoints` does.
"""

load("//modules:checkpoints.bzl", "CHECKPOINTS")

_VARIABLE = "HUBPRESS_CHECKPOINTS"

def _checkpoint(repository_ctx):
    url, places = repository_ctx.attr.url, repository_ctx.attr.places
    name = places[0].split("/")[-1]
    if hasattr(repository_ctx, "getenv"):  # Bazel 7.1
        source = repository_ctx.getenv(_VARIABLE)
    else:
        source = repository_ctx.os.environ.get(_VARIABLE)
    urls = [url]
    if source and "://" in source:
        urls = ["{}/{}".format(source.rstrip("/"), place) for place in places]
    if source and "://" not in source:
        if not source.startswith("/"):
            fail("{}={} is no absolute path; write the folder's whole path".format(_VARIABLE, source))
        paths = [repository_ctx.path(source + "/" + place) for place in places]
        there = [path for path in paths if path.exists]
        if not there:
            fail("{} is not there; put the file of {} there under this name".format(" nor ".join([str(path) for path in paths]), url))
        repository_ctx.symlink(there[0], name)
    elif urls[0].startswith("http://") or urls[0].startswith("https://") or urls[0].startswith("file://"):
        repository_ctx.download(url = urls, output = name, sha256 = repository_ctx.attr.sha256)
    else:
        fail("Bazel cannot download {}; put the file into a folder, and name that with --repo_env={}=FOLDER".format(
            url,
            _VARIABLE,
        ))
    repository_ctx.file("ORIGIN", "mirror\n" if source else "upstream\n")
    repository_ctx.file("BUILD.bazel", """
filegroup(
    name = "checkpoint",
    srcs = ["ORIGIN", "{}"],
    visibility = ["//visibility:public"],
)
""".format(name))

_checkpoint_repository = repository_rule(
    implementation = _checkpoint,
    attrs = {
        "url": attr.string(mandatory = True),
        "places": attr.string_list(mandatory = True, doc = "paths in a mirror, in the order in which they are looked at"),
        "sha256": attr.string(doc = "what the row pins; empty if it pins nothing"),
    },
    environ = [_VARIABLE],
)

def _all(repository_ctx):
    lines = []
    for name, repository in repository_ctx.attr.repositories.items():
        lines.append('alias(name = "{}", actual = "@{}//:checkpoint")\n'.format(name, repository))
    repository_ctx.file("BUILD.bazel", 'package(default_visibility = ["//visibility:public"])\n' + "".join(lines))

_checkpoints_repository = repository_rule(
    implementation = _all,
    attrs = {"repositories": attr.string_dict(mandatory = True)},
)

def checkpoints():
    """Declare @checkpoints and a repository for each file; called by WORKSPACE, and by builders/extension.bzl for MODULE.bazel."""
    repositories = {}
    for label, (url, path, sha256) in CHECKPOINTS.items():
        repositories[label] = "checkpoint-" + label.replace("/", "--")
        places = [path] if label == path else [path, label]
        _checkpoint_repository(name = repositories[label], url = url, places = places, sha256 = sha256)
    _checkpoints_repository(name = "checkpoints", repositories = repositories)
