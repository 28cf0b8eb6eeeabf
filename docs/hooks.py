"""What MkDocs does beside building docs/ (`make docs`): pages of the repository's root, the notebook, the options of conf/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from ebm_pipeline.runs import options

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")
NOTEBOOK = "study.ipynb"
OPTIONS_HERE = "<!-- make docs: every option -->"


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie in the repository's root, and the notebook's."""
    for source, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "notebook.md", content=page_of(ROOT / "docs" / NOTEBOOK)))
    return files


def page_of(notebook: Path) -> str:
    """The text and the code of a notebook, which has no pictures before it is run."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.insert(1, f"The notebook itself, whose pictures appear when it is run: [{notebook.name}]({notebook.name}).")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they are in the repository become links of the site; the options stand where their page asks for them."""
    uri = page.file.src_uri
    folder = ROOT if uri in FROM_ROOT.values() else ROOT / "docs" / Path(uri).parent
    above = "../" * uri.count("/")
    text = markdown.replace(OPTIONS_HERE, options.page(ROOT / "conf"))
    return LINK.sub(lambda link: of_the_site(link, folder, above), text)


def of_the_site(link: re.Match[str], folder: Path, above: str) -> str:
    """A link to a page of the site, or, where it leads to another file of the repository, its text alone."""
    target = (folder / link[3]).resolve()
    anchor = link[4] or ""
    if target.is_relative_to(ROOT / "docs"):
        return f"{link[1]}[{link[2]}]({above}{target.relative_to(ROOT / 'docs').as_posix()}{anchor})"
    if target.is_relative_to(ROOT) and target.name in FROM_ROOT:
        return f"{link[1]}[{link[2]}]({above}{FROM_ROOT[target.name]}{anchor})"
    return link[2] if target.exists() else link[0]
