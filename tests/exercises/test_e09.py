"""The checks of notebook 09: what they let pass, and what they say otherwise."""

from itertools import pairwise

import pytest

from stlib.auditing import audit
from stlib.cards import read_card
from stlib.exercises import find, shortcoming
from stlib.exercises.e09 import CARD, CHANGES


def changes(there, here):
    both = there.keys() & here.keys()
    return there.keys() - here.keys(), here.keys() - there.keys(), [name for name in both if there[name] != here[name]]


def by_get(there, here):
    names = {*there, *here}
    return (
        {n for n in names if here.get(n) is None and there.get(n) is not None},
        {n for n in names if there.get(n) is None and here.get(n) is not None},
        {n for n in names if there.get(n) != here.get(n)},
    )


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda there, here: len(there.keys() - here.keys()), "three sets"),
        (lambda there, here: changes(here, there), "first"),
        (by_get, "None"),
        (lambda there, here: (*changes(there, here)[:2], there.keys() & here.keys()), "equal"),
        (lambda there, here: (*changes(there, here)[:2], {n for n in {*there, *here} if there.get(n) != here.get(n)}), "both"),
        (lambda there, here: (*changes(there, here)[:2], {"rate"}), "misses"),
    ],
)  # fmt: skip
def test_hyperparameters(wrong, word):
    assert shortcoming(find("09.1"), changes) is None
    assert word in shortcoming(find("09.1"), wrong)


def problems(log, steps_an_epoch, tolerance=1e-4, evenly=True, rows=None):
    found = []
    gaps = {after[1] - before[1] for before, after in pairwise(log)}
    if evenly and len(gaps) != 1:
        found.append("steps")
    if any(abs(epoch - step / steps_an_epoch) > tolerance for epoch, step, _ in log[:rows]):
        found.append("epochs")
    return found


def broken(**settings):
    return lambda log, steps_an_epoch: problems(log, steps_an_epoch, **settings)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda log, steps: bool(problems(log, steps)), "list"),
        (broken(tolerance=0), "rounded"),
        (lambda log, steps: problems(log, 17_168), "given"),
        (broken(evenly=False), "equally far"),
        (broken(tolerance=1), "divide"),
        (broken(rows=1), "every row"),
        (broken(rows=-1), "every row"),
        (lambda log, steps: [], "unnoticed"),
    ],
)
def test_log(wrong, word):
    assert shortcoming(find("09.2"), problems) is None
    assert word in shortcoming(find("09.2"), wrong)


ALL = ("sampler", "rate", "warmup", "log", "columns")


def entry_point(text, signs=ALL, norm=lambda value: repr(value) == "1", needed=True):
    facts = read_card(text)
    printed, columns = facts["hyperparameters"], (facts["dataset"] or {}).get("columns", [])
    sampler = printed.get("multi_dataset_batch_sampler")
    against = {
        "sampler": sampler not in ("round_robin", None),
        "rate": printed.get("learning_rate") not in (5e-5, None),
        "warmup": printed.get("warmup_steps") not in (0, None),
        "log": any(step % 500 for _, step, _ in facts["log"]),
        "columns": any(name != "label" and not name.startswith("sentence_") for name in columns),
    }
    if any(against[sign] for sign in signs):
        return "trainer"
    return "fit" if norm(printed.get("max_grad_norm")) and (sampler or not needed) and columns else "unknown"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda text: "unknown", "all three traces"),
        (lambda text: entry_point(text, signs=ALL[1:]), "proportional"),
        (lambda text: entry_point(text, signs=ALL[:1] + ALL[2:]), "learning rate"),
        (lambda text: entry_point(text, signs=ALL[:2] + ALL[3:]), "warm-up"),
        (lambda text: entry_point(text, signs=ALL[:3] + ALL[4:]), "every 500"),
        (lambda text: entry_point(text, signs=ALL[:4]), "second column"),
        (lambda text: entry_point(text, norm=lambda value: value == 1), "the integer 1"),
        (lambda text: entry_point(text, needed=False), "no sampler"),
        (lambda text: "fit" if "Rows: " in text else entry_point(text), "no columns"),
        (lambda text: entry_point(text) if "learning_rate" in text else "trainer", "not printed"),
    ],
)
def test_audit_by_hand(wrong, word):
    assert shortcoming(find("09.3"), entry_point) is None
    assert word in shortcoming(find("09.3"), wrong)


def test_the_cards_of_the_audit_exercise_are_judged_as_the_audit_judges_them():
    for here, there, expected, _ in [("", "", "fit", ""), *CHANGES]:
        text = CARD.replace(here, there)
        assert text != CARD or not here
        assert audit(text)["entry_point"]["value"] == expected


@pytest.mark.parametrize("number", range(1, 4))
def test_templates_ask_for_code(number):
    assert "three dots" in shortcoming(find(f"09.{number}"), lambda *_: None)
