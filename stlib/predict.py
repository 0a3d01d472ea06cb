"""A CSV file of pairs in, the same with labels out: row by row, in bounded memory, whatever the size of the file.

The ``csv`` module instead of pandas: it keeps every cell as it was written, and knows the number of a bad row.
"""

import csv
import itertools
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from stlib.errors import UsageError
from stlib.model import NLIClassifier
from stlib.runs import replacing
from stlib.settings import output_file, progress_bar

COLUMNS = ("premise", "hypothesis")
CHUNK = 4_096  # rows that are labelled at a time
SHOWN = 10  # numbers of skipped rows that are named


def label_file(classifier: NLIClassifier, source: Path, target: Path, skip_bad_rows: bool = False) -> str:
    """Label the pairs of ``source``, write them to ``target``, and return what was done, in words.

    ``source`` is a UTF-8 CSV file with the columns premise and hypothesis, or ``-`` for standard input. Its columns are
    kept; ``predicted`` and the probability of each label come after them. If ``target`` is a link, the file that it points
    to is written. Rows that lack a sentence or have the wrong number of cells are an error, or left out and counted
    with ``skip_bad_rows``; the first below the header is row 1. Raises UsageError, with nothing written, if the file is no
    CSV in UTF-8, lacks a column or has a bad row, or ``target`` is the same file or cannot be written.
    """
    target, piped = output_file(target), str(source) == "-"
    try:
        if piped:
            sys.stdin.reconfigure(encoding="utf-8-sig", newline="")
        elif target.exists() and target.samefile(source):
            raise UsageError(f"{source} is the file to read and the file to write: choose another one to write")
        opened = nullcontext(sys.stdin) if piped else source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UsageError(f"{source} could not be read ({error.strerror}): name a CSV file") from error
    written, skipped, new = 0, [], ["predicted", *classifier.labels]
    with opened as file:
        rows = good_rows(file, "standard input" if piped else source, new, skipped if skip_bad_rows else None)
        header, _ = next(rows)
        chunk = list(itertools.islice(rows, CHUNK))  # before anything is written
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, newline="") as out, progress_bar(desc="labelling", unit="rows") as bar:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([*header, *new])
            while chunk:
                chances = classifier.predict_proba(*zip(*(pair for _, pair in chunk), strict=True))
                for (row, _), of_row in zip(chunk, chances, strict=True):
                    writer.writerow([*row, classifier.labels[of_row.argmax()], *(f"{chance:.6f}" for chance in of_row)])
                written += len(chunk)
                bar.update(len(chunk))
                chunk = list(itertools.islice(rows, CHUNK))
    text = f"{written:,} pairs labelled in {target}"
    if skipped:
        more = f" and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else ""
        text += f"; {len(skipped):,} bad rows skipped: {', '.join(map(str, skipped[:SHOWN]))}{more}"
    return text


def good_rows(file: TextIO, name: str | Path, new: list[str], skipped: list[int] | None) -> Iterator[tuple]:
    """Yield each row that can be labelled, as it is and its (premise, hypothesis), after the header and those two names.

    Blanks around a column's name and capitals do not matter. A bad row is an error, or its number goes to ``skipped`` if
    that is a list. Raises UsageError also if a column is missing, is there twice, or is one of the ``new`` ones.
    """
    number = 0
    csv.field_size_limit(2**31 - 1)  # a field may be a whole document
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        known = [column.strip().lower() for column in header]
        for column in COLUMNS:
            if column not in known:
                fix = "rename or add it, with commas between columns"
                raise UsageError(f"{name} has no column {column!r} (it has: {', '.join(header) or 'nothing'}): {fix}")
            if known.count(column) > 1:
                raise UsageError(f"{name} has the column {column!r} twice: leave one")
        if written := [column for column in new if column in known]:
            raise UsageError(f"{name} has a column {written[0]!r} already, which would be written: rename or remove it")
        yield header, COLUMNS
        for number, row in enumerate(filter(None, reader), 1):
            pair = [row[known.index(column)] for column in COLUMNS] if len(row) == len(header) else []
            blank = [column for column, text in zip(COLUMNS, pair, strict=False) if not text.strip()]
            fault = "more or fewer cells than the header" if not pair else f"no {blank[0]}" if blank else None
            if fault is None:
                yield row, pair
            elif skipped is None:
                raise UsageError(f"{name} has {fault} in row {number}: fix or remove it, or ask for --skip-bad-rows")
            else:
                skipped.append(number)
    except (UnicodeDecodeError, csv.Error) as error:
        fix = "give a UTF-8 file with the columns premise and hypothesis"
        raise UsageError(f"{name} could not be read as CSV after row {number} ({error}): {fix}") from error
