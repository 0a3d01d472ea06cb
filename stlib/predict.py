"""A CSV file of pairs in, the same with labels out: row by row, in bounded memory, whatever the size of the file.

The ``csv`` module instead of pandas: it keeps every cell as it was written, and knows the number of a bad row.
"""

import csv
import itertools
import sys
from collections.abc import Iterator
from contextlib import nullcontext
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
    """Label the pairs of ``source``, write them to ``target``, and return what was done, in words.

    ``source`` is a UTF-8 CSV file with the columns premise and hypothesis, or ``-`` for standard input. Its columns are
    kept; ``predicted`` and the probability of each label come after them. If ``target`` is a link, the file that it points
    to is written. Rows that lack a sentence or have the wrong number of cells are an error, or left out and counted
    with ``skip_bad_rows``; the first below the header is row 1. Raises UsageError, with nothing written, if the file is no
    CSV in UTF-8, lacks a column or has a bad row.
    """
    target = target.resolve()
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is no file: choose a file to write")
    try:
        opened = nullcontext(sys.stdin) if str(source) == "-" else source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UsageError(f"{source} could not be read ({error.strerror}): name a CSV file") from error
    csv.field_size_limit(2**31 - 1)  # a field may be a whole document
    written, skipped, new = 0, [], ["predicted", *classifier.labels]
    with opened as file:
        reader = csv.DictReader(file, restkey=TOO_MANY, strict=True)
        rows = good_rows(reader, source, new, skipped if skip_bad_rows else None)
        chunk = list(itertools.islice(rows, CHUNK))  # checks the header, too, before anything is written
        with replacing(target, newline="") as out, progress_bar(desc="labelling", unit="rows") as bar:
            writer = csv.DictWriter(out, [*reader.fieldnames, *new], lineterminator="\n")
            writer.writeheader()
            while chunk:
                chances = classifier.predict_proba(*([row[name] for row in chunk] for name in COLUMNS))
                for row, of_row in zip(chunk, chances, strict=True):
                    named = {label: f"{chance:.6f}" for label, chance in zip(classifier.labels, of_row, strict=True)}
                    writer.writerow({**row, "predicted": classifier.labels[int(of_row.argmax())], **named})
                written += len(chunk)
                bar.update(len(chunk))
                chunk = list(itertools.islice(rows, CHUNK))
    text = f"{written:,} pairs labelled in {target}"
    if skipped:
        more = f" and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else ""
        text += f"; {len(skipped):,} bad rows skipped: {', '.join(map(str, skipped[:SHOWN]))}{more}"
    return text


def good_rows(reader: csv.DictReader, path: Path, new: list[str], skipped: list[int] | None) -> Iterator[dict]:
    """Yield the rows that can be labelled. A bad one is an error, or its number goes to ``skipped`` if that is a list.

    Raises UsageError also if a column is missing, is there twice, or is one of the ``new`` ones.
    """
    number = 0
    try:
        header = reader.fieldnames or []
        for name in COLUMNS:
            if name not in header:
                have = ", ".join(header) or "nothing"
                raise UsageError(f"{path} has no column {name!r} (it has: {have}): rename or add it")
        for name in header:
            if header.count(name) > 1:
                raise UsageError(f"{path} has the column {name!r} twice: leave one")
            if name in new:
                raise UsageError(f"{path} has a column {name!r} already, which would be written: rename or remove it")
        for number, row in enumerate(reader, 1):
            fault = None
            if TOO_MANY in row or None in row.values():
                fault = "more or fewer cells than the header"
            elif empty := [name for name in COLUMNS if not row[name].strip()]:
                fault = f"no {empty[0]}"
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
