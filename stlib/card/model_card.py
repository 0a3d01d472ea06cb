"""The model card of a run: the library's own generator, fed with what it cannot know, and the settings that really ran."""

import json
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.model_card import generate_model_card
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from stlib.data import nli, sts
from stlib.model import NLIClassifier, has_head, load_classifier, load_encoder
from stlib.recipes import Recipe
from stlib.runs import Run, write_text
from stlib.settings import UsageError, get_profile
from stlib.sources import HUB_IDS, Source, available_tasks, get_source

REMEMBERED = "card.json"
# What the trainer tells the library's card generator, which forgets it when the model is saved.
FIELDS = (
    "train_datasets", "all_hyperparameters", "non_default_hyperparameters", "training_logs", "widget", "usage_examples",
    "citations", "tags", "base_model", "base_model_revision", "language", "license", "datasets", "version", "ir_model",
)  # fmt: skip


def describe_model(model: SentenceTransformer, source: str, task: str = "nli") -> None:
    """Tell the library's card generator the language, the licence and the data set, all without asking the hub.

    Call it before the trainer is made. ``local_files_only`` keeps the data set's id, which the library otherwise looks
    up on the hub and drops when it is offline.
    """
    data = model.model_card_data
    data.local_files_only = True
    data.set_language("en")
    data.set_license("apache-2.0")  # the base model's
    corpus = "snli" if task == "nli" else task
    if source == "mini corpora":
        data.train_datasets = [{"name": "scene grammar" if task == "nli" else "mini STS"}]
    else:
        data.train_datasets = [{"name": "SNLI" if task == "nli" else task, "id": HUB_IDS[corpus]}]
        data.datasets = [HUB_IDS[corpus]]


def remember(model: SentenceTransformer, folder: Path) -> None:
    """Keep in ``folder/card.json`` what the card generator knows after training, so that a card can be written later."""
    data = model.model_card_data
    known = {name: getattr(data, name) for name in FIELDS}
    known["seconds"] = data.get_training_duration_data()
    write_text(folder / REMEMBERED, json.dumps(known, indent=1, default=str) + "\n")


class NLIEvaluator(BaseEvaluator):
    """Accuracy of encoder and head on NLI pairs, as an evaluator of the library, so that its card can show it."""

    def __init__(self, classifier: NLIClassifier, pairs, name: str):
        super().__init__()
        self.classifier, self.pairs, self.name = classifier, pairs, name
        self.primary_metric = f"{name}_accuracy"

    @property
    def description(self) -> str:
        return "Natural Language Inference"

    def __call__(
        self, model: SentenceTransformer, output_path=None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        from stlib.evaluate import nli_scores

        scores = nli_scores(self.classifier, self.pairs)
        metrics = {f"{self.name}_accuracy": scores["accuracy"], f"{self.name}_macro_f1": scores["macro_f1"]}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


def write_card(run: Run, source: Source | None = None, evaluate: bool = True, model_id: str | None = None) -> Path:
    """Write the card of a finished run, with its scores, to ``README.md`` of the run folder and of the model.

    Args:
        run: a finished run.
        source: where the test sets are; by default what ``get_source()`` says.
        evaluate: whether to score the model on the STS tasks of the run's profile that the source has, and on NLI test.
        model_id: the model's name on the hub, ``USER/NAME``, for the card's example code.

    Raises:
        UsageError: the run folder lacks ``card.json``.
    """
    if not (run.folder / REMEMBERED).is_file():
        raise UsageError(f"{run.folder} has no {REMEMBERED}: it was trained without one; train the run again")
    classifier = load_classifier(run) if has_head(run) else None
    model = classifier.encoder if classifier else load_encoder(run)
    restore(model, run)
    if model_id is not None:
        model.model_card_data.set_model_id(model_id)
    if evaluate:
        add_scores(model, classifier, run, source or get_source())
    text = with_effective_settings(generate_model_card(model), run.info)
    for path in (run.model_folder / "README.md", run.folder / "README.md"):
        write_text(path, text)
    return run.folder / "README.md"


def restore(model: SentenceTransformer, run: Run) -> None:
    """Give the card generator back what ``remember`` kept."""
    data = model.model_card_data
    known = json.loads((run.folder / REMEMBERED).read_text(encoding="utf-8"))
    for name in FIELDS:
        setattr(data, name, known[name])
    data.local_files_only = True
    durations = known["seconds"]
    data.get_training_duration_data = lambda: durations


def add_scores(model: SentenceTransformer, classifier: NLIClassifier | None, run: Run, source: Source) -> None:
    """Run the library's evaluators, which put their results into the card; NLI where there is a head."""
    profile = get_profile(run.info["profile"])
    tasks, _ = available_tasks(profile.sts_tasks, source)
    log = list(model.model_card_data.training_logs)
    for task in tasks:
        pairs = sts(task, "test", source)
        evaluator = EmbeddingSimilarityEvaluator(
            list(pairs["sentence1"]), list(pairs["sentence2"]), list(pairs["score"]), similarity_fn_names=["cosine"],
            name=task, write_csv=False,
        )  # fmt: skip
        evaluator(model)
    if classifier:
        pairs = nli("test" if profile.test_rows is None else f"test[:{profile.test_rows}]", source)
        NLIEvaluator(classifier, pairs, "nli-test")(model)
    model.model_card_data.training_logs = log  # scores of the finished model are no rows of its training log


LOSSES = {
    "softmax": "SoftmaxLoss",
    "mnrl": "MultipleNegativesRankingLoss, contradictions as hard negatives",
    "cosent": "CoSENTLoss",
    "angle": "AnglELoss",
    "cosine": "CosineSimilarityLoss",
}


def describe_loss(recipe: Recipe) -> str:
    """The loss in words, with what sets it apart."""
    text = LOSSES[recipe.loss]
    if recipe.loss in ("mnrl", "cosent", "angle"):
        text += f", scale {recipe.scale:g}"
    if recipe.multiply:
        text += ", the head also sees u * v"
    if not recipe.normalize:
        text += ", embeddings not normalized"
    if recipe.matryoshka:
        text += f", on {', '.join(map(str, recipe.matryoshka))} dimensions (MatryoshkaLoss)"
    return text


def effective_settings(info: dict) -> list[tuple[str, str]]:
    """What ran, by name: the settings that the trainer's arguments, and so the library's list of them, do not show."""
    recipe = Recipe(**info["recipe"])
    end = recipe.schedule_steps or info["total_steps"]
    warmup = f"up over {recipe.warmup_steps:,} steps" if recipe.warmup_steps else "no warm-up"
    if recipe.loss != "softmax":
        head = "none: this loss compares embeddings"
    elif recipe.train_head:
        rate = recipe.head_learning_rate or recipe.learning_rate
        head = f"trained, learning rate {rate:g}; it moved by {info['head_moved']:.4g}"
    else:
        head = "frozen at its random initialization: it was never given to the optimizer"
    if recipe.loss == "softmax" and recipe.head_gain != 1:
        head += f"; its initial weights were multiplied by {recipe.head_gain:g}"
    return [
        ("recipe", f"`{recipe.name}`: {recipe.about}"),
        ("loss", describe_loss(recipe)),
        ("started from", "the base model" if info.get("start", "base") == "base" else f"the run `{Path(info['start']).name}`"),
        ("optimizer", f"AdamW, betas 0.9 and 0.999, epsilon 1e-8, learning rate {recipe.learning_rate:g}"),
        ("weight decay", f"{recipe.weight_decay:g} on weights, 0 on biases and LayerNorm"),
        ("schedule", f"linear: {warmup}, then down to zero at step {end:,}"),
        ("steps", f"{info['steps']:,} of {info['total_steps']:,}, {info['batch_size']} {'triplets' if recipe.loss == 'mnrl' else 'pairs'} each"),
        ("batches", "premises in random order, rows with one premise side by side" if recipe.together else "rows in random order"),
        ("classifier head", head),
        ("gradient clipping", f"norm {recipe.max_grad_norm:g}, the encoder's parameters"),
        ("dropout", f"{recipe.dropout:g}"),
        ("seed", str(info["seed"])),
        ("data", f"{info['rows']:,} {'triplets' if recipe.loss == 'mnrl' else 'pairs'}, `{info['nli_split'] if recipe.data == 'nli' else recipe.data + ' train'}` from {info['source']}, fingerprint `{info['data_fingerprint']}`"),
        ("engine", f"{info['engine']}, {info['precision']}, {info['processes']} process{'es' if info['processes'] > 1 else ''}"),
        ("hardware", info["hardware"]),
        ("final loss", f"{info['final_loss']:.4f} (mean over the steps since the log row before)"),
    ]  # fmt: skip


def with_effective_settings(card: str, info: dict) -> str:
    """The card with a section *Effective Settings* before its training logs, or where it has none, before its versions."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in effective_settings(info))
    section = (
        "### Effective Settings\n\n"
        "The lists above hold the trainer's arguments. An optimizer, a schedule or a loss that a script brings along does not "
        "show there; this is what ran.\n\n"
        f"| setting | value |\n|:--------|:------|\n{rows}\n\n"
    )
    before = next(
        title
        for title in ("### Training Logs", "### Training Time", "### Framework Versions")
        if f"\n{title}\n" in card
    )
    return card.replace(f"\n{before}\n", f"\n{section}{before}\n", 1)
