"""The words of the scene grammar: facts, their broader forms, and how often each is said."""

import json
from pathlib import Path
from typing import NamedTuple

GRAMMAR_VERSION = 1  # raise it when the sentences change: it is part of the data fingerprint
LABELS = ("entailment", "neutral", "contradiction")
# How often each optional slot is in a premise; together they give the card's mean premise length.
MENTION = {
    "activity": 0.92,
    "place": 0.62,
    "clothing": 0.55,
    "trait": 0.62,
    "time": 0.36,
    "weather": 0.28,
    "company": 0.33,
}
MENTION_BROADLY = 0.12  # how often the premise itself uses a broader word
# How often each slot is the focus of a hypothesis, whatever the label.
FOCUS = {
    "activity": 5.0,
    "place": 4.0,
    "clothing": 3.0,
    "trait": 3.0,
    "subject": 2.5,
    "count": 1.5,
    "time": 1.5,
    "weather": 1.5,
    "company": 1.5,
}
BROADEN = 0.25  # how often an entailed fact is said with a broader word
BROADER_FOCUS = 0.3  # how often a contradicting or unsupported fact is, so that broad words give no label away
REWORD = 0.5  # how often it is said with other words of the same meaning, where there are some
HELD_OUT = 0.4  # how often the test split draws a word never seen in training

KIND_OF_GROUP = {"home": "indoors", "public": "indoors", "nature": "outdoors", "town": "outdoors"}
SAME_MEANING = {"outdoors": ["outdoors", "outside"], "indoors": ["indoors", "inside a building"]}
PLURAL = {"adult": "adults", "child": "children", "person": "people", "animal": "animals"}
NUMBERS = ({"n": 1}, {"n": 2, "exact": ["two"]}, {"n": 3, "exact": ["three"]}, {"n": 4, "exact": ["four"]})


class Fact(NamedTuple):
    """One statement about a scene: ``level`` 0 is the exact form, 1 and up are broader words for it."""

    slot: str
    value: dict
    level: int
    text: str


Scene = dict[str, Fact]


def _load_lexicon() -> dict:
    lexicon = json.loads(Path(__file__).with_name("lexicon.json").read_text(encoding="utf-8"))
    for person in lexicon["people"]:
        person.update(exact=[person["one"]], general=[person["age"], "person"], animal=False)
    for animal in lexicon["animals"]:
        animal.update(exact=[animal["one"]], general=["animal"], animal=True)
    for place in lexicon["place"]:
        place["general"] = [place["kind"]]
    lexicon["clothing"] = [dict(item, color=color) for item in lexicon["clothing"] for color in lexicon["color"]]
    for item in lexicon["clothing"]:
        item.update(exact=[f"{item['color']} {item['one']}"], general=[item["one"]])
    lexicon["fur"] = [{"exact": [color], "axis": "fur"} for color in lexicon["fur"]]
    lexicon["trait"] = [dict(value, axis=axis) for axis, values in lexicon["trait"].items() for value in values]
    return lexicon


LEXICON = _load_lexicon()


def general_forms(value: dict) -> list[str]:
    return value.get("general", [])


def implied(value: dict) -> set[str]:
    """Every form that is true, or may well be true, where ``value`` is."""
    return {*value.get("exact", []), *general_forms(value), *value.get("also", [])}


def clash(known: Fact, other: dict) -> bool:
    """Whether ``other`` cannot hold in the scene where ``known`` does (for the same slot)."""
    value = known.value
    if known.slot == "subject":
        if value["animal"]:
            return known.level == 0 and value["one"] != other["one"]
        if known.level >= 2:
            return False
        differs = value["age"] != other["age"]
        if known.level == 0:
            differs = differs or (None not in (value["gender"], other["gender"]) and value["gender"] != other["gender"])
        return differs
    if known.slot == "trait":
        return value["axis"] == other["axis"] and value["exact"] != other["exact"]
    if known.slot == "clothing":
        return known.level == 0 and value["one"] == other["one"] and value["color"] != other["color"]
    if known.slot == "company":
        return value["with"] != other["with"]
    if known.slot == "weather":
        return value["general"] != other["general"]
    if known.level:
        return general_forms(value)[known.level - 1] not in implied(other)
    alike = implied(value) & set(other["exact"]) or implied(other) & set(value["exact"])
    return value["exact"] != other["exact"] and not alike


def chance_of_focus(slot: str, label: str) -> float:
    """Roughly how often ``slot`` can be the focus: where the premise leaves it open, or where it states it.

    Dividing by it makes each slot as frequent a focus under one label as under another.
    """
    stated = MENTION.get(slot, 1.0)
    return 1 - (1 - MENTION_BROADLY) * stated if label == "neutral" else stated


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def noun_form(subject: Fact, many: bool) -> str:
    if not many:
        return subject.text
    return subject.value["many"] if subject.level == 0 else PLURAL[subject.text]


def clothing_phrase(fact: Fact, many: bool) -> str:
    noun = fact.value["many"] if many else fact.value["one"]
    words = [noun] if fact.level else [fact.value["color"], noun]
    return " ".join(words) if many else f"{article(words[0])} {' '.join(words)}"


def activity_phrase(fact: Fact, many: bool) -> str:
    if many and fact.level == 0 and "many" in fact.value:
        return fact.value["many"][fact.value["exact"].index(fact.text)]
    return fact.text
