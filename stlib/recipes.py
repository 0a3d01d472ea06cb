"""Recipes: everything that decides how a run trains, and the rows, loss, optimizer and schedule that they mean."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from datasets import Dataset, Value
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from stlib.errors import UsageError
from stlib.settings import Profile

# The names of parameters that weight decay leaves alone, as in the library's legacy `fit` (sentence-transformers 4.1.0).
NO_DECAY = ("bias", "LayerNorm.bias", "LayerNorm.weight")
# What a cosine should be like for each NLI label: the scale that CoSENT and AnglE learn an order from.
NLI_SCORES = np.array([1.0, 0.5, 0.0], dtype=np.float32)
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
LOSSES = {
    "softmax": losses.SoftmaxLoss,
    "mnrl": losses.MultipleNegativesRankingLoss,
    "cosent": losses.CoSENTLoss,
    "angle": losses.AnglELoss,
    "cosine": losses.CosineSimilarityLoss,
}


@dataclass(frozen=True)
class Recipe:
    """How to train the encoder, and with SoftmaxLoss its NLI head.

    There are two kinds. A recipe with ``schedule_steps`` stands for one long run: whatever the profile, it trains the
    start of that run. Without, warm-up and decay are fitted to the run: up over its first tenth, zero at its end.

    Attributes:
        name: what the command line calls it.
        about: what it stands for, in a sentence.
        learning_rate: peak of AdamW for the encoder.
        warmup_steps: steps over which the rate rises from zero to its peak; set by ``fitted_to`` for a fitted recipe.
        schedule_steps: the step at which the rate reaches zero again.
        weight_decay: for all weights but biases and LayerNorm.
        max_grad_norm: the encoder's gradient is clipped to this norm.
        train_head: whether the classifier head is given to the optimizer.
        head_learning_rate: its peak rate; None means the encoder's.
        head_gain: the head's random initial weights are multiplied by this. Unit-norm embeddings give logits that
            differ by less than one; a larger head lets the loss fall from the first step.
        dropout: in the encoder; the base model's is 0.1.
        loss: a key of ``LOSSES``; ``mnrl`` ranks with contradictions as hard negatives. What rows they take:
            ``training_rows``.
        data: ``nli``, or an STS task, whose training pairs then take the place of the NLI pairs.
        multiply: the head of SoftmaxLoss also sees u * v.
        normalize: whether the encoder has its Normalize module. Without it, lengths of embeddings are free.
        scale: of the cosines in ``mnrl``, ``cosent`` and ``angle``; the reciprocal of a temperature.
        matryoshka: numbers of leading dimensions that the loss is computed on too, all 384 among them; empty: only on
            all.
        epochs: passes over the rows; None leaves them, and the scale of a fitted recipe's rate, to the profile.
        batch_size: rows per step. The card's is 32.
        together: whether pairs with one premise stay side by side, in the same batch, while the premises are shuffled.
            The hypotheses of a premise are then told apart in the same step.
        soup: how many runs, which differ in their seed, are averaged into one model.
    """

    name: str
    about: str
    learning_rate: float = 2e-5
    warmup_steps: int | None = None
    schedule_steps: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    train_head: bool = False
    head_learning_rate: float | None = None
    head_gain: float = 1.0
    dropout: float = 0.1
    loss: str = "softmax"
    data: str = "nli"
    multiply: bool = False
    normalize: bool = True
    scale: float = 20.0
    matryoshka: tuple[int, ...] = ()
    epochs: int | None = None
    batch_size: int = 32
    together: bool = False
    soup: int = 1

    def fitted_to(self, total_steps: int, profile: Profile) -> "Recipe":
        """Return the recipe with its schedule and rate as a run of ``total_steps`` at a profile has them."""
        if self.schedule_steps is not None:
            return self
        rate = self.learning_rate if self.epochs else round(self.learning_rate * profile.rate_scale, 10)
        return replace(self, warmup_steps=total_steps // 10, schedule_steps=total_steps, learning_rate=rate)

    def to_dict(self) -> dict:
        """Return the fields as JSON would give them back."""
        return {**asdict(self), "matryoshka": list(self.matryoshka)}


CARD = Recipe(
    name="card",
    about="what really trained the published model: the legacy fit of 4.1.0, which never gave the head to the optimizer",
    warmup_steps=1_000,
    schedule_steps=68_668,  # 4 x (549,367 // 32); 68,672 steps are run, because the last, smaller batches train too
    epochs=4,
)
CARD_AS_PRINTED = Recipe(
    name="card_as_printed",
    about="the settings that the published card prints",
    learning_rate=5e-5,
    warmup_steps=0,
    schedule_steps=68_672,  # 4 x 17,168: the library's trainer counts the smaller batches too
    weight_decay=0.0,
    train_head=True,
    epochs=4,
)
FIT_DEFAULTS = replace(
    CARD, name="fit_defaults", warmup_steps=10_000,
    about="the legacy fit of 4.1.0 with all its defaults: warm-up over 10,000 steps, head frozen",
)  # fmt: skip
FAST_HEAD = {"train_head": True, "head_learning_rate": 4e-2, "head_gain": 8.0}
TRAINED_HEAD = Recipe(
    name="trained_head",
    about="our SoftmaxLoss recipe: the head learns too, faster than the encoder, and starts large enough to matter",
    dropout=0.0,
    together=True,
    **FAST_HEAD,
)

# ---- the contest of notebook 08: the same NLI pairs, runs of hundreds of steps ------------------------------------------

SOFTMAX_FROZEN = Recipe("softmax_frozen", "SoftmaxLoss with a frozen head, as the card was trained", epochs=4)
SOFTMAX_TRAINED = Recipe(
    "softmax_trained", "SoftmaxLoss, the head trained at the encoder's rate", train_head=True, epochs=4
)
SOFTMAX_FREE = Recipe(
    "softmax_free", "SoftmaxLoss as in the Sentence-BERT paper: no Normalize, the head trained at the encoder's rate",
    normalize=False, train_head=True, epochs=4,
)  # fmt: skip
SOFTMAX_FAST = Recipe(
    "softmax_fast", "SoftmaxLoss, a head eight times as large at the rate 0.04", epochs=4, **FAST_HEAD
)
SOFTMAX_PRODUCT = replace(
    SOFTMAX_FAST, name="softmax_product", about="the same, and the head also sees u * v", multiply=True
)
COSENT = Recipe("cosent", "CoSENT on the scores 1, 0.5 and 0 of the labels", loss="cosent", epochs=4)
ANGLE = Recipe("angle", "AnglE on the same scores", loss="angle", epochs=4)
RANKING_LONG = Recipe(
    "ranking_long", "MultipleNegativesRankingLoss, contradictions as hard negatives, eight passes at a usual rate",
    loss="mnrl", epochs=8, batch_size=64,
)  # fmt: skip
# Chosen on validation pairs: one quick pass without dropout does more good than a long one.
RANKING = replace(
    RANKING_LONG, name="ranking", about="the same loss, one quick pass without dropout",
    epochs=1, learning_rate=2e-4, dropout=0.0,
)  # fmt: skip
RANKING_SOUP = replace(RANKING, name="ranking_soup", about="eight runs of ranking, averaged", soup=8)
RANKING_MATRYOSHKA = replace(
    RANKING, name="ranking_matryoshka", about="ranking, also on the first 256, 128, 64 and 32 dimensions",
    matryoshka=(384, 256, 128, 64, 32),
)  # fmt: skip
STS_STAGE = Recipe(
    "sts_stage", "CosineSimilarityLoss on the training pairs of STS-B", loss="cosine", data="stsbenchmark-sts", epochs=4
)
SOFTMAX_CONTENDERS = (SOFTMAX_FROZEN, SOFTMAX_TRAINED, SOFTMAX_FREE, SOFTMAX_FAST, SOFTMAX_PRODUCT)
CONTENDERS = (*SOFTMAX_CONTENDERS, COSENT, RANKING_LONG, RANKING, RANKING_MATRYOSHKA)
RECIPES = {
    recipe.name: recipe
    for recipe in (CARD, CARD_AS_PRINTED, FIT_DEFAULTS, TRAINED_HEAD, *CONTENDERS, RANKING_SOUP, ANGLE, STS_STAGE)
}


def get_recipe(name: str | Recipe) -> Recipe:
    """Return the recipe called ``name`` (a Recipe as it is). Raises UsageError for an unknown name."""
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


# ---- optimizer and schedule -----------------------------------------------------------------------------------------


def linear_schedule(warmup_steps: int, schedule_steps: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at a step, counted from 0: up over the warm-up, then straight down to 0.

    The same line as ``transformers.get_linear_schedule_with_warmup`` and the legacy ``WarmupLinear``.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / max(1, warmup_steps)
        return max(0.0, (schedule_steps - step) / max(1, schedule_steps - warmup_steps))

    return factor


def parameter_groups(recipe: Recipe, encoder: nn.Module, head: nn.Module | None) -> list[dict]:
    """Return AdamW's groups: encoder weights with decay, encoder biases and LayerNorm without, and a trained head without.

    The library's ``learning_rate_mapping`` would decay the head too, and its trainer other parameters than ``fit`` did.
    """
    named = [(name, parameter) for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    exempt = {name for name, _ in named if any(part in name for part in NO_DECAY)}
    groups = [
        {"name": "encoder", "params": [p for n, p in named if n not in exempt], "weight_decay": recipe.weight_decay},
        {"name": "encoder, no decay", "params": [p for n, p in named if n in exempt], "weight_decay": 0.0},
    ]
    if recipe.train_head and head is not None:
        rate = recipe.head_learning_rate or recipe.learning_rate
        groups.append({"name": "head", "params": list(head.parameters()), "weight_decay": 0.0, "lr": rate})
    return groups


def make_optimizer(recipe: Recipe, encoder: nn.Module, head: nn.Module | None) -> tuple[AdamW, LambdaLR]:
    """Return AdamW (betas 0.9 and 0.999, eps 1e-8) and the linear schedule of a recipe that is fitted to its run."""
    groups = parameter_groups(recipe, encoder, head)
    optimizer = AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    return optimizer, LambdaLR(optimizer, linear_schedule(recipe.warmup_steps, recipe.schedule_steps))


# ---- rows and loss --------------------------------------------------------------------------------------------------


def training_rows(recipe: Recipe, pairs: Dataset) -> Dataset:
    """Return the rows that the recipe's loss takes.

    Args:
        pairs: NLI pairs (``sentence_0``, ``sentence_1``, ``label``), or for a recipe on STS pairs ``sentence1``,
            ``sentence2`` and ``score`` (0 to 5).

    Returns:
        The pairs as they are for SoftmaxLoss; ``triplets`` for the ranking loss; pairs with a score from 0 to 1 for the
        losses that learn from scores.
    """
    if recipe.data == "nli" and recipe.loss == "softmax":
        return pairs
    if recipe.data == "nli" and recipe.loss == "mnrl":
        return triplets(pairs)
    if recipe.data == "nli":
        columns, scores = pairs.remove_columns("label"), NLI_SCORES[np.asarray(pairs["label"])]
    else:
        columns = pairs.select_columns(["sentence1", "sentence2"])
        scores = np.asarray(pairs["score"], dtype=np.float32) / 5
    return columns.add_column("label", scores.tolist(), feature=Value("float32"))


def triplets(pairs: Dataset) -> Dataset:
    """Return ``anchor``, ``positive`` and ``negative``: a premise, a hypothesis that it entails, one that it contradicts.

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
    """Return the encoder with the recipe's dropout, and without its Normalize module if the recipe has none."""
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
    """Return the library's loss for a recipe; the head of SoftmaxLoss is frozen and enlarged as the recipe says."""
    options = {"scale": recipe.scale} if recipe.loss in ("mnrl", "cosent", "angle") else {}
    if recipe.loss == "softmax":
        sizes = {"sentence_embedding_dimension": model.get_embedding_dimension(), "num_labels": 3}
        options = {**sizes, "concatenation_sent_multiplication": recipe.multiply}
    loss = LOSSES[recipe.loss](model, **options)
    if recipe.loss == "softmax":
        prepare_head(recipe, loss.classifier)
    if recipe.matryoshka:
        loss = losses.MatryoshkaLoss(model, loss, matryoshka_dims=list(recipe.matryoshka))
    return loss


def prepare_head(recipe: Recipe, head: nn.Linear) -> None:
    """Freeze or enlarge the head of ``SoftmaxLoss`` as ``recipe`` says."""
    head.requires_grad_(recipe.train_head)
    with torch.no_grad():
        head.weight.mul_(recipe.head_gain)
        head.bias.mul_(recipe.head_gain)


def head_of(loss: nn.Module) -> nn.Linear | None:
    """Return the classifier head of a loss; None for losses that have none."""
    return getattr(loss, "classifier", None)
