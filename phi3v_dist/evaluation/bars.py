"""The bars that the demo's model must reach: a model that looks clears them, one that doesn't can't.

Enters: an ``evaluation.json``. Leaves: one sentence per bar that is missed; none means passed.
"""

import json
from pathlib import Path
from typing import Any

from phi3v_dist.console import say
from phi3v_dist.errors import RunError

LEAST = {"count": 300, "category_accuracy": 0.90, "title_word_f1": 0.75, "parsed_share": 0.99}
PRICE_SHARE_OF_GLOBAL_MEDIAN = 0.3


def check_bars(evaluation: dict[str, Any]) -> list[str]:
    """Return a sentence with value and bar for each bar that is missed. A value that is not a number misses."""
    failed = [
        f"{name} is {evaluation[name]:.4g}, the bar is at least {bar:g}."
        for name, bar in LEAST.items()
        if not evaluation[name] >= bar
    ]
    name = "price_median_relative_error"
    error = evaluation[name]
    most = PRICE_SHARE_OF_GLOBAL_MEDIAN * evaluation["baseline"]["most_frequent_category"][name]
    if not error <= most:
        share = f"{PRICE_SHARE_OF_GLOBAL_MEDIAN:g} of the global median's"
        failed.append(f"{name} is {error:.4g}, the bar is at most {most:.4g} ({share}).")
    by_category = evaluation["baseline"]["category_median"][name]
    if not error < by_category:
        failed.append(f"{name} is {error:.4g}, the bar is below {by_category:.4g} (each category's median).")
    return failed


def judge(evaluation_file: Path, *, hold_to_bars: bool) -> None:
    """Print the scores in one line; raise ``RunError`` where ``hold_to_bars`` and a bar is missed."""
    evaluation = json.loads(evaluation_file.read_text(encoding="utf-8"))
    baseline = evaluation["baseline"]
    say(
        f"{evaluation['count']} held-out products: category {evaluation['category_accuracy']:.1%} right, "
        f"title word F1 {evaluation['title_word_f1']:.3f}, parsed {evaluation['parsed_share']:.1%}, "
        f"median price error {evaluation['price_median_relative_error']:.1%} (always the median price: "
        f"{baseline['most_frequent_category']['price_median_relative_error']:.1%}, told the category: "
        f"{baseline['category_median']['price_median_relative_error']:.1%})"
    )
    missed = check_bars(evaluation) if hold_to_bars else []
    if missed:
        raise RunError(
            " ".join(missed), where=str(evaluation_file), mend="Report it with the seed; docs/measurements has ours."
        )
    say("all bars are cleared" if hold_to_bars else "not held to the bars (--no-bars)")
