"""Probes: a logistic regression on frozen embeddings, under the two protocols by which the field publishes figures."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.stats import t as student
from sentence_transformers import SentenceTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split

from stlib import data, progress, sources
from stlib.bootstrap import bootstrap_mean
from stlib.encoding import EncodeOnce, remembering
from stlib.errors import UsageError
from stlib.nli_classifier import pair_features

PROTOCOLS = ("senteval", "mteb")
STRENGTHS = tuple(2.0**power for power in range(-2, 4))  # SentEval's grid for C, the inverse of the penalty
FOLDS = 10
RUNS, SAMPLES_A_LABEL, MTEB_SEED = 10, 8, 42  # MTEB's


def probe_scores(
    model: SentenceTransformer | EncodeOnce, task: str, source: sources.Source | None = None, protocol: str = "senteval"
) -> dict:
    """Accuracy of a logistic regression on frozen embeddings.

    Protocols:
        ``senteval`` (Conneau and Kiela 2018, https://aclanthology.org/L18-1269): all training sentences; the given test
        split, or 10-fold cross-validation where there is none. C comes from SentEval's grid, by the accuracy on the
        validation split, or where there is none on a tenth of the training sentences (SentEval itself takes ten tenths,
        which costs ten times as much).
        ``mteb`` (Muennighoff et al. 2023, arXiv 2210.07316): ten runs, each trained on 8 random sentences a label and
        scored on the test split; where there is none, on all other sentences.

    Returns:
        ``task``, ``protocol``, ``n`` scored sentences, ``classes``, ``accuracy`` in percent, and its 95 % interval
        ``low`` to ``high``: over test sentences (bootstrap) for ``senteval``, over runs (Student's t) for ``mteb``.

    Raises:
        UsageError: an unknown protocol, or a task with fewer than two labels.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"there is no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    source, encoder = source or sources.get_source(), remembering(model)
    splits = sources.splits_of(task, source)
    parts = {
        name: data.classification(task, name, source) for name in ("train", "validation", "test") if name in splits
    }
    if "train" not in parts or len(set(parts["train"]["label"])) < 2:
        raise UsageError(f"the task {task!r} from {source} has no train split with two labels: a probe needs one")
    features = {name: (encoder.encode(part["text"]), np.asarray(part["label"])) for name, part in parts.items()}
    score = senteval if protocol == "senteval" else mteb
    try:
        accuracy, low, high, n = score(**features)
    except ValueError as error:  # scikit-learn's, where a label or a fold has too few sentences
        raise UsageError(
            f"the task {task!r} from {source} is too small for the protocol {protocol} ({error}): add rows"
        ) from error
    return {
        "task": task,
        "protocol": protocol,
        "n": n,
        "classes": len(set(parts["train"]["label"])),
        "accuracy": 100 * accuracy,
        "low": 100 * low,
        "high": 100 * high,
    }  # fmt: skip


Part = tuple[np.ndarray, np.ndarray]  # embeddings (n, d) and labels (n,)


def senteval(train: Part, validation: Part | None = None, test: Part | None = None) -> tuple[float, float, float, int]:
    """Accuracy, its interval and n: on ``test``, or by 10-fold cross-validation."""
    if test is not None:
        correct = fit(train, best_strength(train, validation)).predict(test[0]) == test[1]
    else:
        x, y = train
        correct = np.empty(len(y), dtype=bool)
        for inside, outside in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
            part = x[inside], y[inside]
            correct[outside] = fit(part, best_strength(part)).predict(x[outside]) == y[outside]
    return float(correct.mean()), *bootstrap_mean(correct), len(correct)


def best_strength(train: Part, validation: Part | None = None) -> float:
    """The C of the grid with the highest accuracy on sentences that the probe has not seen."""
    if validation is None:
        x, y = train
        shares = train_test_split(x, y, test_size=1 / FOLDS, random_state=0, stratify=y)
        train, validation = (shares[0], shares[2]), (shares[1], shares[3])
    return max(STRENGTHS, key=lambda strength: fit(train, strength).score(*validation))


def fit(train: Part, strength: float) -> LogisticRegression:
    """Fit a logistic regression: by Newton's method with few labels and many rows, which takes a tenth of the time then.

    With many labels its Hessian grows too large, and with few rows building it costs more than all else.
    """
    labels = len(np.unique(train[1]))
    solver = "newton-cholesky" if labels <= 6 and len(train[0]) > labels * train[0].shape[1] else "lbfgs"
    return LogisticRegression(C=strength, solver=solver, max_iter=1_000).fit(*train)


def mteb(train: Part, test: Part | None = None, validation: Part | None = None) -> tuple[float, float, float, int]:
    """Mean accuracy of the runs, its interval and n. ``validation`` is not used."""
    x, y = train
    random, order = np.random.RandomState(MTEB_SEED), np.arange(len(y))
    accuracies = []
    for _ in range(RUNS):
        random.shuffle(order)
        chosen = np.concatenate([order[y[order] == label][:SAMPLES_A_LABEL] for label in np.unique(y)])
        rest = np.setdiff1d(order, chosen)
        unseen = test if test is not None else (x[rest], y[rest])
        probe = LogisticRegression(max_iter=100, random_state=MTEB_SEED).fit(x[chosen], y[chosen])
        accuracies.append(probe.score(*unseen))
    mean = float(np.mean(accuracies))
    margin = float(student.ppf(0.975, RUNS - 1) * np.std(accuracies, ddof=1) / RUNS**0.5)
    return mean, mean - margin, mean + margin, len(unseen[1])


def probe_table(
    model: SentenceTransformer | EncodeOnce,
    tasks: Iterable[str],
    source: sources.Source | None = None,
    protocol: str = "senteval",
) -> pd.DataFrame:
    """``probe_scores`` of each task, one row a task, in the order given."""
    encoder = remembering(model)
    shown = progress.bar(tasks, desc="probes", unit="tasks")
    return pd.DataFrame([probe_scores(encoder, task, source, protocol) for task in shown])


def nli_probe(model: SentenceTransformer | EncodeOnce, train: Dataset, test: Dataset) -> np.ndarray:
    """Which pairs of ``test`` a fresh head gets right, shape (n,), where the encoder stays as it is.

    The head is a logistic regression on (u, v, |u - v|) of ``train``: what the embeddings hold about NLI, for models
    that were trained without a head too.
    """
    encoder = remembering(model)
    head = LogisticRegression(C=10, max_iter=500).fit(nli_features(encoder, train), np.asarray(train["label"]))
    return head.predict(nli_features(encoder, test)) == np.asarray(test["label"])


def nli_features(encoder: EncodeOnce, pairs: Dataset) -> np.ndarray:
    import torch

    u, v = (torch.from_numpy(encoder.encode(list(pairs[name]))) for name in ("sentence_0", "sentence_1"))
    return pair_features(u, v).numpy()


def discriminant_plane(model: SentenceTransformer | EncodeOnce, train: Dataset, test: Dataset) -> np.ndarray:
    """NLI pairs of ``test`` in the plane that tells the labels of ``train`` apart best, shape (n, 2).

    Linear discriminant analysis on (u, v, |u - v|): three labels span a plane. Each axis is in deviations within a label.
    The plane is found on other pairs than it shows, so that what looks apart is apart.
    """
    encoder = remembering(model)
    found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1, n_components=2)
    found.fit(nli_features(encoder, train), np.asarray(train["label"]))
    return found.transform(nli_features(encoder, test))
