"""A report's page as its tests read it: texts, tags, addresses, tables, and the bars of its charts."""

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Texts, tags and addresses of a page; ``cells``: the texts of every row of a table."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.tags, self.addresses, self.cells, self.pictures = [], [], [], [], []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "srcset", "href")]
        if tag == "img":
            self.pictures.append((self.texts[-1] if self.texts else "", dict(attributes)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if data.strip():
            self.texts.append(" ".join(data.split()))
            if self._in_cell:
                self.cells[-1][-1] += data.strip()

    def row(self, name):
        """Further cells of the one table row that begins with ``name``."""
        (row,) = [cells[1:] for cells in self.cells if cells and cells[0] == name]
        return row

    def thumbnails(self):
        """Alternative texts of all thumbnails."""
        return [told["alt"] for _, told in self.pictures if told["src"].startswith("data:image/jpeg;base64,")]

    def bars(self, title):
        """What the chart under this heading says in words, name → count, and the heights of its drawn bars."""
        (told,) = [told for text, told in self.pictures if text == title]
        words = dict(part.split(": ") for part in told["alt"].split("; "))
        root = ET.fromstring(base64.b64decode(told["src"].split(",")[1]))
        paths = [group.find("{*}path") for group in root.findall(".//{*}g") if group.get("id", "").startswith("bar-")]
        points = [[float(y) for y in re.findall(r"[ML] \S+ (\S+)", path.get("d"))] for path in paths]
        heights = [max(ys) - min(ys) for ys in points]
        return {name: int(count.replace(",", "")) for name, count in words.items()}, heights
