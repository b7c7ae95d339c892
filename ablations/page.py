"""A page as Markdown and as one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from evaluation.report import table_text

# ("title" | "heading" | "text" | "small", str), ("list", strings), ("table", rows, the first its
# header), ("figure", (path of an SVG beside the page, what it shows))
Part = tuple[str, Any]
TAGS = {"title": "h1", "heading": "h2", "text": "p", "small": "small"}
STYLE = """body{font:15px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px;margin:1rem 0}
th,td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:right}
th:first-child,td:first-child{text-align:left}
small,figcaption{color:#555;font-size:13px}
figure{margin:1rem 0}
svg{max-width:100%;height:auto}"""


def write_page(parts: list[Part], path: Path) -> None:
    """`path`.md and `path`.html."""
    path.with_suffix(".md").write_text(
        "\n\n".join(_markdown(*part) for part in parts) + "\n", encoding="utf-8"
    )
    title = next(content for kind, content in parts if kind == "title")
    path.with_suffix(".html").write_text(
        f'<!doctype html>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(_html(*part) for part in parts)
        + "\n",
        encoding="utf-8",
    )


def _markdown(kind: str, content: Any) -> str:
    if kind == "table":
        return table_text(content[0], content[1:]).strip()
    if kind == "list":
        return "\n".join(f"- {entry}" for entry in content)
    if kind == "figure":
        path, caption = content
        return f"![{caption}]({path.name})\n\n*{caption}*"
    return {"title": "# ", "heading": "## "}.get(kind, "") + (
        f"*{content}*" if kind == "small" else content
    )


def _html(kind: str, content: Any) -> str:
    if kind == "table":
        rows = (
            "".join(
                f"<{tag}>{html.escape(cell).replace(chr(10), '<br>')}</{tag}>"
                for cell in row
            )
            for tag, row in [("th", content[0]), *(("td", row) for row in content[1:])]
        )
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
    if kind == "list":
        return (
            "<ul>"
            + "".join(f"<li>{html.escape(entry)}</li>" for entry in content)
            + "</ul>"
        )
    if kind == "figure":
        drawing, caption = (
            content[0].read_text(encoding="utf-8"),
            html.escape(content[1]),
        )
        return (
            f'<figure><div role="img" aria-label="{caption}">{drawing[drawing.index("<svg") :]}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f"<{TAGS[kind]}>{html.escape(content)}</{TAGS[kind]}>"
