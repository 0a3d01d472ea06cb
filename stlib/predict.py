"""A CSV file of pairs in, the same with labels out: row by row, in bounded memory, whatever the size of the file.

The ``csv`` module instead of pandas: it keeps every cell as it was written, and knows the number of a bad row.
"""

import csv
import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from stlib.errors import UsageError
from stlib.model import NLIClassifier
from stlib.runs import replacing
from stlib.settings import progress_bar

COLUMNS = ("premise", "hypothesis")
CHUNK = 4_096  # rows that are labelled at a time
SHOWN = 10  # numbers of skipped rows that are named
TOO_MANY = "cells beyond the header's"


def label_file(classifier: NLIClassifier, source: Path, target: Path, skip_bad_rows: bool = False) -> str:
    """Label the pairs of ``source`` and write them to ``target``, which appears once it is whole.

    Args:
        source: a UTF-8 CSV file with the columns premise and hypothesis, or ``-`` for standard input; other columns
            are kept.
        target: gets the columns ``predicted`` and, for each label, its probability, as well. If it is a link, the file
            that it points to is written.
        skip_bad_rows: leave out rows that lack a sentence or have the wrong number of cells, instead of stopping.

    Returns:
        What was done, in words: how many rows were labelled and which were skipped; the first below the header is 1.

    Raises:
        UsageError: a file that is no CSV in UTF-8, a missing column, a bad row; no file has been written then.
    """
    target = target.resolve()
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is no file: choose a file to write")
    written, skipped = 0, []
    with ExitStack() as stack:
        try:
            file = (
                sys.stdin if str(source) == "-" else stack.enter_context(source.open(encoding="utf-8-sig", newline=""))
            )
        except OSError as error:
            raise UsageError(f"{source} could not be read ({error.strerror}): name a CSV file") from error
        csv.field_size_limit(2**31 - 1)  # a field may be a whole document
        reader = csv.DictReader(file, restkey=TOO_MANY, strict=True)
        new = ["predicted", *classifier.labels]
        good = good_rows(reader, source, new, skipped if skip_bad_rows else None)
        first = next(good, None)  # reads the header too
        out = stack.enter_context(replacing(target, newline=""))
        writer = csv.DictWriter(out, [*(reader.fieldnames or []), *new], lineterminator="\n")
        writer.writeheader()
        rows = itertools.chain([first] if first else [], good)
        with progress_bar(desc="labelling", unit="rows") as bar:
            for chunk in iter(lambda: list(itertools.islice(rows, CHUNK)), []):
                chances = classifier.predict_proba(*([row[name] for row in chunk] for name in COLUMNS))
                for row, of_row in zip(chunk, chances, strict=True):
                    named = {label: f"{chance:.6f}" for label, chance in zip(classifier.labels, of_row, strict=True)}
                    writer.writerow({**row, "predicted": classifier.labels[int(of_row.argmax())], **named})
                written += len(chunk)
                bar.update(len(chunk))
    return in_words(written, skipped, target)


def good_rows(reader: csv.DictReader, path: Path, new: list[str], skipped: list[int] | None) -> Iterator[dict]:
    """Yield the rows that can be labelled. A bad one is an error, or its number goes to ``skipped`` if that is a list."""
    number = 0
    try:
        check_header(reader.fieldnames or [], path, new)
        for number, row in enumerate(reader, 1):
            fault = fault_of(row)
            if fault is None:
                yield row
            elif skipped is None:
                raise UsageError(f"{path} has {fault} in row {number}: fix or remove it, or ask for --skip-bad-rows")
            else:
                skipped.append(number)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} could not be read as CSV after row {number} ({error}): give a UTF-8 file with the columns premise and "
            "hypothesis"
        ) from error


def check_header(header: list[str], path: Path, new: list[str]) -> None:
    """Raise UsageError if a column is missing, is there twice, or is one of the ``new`` ones."""
    for name in COLUMNS:
        if name not in header:
            raise UsageError(
                f"{path} has no column {name!r} (it has: {', '.join(header) or 'nothing'}): rename or add it"
            )
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"{path} has the column {name!r} twice: leave one")
        if name in new:
            raise UsageError(f"{path} has a column {name!r} already, which would be written: rename or remove it")


def fault_of(row: dict) -> str | None:
    """Return what is wrong with a row, or None."""
    if TOO_MANY in row or None in row.values():
        return "more or fewer cells than the header"
    empty = [name for name in COLUMNS if not row[name].strip()]
    return f"no {empty[0]}" if empty else None


def in_words(written: int, skipped: list[int], target: Path) -> str:
    """Return what was done: how many rows were written, and which were left out."""
    text = f"{written:,} pairs labelled in {target}"
    if skipped:
        more = f" and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else ""
        text += f"; {len(skipped):,} bad rows skipped: {', '.join(map(str, skipped[:SHOWN]))}{more}"
    return text
