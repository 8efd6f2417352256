"""Write what TensorFlow.js can run, as its converter's package says, to operations.json beside this file. Needs npm and its registry.

.venv/bin/python tests/builders/tfjs/write.py [VERSION]       # then read the difference: git diff tests/builders/tfjs
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@tensorflow/tfjs-converter"
LISTS = "package/dist/operations/op_list/"  # a JavaScript file for each kind of operation
TYPES = "package/dist/operations/operation_mapper.js"  # parseDtypeParam: TensorFlow's types by what they become


def write(version: str, path: Path) -> None:
    """Get a version of the package and write its operations and types to `path`."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{version}"], cwd=folder, check=True, capture_output=True)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            sources = {
                member.name: archive.extractfile(member).read().decode()
                for member in archive
                if member.name in (TYPES, "package/package.json")
                or (member.name.startswith(LISTS) and member.name.endswith(".js"))
            }
    package = json.loads(sources.pop("package/package.json"))
    types = re.search(r"function parseDtypeParam\(.*?\n}\n", sources.pop(TYPES), re.DOTALL)[0]
    cases = re.findall(r"((?:case tensorflow\.DataType\.\w+:\s*)+)return '(\w+)'", types)
    found = {
        "package": f"{package['name']} {package['version']}",
        "source": package["repository"]["url"],
        "licence": package["license"],
        "operations": sorted({name for text in sources.values() for name in re.findall(r"'tfOpName': '(\w+)'", text)}),
        "types": {name: target for names, target in cases for name in re.findall(r"DataType\.(\w+)", names)},
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else "latest", Path(__file__).with_name("operations.json"))
