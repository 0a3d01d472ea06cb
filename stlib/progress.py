"""Progress bars that show in a notebook, in a terminal, and through ``tools/course.py``."""

import os
import sys
from collections.abc import Iterable

import tqdm.auto
import tqdm.std

# One line of plain text per refresh: what a program that runs a notebook can pass on to a terminal.
TEXT = "{desc}: {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"


def disabled() -> bool:
    """Return whether bars are off (``TQDM_DISABLE=1``), as they are when outputs are compared."""
    return os.environ.get("TQDM_DISABLE", "") not in ("", "0")


def bar(iterable: Iterable | None = None, **options):
    """Return a bar of tqdm over ``iterable``, which appears once the work takes longer than a second.

    With ``STLIB_PROGRESS=text`` it is a line of text on stderr, also in a notebook, where it would be a widget.

    Args:
        options: as for ``tqdm``, such as ``total``, ``desc`` and ``unit`` (in the plural: ``steps``).
    """
    options = {"delay": 1, "leave": False, **options, "disable": options.get("disable", False) or disabled()}
    if os.environ.get("STLIB_PROGRESS") == "text":
        # All bars share one line, so no cursor has to move between them. No terminal need be there to ask for its size.
        text = {"bar_format": TEXT, "position": 0, "ncols": 100, "nrows": 20, "file": sys.stderr, "mininterval": 0.5}
        return tqdm.std.tqdm(iterable, **{**text, **options})
    return tqdm.auto.tqdm(iterable, **options)
