"""module(): one row of the catalogue as a target, `bazel build //modules:convnext_digits`.

Two sandboxed actions. The first reads the catalogue and the checkpoint and writes spec.json: what decides the bytes of this row,
and nothing else. The second runs the build that tools/publish.py runs, on spec.json. So an edit of another row, or of a figure
that only pages show, ends with the first action, which takes a second; the second finds its inputs unchanged. Sources are inputs if
an action imports them (modules/sources.bzl), so an edit of another family or of the site starts neither.

The Python environment is no input: it is found beside the checkout (see tools/action.sh), and both actions refuse to
run with another Python than `python`, or with packages of other versions than requirements.lock has. The lock is an input, so
the key of an action covers the environment without naming a path, and caches can be shared between machines.

Bazel 4 to 9; no rules from elsewhere.
"""

def _module(ctx):
    name = ctx.label.name
    spec = ctx.actions.declare_file(name + "/spec.json")
    checkpoint_facts = ctx.actions.declare_file(name + "/checkpoint.json")
    made = ctx.actions.declare_file(name + "/made.json")
    archives = [ctx.actions.declare_file("{}/{}.tar.gz".format(name, head)) for head in ctx.attr.heads]

    # A checkpoint from outside comes with a file that says where it is from.
    origins = [file for file in ctx.files.checkpoint if file.basename == "ORIGIN"]
    checkpoint = [file for file in ctx.files.checkpoint if file.basename != "ORIGIN"]
    if len(checkpoint) != 1:
        fail("{}: `checkpoint` must be one file, not {}".format(ctx.label, [file.path for file in checkpoint]))
    shared = ctx.files._sources + ctx.files.builders + [ctx.file._lock, ctx.file._project]

    arguments = ctx.actions.args()
    arguments.add("plan")
    arguments.add("--row", ctx.attr.row)
    arguments.add("--checkpoint", checkpoint[0])
    if origins:
        arguments.add("--origin", origins[0])
    arguments.add("--python", ctx.attr.python)
    arguments.add("--spec", spec)
    arguments.add("--checkpoint-facts", checkpoint_facts)
    ctx.actions.run(
        executable = ctx.executable._action,
        arguments = [arguments],
        inputs = depset(shared + ctx.files._catalogue + ctx.files.checkpoint),
        outputs = [spec, checkpoint_facts],
        mnemonic = "PlanModule",
        progress_message = "Reading the row of %s" % name,
        use_default_shell_env = True,
    )

    arguments = ctx.actions.args()
    arguments.add("build")
    arguments.add("--python", ctx.attr.python)
    arguments.add("--spec", spec)
    arguments.add("--made", made)
    arguments.add_all("--archives", archives)
    ctx.actions.run(
        executable = ctx.executable._action,
        arguments = [arguments],
        inputs = depset(shared + [spec] + checkpoint + ctx.files.evaluation),
        outputs = [made] + archives,
        mnemonic = "BuildModule",
        progress_message = "Building and checking %s" % name,
        use_default_shell_env = True,
        # The build needs no network, whatever the sandbox allows by default.
        execution_requirements = {"block-network": ""},
    )
    return [
        DefaultInfo(files = depset([made, checkpoint_facts] + archives)),
        OutputGroupInfo(spec = depset([spec])),
    ]

module = rule(
    implementation = _module,
    doc = "The archives of a row, `<name>/<head>.tar.gz`, and what was found out about them, `made.json`.",
    attrs = {
        "row": attr.string(mandatory = True, doc = "stem and version, as in convnext_tiny_1k_224/1"),
        "heads": attr.string_list(mandatory = True, doc = "the modules that the row yields"),
        "checkpoint": attr.label(mandatory = True, allow_files = True),
        "builders": attr.label(mandatory = True, doc = "the sources of the row's family"),
        "evaluation": attr.label(allow_single_file = True, doc = "labelled images that accuracy is measured on"),
        "python": attr.string(default = "3.11", doc = "the Python that the modules are built with"),
        "_action": attr.label(
            default = Label("//tools:action.sh"),
            allow_single_file = True,
            executable = True,
            cfg = "exec",
        ),
        "_catalogue": attr.label(default = Label("//:catalogue")),
        "_lock": attr.label(default = Label("//:requirements.lock"), allow_single_file = True),
        "_project": attr.label(default = Label("//:pyproject.toml"), allow_single_file = True),
        "_sources": attr.label(default = Label("//tools:action_sources")),
    },
)
