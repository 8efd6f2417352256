"""The key of what renders pages: it covers every module and template that can change a page, of both kinds of sites."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.support.commands import ROOT
from tools.site.renderer_key import renderer_key, sources

GENERATORS = ("tools.site.pages", "tools.site.document_archive")
TEMPLATES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "templates").rglob("*.j2"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the code and the templates, to be edited."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("tools", "templates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def edited_key(copy, file, generator):
    """The key with a byte more at the end of a file, which is as it was afterwards."""
    path, data = copy / file, (copy / file).read_bytes()
    path.write_bytes(data + b"\n")
    try:
        return renderer_key.__wrapped__(generator, copy)
    finally:
        path.write_bytes(data)


@pytest.fixture(scope="module", params=GENERATORS)
def generator(request):
    return request.param


@pytest.fixture(scope="module")
def imported(generator):
    """The files of this repository that Python itself imports for a generator."""
    program = f"import sys, {generator}\n" + (
        "print(*sorted(m.__file__ for n, m in list(sys.modules.items()) if n.partition('.')[0] in ('tools', 'builders') and m.__file__))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return {re.sub(rf"^{re.escape(str(ROOT))}/", "", file) for file in done.stdout.split()}


def test_an_edit_of_any_module_that_is_imported_changes_the_key(copy, generator, imported):
    key = renderer_key(generator, copy)
    assert len(imported) > 15 and "tools/site/rendering.py" in imported
    unnoticed = [
        file for file in sorted(imported) if (copy / file).stat().st_size and edited_key(copy, file, generator) == key
    ]
    assert unnoticed == []


@pytest.mark.parametrize(
    "file",
    [
        "tools/site/formatting.py",
        "tools/site/plots.py",
        "tools/site/published_module.py",
        "tools/documents/document.py",
    ],
)
def test_code_behind_the_filters_of_templates_changes_the_key_of_an_archive_of_documents(copy, file):
    archive = "tools.site.document_archive"
    assert edited_key(copy, file, archive) != renderer_key(archive, copy)


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_edit_of_any_template_changes_the_key(copy, generator, template):
    assert edited_key(copy, template, generator) != renderer_key(generator, copy)


def test_what_renders_nothing_does_not_change_the_key(copy, generator):
    for file in ("tools/server/server.py", "tools/publishing/build.py", "tools/publish.py"):
        assert edited_key(copy, file, generator) == renderer_key(generator, copy), file


def test_imports_within_functions_and_over_several_lines_are_followed(tmp_path):
    (tmp_path / "tools/deep").mkdir(parents=True)
    files = {
        "tools/__init__.py": "",
        "tools/deep/__init__.py": "",
        "tools/a.py": "from tools import (\n    b,\n)\n\ndef f():\n    from tools.deep.c import x\n    import tools.d\n    import json\n",
        "tools/b.py": "",
        "tools/d.py": "import tools.a\n",
        "tools/e.py": "",
        "tools/deep/c.py": "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = {path.relative_to(tmp_path).as_posix() for path in sources("tools.a", tmp_path)}
    assert found == set(files) - {"tools/e.py"}
