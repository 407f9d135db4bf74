"""A small book with the project's own configuration: its launch buttons, and what its pages tell machines."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("address", ["", "https://github.com/someone/memgen"])
def test_the_button_is_there_as_soon_as_the_address_is(tmp_path: Path, address: str) -> None:
    """And the first page says who wrote what, as `CITATION.cff` has it."""
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert config.count('  url: ""\n') == 1
    (tmp_path / "_config.yml").write_text(config.replace('  url: ""\n', f'  url: "{address}"\n'))
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters: [{file: book/chapters/data-inference-matched}]\n"
    )
    (tmp_path / "book/chapters").mkdir(parents=True)
    (tmp_path / "CITATION.cff").symlink_to(ROOT / "CITATION.cff")
    (tmp_path / "book/_static").symlink_to(ROOT / "book/_static")
    (tmp_path / "book/_extensions").symlink_to(ROOT / "book/_extensions")
    (tmp_path / "book/references.bib").write_text("")
    (tmp_path / "book/index.md").write_text("# Book\n\nText.\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Data\n\nText.")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "book/chapters/data-inference-matched.ipynb")
    command = [
        str(Path(sys.prefix) / "bin/jupyter-book"),
        "build",
        ".",
        "--path-output",
        "out",
        "-n",
        "-W",
        "--keep-going",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out/_build/html/book/chapters/data-inference-matched.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(https://mybinder\.org[^"]*)"', page)
    wanted = "https://mybinder.org/v2/gh/someone/memgen/main?urlpath=lab/tree/notebooks/data.ipynb"
    assert links == ([wanted] if address else [])

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    first = (tmp_path / "out/_build/html/book/index.html").read_text(encoding="utf-8")
    for text, title in ((page, "Data"), (first, "Book")):
        assert re.findall(r'<meta property="og:title" content="([^"]*)"', text) == [title]
    assert "ld+json" not in page
    (described,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', first)
    article, data = json.loads(described)["@graph"]
    assert (article["@type"], data["@type"]) == ("ScholarlyArticle", "Dataset")
    assert (article["name"], article["abstract"]) == (cited["title"], cited["abstract"])
    for part in (article, data):
        assert (part["version"], part["license"]) == (cited["version"], cited["license"])
        assert [author["name"] for author in part["author"]] == [author["name"] for author in cited["authors"]]
