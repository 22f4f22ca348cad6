"""Labels that mean that there is none: NULL, N/A, -1."""

from collections.abc import Collection, Iterable

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.tables.numbers import as_number

__all__ = ["MISSING", "missing_among"]

# As databases, spreadsheets, pandas and R write it, in lower case.
MISSING = frozenset(
    "|na|n/a|nan|-nan|null|<na>|\\n|nat|#n/a|#n/a n/a|#na|#null!|#value!|#ref!|#div/0!|#name?|#num!|1.#ind|-1.#ind|"
    "1.#qnan|-1.#qnan".split("|")
)
# Many experts write "none" to say that there is nothing to see, but hardly among numbers.
BESIDE_NUMBERS = frozenset("none|nil|missing|.|-|--|?|nd|n.a.|undefined".split("|"))


def missing_among(
    labels: Collection[str], more: Iterable[str] = (), known: Collection[str] | None = None
) -> frozenset[str]:
    """Find the labels that mean "no annotation".

    Parameters
    ----------
    labels : collection of str
        All distinct labels, as written.
    more : iterable of str
        Labels that mean it here.
    known : collection of str, optional
        Names of the categories: none of them is missing.

    Returns
    -------
    frozenset of str
        Those of `labels` that are missing.

    Raises
    ------
    ValueError
        If -1 or another negative number may mean it, or be a category.
    """
    told = {text.strip() for text in more}
    told_numbers = {as_number(text) for text in told} - {None}
    names = set(known or ())
    absent = {
        label
        for label in labels
        if label not in names
        and (label.strip().casefold() in MISSING or label.strip() in told or as_number(label) in told_numbers)
    }
    rest = [label for label in labels if label not in absent and label not in names]
    words = [label for label in rest if as_number(label) is None]
    if len(words) < len(rest) and all(word.strip().casefold() in BESIDE_NUMBERS for word in words):
        absent.update(words)
    numbers = {label: value for label in rest if (value := as_number(label)) is not None}
    all_numbers = all(label in numbers for label in rest if label not in absent)
    negative = {label for label, value in numbers.items() if value < 0}
    if not negative or (known is not None and -1 in {as_number(name) for name in known}):
        return frozenset(absent)
    minus_one = {label for label in negative if numbers[label] == -1}
    if not all_numbers or known is not None:
        return frozenset(absent | minus_one)
    return frozenset(absent | _negative(set(numbers.values()), minus_one))


def _negative(values: set[int | float], minus_one: set[str]) -> set[str]:
    """Tell -1 where it is missing from -1 on a scale such as -5..5."""
    least, most = min(values), max(values)
    ways = (
        f"{advice('missing=["-1"]', '--missing-label=-1')}, or categories, "
        f"{advice('classes=["-1", "0", "1"]', '--classes=-1,0,1')}"
    )
    if least == -1 and values <= {-1, 0, 1}:
        raise ValueError(
            f"Expected -1 either for no annotation or as a category, found it beside "
            f"{', '.join(str(v) for v in sorted(values - {-1})) or 'nothing'}, where it may be both. Say that it is "
            f"missing, {ways}."
        )
    if least < -1 and -least > most:
        raise ValueError(
            f"Expected labels that are numbers in 0..9999, or -1 where missing, found {least}. Check which column "
            f"holds the labels; say that it is missing, {ways}, or name all categories."
        )
    return minus_one if least == -1 else set()
