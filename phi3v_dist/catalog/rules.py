r"""Small named rules that clean cells, each a pure function from text to text.

Enters: a cell's text and the rules that the recipe names for its column (``catalog.rules``). Leaves: the text that the
checks see. A rule that doesn't fit a text leaves it alone, so that the checks reject it: a price is never guessed.

>>> strip_html("<p>Red&nbsp;<b>Tie</b></p><p>Silk &amp; wool</p><style>p {color: red}</style>").split()
['Red', 'Tie', 'Silk', '&', 'wool']
>>> unescape_lines(r"Silk\nand wool"), unescape_lines(r"C:\\new")
('Silk\nand wool', 'C:\\new')
>>> collapse_spaces("  Red \n\t Tie ")
'Red Tie'
>>> first_of_list(r"Hats\, Caps > Wool, Sale")
'Hats, Caps > Wool'
>>> deepest_of_list("Default Category,Default Category/Gear,Default Category/Gear/Bags,Default Category/New")
'Default Category/Gear/Bags'
>>> first_of_path("Apparel & Accessories > Clothing > Shirts"), last_of_path("Default Category/Gear/Bags")
('Apparel & Accessories', 'Bags')
>>> decimal_point("$1,299.00"), decimal_point("US$ 1 299.5"), decimal_point("1.299,00 €")
('1299.00', '1299.5', '1.299,00 €')
>>> decimal_comma("1.299,00 €"), decimal_comma("EUR 1299,-"), decimal_comma("1.299"), decimal_comma("$1,299.00")
('1299.00', '1299', '1299', '$1,299.00')
>>> magento_path("/w/b/wb04.jpg"), magento_path("no_selection"), magento_path("https://cdn.example/a.jpg")
('w/b/wb04.jpg', '', 'https://cdn.example/a.jpg')
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from html.parser import HTMLParser

Rule = Callable[[str], str]

# Longer cells are left as they are: no limit of a text is that high, and cleaning megabytes of broken HTML is slow.
_LONGEST_CELL = 200_000

_UNSEEN = ("script", "style", "template")
_INLINE = (
    *("a", "abbr", "b", "bdi", "bdo", "cite", "code", "em", "font", "i", "kbd", "mark", "q", "s", "samp", "small"),
    *("span", "strong", "sub", "sup", "u", "var", "wbr"),
)
# The first of these that occurs divides a path: "T-Shirts/Tops > Summer" has two parts.
_PATH_SIGNS = (">", "»", "|", "/")

# Spaces of every kind and apostrophes group digits wherever people write them.
_GROUP_SIGNS = " \u00a0\u2009\u202f'’"
_CURRENCY_SIGNS = "".join(chr(code) for code in range(0x2_0000) if unicodedata.category(chr(code)) == "Sc")
_MONEY = rf"(?:[A-Z]{{0,3}}[{re.escape(_CURRENCY_SIGNS)}]|[A-Z]{{3}}|kr\.?|zł|Kč|Ft|lei|Rs\.?)"


class _SeenText(HTMLParser):
    """Gathers what a browser would show; the border of a block is a space."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._unseen and tag in _UNSEEN:
            self._unseen = tag
        self._border(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = ""
        self._border(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)

    def _border(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append(" ")


def strip_html(text: str) -> str:
    """The text that a browser would show: no tags, scripts, styles or comments; ``&amp;`` becomes ``&``."""
    if "<" not in text and "&" not in text:
        return text
    parser = _SeenText()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts).strip()


def unescape_lines(text: str) -> str:
    r"""Line ends that an export wrote as the two signs ``\n``, as WooCommerce does in descriptions."""
    return re.sub(r"(\\?)\\n", lambda found: r"\n" if found[1] else "\n", text)


def collapse_spaces(text: str) -> str:
    """One blank for each run of blanks, line ends and tabs."""
    return " ".join(text.split())


def first_of_list(text: str) -> str:
    r"""The first of several separated by commas; ``\,`` is a comma inside a name."""
    return _list(text)[0]


def deepest_of_list(text: str) -> str:
    """Of several paths separated by commas the one with the most parts, the first of those."""
    return max(_list(text), key=lambda path: len(_path(path)))


def first_of_path(text: str) -> str:
    """``A`` of ``A > B > C``, ``A » B``, ``A | B`` or ``A/B/C``."""
    return _path(text)[0]


def last_of_path(text: str) -> str:
    """``C`` of ``A > B > C``, ``A » B » C``, ``A | B | C`` or ``A/B/C``."""
    return _path(text)[-1]


def decimal_point(text: str) -> str:
    """A price of a shop that writes 1,299.00, with or without its currency, as a plain number."""
    return _price(text, _PRICE_WITH_POINT)


def decimal_comma(text: str) -> str:
    """A price of a shop that writes 1.299,00, with or without its currency, as a plain number."""
    return _price(text, _PRICE_WITH_COMMA)


def magento_path(text: str) -> str:
    """A picture of a Magento export: the leading slash means the media folder, ``no_selection`` is no picture."""
    return "" if text == "no_selection" else text.removeprefix("/")


def _list(text: str) -> list[str]:
    parts = [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text)]
    return [part for part in parts if part] or [""]


def _path(text: str) -> list[str]:
    sign = next((sign for sign in _PATH_SIGNS if sign in text), None)
    parts = [part.strip() for part in text.split(sign)] if sign else [text]
    return [part for part in parts if part] or [""]


def _price_pattern(groups: str, decimals: str) -> re.Pattern[str]:
    """Digits in groups of three (of two before the last, as in India), decimals, and money before or behind them."""
    blank, group = "[ \u00a0\u202f]*", f"[{re.escape(groups + _GROUP_SIGNS)}]"
    whole = rf"[0-9]{{1,3}}(?:{group}[0-9]{{2,3}})*{group}[0-9]{{3}}|[0-9]+"
    part = rf"(?:{re.escape(decimals)}(?:(?P<part>[0-9]+)|[-–—]+))?"
    before, behind = f"(?:{_MONEY}{blank})?", f"(?:{blank}{_MONEY})?"
    return re.compile(f"{before}(?P<sign>[+-]?){before}(?P<whole>{whole}){part}{behind}")


_PRICE_WITH_POINT, _PRICE_WITH_COMMA = _price_pattern(",", "."), _price_pattern(".", ",")


def _price(text: str, pattern: re.Pattern[str]) -> str:
    found = pattern.fullmatch(text)
    if found is None:
        return text
    whole = re.sub("[^0-9]", "", found["whole"])
    return f"{found['sign']}{whole}" + (f".{found['part']}" if found["part"] else "")


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        *(strip_html, unescape_lines, collapse_spaces, first_of_list, deepest_of_list, first_of_path, last_of_path),
        *(decimal_point, decimal_comma),
        magento_path,
    )
}


def apply_rules(names: Iterable[str], text: str) -> str:
    """A cell's text after the named rules, one after the other, without outer blanks."""
    if len(text) > _LONGEST_CELL:
        return text
    for name in names:
        text = RULES[name](text)
    return text.strip()
