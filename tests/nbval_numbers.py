"""A pytest plugin: nbval compares the numbers in outputs as numbers, and the text around them as text.

A number may differ by one unit of its last printed digit, a whole number not at all. A cell may declare another tolerance
for all its numbers, with the reason on the same line:

    # NBVAL_TOLERANCE 0.02 the trained weights differ from processor to processor

That is absolute, and 1 or more lets whole numbers differ too. What nbval leaves out stays out: figures are not compared.
"""

import re
from decimal import Decimal

from nbval.plugin import IPyNbCell

# 7 · 1,500 · -0.66 · +1.18 · 2e-05 · 84.3 in "84.3 %" · both ends of [0.81, 0.85], but neither versions (6.2.0) nor
# digits that go on after a letter (sts12): those are text.
NUMBER = re.compile(
    r"(?<![\w.])"
    r"((?:(?<![\w)])[-+−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    r"(?!\.?\d)"
)
MARK = re.compile(r"^[ \t]*#[ \t]*NBVAL_TOLERANCE\b(.*)$", re.MULTILINE)
DECLARED = re.compile(r"[ \t]+(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)[ \t]+(?=.*\w\w).+")


def declared_tolerance(source: str) -> Decimal | None:
    """Return what a cell declares, or None. Raises ValueError if it gives no number, no reason, or more than one."""
    marks = MARK.findall(source)
    if not marks:
        return None
    found = DECLARED.fullmatch(marks[0].rstrip())
    if len(marks) > 1 or not found:
        raise ValueError("write one line: # NBVAL_TOLERANCE, a number, and the reason, such as 0.02 trained figures")
    return Decimal(found[1])


def value_and_unit(number: str) -> tuple[Decimal, Decimal]:
    """Return the value of a printed number and one unit of its last digit, which is 0 without a decimal point."""
    value = Decimal(number.replace(",", "").replace("−", "-"))
    return value, Decimal((0, (1,), value.as_tuple().exponent)) if "." in number else Decimal(0)


def is_near(committed: str, fresh: str, tolerance: Decimal | None) -> bool:
    """Return whether a number may stand for the committed one; "0.8" and "0.81" are compared to two digits."""
    (old, old_unit), (new, new_unit) = value_and_unit(committed), value_and_unit(fresh)
    units = min(old_unit, new_unit) if tolerance is None else tolerance
    return old == new if not units else abs(old - new) <= units


def squeezed(text: str) -> str:
    """Return the text with single spaces: a table's columns move if a number in them gets longer."""
    return re.sub(" +", " ", re.sub(" *\n *", "\n", text)).strip(" ")


def settled(committed: str, fresh: str, tolerance: Decimal | None = None) -> str:
    """Return ``fresh`` with each number that may stand for the committed one replaced by it: equal texts agree.

    Where they do not agree, what is left between them is what really differs.
    """
    old, new = NUMBER.split(committed), NUMBER.split(fresh)  # text, number, text, …, text
    if len(old) != len(new):
        return fresh
    moved = list(map(len, old[1::2])) != list(map(len, new[1::2]))
    for place, (ours, theirs) in enumerate(zip(old, new, strict=True)):
        if place % 2:
            same = is_near(ours, theirs, tolerance)
        else:
            same = moved and squeezed(ours) == squeezed(theirs)
        new[place] = ours if same else theirs
    return "".join(new)


class Figures(str):
    """A text that equals another one if only numbers in it differ, and by no more than they may."""

    tolerance: Decimal | None = None

    def __eq__(self, other) -> bool:
        if not isinstance(other, str):
            return False
        return str.__eq__(self, settled(str(self), str(other), self.tolerance))

    def __ne__(self, other) -> bool:
        return not self == other

    __hash__ = str.__hash__


def figures(text: str, tolerance: Decimal | None) -> Figures:
    """Return a text that equals others within a tolerance."""
    found = Figures(text)
    found.tolerance = tolerance
    return found


class NumberCell(IPyNbCell):
    """A cell of a notebook that compares its outputs in this way."""

    def runtest(self):
        try:
            self.tolerance = declared_tolerance(self.cell.source)
        except ValueError as error:
            self.raise_cell_error(str(error))
        super().runtest()

    def sanitize(self, s):
        """Return a text as nbval would compare it, or what is no text as it is."""
        s = super().sanitize(s)
        return figures(s, self.tolerance) if isinstance(s, str) else s

    def format_output_compare(self, key, left, right):
        """Show only what differs by more than it may."""
        if isinstance(left, str) and isinstance(right, str):
            left, right = str(left), settled(str(left), str(right), self.tolerance)
        super().format_output_compare(key, left, right)


def pytest_itemcollected(item):
    if type(item) is IPyNbCell:
        item.__class__ = NumberCell
