"""The contest of recipes in notebook 08: who is chosen on validation pairs, what is confirmed on test, and the recorded runs."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from stlib import data, sources
from stlib.evaluate import nli_probe, probe_scores
from stlib.measures import paired_spearman
from stlib.model import EncodeOnce, NLIClassifier

TESTS = ("sts12-sts", "sts13-sts", "sts14-sts", "sts15-sts", "stsbenchmark-sts")
VALIDATION = "stsbenchmark-sts"  # its train and validation splits
PROBES = ("cr", "trec")
DIMENSIONS = (384, 256, 128, 64, 32)


def validation_pairs(source: sources.Source) -> pd.DataFrame:
    """The STS pairs that a recipe is chosen on: STS-B train and validation, ``sentence1``, ``sentence2`` and ``score``."""
    parts = [data.sts(VALIDATION, split, source).to_pandas() for split in ("train", "validation")]
    return pd.concat(parts, ignore_index=True)


def cosines(encoder: EncodeOnce, pairs: pd.DataFrame, dimensions: int | None = None) -> np.ndarray:
    """The cosine of each pair, shape (n,), on the first ``dimensions`` of the embeddings, or on all."""
    u, v = (encoder.encode(pairs[side].tolist())[:, :dimensions] for side in ("sentence1", "sentence2"))
    u, v = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (u, v))
    return (u * v).sum(axis=1)


def spearman(gold, scores) -> float:
    return 100 * float(spearmanr(gold, scores).statistic)


class Judge:
    """Scores encoders on the same pairs as the base model, and compares them with it.

    Args:
        source: where the corpora are.
        base: the base model, or another to compare with.
        train_pairs: the NLI pairs that the recipes train on; a fresh head is fitted on them too.
        precision: of the encoders.
    """

    def __init__(self, source: sources.Source, base, train_pairs, precision: str = "bf16"):
        self.source, self.train_pairs, self.precision = source, train_pairs, precision
        self.validation = validation_pairs(source)
        self.tests = {task: data.sts(task, "test", source).to_pandas() for task in TESTS}
        self.rest = {task: data.unseen(pairs, self.validation) for task, pairs in self.tests.items()}
        self.base = self.test_cosines(EncodeOnce(base, precision))

    def test_cosines(self, encoder: EncodeOnce) -> dict[str, np.ndarray]:
        everything = pd.concat([self.validation, *self.tests.values()])
        encoder.encode(everything["sentence1"].tolist() + everything["sentence2"].tolist())
        return {task: cosines(encoder, pairs) for task, pairs in self.tests.items()}

    def score(self, model, nli: bool = True) -> dict:
        """All that is recorded of one model.

        Args:
            model: a ``SentenceTransformer`` or an ``NLIClassifier``.
            nli: whether to score NLI and probes too, not STS alone.

        Returns:
            ``validation`` (Spearman x 100 of the validation pairs, all in one) and ``validation_by_dimensions`` (on the
            first dimensions only), ``sts`` (of each test task),
            ``sts_mean``, ``against_base`` and ``against_base_unseen`` (difference of the means with its paired interval,
            on all test pairs and on those that are in no validation pair); and with ``nli``: ``nli_accuracy`` (of the
            head, None without one), ``nli_refit`` (of a fresh head) and ``probes`` (SentEval's protocol), in percent.
        """
        classifier = model if isinstance(model, NLIClassifier) else None
        encoder = EncodeOnce(classifier.encoder if classifier else model, self.precision)
        found = self.test_cosines(encoder)
        gold = {task: pairs["score"].to_numpy() for task, pairs in self.tests.items()}
        scores = {
            "validation": spearman(self.validation["score"], cosines(encoder, self.validation)),
            "validation_by_dimensions": {
                str(kept): spearman(self.validation["score"], cosines(encoder, self.validation, kept))
                for kept in DIMENSIONS
            },
            "sts": {task: spearman(gold[task], found[task]) for task in TESTS},
        }
        scores["sts_mean"] = float(np.mean(list(scores["sts"].values())))
        scores["against_base"] = self.against_base(
            found, {task: np.ones(len(rows), bool) for task, rows in gold.items()}
        )
        scores["against_base_unseen"] = self.against_base(found, self.rest)
        if nli:
            test = data.nli("test", self.source)
            scores["nli_accuracy"] = self.head_accuracy(classifier, encoder, test)
            scores["nli_refit"] = 100 * float(nli_probe(encoder, self.train_pairs, test).mean())
            scores["probes"] = {task: probe_scores(encoder, task, self.source)["accuracy"] for task in PROBES}
        return rounded(scores)

    def against_base(self, found: dict, rows: dict) -> dict:
        def part(cosines):
            return {task: cosines[task][rows[task]] for task in TESTS}

        gold = {task: pairs["score"].to_numpy() for task, pairs in self.tests.items()}
        return {
            **paired_spearman(part(gold), part(found), part(self.base))._asdict(),
            "n": int(sum(map(np.sum, rows.values()))),
        }

    def head_accuracy(self, classifier, encoder: EncodeOnce, test) -> float | None:
        if classifier is None:
            return None
        u, v = (encoder.encode(list(test[side])) for side in ("sentence_0", "sentence_1"))
        return 100 * float((classifier.logits_of(u, v).argmax(dim=1).numpy() == np.asarray(test["label"])).mean())


def rounded(value):
    """All numbers of a nested record to two digits after the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 2) if isinstance(value, float) else value
