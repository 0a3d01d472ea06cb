"""A CSV file of pairs in, the same with labels out: row by row, in bounded memory, whatever the size of the file."""

import csv
import io
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stlib import progress
from stlib.errors import UsageError
from stlib.model import NLIClassifier
from stlib.runs import replacing

COLUMNS = ("premise", "hypothesis")
CHUNK = 4_096  # rows that are labelled at a time
SHOWN = 10  # numbers of skipped rows that are named


def label_file(
    classifier: NLIClassifier, source: Path, target: Path, skip_bad_rows: bool = False
) -> tuple[int, list[int]]:
    """Label the pairs of ``source`` and write them to ``target``, which appears once it is whole.

    Args:
        source: a UTF-8 CSV file with the columns premise and hypothesis; others are kept.
        target: gets the columns ``predicted`` and, for each label, its probability, as well.
        skip_bad_rows: leave out rows that lack a sentence or have the wrong number of cells, instead of stopping.

    Returns:
        How many rows were labelled, and the numbers of those that were skipped; the first row below the header is 1.

    Raises:
        UsageError: a file that is no CSV in UTF-8, a missing column, a bad row; no file has been written then.
    """
    written, skipped = 0, []
    with opened(source) as (file, size, position), replacing(target, newline="") as out:
        reader = csv.reader(file, strict=True)
        header = read_header(reader, source)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*header, "predicted", *classifier.labels])
        good = good_rows(reader, header, source, skipped if skip_bad_rows else None)
        with progress.bar(total=size, desc="labelling", unit="B", unit_scale=True) as bar:
            for rows in iter(lambda: list(itertools.islice(good, CHUNK)), []):
                premises, hypotheses = ([row[header.index(name)] for row in rows] for name in COLUMNS)
                chances = classifier.predict_proba(premises, hypotheses)
                for row, of_row in zip(rows, chances.tolist(), strict=True):
                    best = classifier.labels[max(range(len(of_row)), key=of_row.__getitem__)]
                    writer.writerow([*row, best, *(f"{chance:.6f}" for chance in of_row)])
                written += len(rows)
                bar.update(position() - bar.n)
    return written, skipped


@contextmanager
def opened(path: Path):
    """The text of a UTF-8 file, its size in bytes, and a function that says how far it has been read."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} could not be read ({error.strerror}): name a CSV file") from error
    with raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        yield text, path.stat().st_size, raw.tell


def read_header(reader, path: Path) -> list[str]:
    """The names of the columns. Raises UsageError where one is missing or there twice."""
    header = next(guarded(reader, path, 0), [])
    for name in COLUMNS:
        if name not in header:
            raise UsageError(
                f"{path} has no column {name!r} (it has: {', '.join(header) or 'nothing'}): rename or add it"
            )
        if header.count(name) > 1:
            raise UsageError(f"{path} has the column {name!r} twice: leave one")
    return header


def guarded(reader, path: Path, number: int) -> Iterator[list[str]]:
    """The rows of ``reader``. Raises UsageError where the text is no CSV in UTF-8, with the number of the row."""
    try:
        for row in reader:
            number += 1
            yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} could not be read as CSV after row {max(number - 1, 0)} ({error}): give a UTF-8 file with the columns "
            "premise and hypothesis"
        ) from error


def good_rows(reader, header: list[str], path: Path, skipped: list[int] | None) -> Iterator[list[str]]:
    """The rows that can be labelled. A bad one is an error, or its number goes to ``skipped`` where that is a list."""
    for number, row in enumerate(guarded(reader, path, 1), 1):
        if not row:  # an empty line is no row to csv
            fault = "no cells"
        elif len(row) != len(header):
            fault = f"{len(row)} cells instead of {len(header)}"
        else:
            empty = [name for name in COLUMNS if not row[header.index(name)].strip()]
            fault = f"no {empty[0]}" if empty else None
        if fault is None:
            yield row
        elif skipped is None:
            raise UsageError(f"{path} has {fault} in row {number}: mend or remove the row, or ask for --skip-bad-rows")
        else:
            skipped.append(number)


def report(written: int, skipped: list[int], target: Path) -> None:
    """Say what was done, and on standard error which rows were left out."""
    print(f"{written:,} pairs labelled in {target}")
    if skipped:
        more = f" and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else ""
        numbers = ", ".join(map(str, skipped[:SHOWN]))
        print(f"{len(skipped):,} bad rows skipped: {numbers}{more}", file=sys.stderr)
