"""What a recipe trains on and with: the rows that its loss takes, made from NLI pairs, and the library's loss itself."""

import numpy as np
import torch
from datasets import Dataset, Value
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    AnglELoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from stlib.errors import UsageError
from stlib.recipes import Recipe

# What a cosine should be like for each NLI label: the scale that CoSENT and AnglE learn an order from.
NLI_SCORES = np.array([1.0, 0.5, 0.0], dtype=np.float32)
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)


def training_rows(recipe: Recipe, pairs: Dataset) -> Dataset:
    """The rows that the recipe's loss takes.

    Args:
        pairs: NLI pairs (``sentence_0``, ``sentence_1``, ``label``), or for a recipe on STS pairs ``sentence1``,
            ``sentence2`` and ``score`` (0 to 5).

    Returns:
        The pairs as they are for SoftmaxLoss; ``triplets`` for the ranking loss; pairs with a score from 0 to 1 for the
        losses that learn from scores.
    """
    if recipe.data != "nli":
        scores = np.asarray(pairs["score"], dtype=np.float32) / 5
        return with_label(pairs.select_columns(["sentence1", "sentence2"]), scores)
    if recipe.loss == "softmax":
        return pairs
    if recipe.loss == "mnrl":
        return triplets(pairs)
    return with_label(pairs.remove_columns("label"), NLI_SCORES[np.asarray(pairs["label"])])


def with_label(columns: Dataset, scores: np.ndarray) -> Dataset:
    return columns.add_column("label", scores.tolist(), feature=Value("float32"))


def triplets(pairs: Dataset) -> Dataset:
    """``anchor``, ``positive`` and ``negative`` from NLI pairs: a premise, a hypothesis that it entails, one that it contradicts.

    A premise with several of either gives as many triplets as the rarer kind allows; one without both gives none. So
    does Gao et al. 2021 (SimCSE, arXiv 2104.08821).

    Raises:
        UsageError: no premise has both.
    """
    by_premise: dict[str, tuple[list, list, list]] = {}
    for premise, hypothesis, label in zip(pairs["sentence_0"], pairs["sentence_1"], pairs["label"], strict=True):
        by_premise.setdefault(premise, ([], [], []))[label].append(hypothesis)
    rows = [
        {"anchor": premise, "positive": positive, "negative": negative}
        for premise, hypotheses in by_premise.items()
        for positive, negative in zip(hypotheses[ENTAILMENT], hypotheses[CONTRADICTION], strict=False)
    ]
    if not rows:
        raise UsageError(
            "no premise of these NLI pairs has both an entailed and a contradicted hypothesis: the ranking loss needs "
            "both; train on more pairs, or with another recipe"
        )
    return Dataset.from_list(rows)


def prepare_encoder(recipe: Recipe, model: SentenceTransformer) -> SentenceTransformer:
    """Set the encoder's dropout, and take the Normalize module off where the recipe does without it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = recipe.dropout
    if recipe.normalize:
        return model
    kept = [module for module in model if not isinstance(module, Normalize)]
    plain = SentenceTransformer(modules=kept, device=str(model.device))
    plain.model_card_data = model.model_card_data
    plain.model_card_data.register_model(plain)
    return plain


def make_loss(recipe: Recipe, model: SentenceTransformer) -> nn.Module:
    """The library's loss for a recipe; the head of SoftmaxLoss is frozen and enlarged as the recipe says."""
    if recipe.loss == "softmax":
        loss = SoftmaxLoss(
            model, model.get_embedding_dimension(), num_labels=3, concatenation_sent_multiplication=recipe.multiply
        )
        prepare_head(recipe, loss.classifier)
    elif recipe.loss == "cosine":
        loss = CosineSimilarityLoss(model)
    else:
        kinds = {"mnrl": MultipleNegativesRankingLoss, "cosent": CoSENTLoss, "angle": AnglELoss}
        loss = kinds[recipe.loss](model, scale=recipe.scale)
    if recipe.matryoshka:
        loss = MatryoshkaLoss(model, loss, matryoshka_dims=list(recipe.matryoshka))
    return loss


def prepare_head(recipe: Recipe, head: nn.Linear) -> None:
    """Freeze or enlarge the head of ``SoftmaxLoss`` as ``recipe`` says."""
    head.requires_grad_(recipe.train_head)
    with torch.no_grad():
        head.weight.mul_(recipe.head_gain)
        head.bias.mul_(recipe.head_gain)


def head_of(loss: nn.Module) -> nn.Linear | None:
    """The classifier head of a loss; None for losses that have none."""
    return getattr(loss, "classifier", None)
