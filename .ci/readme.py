"""Write README.md from nbs/index.ipynb; its pictures go to reports/example."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent


def readme():
    "The text of the README and its pictures as {path: bytes}."
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("#| hide")]
    for cell in notebook.cells:
        if cell.source.startswith("#| echo: false"):
            cell.metadata["tags"] = ["remove_input"]
    config = Config()
    config.TagRemovePreprocessor.remove_input_tags = ["remove_input"]
    config.TagRemovePreprocessor.enabled = True
    config.NbConvertBase.display_data_priority = ["image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"]
    exporter = MarkdownExporter(config=config)
    resources = {"output_files_dir": "reports/example", "unique_key": "readme"}
    text, resources = exporter.from_notebook_node(notebook, resources)
    text = re.sub(r"\s*!\[(?:svg|png|jpeg)\]\((.*?)\)\s*(\*\*Figure[^\n]*)", _described, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", resources["outputs"]


def _described(match):
    caption = match[2].replace("*", "")
    return f"\n\n![{caption}]({match[1]})\n\n{match[2]}"


if __name__ == "__main__":
    text, pictures = readme()
    for path, data in pictures.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(data)
    (ROOT / "README.md").write_text(text, encoding="utf-8")
