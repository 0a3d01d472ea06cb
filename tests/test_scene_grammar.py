import itertools
import re
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import scene_grammar
from datasets import Dataset
from scene_grammar import LEXICON, pairs
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stlib import data
from stlib.sources import Source


def take(split, rows, seed=0):
    return list(itertools.islice(pairs(split, seed), rows))


@pytest.fixture(scope="module")
def train():
    return take("train", 15_000)


@pytest.fixture(scope="module")
def validation():
    return take("validation", 900)  # nine of ten premises fall into the training split


@pytest.fixture(scope="module")
def test():
    return take("test", 2_400)


def words(text):
    return re.findall(r"[a-z-]+", text.lower())


def test_same_seed_same_rows_and_another_seed_others():
    assert take("train", 300) == take("train", 300)
    assert take("train", 300) != take("train", 300, seed=1)
    first = take("train", 3)
    assert len({row["premise"] for row in first}) == 1
    assert sorted(row["label"] for row in first) == [0, 1, 2]


def test_rows_do_not_change_from_release_to_release():
    """The first pairs, word for word: a change of the grammar needs a new GRAMMAR_VERSION."""
    rows = "\n".join(f"{row['premise']}|{row['hypothesis']}|{row['label']}" for row in take("train", 3_000))
    assert (scene_grammar.GRAMMAR_VERSION, scene_grammar.hash_of(rows)) == (1, 2385964131862165636)


def test_labels_are_balanced(train):
    shares = np.bincount([row["label"] for row in train]) / len(train)
    assert np.abs(shares - 1 / 3).max() < 0.01


def test_lengths_are_the_cards(train, base):
    for column, mean, tolerance in (("premise", 16.4, 1.5), ("hypothesis", 10.5, 1.0)):
        tokens = base.tokenizer([row[column] for row in train[:6_000]])["input_ids"]
        assert abs(np.mean([len(row) for row in tokens]) - mean) < tolerance


def test_the_hypothesis_alone_gives_little_away(train, validation, test):
    labels = [row["label"] for row in train]
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=500))
    model.fit([row["hypothesis"] for row in train], labels)
    for rows in (validation, test):
        assert model.score([row["hypothesis"] for row in rows], [row["label"] for row in rows]) <= 0.45


def overlap(row):
    premise, hypothesis = set(words(row["premise"])), set(words(row["hypothesis"]))
    both = len(premise & hypothesis)
    new = len(hypothesis - premise)
    return [
        both / len(premise | hypothesis),
        both / len(hypothesis),
        both / len(premise),
        new,
        new == 0,
        len(premise),
        len(hypothesis),
    ]


def test_word_overlap_alone_gives_little_away(train, validation, test):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit([overlap(row) for row in train], [row["label"] for row in train])
    for rows in (validation, test):
        assert model.score([overlap(row) for row in rows], [row["label"] for row in rows]) <= 0.60


def test_splits_share_no_premise(train, validation, test):
    premises = [{row["premise"] for row in rows} for rows in (train, validation, test)]
    assert not premises[0] & premises[1]
    assert not premises[0] & premises[2]
    assert not premises[1] & premises[2]


def test_each_premise_comes_once_with_three_different_hypotheses(train):
    assert set(Counter(row["premise"] for row in train).values()) == {3}
    assert len({(row["premise"], row["hypothesis"]) for row in train}) == len(train)


def test_the_test_split_has_nouns_and_verbs_never_seen_in_training(train, test):
    seen = {word for row in train for word in words(row["premise"] + " " + row["hypothesis"])}
    unseen = {word for row in test for word in words(row["premise"] + " " + row["hypothesis"])} - seen
    held_out = [
        entry for slot in ("people", "animals", "activity", "place") for entry in LEXICON[slot] if entry.get("held_out")
    ]
    assert {"grandmother", "goat", "violin", "vineyard", "peeling", "mowing", "scaling"} <= unseen
    assert len(held_out) >= 18
    share = np.mean([bool(unseen & set(words(row["premise"] + " " + row["hypothesis"]))) for row in test])
    assert share > 0.4


def test_english(train, test):
    for row in [*train[:9_000], *test]:
        for text in (row["premise"], row["hypothesis"]):
            assert re.fullmatch(r"[A-Z][A-Za-z ,-]*\.", text), text
            assert "  " not in text
            assert not re.search(r"\b[aA] [aeiou]", text), text
            assert not re.search(r"\b[aA]n [^aeiou]", text), text
            plural = re.search(r"\b(two|three|four|some)\b(?! exercise)", text.lower())
            assert " are " in text or not plural, text
            scene = re.sub(r"while (it is \w+|the sun is shining)", "", text, flags=re.IGNORECASE)
            assert not (" is " in scene and " are " in scene), text


def test_contradictions_change_something_and_entailments_add_nothing(test):
    """On traits, colors and times, where the words themselves tell the truth of a label."""
    opposites = [("happy", "sad"), ("tall", "short"), ("big", "small"), ("red", "blue"), ("morning", "afternoon")]
    checked = 0
    for row in test:
        premise, hypothesis = words(row["premise"]), words(row["hypothesis"])
        for one, other in (*opposites, *(pair[::-1] for pair in opposites)):
            if one in premise and other in hypothesis:
                assert row["label"] == scene_grammar.LABELS.index("contradiction"), row
                checked += 1
    assert checked > 50


def test_entailed_hypotheses_follow_slot_by_slot():
    """Rebuild the scenes: every fact of an entailed hypothesis is implied by the premise's fact for the same slot."""
    writer = scene_grammar.Writer("test", 5)
    for _ in range(2_000):
        scene = writer.premise_scene()
        for slot, fact in scene.items():
            said = writer.entailed(fact)
            assert said.level >= fact.level
            assert said.value is fact.value
            if slot in scene and slot not in ("count",):
                other = writer.contradicting(scene, slot)
                if other is not None:
                    true_forms = (
                        {*fact.value["exact"], *fact.value.get("general", [])}
                        if fact.level == 0
                        else set(fact.value["general"][fact.level - 1 :])
                    )
                    assert other.text not in true_forms, (fact, other)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, test"):
        next(pairs("dev"))


def test_the_mini_corpus_is_what_the_grammar_writes():
    """Word for word: its first rows are those that the committed files hold."""
    assert data.fingerprint(data.nli("train[:12800]", Source("mini"))) == "fbdac3614abd9bd7"
    for split in scene_grammar.SPLITS:
        rows = Dataset.from_list(take(split, 1_500)).rename_columns(data.NLI_SPELLING)
        assert data.fingerprint(rows) == data.fingerprint(data.nli(f"{split}[:1500]", Source("mini")))


def test_a_corpus_written_to_a_folder_is_read_back(tmp_path):
    scene_grammar.write(tmp_path, 2_000)
    assert data.nli("train", Source("folder", tmp_path))[:] == data.nli("train[:2000]", Source("mini"))[:]


def test_more_pairs_than_a_seed_has_come_from_the_seeds_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(scene_grammar, "MAX_PAIRS", 30)
    path = scene_grammar.write(tmp_path / "new" / "folder", 70, "test", seed=4)
    parts = [take("test", rows, seed) for rows, seed in ((30, 4), (30, 5), (10, 6))]
    assert pq.read_table(path).to_pylist() == [row for part in parts for row in part]
    scene_grammar.write(tmp_path / "new" / "folder", 10, "test", seed=4)  # again, over the old file
    assert len(pq.read_table(path)) == 10
    assert [found.name for found in path.parent.iterdir()] == ["test.parquet"]
