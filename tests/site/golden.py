"""Write the golden pages: the Hub documents of a small and a large row of each family, and of every collection.

    .venv/bin/python -m tests.site.golden        # then read the difference: git diff tests/golden/pages

Machine facts (sizes, digests, measured figures, dates) are made up and fixed; what the rows and templates say is theirs.
"""

from tests.support import made
from tools.common.files import ROOT

FOLDER = ROOT / "tests/golden/pages"


def documents():
    """Return {path: text} of the golden pages, as templates and catalogue make them now."""
    pages = made.build([made.record(module) for module in made.each_family()])
    return {path: page.data.decode() for path, page in pages.items() if path.endswith(".md")}


if __name__ == "__main__":
    made_now = documents()
    for path in FOLDER.rglob("*.md"):
        path.unlink()
    for path, text in made_now.items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8")
    print(f"{len(made_now)} pages written to {FOLDER.relative_to(ROOT)}")
