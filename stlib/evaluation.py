"""Evaluation: semantic textual similarity, NLI and probes, each as a small table with its uncertainty."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.stats import rankdata
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stlib import corpora
from stlib.errors import UsageError
from stlib.nli_classifier import NLIClassifier

RESAMPLES = 1_000  # of the bootstrap; its 2.5 and 97.5 percentiles are the interval (Efron and Tibshirani 1993)


class SimilarityEvaluator(EmbeddingSimilarityEvaluator):
    """The library's evaluator, which encodes each distinct sentence once and keeps the cosines in ``self.cosines``."""

    def embed_inputs(self, model: SentenceTransformer, sentences: list[str], **kwargs) -> np.ndarray:
        if not hasattr(self, "_rows"):
            distinct = list(dict.fromkeys([*self.sentences1, *self.sentences2]))
            self._rows = {sentence: i for i, sentence in enumerate(distinct)}
            self._embeddings = super().embed_inputs(model, distinct, **kwargs)
            sides = [self._embeddings[[self._rows[s] for s in side]] for side in (self.sentences1, self.sentences2)]
            self.cosines = model.similarity_pairwise(*map(np.asarray, sides)).cpu().numpy()
        return self._embeddings[[self._rows[sentence] for sentence in sentences]]


def sts_scores(
    model: SentenceTransformer, dataset: Dataset, name: str = "", batch_size: int = 64
) -> tuple[dict, np.ndarray]:
    """Score one STS task.

    Returns:
        A row with ``task``, ``n``, ``spearman`` and ``pearson`` of the cosine with the gold score, both x 100, and the
        95 % bootstrap interval ``low`` to ``high`` of the former; and the n cosines.

    Raises:
        UsageError: fewer than two pairs, or all gold scores equal, where no correlation is defined.
    """
    gold = np.asarray(dataset["score"], dtype=float)
    if len(gold) < 2 or np.ptp(gold) == 0 or not np.isfinite(gold).all():
        raise UsageError(
            f"the STS task {name!r} has no two different gold scores, or one that is no number: a correlation needs them"
        )
    evaluator = SimilarityEvaluator(
        list(dataset["sentence1"]), list(dataset["sentence2"]), gold.tolist(), batch_size=batch_size,
        similarity_fn_names=["cosine"], name=name, write_csv=False,
    )  # fmt: skip
    values = {key.removeprefix(f"{name}_"): value for key, value in evaluator(model).items()}
    low, high = bootstrap_spearman(gold, evaluator.cosines)
    row = {
        "task": name,
        "n": len(gold),
        "spearman": 100 * values["spearman_cosine"],
        "low": low,
        "high": high,
        "pearson": 100 * values["pearson_cosine"],
    }
    return row, evaluator.cosines


def bootstrap_spearman(
    gold: np.ndarray, cosines: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of Spearman x 100 over resampled pairs (percentile bootstrap)."""
    rng = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, 100):  # a hundred at a time keeps memory bounded
        rows = rng.integers(len(gold), size=(min(100, resamples - start), len(gold)))
        values.append(100 * correlation_by_row(rankdata(gold[rows], axis=1), rankdata(cosines[rows], axis=1)))
    low, high = np.nanpercentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def correlation_by_row(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of ``x`` with the same row of ``y``; NaN where a row is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))


def sts_table(
    model: SentenceTransformer, tasks: Iterable[str], source: corpora.Source | None = None, split: str = "test"
) -> pd.DataFrame:
    """``sts_scores`` of each task, one row a task, in the order given."""
    rows = [sts_scores(model, corpora.sts(task, split, source), task)[0] for task in tasks]
    return pd.DataFrame(rows, columns=["task", "n", "spearman", "low", "high", "pearson"])


def nli_scores(classifier: NLIClassifier, dataset: Dataset, batch_size: int = 64) -> dict:
    """Accuracy, macro F1 and confusion of an NLI classifier.

    Returns:
        ``n``, ``accuracy`` with its 95 % interval ``low`` to ``high`` (bootstrap over pairs), ``macro_f1``,
        ``per_label`` (recall of each label), ``confusion`` (3 x 3 counts, rows gold, columns predicted) and
        ``probabilities`` (n x 3).
    """
    gold = np.asarray(dataset["label"])
    probabilities = classifier.predict_proba(
        list(dataset["sentence_0"]), list(dataset["sentence_1"]), batch_size=batch_size
    )
    predicted = probabilities.argmax(axis=1)
    low, high = bootstrap_mean(predicted == gold)
    confusion = confusion_matrix(gold, predicted, labels=range(len(classifier.labels)))
    return {
        "n": len(gold),
        "accuracy": float(accuracy_score(gold, predicted)),
        "low": low,
        "high": high,
        "macro_f1": float(f1_score(gold, predicted, average="macro")),
        "per_label": dict(
            zip(classifier.labels, (confusion.diagonal() / confusion.sum(axis=1).clip(1)).tolist(), strict=True)
        ),
        "confusion": confusion,
        "probabilities": probabilities,
    }


def bootstrap_mean(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over resampled rows."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def probe_scores(
    model: SentenceTransformer, task: str, source: corpora.Source | None = None, batch_size: int = 64
) -> dict:
    """A logistic regression on frozen embeddings.

    With a test split it is trained on train and scored on test; without one, 10-fold cross-validation, as SentEval
    does for such sets (Conneau and Kiela 2018, https://aclanthology.org/L18-1269).

    Returns:
        ``task``, ``protocol``, ``n`` scored sentences, ``classes``, ``accuracy`` in percent and its 95 % bootstrap
        interval ``low`` to ``high``.
    """
    source = source or corpora.get_source()
    train = corpora.classification(task, "train", source)
    has_test = "test" in corpora.splits_of(task, source)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1_000))
    features, labels = embed(model, train, batch_size), np.asarray(train["label"])
    if has_test:
        test = corpora.classification(task, "test", source)
        correct = probe.fit(features, labels).predict(embed(model, test, batch_size)) == np.asarray(test["label"])
    else:
        folds = StratifiedKFold(10, shuffle=True, random_state=0)
        correct = cross_val_predict(probe, features, labels, cv=folds) == labels
    low, high = bootstrap_mean(correct)
    return {
        "task": task,
        "protocol": "train/test" if has_test else "10-fold",
        "n": len(correct),
        "classes": len(set(labels.tolist())),
        "accuracy": 100 * float(correct.mean()),
        "low": 100 * low,
        "high": 100 * high,
    }


def embed(model: SentenceTransformer, dataset: Dataset, batch_size: int) -> np.ndarray:
    return model.encode(list(dataset["text"]), batch_size=batch_size, show_progress_bar=False)


def probe_table(model: SentenceTransformer, tasks: Iterable[str], source: corpora.Source | None = None) -> pd.DataFrame:
    """``probe_scores`` of each task, one row a task, in the order given."""
    return pd.DataFrame([probe_scores(model, task, source) for task in tasks])
