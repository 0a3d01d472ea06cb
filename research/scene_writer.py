"""The writer of the scene grammar: a premise and its three hypotheses from one random stream."""

import random

from scene_words import (
    BROADEN,
    BROADER_FOCUS,
    FOCUS,
    GRAMMAR_VERSION,
    HELD_OUT,
    KIND_OF_GROUP,
    LABELS,
    LEXICON,
    MENTION,
    MENTION_BROADLY,
    NUMBERS,
    REWORD,
    SAME_MEANING,
    Fact,
    Scene,
    activity_phrase,
    article,
    chance_of_focus,
    clash,
    clothing_phrase,
    general_forms,
    implied,
    noun_form,
)


class Writer:
    """Writes the pairs of one split from one random stream."""

    def __init__(self, split: str, seed: int):
        self.rng = random.Random(f"{GRAMMAR_VERSION}/{split}/{seed}")
        self.test = split == "test"

    def pick(self, values: list[dict]) -> dict | None:
        """One of ``values``: never a held-out word outside the test split, often one inside it."""
        held_out = [value for value in values if value.get("held_out")]
        if self.test and held_out and self.rng.random() < HELD_OUT:
            return self.rng.choice(held_out)
        values = [value for value in values if not value.get("held_out")]
        return self.rng.choice(values) if values else None

    def fact(self, slot: str, value: dict, level: int = 0, not_text: str | None = None) -> Fact:
        """State ``value`` at ``level``, avoiding the wording ``not_text`` where there is another."""
        if slot == "count":
            return Fact(slot, value, level, "some" if level else value.get("exact", ["a"])[0])
        forms = (
            value["exact"]
            if level == 0
            else SAME_MEANING.get(value["general"][level - 1], [value["general"][level - 1]])
        )
        others = [form for form in forms if form != not_text] or forms
        return Fact(slot, value, level, self.rng.choice(others))

    # ---- the premise -------------------------------------------------------------------------------------------

    def premise_scene(self) -> Scene:
        rng = self.rng
        animal = rng.random() < 0.12
        scene: Scene = {}
        who = self.pick(LEXICON["animals" if animal else "people"])
        level = 0 if rng.random() < 0.75 else rng.randint(1, len(general_forms(who)))
        scene["subject"] = self.fact("subject", who, level)
        number = NUMBERS[0] if rng.random() < 0.6 else rng.choice(NUMBERS[1:])
        scene["count"] = self.fact("count", number, int(number["n"] > 1 and rng.random() < 0.3))
        for slot, chance in MENTION.items():
            if rng.random() < chance:
                level = (
                    1 if slot in ("activity", "place", "clothing", "company") and rng.random() < MENTION_BROADLY else 0
                )
                new = self.new_fact(scene, slot, level)
                if new:
                    scene[slot] = new
        return scene

    def candidates(self, scene: Scene, slot: str) -> list[dict]:
        """The values of ``slot`` that make sense beside the rest of the scene."""
        animal = scene["subject"].value["animal"]
        if slot == "subject":
            return [v for v in LEXICON["people"] + LEXICON["animals"] if v["animal"] == animal]
        if slot == "count":
            return list(NUMBERS)
        if slot == "activity":
            values = LEXICON["animal_activity" if animal else "activity"]
            if "place" in scene:
                kind = scene["place"].value["kind"]
                groups = [scene["place"].value["group"]] if scene["place"].level == 0 else []
                groups = groups or [group for group, its_kind in KIND_OF_GROUP.items() if its_kind == kind]
                values = [v for v in values if any(group in v["where"].split() for group in groups)]
            if "company" in scene and scene["company"].text == "alone":
                values = [v for v in values if not v.get("social")]
            return values
        if slot == "place":
            where = set(scene["activity"].value["where"].split()) if "activity" in scene else set(KIND_OF_GROUP)
            return [v for v in LEXICON["place"] if v["group"] in where]
        if slot == "clothing":
            return [] if animal else LEXICON["clothing"]
        if slot == "trait":
            return self.trait_candidates(scene)
        if slot == "time":
            sunny = "weather" in scene and "in good weather" in general_forms(scene["weather"].value)
            return [v for v in LEXICON["time"] if not (sunny and "at night" in v["exact"])]
        if slot == "weather":
            night = "time" in scene and "at night" in scene["time"].value["exact"]
            return [v for v in LEXICON["weather"] if not (night and "in good weather" in v["general"])]
        social = "activity" in scene and scene["activity"].value.get("social")
        alone_makes_sense = scene["count"].value["n"] == 1 and not social
        values = [v for v in LEXICON["company"] if v["with"] or alone_makes_sense]
        return [v for v in values if v["with"]] if animal else values

    def trait_candidates(self, scene: Scene) -> list[dict]:
        who = scene["subject"]
        if who.value["animal"]:
            return LEXICON["fur"] + [v for v in LEXICON["trait"] if v["axis"] in ("size", "energy")]
        axes = {"mood", "energy", "height", "hair"}
        if who.value["one"] in ("man", "woman", "lady", "gentleman") and who.level == 0:
            axes.add("age")
        return [v for v in LEXICON["trait"] if v["axis"] in axes]

    def new_fact(self, scene: Scene, slot: str, level: int = 0) -> Fact | None:
        value = self.pick(self.candidates(scene, slot))
        if value is None:
            return None
        return self.fact(slot, value, min(level, len(general_forms(value))))

    # ---- the three kinds of focus ------------------------------------------------------------------------------

    def entailed(self, fact: Fact) -> Fact:
        """The same fact, said again: other words where there are some, or a broader word."""
        broadest = 1 if fact.slot == "count" and fact.value["n"] > 1 else len(general_forms(fact.value))
        level = fact.level
        if level < broadest and self.rng.random() < BROADEN:
            level = self.rng.randint(level + 1, broadest)
        if level == fact.level and self.rng.random() > REWORD:
            return fact
        return self.fact(fact.slot, fact.value, level, not_text=fact.text)

    def contradicting(self, scene: Scene, slot: str) -> Fact | None:
        """A fact for ``slot`` that cannot hold together with the scene's."""
        known = scene[slot]
        if slot == "count":
            # "some men" leaves the number open, and "a man" does not say that there is only one of two
            others = [number for number in NUMBERS[1:] if number["n"] != known.value["n"]]
            return None if known.level else self.fact("count", self.rng.choice(others))
        true_forms = implied(known.value) if known.level == 0 else set(general_forms(known.value)[known.level - 1 :])
        without = {name: fact for name, fact in scene.items() if name != slot}
        pool = self.candidates(without | {"subject": scene["subject"]}, slot)
        value = self.pick([v for v in pool if clash(known, v)])
        if value is None:
            return None
        level = 0
        broader = [i + 1 for i, form in enumerate(general_forms(value)) if form not in true_forms]
        if slot in ("clothing", "company"):
            broader = []  # "a shirt" or "with someone" may hold all the same
        if broader and self.rng.random() < BROADER_FOCUS:
            level = self.rng.choice(broader)
        return self.fact(slot, value, level)

    def unsupported(self, scene: Scene, slot: str) -> Fact | None:
        """A fact for ``slot`` that the scene neither states nor rules out."""
        known = scene.get(slot)
        if slot == "count":
            return self.fact("count", self.rng.choice(NUMBERS[1:])) if known.level else None
        if known is None or slot == "trait":
            if known and self.rng.random() < 0.75:  # keeps adjectives as frequent in neutral pairs as in the others
                return None
            pool = self.candidates(scene, slot)
            value = self.pick([v for v in pool if not known or v["axis"] != known.value["axis"]])
            if value is None:
                return None
            level = int(bool(general_forms(value)) and self.rng.random() < BROADER_FOCUS)
            if slot == "place" and level and "activity" in scene:  # mowing the lawn says "outdoors" already
                kinds = {KIND_OF_GROUP[group] for group in scene["activity"].value["where"].split()}
                level = int(len(kinds) > 1)
            return self.fact(slot, value, level)
        if known.level == 0:
            return None
        said = general_forms(known.value)[known.level - 1]
        values = [
            v
            for v in self.candidates({k: f for k, f in scene.items() if k != slot or slot == "subject"}, slot)
            if said in general_forms(v)
        ]
        value = self.pick(values)
        return self.fact(slot, value) if value else None

    # ---- pairs -------------------------------------------------------------------------------------------------

    def hypothesis(self, scene: Scene, label: str) -> str | None:
        """One sentence about ``scene`` with that label, or None where the scene allows none."""
        weights = {slot: weight / chance_of_focus(slot, label) for slot, weight in FOCUS.items()}
        while weights:
            slot = self.rng.choices(list(weights), list(weights.values()))[0]
            del weights[slot]
            focus = None
            if label == "neutral":
                focus = self.unsupported(scene, slot)
            elif slot in scene and not (label == "entailment" and slot == "count" and scene["count"].value["n"] == 1):
                focus = self.entailed(scene[slot]) if label == "entailment" else self.contradicting(scene, slot)
            if focus:
                return self.around(scene, focus)
        return None

    def around(self, scene: Scene, focus: Fact) -> str:
        """The sentence that states ``focus`` and a few true facts beside it."""
        others = [slot for slot in scene if slot not in ("subject", "count", focus.slot)]
        self.rng.shuffle(others)
        chosen = others[: self.rng.choices((0, 1, 2), (0.35, 0.45, 0.2))[0]]
        happening = {"activity", "place"} & set(scene)
        if {"time", "weather"} & {focus.slot, *chosen} and not {"activity", "place"} & {focus.slot, *chosen}:
            chosen.append(self.rng.choice(sorted(happening)))  # a time or a weather needs something that happens
        elif focus.slot in ("subject", "count") and not chosen:
            chosen = others[:1]
        facts = {slot: self.entailed(scene[slot]) for slot in ("subject", "count", *chosen)}
        facts[focus.slot] = focus
        if focus.slot == "count" and "company" in facts and facts["company"].text == "alone":
            del facts["company"]
        return self.sentence(facts, short=True)

    def triplet(self) -> tuple[str, list[tuple[str, int]]]:
        """One premise and its three hypotheses, each with its label, in random order."""
        while True:
            scene = self.premise_scene()
            if "activity" not in scene and "place" not in scene:
                continue
            hypotheses = [self.hypothesis(scene, label) for label in LABELS]
            if None not in hypotheses and len(set(hypotheses)) == 3:
                rows = [(text, label) for label, text in enumerate(hypotheses)]
                self.rng.shuffle(rows)
                return self.sentence(scene), rows

    # ---- from facts to English ---------------------------------------------------------------------------------

    def sentence(self, facts: Scene, short: bool = False) -> str:
        """One English sentence that states all of ``facts``."""
        rng = self.rng
        many = facts["count"].value["n"] > 1 or facts["count"].level > 0
        be = "are" if many else "is"
        doing = self.predicate(facts, many)
        when = [facts[slot].text for slot in ("time", "weather") if slot in facts]
        rng.shuffle(when)
        clothing = facts.get("clothing")
        trait = facts.get("trait")
        if doing:
            subject = self.noun_phrase(facts, many, rng.random() < 0.4 and short, trait, clothing)
            if not short and rng.random() < 0.15:
                words = ["there", be, subject, *doing, *when]
            elif when and rng.random() < 0.3:
                words = [when.pop() + ",", subject, be, *doing, *when]
            else:
                words = [subject, be, *doing, *when]
        elif clothing:
            subject = self.noun_phrase(facts, many, rng.random() < 0.4, trait, None)
            words = [subject, be, "wearing", clothing_phrase(clothing, many)]
        elif trait:
            words = [self.noun_phrase(facts, many, rng.random() < 0.4, None, None), be, trait.text]
        else:
            words = ["there", be, self.noun_phrase(facts, many, False, None, None)]
        text = " ".join(words) + "."
        return text[0].upper() + text[1:]

    def predicate(self, facts: Scene, many: bool) -> list[str]:
        words = []
        if "activity" in facts:
            words.append(activity_phrase(facts["activity"], many))
        for slot in ("company", "place"):
            if slot in facts:
                words.append(facts[slot].text)
        return words

    def noun_phrase(self, facts: Scene, many: bool, definite: bool, trait: Fact | None, clothing: Fact | None) -> str:
        noun = noun_form(facts["subject"], many)
        words = [trait.text, noun] if trait else [noun]
        if definite:
            words.insert(0, "the")
        elif many:
            words.insert(0, facts["count"].text)
        else:
            words.insert(0, article(words[0]))
        if definite and many and not facts["count"].level:
            words.insert(1, facts["count"].text)
        if clothing:
            words += [self.rng.choice(("in", "wearing")), clothing_phrase(clothing, many)]
        return " ".join(words)
