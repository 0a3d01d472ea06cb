"""Evaluation: semantic textual similarity, NLI and probes, each with its uncertainty, and a whole suite of tasks."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from scipy import stats
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import pairwise_cos_sim
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report, confusion_matrix
from sklearn.model_selection import StratifiedKFold, train_test_split

from stlib import data
from stlib.errors import UsageError
from stlib.measures import bootstrap_mean, bootstrap_spearman, calibration, calibration_error
from stlib.model import EncodeOnce, NLIClassifier, pair_features, remembering
from stlib.settings import get_profile, progress_bar
from stlib.sources import Source, get_source, splits_of

Model = SentenceTransformer | EncodeOnce
Part = tuple[np.ndarray, np.ndarray]  # embeddings (n, d) and labels (n,)
STS_COLUMNS = ["task", "subset", "n", "spearman", "low", "high", "pearson"]
PROTOCOLS = ("senteval", "mteb")
STRENGTHS = tuple(2.0**power for power in range(-2, 4))  # SentEval's grid for C, the inverse of the penalty
FOLDS, RUNS, SAMPLES_A_LABEL, MTEB_SEED = 10, 10, 8, 42  # SentEval's, then MTEB's


def sts_scores(model: Model, dataset: Dataset, name: str = "") -> tuple[dict, np.ndarray]:
    """Return the scores of one STS task, over all its pairs as the field reports it (arXiv 2210.07316), and the n cosines.

    ``spearman`` and ``pearson`` of the cosine with the gold score are x 100, ``low`` to ``high`` is the former's 95 %
    bootstrap interval. Raises UsageError if no correlation is defined.
    """
    gold, encoder = np.asarray(dataset["score"], dtype=float), remembering(model)
    cosines = pairwise_cos_sim(*(encoder.encode(dataset[side]) for side in data.KINDS["sts"].texts)).cpu().numpy()
    for what, values in (("gold scores", gold), ("cosines", cosines)):
        if len(values) < 2 or not np.ptp(values) > 1e-6:  # nor if one is NaN
            raise UsageError(
                f"the STS task {name!r} has {len(values)} pairs with the {what} {np.unique(values)[-3:]}: a correlation "
                "needs at least two different ones, and numbers only"
            )
    spearman, pearson = (100 * measure(gold, cosines).statistic for measure in (stats.spearmanr, stats.pearsonr))
    row = name, "all", len(gold), spearman, *bootstrap_spearman(gold, cosines), pearson
    return dict(zip(STS_COLUMNS, row, strict=True)), cosines


def sts_table(model: Model, tasks: Iterable[str], source: Source | None = None, subsets: bool = False) -> pd.DataFrame:
    """Return ``sts_rows`` of each task, in the order given."""
    encoder, shown = remembering(model), progress_bar(tasks, desc="STS", unit="tasks")
    rows = chain.from_iterable(sts_rows(encoder, data.sts(task, "test", source), task, subsets) for task in shown)
    return pd.DataFrame(rows, columns=STS_COLUMNS)


def sts_rows(model: Model, dataset: Dataset, task: str, subsets: bool = False) -> list[dict]:
    """Return ``sts_scores`` of a task, and with ``subsets``, if it names any, of each of them, then their mean.

    Papers of the SemEval years report that ("mean of subsets"). It has no interval, and is that of the subsets which
    have a correlation; the others, and a task that has none, are listed without figures.
    """
    encoder, rows, empty = remembering(model), [], dict.fromkeys(STS_COLUMNS)
    names = np.asarray(dataset["subset"] if subsets and "subset" in dataset.column_names else [])
    parts = [(str(name), dataset.select(np.flatnonzero(names == name))) for name in pd.unique(names)]
    for name, part in [("all", dataset), *parts]:
        try:
            row = sts_scores(encoder, part, task)[0]
        except UsageError:
            row = {**empty, "task": task, "n": len(part)}
        rows.append({**row, "subset": name})
    if parts:
        means = pd.DataFrame(rows[1:])[["spearman", "pearson"]].astype(float).mean().to_dict()
        rows.append({**empty, "task": task, "subset": "mean of subsets", "n": len(names), **means})
    return rows


def accuracy_of(correct: np.ndarray) -> dict:
    """Return ``n``, ``accuracy`` and its 95 % interval ``low`` to ``high`` (bootstrap over rows), as shares."""
    low, high = bootstrap_mean(correct)
    return {"n": len(correct), "accuracy": float(correct.mean()), "low": low, "high": high}


def in_percent(row: dict) -> dict:
    """Return a row with its shares in percent, without arrays."""
    kept = {key: value for key, value in row.items() if not isinstance(value, np.ndarray)}
    inside = {key: in_percent(value) for key, value in kept.items() if isinstance(value, dict)}
    return kept | {key: 100 * value for key, value in kept.items() if isinstance(value, float)} | inside


def nli_scores(classifier: NLIClassifier, dataset: Dataset, encoder: EncodeOnce | None = None) -> dict:
    """Return ``accuracy_of`` an NLI classifier, ``macro_f1`` over all labels, recall ``per_label`` and ``calibration_error``.

    All are shares. ``confusion`` has 3 x 3 counts (rows gold, columns predicted), ``probabilities`` the shape (n, 3).
    """
    gold, encoder = np.asarray(dataset["label"]), encoder or EncodeOnce(classifier.encoder)
    u, v = (encoder.encode(dataset[side]) for side in data.KINDS["nli"].texts)
    probabilities = classifier.logits_of(u, v).softmax(dim=1).numpy()
    predicted, names, labels = probabilities.argmax(axis=1), classifier.labels, range(len(classifier.labels))
    options = {"labels": labels, "target_names": names, "output_dict": True, "zero_division": 0}
    report = classification_report(gold, predicted, **options)
    return {
        **accuracy_of(predicted == gold),
        "macro_f1": report["macro avg"]["f1-score"],
        "per_label": {name: report[name]["recall"] for name in names},
        "calibration_error": calibration_error(calibration(probabilities, gold)),
        "confusion": confusion_matrix(gold, predicted, labels=labels),
        "probabilities": probabilities,
    }


def nli_probe(model: Model, train: Dataset, test: Dataset) -> np.ndarray:
    """Return which pairs of ``test`` a fresh head gets right, shape (n,): what the embeddings hold about NLI.

    The head is a logistic regression on (u, v, |u - v|) of ``train``, while the encoder stays as it is.
    """
    encoder = remembering(model)
    head = LogisticRegression(C=10, max_iter=500).fit(nli_features(encoder, train), np.asarray(train["label"]))
    return head.predict(nli_features(encoder, test)) == np.asarray(test["label"])


def nli_features(encoder: EncodeOnce, pairs: Dataset) -> np.ndarray:
    """Return (u, v, |u - v|) of NLI pairs, shape (n, 3d)."""
    return pair_features(*(torch.from_numpy(encoder.encode(pairs[side])) for side in data.KINDS["nli"].texts)).numpy()


def probe_scores(model: Model, task: str, source: Source | None = None, protocol: str = "senteval") -> dict:
    """Return the accuracy, in percent, of a logistic regression on frozen embeddings, under one of two protocols.

    ``senteval`` (Conneau and Kiela 2018, https://aclanthology.org/L18-1269) takes all training sentences and the given
    test split, or 10-fold cross-validation if there is none. C comes from SentEval's grid, by the accuracy on the
    validation split, or if there is none on a tenth of the training sentences (SentEval itself takes ten tenths,
    which costs ten times as much). ``mteb`` (Muennighoff et al. 2023, arXiv 2210.07316) is the mean of ten runs, each
    trained on 8 random sentences per label and scored on the test split; if there is none, on all other sentences.
    The 95 % interval ``low`` to ``high`` is over ``n`` test sentences (bootstrap), with ``mteb`` over runs (Student's t).
    Raises UsageError for an unknown protocol, or a task with fewer than two labels.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"there is no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    source, encoder = source or get_source(), remembering(model)
    parts = probe_parts(task, source)
    classes = len(set(parts["train"]["label"])) if "train" in parts else 0
    if classes < 2:
        raise UsageError(f"the task {task!r} from {source} has no train split with two labels: a probe needs one")
    features = {name: (encoder.encode(part["text"]), np.asarray(part["label"])) for name, part in parts.items()}
    try:
        found = {"senteval": senteval, "mteb": mteb}[protocol](**features)
    except ValueError as error:  # scikit-learn's, if a label or a fold has too few sentences
        small = f"the task {task!r} from {source} is too small for the protocol {protocol} ({error}): add rows"
        raise UsageError(small) from error
    return {"task": task, "protocol": protocol, "n": found.pop("n"), "classes": classes, **in_percent(found)}


def probe_parts(task: str, source: Source) -> dict[str, Dataset]:
    """Return the splits of a classification task that a probe reads, by name."""
    have = splits_of(task, source)
    return {name: data.classification(task, name, source) for name in ("train", "validation", "test") if name in have}


def senteval(train: Part, validation: Part | None = None, test: Part | None = None) -> dict:
    """Return the accuracy and its interval (see ``accuracy_of``) on ``test``, or by 10-fold cross-validation."""
    if test is not None:
        return accuracy_of(fit(train, best_strength(train, validation)).predict(test[0]) == test[1])
    x, y = train
    correct = np.empty(len(y), dtype=bool)
    for inside, outside in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
        part = x[inside], y[inside]
        correct[outside] = fit(part, best_strength(part)).predict(x[outside]) == y[outside]
    return accuracy_of(correct)


def best_strength(train: Part, validation: Part | None = None) -> float:
    """Return the C of the grid with the highest accuracy on sentences that the probe has not seen."""
    if validation is None:
        shares = train_test_split(*train, test_size=1 / FOLDS, random_state=0, stratify=train[1])
        train, validation = shares[::2], shares[1::2]
    return max(STRENGTHS, key=lambda strength: fit(train, strength).score(*validation))


def fit(train: Part, strength: float) -> LogisticRegression:
    """Return a fitted logistic regression."""
    # Newton's method takes a tenth of the time, but with many labels its Hessian grows too large, and with few rows
    # building that costs more than all else.
    labels = len(np.unique(train[1]))
    solver = "newton-cholesky" if labels <= 6 and len(train[0]) > labels * train[0].shape[1] else "lbfgs"
    return LogisticRegression(C=strength, solver=solver, max_iter=1_000).fit(*train)


def mteb(train: Part, validation: Part | None = None, test: Part | None = None) -> dict:
    """Return the mean accuracy of the runs and its interval, as ``senteval`` does. ``validation`` is not used."""
    x, y = train
    random, order = np.random.RandomState(MTEB_SEED), np.arange(len(y))
    accuracies = []
    for _ in range(RUNS):
        random.shuffle(order)
        chosen = np.concatenate([order[y[order] == label][:SAMPLES_A_LABEL] for label in np.unique(y)])
        rest = np.setdiff1d(order, chosen)
        unseen = test if test is not None else (x[rest], y[rest])
        probe = LogisticRegression().fit(x[chosen], y[chosen])  # as MTEB has it: its max_iter=100 is the default
        accuracies.append(probe.score(*unseen))
    mean = float(np.mean(accuracies))
    margin = float(stats.t.ppf(0.975, RUNS - 1) * stats.sem(accuracies))
    return {"n": len(unseen[1]), "accuracy": mean, "low": mean - margin, "high": mean + margin}


def probe_table(
    model: Model, tasks: Iterable[str], source: Source | None = None, protocol: str = "senteval"
) -> pd.DataFrame:
    """Return ``probe_scores`` of each task, one row per task, in the order given."""
    encoder, shown = remembering(model), progress_bar(tasks, desc="probes", unit="tasks")
    return pd.DataFrame([probe_scores(encoder, task, source, protocol) for task in shown])


def suite(
    model: Model | NLIClassifier,
    tasks: Iterable[str],
    source: Source | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    subsets: bool = False,
    precision: str = "fp32",
    nli_split: str | None = None,
) -> Iterator[dict]:
    """Yield the scores of a model on any mixture of tasks, row by row; each distinct sentence is encoded once for them all.

    ``tasks`` are corpora of the source, told apart by their columns: STS, classification (scored under all
    ``protocols``) and NLI (a classifier's; ``mnli:validation_matched`` names a split, else it is ``test``, or the only one
    besides ``train``). ``nli`` stands for SNLI's test split, ``nli-probe`` for a fresh head trained on its ``nli_split``. Rows
    are as ``sts_scores``, ``nli_scores`` (without arrays, with the split) and ``probe_scores`` return them, but all figures
    are in percent, and None if not defined. Raises UsageError for unknown names and a missing head before the first row.
    """
    source, nli_split = source or get_source(), nli_split or get_profile().train_split
    classifier = model if isinstance(model, NLIClassifier) else None
    found = {task: parts_of(task, source, nli_split) for task in tasks}
    heads = [task for task, (kind, _) in found.items() if kind == "nli"]
    if heads and classifier is None:
        raise UsageError(f"the model has no NLI head, which the task {heads[0]!r} needs: leave it out, or name a run")
    encoder = remembering(classifier.encoder if classifier else model, precision)
    encoder.encode([text for kind, parts in found.values() for text in texts_of(kind, parts)])
    for task, (kind, parts) in found.items():
        if kind == "nli":
            ((split, pairs),) = parts.items()
            scores = in_percent(nli_scores(classifier, pairs, encoder))
            rows = [{"task": task.partition(":")[0], "split": split, **scores}]
        elif kind == "nli-probe":
            rows = [{"task": task, "protocol": "fresh head", **in_percent(accuracy_of(nli_probe(encoder, **parts)))}]
        elif kind == "sts":
            rows = sts_rows(encoder, parts["test"], task, subsets)
        else:
            rows = (probe_scores(encoder, task, source, protocol) for protocol in protocols)
        read = {"data": "; ".join(part.info.description for part in parts.values())}
        for row in rows:
            yield {key: None if value != value else value for key, value in {**row, **read}.items()}


def parts_of(task: str, source: Source, nli_split: str) -> tuple[str, dict[str, Dataset]]:
    """Return how a task is scored (a kind of corpus, or ``nli-probe``), and the splits that this reads."""
    if task == "nli-probe":
        return task, {"train": data.nli(nli_split, source), "test": data.nli("test", source)}
    corpus, _, split = ("snli:test" if task == "nli" else task).partition(":")
    kind = "nli" if task == "nli" else data.kind_of(corpus, source)
    if kind == "nli":
        have = [split] if split else splits_of(corpus, source)
        found = ["test"] if "test" in have else [name for name in have if name != "train" or split]
        if len(found) != 1:
            raise UsageError(f"{corpus!r} has the splits {', '.join(have)}: name one, as in {corpus}:{have[0]}")
        return kind, {found[0]: data.nli(found[0], source, corpus)}
    if split:
        raise UsageError(f"the task {task!r} from {source} has no pairs with NLI labels: leave :{split} out")
    return kind, {"test": data.sts(corpus, "test", source)} if kind == "sts" else probe_parts(corpus, source)


def texts_of(kind: str, parts: dict[str, Dataset]) -> list[str]:
    """Return the texts that scoring a task encodes."""
    names = data.KINDS[kind.removesuffix("-probe")].texts
    return [text for part in parts.values() for name in names for text in part[name]]
