"""The README's own lines, for .ci/run: what is run there is what a reader copies.

``commands`` prints the first two shell blocks; ``snippet`` prints the first Python block;
``notebook`` runs that block as a notebook in the current folder.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def notebook(code: str) -> None:
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(code)]
    NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=300).execute()


if sys.argv[1:] == ["commands"]:
    print("".join(blocks("sh")[:2]))
elif sys.argv[1:] == ["snippet"]:
    print(blocks("python")[0])
elif sys.argv[1:] == ["notebook"]:
    notebook(blocks("python")[0])
else:
    sys.exit(f"expected commands, snippet or notebook, got {sys.argv[1:]}")
