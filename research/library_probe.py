"""Train once with whatever sentence-transformers comes first on the path, and say what became of the loss's own parameters.

    PYTHONPATH=LAB/st/4.1.0:LAB/deps-4.52 python research/library_probe.py JOBS.json ANSWERS.json

``library_versions.py`` starts it, once per version. It imports nothing of this project, so that it runs beside any version.
A job is a dictionary with the arguments of ``train`` and, if the card of the saved model is wanted, ``card``: its path.
"""

import json
import random
import sys
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from sentence_transformers import InputExample, SentenceTransformer, __version__, losses
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel

WORDS = ["a", "the", "one", "two", "small", "old", "red", "dog", "cat", "boy", "girl", "man", "woman", "horse", "runs",
         "sleeps", "eats", "reads", "sings", "near", "under", "by", "house", "tree", "river", "road"]  # fmt: skip
PAIRS = 160
BASE = "tiny-bert"  # the base model's folder, in the current one: the name that cards give


def save_base(folder: Path) -> None:
    """Save a tiny BERT with mean pooling in the form that every version since 2.0 reads."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokens), max_position_embeddings=32, **sizes)).save_pretrained(str(folder))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    files = {
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 24, **pooling},
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(kinds.items())
        ],
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def made_up_pairs(seed: int) -> list[tuple[str, str, int]]:
    """Return pairs of made-up sentences, each with one of three labels."""
    chance = random.Random(seed)
    say = lambda: " ".join(chance.choices(WORDS, k=chance.randint(3, 8)))  # noqa: E731
    return [(say(), say(), chance.randrange(3)) for _ in range(PAIRS)]


def make_loss(name: str, model: SentenceTransformer) -> torch.nn.Module:
    """Return a new loss by its name."""
    return getattr(losses, name)(model, *((24, 3) if name == "SoftmaxLoss" else ()))


def watch(loss: torch.nn.Module) -> dict:
    """Note, in the dictionary that comes back, what each step does with the parameters that are the loss's alone."""
    own = [parameter for name, parameter in loss.named_parameters() if not name.startswith("model.")]
    first = [parameter.detach().clone() for parameter in own]
    norm = lambda: float(sum((p.grad.norm() ** 2 for p in own if p.grad is not None), torch.tensor(0.0)) ** 0.5)  # noqa: E731
    seen = {"own": own, "first": first, "left_over": [], "gradient_norms": [], "rates": [], "in_optimizer": False}

    def before_step(optimizer, args, kwargs) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        seen["in_optimizer"] |= any(id(parameter) in held for parameter in own)
        seen["gradient_norms"].append(norm())
        seen["rates"].append(optimizer.param_groups[0]["lr"])

    loss.register_forward_pre_hook(lambda module, inputs: seen["left_over"].append(norm()))
    seen["handle"] = register_optimizer_step_pre_hook(before_step)
    return seen


def train(entry_point: str, loss: str = "SoftmaxLoss", data_sets: int = 1, evaluator: bool = False, logs: bool = False,
          traces: tuple[str, ...] = (), settings: dict | None = None) -> tuple[dict, SentenceTransformer]:  # fmt: skip
    """Train the tiny model and return what happened, and the model.

    ``settings`` go to ``fit`` or to the trainer's arguments. ``traces`` are what ``fit`` leaves on a card and a user of the
    trainer may set by hand: ``columns`` (their names) and ``round_robin``.
    """
    torch.manual_seed(1)
    model, settings = SentenceTransformer(BASE, device="cpu"), dict(settings or {})
    sets = [made_up_pairs(seed) for seed in range(data_sets)]
    functions = [make_loss(loss, model) for _ in sets]
    score = (lambda label: label / 2.0) if loss == "CosineSimilarityLoss" else int
    test = None
    if evaluator:
        rows = made_up_pairs(9)
        test = EmbeddingSimilarityEvaluator(*zip(*((a, b, label / 2) for a, b, label in rows), strict=True), name="dev")
    seen = watch(functions[0])
    if entry_point in ("fit", "old_fit"):
        examples = [[InputExample(texts=[a, b], label=score(label)) for a, b, label in rows] for rows in sets]
        size = 2 if logs else 16  # `fit` logs every 500 steps
        objectives = [
            (DataLoader(rows, shuffle=True, batch_size=size), function)
            for rows, function in zip(examples, functions, strict=True)
        ]
        settings = {"epochs": 7 if logs else 2, "warmup_steps": 0} | settings
        getattr(model, entry_point)(objectives, evaluator=test, **settings)
    else:
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

        names = ("sentence_0", "sentence_1", "label") if "columns" in traces else ("premise", "hypothesis", "label")
        labelled = names if loss != "MultipleNegativesRankingLoss" or "columns" in traces else names[:2]
        tables = [
            Dataset.from_dict({name: [row[i] if i < 2 else score(row[i]) for row in rows] for i, name in enumerate(labelled)})
            for rows in sets
        ]  # fmt: skip
        settings = {
            "per_device_train_batch_size": 16,
            "num_train_epochs": 2,
            "report_to": "none",
            "save_strategy": "no",
        } | settings
        settings |= {"multi_dataset_batch_sampler": "round_robin"} if "round_robin" in traces else {}
        settings |= {"logging_steps": 5} if logs else {}
        several = {f"set_{number}": table for number, table in enumerate(tables)}
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(output_dir="out", **settings),
            train_dataset=several if data_sets > 1 else tables[0],
            loss=dict(zip(several, functions, strict=True)) if data_sets > 1 else functions[0],
            evaluator=test,
        )
        trainer.train()
        if test is not None:
            trainer.evaluate()
    seen.pop("handle").remove()
    own, first = seen.pop("own"), seen.pop("first")
    moved = sum((float((now.detach() - then).norm()) ** 2 for now, then in zip(own, first, strict=True)), 0.0) ** 0.5
    seen["left_over"] = max(seen["left_over"][1:], default=0.0)
    return {**seen, "steps": len(seen["rates"]), "parameters": len(own), "moved": moved}, model


def main() -> None:
    jobs, answers = Path(sys.argv[1]), Path(sys.argv[2])
    results = []
    if not Path(BASE).is_dir():
        save_base(Path(BASE))
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        card = job.pop("card", None)
        try:
            answer, model = train(**job)
            if card:
                model.save("saved")
                Path(card).write_text(Path("saved/README.md").read_text(encoding="utf-8"), encoding="utf-8")
            results.append(answer)
        except Exception as error:  # a version that cannot do it, said in the answers
            results.append({"error": f"{type(error).__name__}: {error}"})
    head = {"version": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    answers.write_text(json.dumps({**head, "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
