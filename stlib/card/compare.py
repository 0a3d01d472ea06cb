"""Compare a card with the published one, section by section: same, differs and why, only there, only here."""

import re
from dataclasses import dataclass

from stlib.card.published import published_card
from stlib.card.reading import read_card

DATASET, LOSSES = "#### (the data set)", "#### (library and loss)"
# The library's name for a section may hold a name of the run's: those are the same section.
TITLE, FRONT = "# (title)", "(front matter)"
NOTHING = "(nothing)"
WHY = {
    TITLE: "another base model",
    FRONT: "the generator was told language, licence and data set here, and scores are in it where the model was evaluated",
    "### Model Description": "this version also lists modalities, and here data set, language and licence were given",
    "### Model Sources": "the library's repository has moved since",
    "### Full Model Architecture": "the same modules in the same order; this version prints other fields of them",
    "### Direct Usage (Sentence Transformers)": "other example sentences; this version also prints their similarities",
    DATASET: "another data set or another part of it; 4.1.0 takes statistics over 1,000 rows, this version over 100",
    "#### Non-Default Hyperparameters": "the published run used the legacy fit; here the trainer's arguments carry the recipe",
    "#### All Hyperparameters": "this version has other arguments, and here they carry the recipe instead of defaults that never ran",
    "### Training Logs": "another run: see the settings and the data",
    "### Framework Versions": "other versions",
    LOSSES: "another loss, or another version's list of what to cite",
    "### Effective Settings": "added here: the lists of hyperparameters do not say what an optimizer and a schedule of one's own did",
    "### Training Time": "this version of the library writes it",
    "## Additional Resources": "this version of the library writes it",
    "## Evaluation": "the published model was not evaluated; here the scores of the finished model are in the card",
    "### Metrics": "see Evaluation",
    "#### Semantic Similarity": "see Evaluation",
    "#### Natural Language Inference": "see Evaluation",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """What came of one section.

    Attributes:
        section: its heading, or a name in round brackets where headings hold names of the run.
        verdict: ``same``, ``differs``, ``only there`` (in the published card) or ``only here``.
        why: the reason; empty where the section is the same.
        details: fact by fact, what is there and what is here.
    """

    section: str
    verdict: str
    why: str = ""
    details: tuple[str, ...] = ()


def compare(text: str) -> list[Difference]:
    """Compare the card ``text`` with the published one, in the order of the published card.

    A section is the same where all of its facts are. Sections that hold placeholders only are compared by heading.
    """
    here, there = read_card(text), published_card()
    ours, theirs = [list(map(kind, names_in(card))) for card in (here, there)]
    differences = []
    for section in [FRONT, *theirs]:
        if section != FRONT and section not in ours:
            differences.append(Difference(section, "only there", WHY.get(section, "")))
            continue
        details = tuple(facts_that_differ(section, here, there))
        differences.append(
            Difference(section, "differs", WHY.get(section, ""), details) if details else Difference(section, "same")
        )
    return differences + [
        Difference(section, "only here", WHY.get(section, "")) for section in ours if section not in theirs
    ]


def names_in(card: dict) -> list[tuple[str, str]]:
    """Each heading with the one before it."""
    return list(zip(card["sections"], ["", *card["sections"]], strict=False))


def kind(heading_and_before: tuple[str, str]) -> str:
    """A heading without names of the run."""
    heading, before = heading_and_before
    if before == "":
        return TITLE
    if before == "### Training Dataset":
        return DATASET
    if before == "### BibTeX":
        return LOSSES
    return heading


def facts_that_differ(section: str, here: dict, there: dict) -> list[str]:
    """``name: published → ours`` of each fact in a section that is not the same."""
    facts = {
        TITLE: lambda card: {"title": card["sections"][0]},
        FRONT: lambda card: {name: value for name, value in card["front_matter"].items() if name != "model-index"},
        "### Model Description": lambda card: {
            **{name: value for name, value in card["model"].items() if name != "architecture"},
            "base_model": card["base_model"],
        },
        "### Model Sources": lambda card: card["sources"],
        "### Full Model Architecture": lambda card: {
            "modules": re.findall(r"\(\d\): (\w+)", card["model"]["architecture"]),
            "printed": card["model"]["architecture"],
        },
        "### Direct Usage (Sentence Transformers)": lambda card: {"sentences": card["usage_sentences"]},
        DATASET: lambda card: card["dataset"],
        "#### Non-Default Hyperparameters": lambda card: card["non_default_hyperparameters"],
        "#### All Hyperparameters": lambda card: card["hyperparameters"],
        "### Training Logs": lambda card: {
            "rows": len(card["log"]), "first row": card["log"][:1], "last row": card["log"][-1:]
        },
        "### Framework Versions": lambda card: card["versions"],
        LOSSES: lambda card: {"heading": next(name for name, before in names_in(card) if before == "### BibTeX")},
    }.get(section)  # fmt: skip
    if facts is None:
        return []
    ours, theirs = flat(facts(here)), flat(facts(there))
    return [
        f"{name}: {theirs.get(name, NOTHING)} → {ours.get(name, NOTHING)}"
        for name in {**theirs, **ours}
        if theirs.get(name, NOTHING) != ours.get(name, NOTHING)
    ]


def flat(facts: dict, before: str = "") -> dict:
    """Nested facts under names such as ``statistics.label.type``."""
    found = {}
    for name, value in facts.items():
        name = f"{before}{name}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return found


def report(differences: list[Difference], width: int = 160) -> str:
    """The comparison as text: one line a section, and below it the facts that differ, published → here."""
    lines = []
    for difference in differences:
        why = f"  ({difference.why})" if difference.why else ""
        lines.append(f"{difference.verdict:10s}  {difference.section}{why}")
        for detail in difference.details:
            detail = detail.replace("\n", " ")
            lines.append(f"              {detail if len(detail) <= width else detail[: width - 1] + '…'}")
    counts = [
        f"{sum(d.verdict == verdict for d in differences)} {verdict}"
        for verdict in ("same", "differs", "only there", "only here")
    ]
    return "\n".join([*lines, "", "sections: " + ", ".join(counts)])
