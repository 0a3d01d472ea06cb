"""Evaluation: semantic textual similarity and NLI, each as a small table with its uncertainty, and a whole suite of tasks."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.stats import rankdata
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from stlib import data, progress, sources
from stlib.bootstrap import bootstrap_mean, bootstrap_spearman
from stlib.encoding import EncodeOnce, remembering
from stlib.errors import UsageError
from stlib.nli_classifier import NLIClassifier
from stlib.probes import PROTOCOLS, nli_probe, probe_scores
from stlib.profiles import get_profile

STS_COLUMNS = ["task", "subset", "n", "spearman", "low", "high", "pearson"]


class SimilarityEvaluator(EmbeddingSimilarityEvaluator):
    """The library's evaluator on embeddings that ``encoder`` remembers; it keeps the cosines in ``self.cosines``."""

    def __init__(self, encoder: EncodeOnce, dataset: Dataset, name: str):
        gold = np.asarray(dataset["score"], dtype=float)
        if len(gold) < 2:
            raise UsageError(f"the STS task {name!r} has {len(gold)} pairs: a correlation needs at least two")
        if np.ptp(gold) == 0:
            raise UsageError(
                f"in the STS task {name!r} all gold scores are {gold[0]:g}: a correlation needs two different ones"
            )
        if not np.isfinite(gold).all():
            raise UsageError(
                f"the STS task {name!r} has a gold score that is no number: a correlation needs all of them"
            )
        self.encoder, self.gold = encoder, gold
        columns = [list(dataset[side]) for side in ("sentence1", "sentence2")]
        super().__init__(*columns, gold.tolist(), similarity_fn_names=["cosine"], name=name, write_csv=False)

    def embed_inputs(self, model: SentenceTransformer, sentences: list[str], **kwargs) -> np.ndarray:
        return self.encoder.encode(sentences)

    def measure(self) -> dict[str, float]:
        """Spearman and Pearson x 100 of the cosine."""
        model = self.encoder.model
        u, v = (self.encoder.encode(side) for side in (self.sentences1, self.sentences2))
        self.cosines = model.similarity_pairwise(u, v).cpu().numpy()
        if np.ptp(self.cosines) < 1e-6:
            raise UsageError(
                f"in the STS task {self.name!r} the cosines of all pairs are the same: no correlation is defined"
            )
        values = self(model)
        return {
            name: 100 * next(value for key, value in values.items() if key.endswith(f"{name}_cosine"))
            for name in ("spearman", "pearson")
        }


def sts_scores(model: SentenceTransformer | EncodeOnce, dataset: Dataset, name: str = "") -> tuple[dict, np.ndarray]:
    """Score one STS task: one correlation over all its pairs, as the field reports it (MTEB, arXiv 2210.07316).

    Returns:
        A row with ``task``, ``subset`` ("all"), ``n``, ``spearman`` and ``pearson`` of the cosine with the gold score,
        both x 100, and the 95 % bootstrap interval ``low`` to ``high`` of the former; and the n cosines.

    Raises:
        UsageError: fewer than two pairs, or all gold scores equal, where no correlation is defined.
    """
    evaluator = SimilarityEvaluator(remembering(model), dataset, name)
    found = evaluator.measure()
    low, high = bootstrap_spearman(evaluator.gold, evaluator.cosines)
    row = {"task": name, "subset": "all", "n": len(evaluator.gold), "low": low, "high": high, **found}
    return {column: row[column] for column in STS_COLUMNS}, evaluator.cosines


def sts_table(
    model: SentenceTransformer | EncodeOnce,
    tasks: Iterable[str],
    source: sources.Source | None = None,
    split: str = "test",
    subsets: bool = False,
) -> pd.DataFrame:
    """``sts_scores`` of each task, one row a task, in the order given.

    With ``subsets``, each task that names its subsets has a row for each of them too, and one for their mean
    ("mean of subsets"), as papers of the SemEval years report; its interval is left empty.
    """
    encoder, rows = remembering(model), []
    for task in progress.bar(tasks, desc="STS", unit="tasks"):
        dataset = data.sts(task, split, source)
        rows.append(sts_scores(encoder, dataset, task)[0])
        if subsets and "subset" in dataset.column_names:
            rows += subset_rows(encoder, dataset, task)
    return pd.DataFrame(rows, columns=STS_COLUMNS)


def subset_rows(encoder: EncodeOnce, dataset: Dataset, task: str) -> list[dict]:
    """A row for each subset of a task, then the mean of their correlations, each subset counted once."""
    names = np.asarray(dataset["subset"])
    rows = []
    for name in pd.unique(names):
        row, _ = sts_scores(encoder, dataset.select(np.flatnonzero(names == name)), task)
        rows.append({**row, "subset": str(name)})
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("spearman", "pearson")}
    return [*rows, {"task": task, "subset": "mean of subsets", "n": len(names), **mean}]


def nli_scores(classifier: NLIClassifier, dataset: Dataset, encoder: EncodeOnce | None = None) -> dict:
    """Accuracy, macro F1, confusion and calibration of an NLI classifier.

    Returns:
        ``n``, ``accuracy`` with its 95 % interval ``low`` to ``high`` (bootstrap over pairs), ``macro_f1``,
        ``per_label`` (recall of each label), ``calibration_error`` (see there), ``confusion`` (3 x 3 counts, rows gold,
        columns predicted) and ``probabilities`` (n x 3).
    """
    encoder = encoder or EncodeOnce(classifier.encoder)
    gold = np.asarray(dataset["label"])
    u, v = (encoder.encode(list(dataset[side])) for side in ("sentence_0", "sentence_1"))
    probabilities = classifier.logits_of(u, v).softmax(dim=1).numpy()
    predicted = probabilities.argmax(axis=1)
    low, high = bootstrap_mean(predicted == gold)
    confusion = confusion_matrix(gold, predicted, labels=range(len(classifier.labels)))
    recall = confusion.diagonal() / confusion.sum(axis=1).clip(1)
    return {
        "n": len(gold),
        "accuracy": float(accuracy_score(gold, predicted)),
        "low": low,
        "high": high,
        "macro_f1": float(f1_score(gold, predicted, average="macro")),
        "per_label": dict(zip(classifier.labels, recall.tolist(), strict=True)),
        "calibration_error": calibration_error(calibration(probabilities, gold)),
        "confusion": confusion,
        "probabilities": probabilities,
    }


def calibration(probabilities: np.ndarray, gold: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """How often the classifier is right, by the probability it gives (a reliability diagram's numbers).

    Args:
        probabilities: shape (n, labels), rows summing to 1.
        gold: the right labels, shape (n,).
        bins: of equal width, from 0 to 1.

    Returns:
        One row for each bin that holds pairs: ``n``, ``confidence`` (mean probability of the predicted label) and
        ``accuracy`` (share of them that are right).
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": number, "confidence": confidence, "accuracy": correct})
    return table.groupby("bin").agg(
        n=("accuracy", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )


def calibration_error(table: pd.DataFrame) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy over the bins, weighted by pairs.

    Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    gaps = (table["confidence"] - table["accuracy"]).abs()
    return float((gaps * table["n"]).sum() / table["n"].sum())


def rank_changes(gold: np.ndarray, before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """How training moved each pair in the order from the least to the most similar; the largest moves first.

    Returns:
        ``row`` (of the pair), ``gold_rank``, ``before`` and ``after`` (ranks from 1, ties share theirs), ``change``
        (after less before) and ``towards_gold`` (whether the pair came nearer to the rank of its gold score).
    """
    table = pd.DataFrame({"row": np.arange(len(gold)), "gold_rank": rankdata(gold)})
    table["before"], table["after"] = rankdata(before), rankdata(after)
    table["change"] = table["after"] - table["before"]
    table["towards_gold"] = (table["after"] - table["gold_rank"]).abs() < (table["before"] - table["gold_rank"]).abs()
    return table.sort_values("change", key=np.abs, ascending=False, kind="stable")


# ---- the geometry of embeddings ------------------------------------------------------------------------------------


def uniformity(embeddings: np.ndarray, t: float = 2.0, rows: int = 2_000, seed: int = 0) -> float:
    """How evenly embeddings fill the sphere: log of the mean of exp(-t |x - y|^2) over pairs; lower is more even.

    Wang and Isola 2020, arXiv 2005.10242, equation 4. Of more than ``rows`` embeddings, a random sample is taken.
    """
    random = np.random.default_rng(seed)
    chosen = embeddings[random.permutation(len(embeddings))[:rows]]
    cosines = (chosen @ chosen.T)[np.triu_indices(len(chosen), 1)]
    return float(np.log(np.exp(-t * (2 - 2 * cosines)).mean()))


def alignment(u: np.ndarray, v: np.ndarray) -> float:
    """How close the embeddings of pairs with the same meaning lie: the mean of |u - v|^2; lower is closer.

    Wang and Isola 2020, arXiv 2005.10242, equation 3. ``u`` and ``v``: unit vectors, shape (n, d).
    """
    return float(((u - v) ** 2).sum(axis=1).mean())


def mean_cosine(embeddings: np.ndarray) -> float:
    """The mean cosine of two different unit vectors of a list: 0 where no direction is preferred, 1 where there is one.

    Ethayarajh 2019, arXiv 1909.00512, calls a high one anisotropy.
    """
    n, total = len(embeddings), embeddings.sum(axis=0, dtype=np.float64)
    return float((total @ total - n) / (n * (n - 1)))


# ---- a suite -------------------------------------------------------------------------------------------------------


def is_sts(task: str) -> bool:
    return task == "sts" or task.endswith("-sts")


def suite(
    model: SentenceTransformer | EncodeOnce | NLIClassifier,
    tasks: Sequence[str],
    source: sources.Source | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    subsets: bool = False,
    precision: str = "fp32",
    nli_split: str | None = None,
) -> Iterator[dict]:
    """Score a model on any mixture of tasks, row by row; every distinct sentence is encoded once for all of them.

    Args:
        model: an encoder, or a classifier where ``nli`` is among the tasks.
        tasks: STS tasks, classification tasks, ``nli`` (the classifier on the NLI test split) and ``nli-probe`` (a fresh
            head on the finished encoder, for models without one too).
        protocols: of the probes; each classification task is scored under all of them.
        subsets: also score each subset of an STS task.
        precision: of the encoder, ``fp32`` or ``bf16``.
        nli_split: what the head of ``nli-probe`` is trained on; ``STLIB_NLI_SPLIT`` or the profile's own by default.

    Yields:
        Rows as ``sts_scores``, ``nli_scores`` and ``probe_scores`` return them.

    Raises:
        UsageError: ``nli`` for a model without a head, or a task that the source does not have.
    """
    source, nli_split = source or sources.get_source(), nli_split or data.train_split(get_profile())
    classifier = model if isinstance(model, NLIClassifier) else None
    if "nli" in tasks and classifier is None:
        raise UsageError("the task nli needs a model with an NLI head: name a run folder, or leave nli out")
    encoder = classifier.encoder if classifier else model
    encoder = encoder if isinstance(encoder, EncodeOnce) else EncodeOnce(encoder, precision)
    columns = chain.from_iterable(columns_of(task, source, nli_split) for task in tasks)
    encoder.encode(list(chain.from_iterable(columns)))
    for task in tasks:
        if task == "nli":
            scores = nli_scores(classifier, data.nli("test", source), encoder)
            yield {
                "task": task,
                **{key: value for key, value in scores.items() if key not in ("confusion", "probabilities")},
            }
        elif task == "nli-probe":
            yield {"task": task, **nli_probe_scores(encoder, source, nli_split)}
        elif is_sts(task):
            yield from sts_table(encoder, [task], source, subsets=subsets).to_dict("records")
        else:
            yield from (probe_scores(encoder, task, source, protocol) for protocol in protocols)


def nli_probe_scores(encoder: EncodeOnce, source: sources.Source, split: str) -> dict:
    """``n``, ``accuracy`` in percent and its 95 % interval ``low`` to ``high`` of a fresh NLI head (``probes.nli_probe``)."""
    correct = nli_probe(encoder, data.nli(split, source), data.nli("test", source))
    low, high = bootstrap_mean(correct)
    return {
        "protocol": "fresh head", "n": len(correct), "accuracy": 100 * float(correct.mean()), "low": 100 * low, "high": 100 * high,
    }  # fmt: skip


def columns_of(task: str, source: sources.Source, nli_split: str) -> list[list[str]]:
    """The columns of text that scoring a task asks for."""
    if task.startswith("nli"):
        splits = ("test",) if task == "nli" else (nli_split, "test")
        tables, names = [data.nli(split, source) for split in splits], ("sentence_0", "sentence_1")
    elif is_sts(task):
        tables, names = [data.sts(task, "test", source)], ("sentence1", "sentence2")
    else:
        tables, names = (
            [data.classification(task, split, source) for split in sources.splits_of(task, source)],
            ("text",),
        )
    return [list(table[name]) for table in tables for name in names]
