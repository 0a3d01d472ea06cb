"""Checks of notebook 09: two lists of hyperparameters, a log of training, the audit of a card by hand."""

import copy

from stlib.cards import published_card
from stlib.exercises import TEMPLATE

CARD = """---\nlibrary_name: sentence-transformers\n---\n# A model\n### Training Dataset\n#### Unnamed Dataset
* Columns: <code>sentence_0</code>, <code>sentence_1</code>, and <code>label</code>\n#### All Hyperparameters
- `learning_rate`: 5e-05\n- `warmup_steps`: 0\n- `max_grad_norm`: 1\n- `multi_dataset_batch_sampler`: round_robin
### Training Logs\n| Epoch | Step | Training Loss |\n|:-|:-|:-|\n| 0.5 | 500 | 1.08 |\n| 1.0 | 1000 | 0.99 |\n### Framework Versions\n- Sentence Transformers: 4.1.0
"""
CHANGES = [  # what is replaced, by what, and what then trained the model
    ("round_robin", "proportional", "trainer", "the sampler is proportional, which fit never sets"),
    ("5e-05", "2e-05", "trainer", "the learning rate is 2e-05, and fit hands none on"),
    ("warmup_steps`: 0", "warmup_steps`: 100", "trainer", "100 steps of warm-up are printed, and fit prints 0"),
    ("| 1000 |", "| 900 |", "trainer", "the last step of the log is 900, and fit logs every 500 steps"),
    ("sentence_1", "hypothesis", "trainer", "the second column is called hypothesis"),
    ("norm`: 1\n", "norm`: 1.0\n", "unknown", "max_grad_norm is 1.0, not the integer 1"),
    ("- `multi_dataset_batch_sampler`: round_robin\n", "", "unknown", "the card prints no sampler"),
    ("* Columns: ", "* Rows: ", "unknown", "the card prints no columns"),
    ("- `learning_rate`: 5e-05\n- `warmup_steps`: 0\n", "", "fit", "what is not printed is no sign against fit"),
]


def exercise_1(changes):
    there = {"gone": 1, "rate": 5e-05, "same": "linear", "empty": None, "flag": False, "also_gone": None}
    here = {"rate": 0.0003, "same": "linear", "empty": None, "flag": None, "new": [], "newer": None}
    found = changes(there, here)
    assert found is not None, TEMPLATE
    right = isinstance(found, (tuple, list)) and len(found) == 3
    assert right, "return three sets: only there, only here, changed"
    only_there, only_here, changed = map(set, found)
    assert only_there == {"gone", "also_gone"}, (
        "the first set, of names only in the first card, is wrong: None is printed too"
    )
    assert only_here == {"new", "newer"}, "the second set is wrong: a name whose value is None is printed too"
    assert not changed & {"same", "empty"}, "the third set holds a name whose two values are equal"
    assert changed <= {"rate", "flag"}, "the third set holds a name that one card lacks: only names of both can change"
    assert changed == {"rate", "flag"}, "the third set misses a name: compare the values themselves, not their truth"


def exercise_2(problems):
    card = published_card()
    steps_an_epoch = -(-card["dataset"]["rows"] // 32)

    def found(log, steps=steps_an_epoch):
        messages = problems(copy.deepcopy(log), steps)
        assert messages is not None, TEMPLATE
        assert isinstance(messages, (list, tuple)), "return a list of messages, empty if nothing is wrong"
        return len(messages)

    fine = [[round(step / 300, 4), step, 1.0] for step in range(50, 1_000, 50)]
    assert not found(card["log"]), (
        "the published log is in order: its epochs are rounded to four digits, so allow for that"
    )
    assert not found(fine, 300), (
        "a log with a row every 50 steps and 300 steps an epoch is in order: use what you are given"
    )
    assert found([[epoch, step + 20 * (step > 500), loss] for epoch, step, loss in fine], 300), (
        "a wrong step goes unnoticed"
    )
    assert found(fine[:7] + fine[8:], 300), "a log that lacks a row goes unnoticed: its steps are not equally far apart"
    assert found(fine, 301), "an epoch that does not fit its step goes unnoticed: divide steps by the steps an epoch"
    for row in (40, -1):
        broken = copy.deepcopy(card["log"])
        broken[row][0] -= 0.01
        assert found(broken), "one wrong epoch goes unnoticed: look at every row, the last one too, and at both signs"


def exercise_3(entry_point):
    for here, there, expected, hint in [("", "", "fit", "all three traces of fit, and no sign against it"), *CHANGES]:
        found = entry_point(CARD.replace(here, there))
        assert found is not None, TEMPLATE
        assert found == expected, f"{hint}: that should give {expected!r}, and yours gives {found!r}"
