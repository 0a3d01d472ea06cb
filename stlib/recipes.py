"""Recipes: everything that decides how a run trains, and the rows, loss, optimizer and schedule that they mean."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
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
LOSSES = {
    "softmax": losses.SoftmaxLoss,
    "mnrl": losses.MultipleNegativesRankingLoss,
    "mnrl_pairs": losses.MultipleNegativesRankingLoss,  # on entailed pairs alone, without hard negatives
    "gist": losses.GISTEmbedLoss,
    "cosent": losses.CoSENTLoss,
    "angle": losses.AnglELoss,
    "cosine": losses.CosineSimilarityLoss,
}
ON_TRIPLETS = ("mnrl", "gist")
COMPARE_A_BATCH = (*ON_TRIPLETS, "mnrl_pairs", "cosent", "angle")  # all its rows with each other; they have a scale


@dataclass(frozen=True)
class Recipe:
    """How to train the encoder, and with SoftmaxLoss its NLI head.

    There are two kinds. A recipe with ``schedule_steps`` stands for one long run: whatever the profile, it trains the
    start of that run. Without, warm-up and decay are fitted to the run: up over its first tenth, unless
    ``warmup_steps`` says otherwise, and zero at its end.
    """

    name: str  # what the command line calls it
    about: str  # what it stands for, in a sentence
    learning_rate: float = 2e-5  # peak of AdamW for the encoder
    warmup_steps: int | None = None  # the rate rises from zero to its peak over them; None: ``fitted_to`` the run
    schedule_steps: int | None = None  # the steps after which the rate is zero again
    weight_decay: float = 0.01  # for all weights but biases and LayerNorm
    max_grad_norm: float = 1.0  # the encoder's gradient is clipped to this norm
    train_head: bool = False  # whether the classifier head is given to the optimizer
    head_learning_rate: float | None = None  # its peak rate; None: the encoder's
    # The head's random initial weights are multiplied by this. Unit-norm embeddings give logits that differ by less
    # than one; a larger head lets the loss fall from the first step.
    head_gain: float = 1.0
    dropout: float = 0.1  # in the encoder; 0.1 is the base model's
    loss: str = "softmax"  # a key of ``LOSSES``; ``training_rows`` says what rows it takes
    data: str = "nli"  # or an STS task, whose training pairs then take the place of the NLI pairs
    multiply: bool = False  # the head of SoftmaxLoss also sees u * v
    normalize: bool = True  # whether the encoder has its Normalize module: without, lengths of embeddings are free
    scale: float = 20.0  # of the cosines in losses that compare a batch; the reciprocal of a temperature
    matryoshka: tuple[int, ...] = ()  # numbers of leading dimensions to compute the loss on, all 384 among them
    epochs: int | None = None  # passes over the rows; None: ``sized_for`` the profile
    batch_size: int = 32  # rows per step; the card's is 32
    # Whether pairs with one premise stay side by side, in the same batch, while the premises are shuffled: the
    # hypotheses of a premise are then told apart in the same step.
    together: bool = False
    no_duplicates: bool = False  # whether no text comes twice in a batch, where it would be its own wrong answer
    soup: int = 1  # how many runs, which differ in their seed, are averaged into one model

    def but(self, name: str, about: str, **changes) -> "Recipe":
        """Return a recipe of another name that differs in ``changes``."""
        return replace(self, name=name, about=about, **changes)

    def kind_of_rows(self) -> str:
        """Return what a message calls the rows that the recipe's loss takes."""
        return "triplets" if self.loss in ON_TRIPLETS else "pairs"

    def sized_for(self, profile: Profile) -> "Recipe":
        """Return the recipe with the rates and the batch that a profile gives to one that leaves its epochs to it."""
        if self.epochs:
            return self
        if self.schedule_steps is not None:
            return replace(self, epochs=profile.epochs)
        return replace(
            self,
            epochs=profile.epochs,
            batch_size=self.batch_size * profile.batch_scale,
            learning_rate=round(self.learning_rate * profile.rate_scale, 10),
            head_learning_rate=self.head_learning_rate and self.head_learning_rate * profile.batch_scale,
        )

    def fitted_to(self, total_steps: int) -> "Recipe":
        """Return the recipe with its schedule as a run of ``total_steps`` has it."""
        if self.schedule_steps is not None:
            return self
        warmup = total_steps // 10 if self.warmup_steps is None else self.warmup_steps
        return replace(self, warmup_steps=warmup, schedule_steps=total_steps)


CARD = Recipe(
    "card", "what really trained the published model: the legacy fit of 4.1.0, which never gave the head to the optimizer",
    warmup_steps=1_000,
    schedule_steps=68_668,  # 4 x (549,367 // 32); 68,672 steps are run, because the last, smaller batches train too
    epochs=4,
)  # fmt: skip
CARD_AS_PRINTED = CARD.but(
    "card_as_printed", "the settings that the published card prints",
    learning_rate=5e-5, warmup_steps=0, weight_decay=0.0, train_head=True,
    schedule_steps=68_672,  # 4 x 17,168: the library's trainer counts the smaller batches too
)  # fmt: skip
FIT_DEFAULTS = CARD.but(
    "fit_defaults", "the legacy fit of 4.1.0 with all its defaults: warm-up over 10,000 steps, head frozen", warmup_steps=10_000
)  # fmt: skip
FAST_HEAD = {"train_head": True, "head_learning_rate": 4e-2, "head_gain": 8.0}
TRAINED_HEAD = Recipe(
    "trained_head", "our SoftmaxLoss recipe: the head learns too, faster than the encoder, and starts large enough to matter",
    dropout=0.0, together=True, **FAST_HEAD,
)  # fmt: skip

# The contest of notebook 08: the same NLI pairs, runs of hundreds of steps.
FROZEN = Recipe("softmax_frozen", "SoftmaxLoss with a frozen head, as the card was trained", epochs=4)
FAST = FROZEN.but("softmax_fast", "SoftmaxLoss, a head eight times as large at the rate 0.04", **FAST_HEAD)
RANKING_LONG = FROZEN.but(
    "ranking_long", "MultipleNegativesRankingLoss, contradictions as hard negatives, eight passes at a usual rate",
    loss="mnrl", epochs=8, batch_size=64,
)  # fmt: skip
# Chosen on validation pairs: one quick pass without dropout does more good than a long one.
RANKING = RANKING_LONG.but(
    "ranking", "the same loss, one quick pass without dropout", epochs=1, learning_rate=2e-4, dropout=0.0
)
STS_STAGE = FROZEN.but(
    "sts_stage", "CosineSimilarityLoss on the training pairs of STS-B", loss="cosine", data="stsbenchmark-sts"
)
CONTENDERS = (
    FROZEN,
    FROZEN.but("softmax_trained", "SoftmaxLoss, the head trained at the encoder's rate", train_head=True),
    FROZEN.but(
        "softmax_free", "SoftmaxLoss as in the Sentence-BERT paper: no Normalize, the head trained at the encoder's rate",
        train_head=True, normalize=False,
    ),
    FAST,
    FAST.but("softmax_product", "the same, and the head also sees u * v", multiply=True),
    FROZEN.but("cosent", "CoSENT on the scores 1, 0.5 and 0 of the labels", loss="cosent"),
    RANKING_LONG,
    RANKING,
    RANKING.but("ranking_unique", "ranking, no text twice in a batch", no_duplicates=True),
    RANKING.but(
        "ranking_guided", "ranking, where the base model strikes out wrong answers that it finds closer than the right one",
        loss="gist",
    ),
    RANKING.but(
        "ranking_matryoshka", "ranking, also on the first 256, 128, 64 and 32 dimensions",
        matryoshka=(384, 256, 128, 64, 32),
    ),
)  # fmt: skip
OTHERS = (
    RANKING.but("ranking_soup", "eight runs of ranking, averaged", soup=8),
    RANKING.but("ranking_pairs", "ranking on entailed pairs, without hard negatives", loss="mnrl_pairs"),
    FROZEN.but("angle", "AnglE on the same scores", loss="angle"),
    STS_STAGE,
)
RECIPES = {one.name: one for one in (CARD, CARD_AS_PRINTED, FIT_DEFAULTS, TRAINED_HEAD, *CONTENDERS, *OTHERS)}


def get_recipe(name: str | Recipe) -> Recipe:
    """Return the recipe called ``name`` (a Recipe as it is). Raises UsageError for an unknown name."""
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def linear_schedule(warmup_steps: int, schedule_steps: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at a step, counted from 0: up over the warm-up, then straight down to 0.

    The learning rate of step n is the recipe's times the factor at n - 1. The same line as
    ``transformers.get_linear_schedule_with_warmup`` and the legacy ``WarmupLinear``.
    """
    up, down = max(1, warmup_steps), max(1, schedule_steps - warmup_steps)
    return lambda step: step / up if step < warmup_steps else max(0.0, (schedule_steps - step) / down)


def make_optimizer(recipe: Recipe, encoder: nn.Module, head: nn.Module | None) -> tuple[AdamW, LambdaLR]:
    """Return AdamW and the linear schedule of a recipe that is fitted to its run.

    The groups are encoder weights with decay, encoder biases and LayerNorm without, and a trained head without. The
    library's ``learning_rate_mapping`` would decay the head too, and its trainer other parameters than ``fit`` did.
    """
    weights, exempt = [], []
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            (exempt if any(part in name for part in NO_DECAY) else weights).append(parameter)
    groups = [
        {"name": "encoder", "params": weights, "weight_decay": recipe.weight_decay},
        {"name": "encoder, no decay", "params": exempt, "weight_decay": 0.0},
    ]
    if recipe.train_head and head is not None:
        rate = recipe.head_learning_rate or recipe.learning_rate
        groups.append({"name": "head", "params": list(head.parameters()), "weight_decay": 0.0, "lr": rate})
    optimizer = AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    return optimizer, LambdaLR(optimizer, linear_schedule(recipe.warmup_steps, recipe.schedule_steps))


def training_rows(recipe: Recipe, pairs: Dataset) -> Dataset:
    """Return the rows that the recipe's loss takes.

    ``pairs`` are NLI pairs (``sentence_0``, ``sentence_1``, ``label``), which SoftmaxLoss takes as they are and the
    ranking loss as ``triplets`` or as entailed pairs. For a recipe on STS pairs they are ``sentence1``, ``sentence2`` and
    ``score`` (0 to 5). The losses that learn from scores take pairs with a ``label`` from 0 to 1.
    """
    if recipe.data != "nli":
        columns = pairs.select_columns(["sentence1", "sentence2"])
        scores = np.asarray(pairs["score"], dtype=np.float32) / 5
    elif recipe.loss in ("softmax", *ON_TRIPLETS):
        return pairs if recipe.loss == "softmax" else triplets(pairs)
    elif recipe.loss == "mnrl_pairs":
        entailed = pairs.select(np.flatnonzero(np.asarray(pairs["label"]) == 0)).remove_columns("label")
        return entailed.rename_columns({"sentence_0": "anchor", "sentence_1": "positive"})
    else:
        columns, scores = pairs.remove_columns("label"), NLI_SCORES[np.asarray(pairs["label"])]
    return columns.add_column("label", scores.tolist(), feature=Value("float32"))


def triplets(pairs: Dataset) -> Dataset:
    """Return ``anchor``, ``positive`` and ``negative``: a premise, a hypothesis that it entails, one that it contradicts.

    A premise with several of either gives as many triplets as the rarer kind allows; one without both gives none. So
    does Gao et al. 2021 (SimCSE, arXiv 2104.08821). Raises UsageError if no premise has both.
    """
    table = pairs.to_pandas()
    table["premise"] = pd.factorize(table["sentence_0"])[0]
    table["number"] = table.groupby(["premise", "label"]).cumcount()
    entailed, contradicted = (table[table["label"] == label] for label in (0, 2))
    rows = entailed.merge(contradicted, on=["premise", "number"]).sort_values(["premise", "number"])
    if rows.empty:
        raise UsageError(
            "no premise of these NLI pairs has both an entailed and a contradicted hypothesis, as the ranking loss needs: "
            "train on more pairs, or with another recipe"
        )
    sides = {"anchor": "sentence_0_x", "positive": "sentence_1_x", "negative": "sentence_1_y"}
    found = Dataset.from_dict({name: rows[side].tolist() for name, side in sides.items()})
    found.info.description = pairs.info.description
    return found


def prepare_encoder(recipe: Recipe, model: SentenceTransformer) -> SentenceTransformer:
    """Return ``model``, changed to the recipe's dropout, and with a Normalize module exactly if the recipe says so."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = recipe.dropout
    found = [place for place, module in enumerate(model) if isinstance(module, Normalize)]
    if recipe.normalize:
        return model if found else model.append(Normalize())
    for place in reversed(found):
        del model[place]
    return model


def make_loss(recipe: Recipe, model: SentenceTransformer) -> nn.Module:
    """Return the library's loss for a recipe; the head of SoftmaxLoss is frozen and enlarged as the recipe says.

    The guide of GISTEmbedLoss (Solatorio 2024, arXiv 2402.16829) is ``model`` as it is now.
    """
    if recipe.loss == "softmax":
        size = model.get_embedding_dimension()
        loss = losses.SoftmaxLoss(model, size, num_labels=3, concatenation_sent_multiplication=recipe.multiply)
        loss.classifier.requires_grad_(recipe.train_head)
        with torch.no_grad():
            torch._foreach_mul_(list(loss.classifier.parameters()), recipe.head_gain)
    else:
        options = {"scale": recipe.scale} if recipe.loss in COMPARE_A_BATCH else {}
        if recipe.loss == "gist":
            options = {"temperature": 1 / recipe.scale, "guide": copy.deepcopy(model).eval()}
        loss = LOSSES[recipe.loss](model, **options)
    return losses.MatryoshkaLoss(model, loss, list(recipe.matryoshka)) if recipe.matryoshka else loss


def head_of(loss: nn.Module) -> nn.Linear | None:
    """Return the classifier head of a loss; None for losses that have none."""
    return getattr(loss, "classifier", None)
