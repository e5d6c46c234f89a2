"""From the text that the model wrote to title, category and price.

Enters: text of the form ``Product: {title}, Category: {category}, Full Price: {price}``. Leaves: its parts, or None
when it has another form. A truth is what a perfect answer parses to, so both are the same type.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

# Greedy on purpose: a title may hold commas, so the last ", Category: " and the last ", Full Price: " divide.
# At most 12 digits before the point: a model that repeats digits gives no finite price.
_FORM = re.compile(r"Product: (.+), Category: (.+), Full Price: ([0-9]{1,12}(?:\.[0-9]{1,12})?)", re.DOTALL)


@dataclass(frozen=True)
class ParsedAnswer:
    """Title, category and price of a product, as answered or as true."""

    title: str
    category: str
    price: float


def parse_answer(text: str) -> ParsedAnswer | None:
    """Return the parts of an answer, or None when ``text`` is not of the asked form. Outer white space is ignored."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    title, category, price = found.groups()
    return ParsedAnswer(title.strip(), category.strip(), float(price))


@dataclass(frozen=True)
class Prediction:
    """One held-out product: its number and code, the truth, the text answered and what it parses to."""

    sample: int
    product_code: str
    title: str
    category: str
    price: float
    answer: str
    parsed: ParsedAnswer | None

    @property
    def truth(self) -> ParsedAnswer:
        """The true title, category and price."""
        return ParsedAnswer(self.title, self.category, self.price)

    def as_line(self) -> dict[str, Any]:
        """Return the fields as a line of ``predictions.jsonl``; ``parsed`` is an object or null."""
        return asdict(self)
