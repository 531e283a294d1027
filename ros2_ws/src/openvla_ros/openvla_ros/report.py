"""Report pages: self-contained HTML files with tables, plots and videos.

Used by the demo, ``openvla show``, training and evaluation. No server, no network, no script: everything is
in the file itself or in a video file next to it.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; } caption { text-align: left; opacity: .7; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } img, video { max-width: 100%; border-radius: .4rem; background: #fff; }
figcaption, .soft { opacity: .7; font-size: .92em; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row > figure { flex: 1 1 18rem; margin: 0; }
.fact { display: inline-block; margin: .2rem 1.6rem .2rem 0; } .fact b { display: block; font-size: 1.5rem; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: .4rem; }
"""


class Page:
    """A page, built from top to bottom and written once."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{_text(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="soft">{_text(subtitle)}</p>')

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{_text(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph of plain text."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def preformatted(self, text: str) -> None:
        """Add preformatted text, such as a command or a log."""
        self._parts.append(f"<pre>{_text(text)}</pre>")

    def facts(self, facts: Mapping[str, str]) -> None:
        """Add headline figures: label → value."""
        items = (
            f'<span class="fact"><b>{_text(value)}</b>{_text(label)}</span>' for label, value in facts.items()
        )
        self._parts.append(f"<p>{''.join(items)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """Add a table; numbers are aligned to the right."""
        head = "".join(f"<th>{_text(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
        title = f"<caption>{_text(caption)}</caption>" if caption else ""
        self._parts.append(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def figure(self, figure: Figure, caption: str = "") -> None:
        """Add a matplotlib figure, as inline SVG."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight")
        self.image(buffer.getvalue(), "image/svg+xml", caption)

    def image(self, data: bytes, media_type: str, caption: str = "") -> None:
        """Add an encoded image (PNG, JPEG or SVG)."""
        source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
        self._parts.append(_figure(f'<img src="{source}" alt="{_text(caption)}">', caption))

    def video(self, data: bytes, media_type: str, caption: str = "") -> None:
        """Add an encoded video inside the page."""
        source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
        self._parts.append(_figure(f'<video controls loop muted src="{source}"></video>', caption))

    def videos(self, videos: Sequence[tuple[str, Path]], beside: Path) -> None:
        """Add videos side by side: captions and files; ``beside`` is the folder of the page."""
        items = (
            _figure(
                f'<video controls loop muted src="{_text(os.path.relpath(path, beside))}"></video>', caption
            )
            for caption, path in videos
        )
        self._parts.append(f'<div class="row">{"".join(items)}</div>')

    def write(self, path: Path) -> Path:
        """Write the page to ``path``, atomically, and return the path."""
        text = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self.title)}</title><style>{STYLE}</style></head>"
            f"<body>{''.join(self._parts)}</body></html>\n"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
        return path


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{_text(value)}</td>"
    return f'<td class="number">{value if isinstance(value, int) else f"{value:.4g}"}</td>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{_text(caption)}</figcaption></figure>"
