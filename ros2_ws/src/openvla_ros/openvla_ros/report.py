"""Report pages: self-contained HTML files with tables, plots and videos.

Used by the demo, ``openvla show``, training and evaluation. No server, no network, no script: everything is
in the file itself or in a video file next to it.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openvla_ros.integrity.disk import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --warn: #a34700; --plot-back: #fff; }
@media (prefers-color-scheme: dark) { :root { --warn: #ffb454; --plot-back: #121212; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.2rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: max-content; } td { max-width: 26rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.warn td, .fact.warn b { color: var(--warn); }
figure { margin: 1rem 0; } img, video { max-width: 100%; border-radius: .4rem; }
.plot { overflow-x: auto; } .plot svg { display: block; width: 100%; height: auto; min-width: 34rem; }
figcaption, .soft { opacity: .7; font-size: .92em; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row > figure { flex: 1 1 18rem; margin: 0; }
.fact { display: inline-block; margin: .2rem 1.6rem .2rem 0; } .fact b { display: block; font-size: 1.3rem; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: .4rem; }
"""


class Page:
    """A page, built from top to bottom and written once."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._figures = 0
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

    def facts(self, facts: Mapping[str, str], marked: Container[str] = ()) -> None:
        """Add headline figures: label → value with its unit and statistic; ``marked``: labels to mark."""
        items = (
            f'<span class="fact{_mark(label in marked)}"><b>{_text(value)}</b>{_text(label)}</span>'
            for label, value in facts.items()
        )
        self._parts.append(f"<p>{''.join(items)}</p>")

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        caption: str = "",
        marked: Container[int] = (),
    ) -> None:
        """Add a table; numbers are aligned to the right, the rows with an index in ``marked`` stand out.

        On a narrow screen the table scrolls sideways.
        """
        head = "".join(f"<th>{_text(name)}</th>" for name in header)
        body = "".join(
            f'<tr class="{_mark(index in marked).strip()}">{"".join(map(_cell, row))}</tr>'
            for index, row in enumerate(rows)
        )
        if caption:
            self._parts.append(f'<p class="soft">{_text(caption)}</p>')
        self._parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def figure(self, figure: Figure, caption: str = "") -> None:
        """Add a matplotlib figure as inline SVG, in the page's own text colour and background."""
        self._figures += 1
        drawing = _inline_svg(figure, f"plot{self._figures}-", caption)
        self._parts.append(_figure(f'<div class="plot">{drawing}</div>', caption))

    def image(self, data: bytes, media_type: str, caption: str = "") -> None:
        """Add an encoded image (PNG or JPEG)."""
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
        """Write the page to ``path``, atomically, and return it; raises ``DatasetError`` if that fails."""
        text = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self.title)}</title><style>{STYLE}</style></head>"
            f"<body>{''.join(self._parts)}</body></html>\n"
        )
        unfinished = path.with_name(path.name + ".part")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        return path


def _inline_svg(figure: Figure, prefix: str, label: str) -> str:
    """Return ``figure`` as an SVG element whose black follows the page's text colour, its white the page.

    Matplotlib writes colours and ids as literals: the colours become CSS, and ``prefix`` makes the ids
    unique on the page.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text: in the page's colour, searchable
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", drawing)
    for literal, css in (("#000000", "currentColor"), ("#ffffff", "var(--plot-back)")):
        drawing = drawing.replace(literal, css)
    return drawing.replace(
        "<svg ", f'<svg role="img" aria-label="{_text(label)}" style="fill: currentColor" ', 1
    )


def _mark(marked: bool) -> str:
    return " warn" if marked else ""


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{_text(value)}</td>"
    return f'<td class="number">{value if isinstance(value, int) else f"{value:.4g}"}</td>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{_text(caption)}</figcaption></figure>"
