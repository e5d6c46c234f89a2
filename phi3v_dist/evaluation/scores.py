"""Scores of answers, beside what answers without looking would score.

Enters: truths and answers, one each per product, in the same order. Leaves: a dictionary of scores. All functions are
pure. An answer that does not parse (None) is wrong everywhere: it can't raise a score by its absence.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from phi3v_dist.evaluation.answers import ParsedAnswer

UNPARSED_PRICE_ERROR = 1.0  # as if the answer were a price of 0

Scores = dict[str, float]


def score(truths: Sequence[ParsedAnswer], answers: Sequence[ParsedAnswer | None]) -> Scores:
    """Return count, category_accuracy, title_exact, title_word_f1, price_*_relative_error and parsed_share.

    Shares and F1 are in 0..1; price errors are |answer - truth| / truth, 0.1 is ten per cent off.
    """
    assert len(truths) == len(answers) > 0, f"{len(truths)} truths and {len(answers)} answers"
    pairs = list(zip(truths, answers, strict=True))
    errors = [price_error(truth, answer) for truth, answer in pairs]
    return {
        "count": len(pairs),
        "category_accuracy": fmean(answer is not None and answer.category == truth.category for truth, answer in pairs),
        "title_exact": fmean(answer is not None and answer.title == truth.title for truth, answer in pairs),
        "title_word_f1": fmean(
            0.0 if answer is None else word_f1(truth.title, answer.title) for truth, answer in pairs
        ),
        "price_median_relative_error": median(errors),
        "price_mean_relative_error": fmean(errors),
        "parsed_share": fmean(answer is not None for _, answer in pairs),
    }


def price_error(truth: ParsedAnswer, answer: ParsedAnswer | None) -> float:
    """Return |answer - truth| / truth, ``UNPARSED_PRICE_ERROR`` without an answer. A truth's price is above 0."""
    return UNPARSED_PRICE_ERROR if answer is None else abs(answer.price - truth.price) / truth.price


def word_f1(truth: str, answer: str) -> float:
    """Return F1 of two texts as bags of lower-case words: each word counts as often as it stands there."""
    true_words, answer_words = Counter(truth.lower().split()), Counter(answer.lower().split())
    common = (true_words & answer_words).total()
    return 2 * common / (true_words.total() + answer_words.total()) if common else 0.0


def baselines(train_truths: Sequence[ParsedAnswer], heldout_truths: Sequence[ParsedAnswer]) -> dict[str, Scores]:
    """Return the scores of two answerers that never look at a picture and know the training split.

    ``most_frequent_category``: always the most frequent title and category, and the median price.
    ``category_median``: is told the true category, and answers its most frequent title and its median price.
    """
    same = _typical(train_truths)
    by_category = defaultdict(list)
    for truth in train_truths:
        by_category[truth.category].append(truth)
    typical = {category: _typical(members) for category, members in by_category.items()}
    told = [typical.get(truth.category, same) for truth in heldout_truths]
    return {
        "most_frequent_category": score(heldout_truths, [same] * len(heldout_truths)),
        "category_median": score(heldout_truths, told),
    }


def _typical(truths: Sequence[ParsedAnswer]) -> ParsedAnswer:
    return ParsedAnswer(
        _most_frequent(truth.title for truth in truths),
        _most_frequent(truth.category for truth in truths),
        median(truth.price for truth in truths),
    )


def _most_frequent(texts: Iterable[str]) -> str:
    # Among equally frequent texts the alphabet decides, so that the order of the samples doesn't.
    return min(Counter(texts).items(), key=lambda text_count: (-text_count[1], text_count[0]))[0]
