"""tfhub.dev's document format as a strict reading of one document, written independently of the templates."""

import re

REQUIRED = {"Module": {"asset-path", "fine-tunable", "format", "task"}, "Collection": {"task"}, "Publisher": set()}
OPTIONAL = {
    "Module": {"network-architecture", "colab", "dataset", "language", "license", "interactive-visualizer"},
    "Collection": {"dataset", "language", "network-architecture"},
    "Publisher": set(),
}
REPEATABLE = {"dataset", "language", "task", "network-architecture"}
VOCABULARIES = {"dataset", "task", "network-architecture", "license"}
HANDLE = r"# (Module|Collection) (?P<handle>[a-z0-9-]+/[\w.-]+(/[\w.-]+)*/[0-9]+)|# Publisher (?P<publisher>[a-z0-9-]+)"


def metadata(text: str) -> dict[str, list[str]]:
    return {
        key: [v for k, v in re.findall(r"^<!-- ([\w-]+): (.*) -->$", text, re.M) if k == key]
        for key, _ in re.findall(r"^<!-- ([\w-]+): (.*) -->$", text, re.M)
    }


def problems(path: str, text: str, tags: dict) -> list[str]:
    """Everything in which the document at `path` of the hub departs from the format."""
    found = []
    lines = text.split("\n")
    head = re.fullmatch(HANDLE, lines[0], re.ASCII)
    if not head:
        return [f"line 1 is no handle: {lines[0]!r}"]
    kind = lines[0].split()[1]
    if kind == "Publisher":
        place = f"{head['publisher']}/{head['publisher']}.md"
    else:
        owner, _, rest = head["handle"].partition("/")
        place = f"{owner}/collections/{rest}.md" if kind == "Collection" else f"{owner}/{rest}.md"
    if path != place:
        found.append(f"lies at {path}, not at {place}")
    at = 2 if lines[1] == "" else 1
    start = at
    while lines[at] and not lines[at].startswith("<!--"):
        at += 1
    if at == start or any(line.startswith("#") for line in lines[start:at]):
        found.append("has no description")
    values: dict[str, list[str]] = {}
    while not lines[at].startswith("#"):
        match = re.fullmatch(r"<!-- ([\w -]+): (\S.*\S) -->", lines[at])
        if match:
            values.setdefault(match[1], []).append(match[2])
        elif lines[at]:
            found.append(f"line {at + 1} is not metadata: {lines[at]!r}")
        at += 1
    for key in REQUIRED[kind] - values.keys():
        found.append(f"{key} is missing")
    for key in values.keys() - REQUIRED[kind] - OPTIONAL[kind]:
        found.append(f"{key} is unknown")
    for key, given in values.items():
        if key not in REPEATABLE and len(given) > 1:
            found.append(f"{key} is repeated")
        if key in VOCABULARIES:
            found += [f"{key}: {v!r} is unknown" for v in given if v not in tags[key.replace("-", "_")]]
    if kind == "Module":
        if values.get("format") != ["saved_model_2"] or values.get("fine-tunable") not in (["true"], ["false"]):
            found.append("format or fine-tunable has another value than the format permits")
        if not all(re.fullmatch(r"https?://\S+\.tar\.gz", v) for v in values.get("asset-path", [])):
            found.append("asset-path is not the address of a .tar.gz")
    if any(not v.startswith("image-") for v in values.get("task", [])):
        found.append("task is not about images")
    found += [f"line {n} ends in a blank" for n, line in enumerate(lines, 1) if line != line.rstrip()]
    if "\r" in text or "\t" in text:
        found.append("has carriage returns or tabs")
    if "((" in re.sub(r"```.*?```", "", text, flags=re.S):
        found.append("has a malformed link, ((")
    if not text.endswith("\n") or text.endswith("\n\n"):
        found.append("does not end with exactly one newline")
    if "\n\n\n" in text:
        found.append("has a run of empty lines")
    if text.count("```") % 2:
        found.append("has an open code block")
    return found
