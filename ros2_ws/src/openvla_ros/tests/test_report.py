"""Report pages: complete in one file, readable on a narrow screen and in the dark."""

import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from openvla_ros.report import Page

VOID = {"meta", "img", "br", "link"}


class Elements(HTMLParser):
    """Every element with its parents' tags; raises where one is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.found, self._open = [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), [(t, a.get("class", "")) for t, a in self._open]))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), [(t, a.get("class", "")) for t, a in self._open]))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag


@pytest.fixture
def page():
    return Page("A page", "of a test")


def written(page, tmp_path):
    text = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    return text, Elements(text).found


def plot():
    figure = Figure(figsize=(4, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="x < y & z")
    axes.axvspan(0.0, 0.5, alpha=0.2, color="tab:orange")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def test_tables_scroll_by_themselves(page, tmp_path):
    page.table(["a", "b"], [[1, "x"], [2.5, "y"]], "some")
    _, found = written(page, tmp_path)
    (parents,) = (parents for tag, _, parents in found if tag == "table")
    assert parents[-1] == ("div", "wide")
    assert re.search(r"\.wide\s*{[^}]*overflow-x:\s*auto", page_style(page, tmp_path))


def page_style(page, tmp_path):
    return re.search(r"<style>(.*?)</style>", written(page, tmp_path)[0], re.DOTALL)[1]


def test_what_is_marked_is_marked_and_nothing_else(page, tmp_path):
    page.facts({"age": "700 ms (median)", "rate": "5 Hz (mean)"}, {"age"})
    page.table(["what", "state"], [["a", "ok"], ["b", "late"], ["c", "ok"]], marked={1})
    _, found = written(page, tmp_path)
    assert [a["class"] for tag, a, _ in found if "fact" in a.get("class", "")] == ["fact warn", "fact"]
    rows = [a["class"] for tag, a, parents in found if tag == "tr" and parents[-1][0] == "tbody"]
    assert rows == ["", "warn", ""]


def test_plots_take_the_page_s_colours_and_their_ids_do_not_meet(page, tmp_path):
    page.figure(plot(), 'first "plot" <1>')
    page.figure(plot(), "second")
    text, found = written(page, tmp_path)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        assert "currentColor" in drawing
        assert "var(--plot-back)" in drawing
        assert not re.search(r"#(000000|ffffff)\b", drawing)
        assert "x &lt; y &amp; z" in drawing  # text, not outlines
    assert [a["aria-label"] for tag, a, _ in found if tag == "svg"] == ['first "plot" <1>', "second"]
    ids = [a["id"] for _, a, _ in found if "id" in a]
    assert len(set(ids)) == len(ids) > 10
    for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text):
        assert "".join(reference) in ids
    assert "<?xml" not in text
    assert "DOCTYPE svg" not in text


def test_the_dark_scheme_has_its_own_background_for_plots(page, tmp_path):
    style = page_style(page, tmp_path)
    dark = style[style.index("prefers-color-scheme: dark") :]
    light = style[: style.index("@media")]
    assert re.search(r"--plot-back: #\w+", dark)[0] != re.search(r"--plot-back: #\w+", light)[0]
    assert "color-scheme: light dark" in light


def test_text_is_escaped(page, tmp_path):
    page.facts({"<b>": "1 & 2"})
    page.table(["<i>"], [["</table>"]], "<script>")
    text, _ = written(page, tmp_path)
    for raw in ("<b></b>", "<script>", "<i>", "<td></table>"):
        assert raw not in text
