"""Checks of the exercises: ``check("01.2", answer)`` says whether an answer solves exercise 2 of notebook 01.

Each notebook has a module of its own here, with a function an exercise. It raises AssertionError with a hint where the
answer falls short.
"""

import importlib
from collections.abc import Callable

from stlib.errors import UsageError

NOTHING = "nothing is returned yet: replace the three dots"  # hints of several notebooks
TEMPLATE = "put your code in place of the three dots, and return what it finds"


def check(exercise: str, answer) -> None:
    """Print whether ``answer`` solves the exercise, with a hint where it does not.

    Args:
        exercise: notebook and number, such as ``"01.2"``.
        answer: what the exercise asks for: a value or a function.

    Raises:
        UsageError: there is no such exercise.
    """
    hint = shortcoming(find(exercise), answer)
    print(f"exercise {exercise}: solved" if hint is None else f"exercise {exercise}: not yet: {hint}")


def find(exercise: str) -> Callable:
    """The function that checks the exercise."""
    notebook, _, number = exercise.partition(".")
    try:
        return getattr(importlib.import_module(f"stlib.exercises.e{notebook}"), f"exercise_{number}")
    except (ModuleNotFoundError, AttributeError) as error:
        raise UsageError(f"there is no exercise {exercise!r}: name notebook and number, such as '01.2'") from error


def shortcoming(test: Callable, answer) -> str | None:
    """What the answer lacks, or None where it passes."""
    if answer is None or answer is ...:
        return "put your answer in place of the three dots"
    try:
        test(answer)
    except AssertionError as error:
        return str(error) or "an assert of your own fails"
    except Exception as error:  # the learner's own code may raise anything, and the rest of the notebook should run on
        return f"your code stops with {type(error).__name__}: {error}"
    return None
