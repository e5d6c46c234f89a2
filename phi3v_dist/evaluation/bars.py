"""The bars that the demo's model must reach: a model that looks clears them, one that doesn't can't.

Enters: an ``evaluation.json`` as a dictionary. Leaves: one sentence per bar that is missed; none means passed.
"""

from typing import Any

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
