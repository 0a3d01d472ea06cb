"""Fine-tune a sentence encoder with sentence-transformers alone, and say in one line whether it got better.

    pip install "sentence-transformers[train]>=6.2,<7"
    python finetune_nli.py --base all-MiniLM-L6-v2 --train "sentence-transformers/all-nli:triplet:train[:9999]" \\
        --dev sentence-transformers/stsb::validation --test sentence-transformers/stsb::test --out my-model

Data is a parquet or CSV file, or NAME:CONFIG:SPLIT on the hub. --train has the columns anchor, positive and, if you like,
negative, or two texts and a label (0 entailment, 1 neutral, 2 contradiction); --dev and --test have two texts and a score.
The dev pairs decide when to stop and which checkpoint is kept (not step 0, the untrained model). Test pairs are scored twice.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, load_dataset
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import evaluation, losses
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import EarlyStoppingCallback

TRIPLETS = ["anchor", "positive", "negative"]
PAIRS = [["premise", "hypothesis"], ["sentence1", "sentence2"]]
WANTED = {0: 1.0, 1: 0.5, 2: 0.0}  # the order that CoSENT should bring the cosines of the three labels into


def load_table(source: str) -> pd.DataFrame:
    """Return the rows of a file, or of a data set on the hub."""
    if read := {".parquet": pd.read_parquet, ".csv": pd.read_csv}.get(Path(source).suffix.lower()):
        return read(source) if Path(source).is_file() else sys.exit(f"{source} does not exist: give another path")
    name, config, split = [*source.split(":", 2), "", ""][:3]
    try:
        return load_dataset(name, config or None, split=split or "train").to_pandas()
    except Exception as error:  # whatever the hub or the network says
        sys.exit(f"{source} is neither a .parquet or .csv file nor NAME:CONFIG:SPLIT on the hub ({error})")


def load_pairs(source: str, number: str) -> pd.DataFrame:
    """Return the columns first, second and ``number``: the texts are two of ``PAIRS``, or the only two columns of text."""
    table = load_table(source)
    text_columns = [name for name in table if pd.api.types.is_string_dtype(table[name])]
    texts = next((names for names in PAIRS if set(names) <= set(text_columns)), text_columns)
    if number not in table or len(texts) != 2 or not pd.api.types.is_numeric_dtype(table[number]):
        sys.exit(f"{source} has {', '.join(table)}: call its texts premise and hypothesis, and its numbers {number}")
    return table[[*texts, number]].set_axis(["first", "second", number], axis=1).dropna()


def load_training(source: str, loss: str) -> Dataset:
    """Return the rows as the loss takes them, by the order of their columns: triplets, or two texts and a score."""
    table = load_table(source)
    if loss == "ranking" and {"anchor", "positive"} <= set(table):  # a negative is welcome, not needed
        return Dataset.from_pandas(table[[name for name in TRIPLETS if name in table]].dropna(), preserve_index=False)
    pairs = load_pairs(source, "label")
    if not {0, 2} <= (labels := set(pairs["label"])):
        sys.exit(f"{source} has the labels {labels}: it needs 0 for entailment and 2 for contradiction (1 is neutral)")
    if loss == "cosent":
        rows = pairs.assign(score=pairs["label"].map(WANTED)).dropna()[["first", "second", "score"]]
    else:
        # What a premise entails is its positive, what contradicts it the hard negative. Neutral pairs are left out.
        both = pairs[pairs["label"] == 0].merge(pairs[pairs["label"] == 2], on="first")
        rows = both[["first", "second_x", "second_y"]].set_axis(TRIPLETS, axis=1)
    return Dataset.from_pandas(rows, preserve_index=False)


def cosines_of(model: SentenceTransformer, pairs: pd.DataFrame) -> np.ndarray:
    u, v = (model.encode(pairs[side].tolist()) for side in ("first", "second"))
    return model.similarity_pairwise(u, v).numpy()


def verdict(before: np.ndarray, after: np.ndarray, scores: np.ndarray) -> str:
    """Return both scores and the 95 % interval of their difference, by a bootstrap that draws the same pairs for both."""
    draws = np.random.default_rng(0).integers(len(scores), size=(1000, len(scores)))
    old, new = ([spearmanr(side[rows], scores[rows]).statistic for rows in draws] for side in (before, after))
    low, high = np.percentile(100 * np.subtract(new, old), [2.5, 97.5])
    old, new = (100 * spearmanr(side, scores).statistic for side in (before, after))
    word = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return f"{old:.2f} before, {new:.2f} after: {word}, {new - old:+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("base", "train", "dev", "test", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--loss", choices=["ranking", "cosent"], default="ranking")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--evals", type=int, default=10, help="evaluations on the dev pairs in the whole run")
    parser.add_argument("--patience", type=int, default=3, help="stop after so many evaluations without a new best")
    parser.add_argument("--bf16", action="store_true", help="faster on recent GPUs and on processors with AMX")
    args = parser.parse_args()
    if (out := Path(args.out)).exists() and (not out.is_dir() or any(out.iterdir())):
        sys.exit(f"{out} is there already and not an empty folder: choose another --out")
    train = load_training(args.train, args.loss)
    dev, test = load_pairs(args.dev, "score"), load_pairs(args.test, "score")
    if len(train) < args.batch_size:
        sys.exit(f"{args.train} gives {len(train)} rows, less than a batch: choose a smaller --batch-size")

    # 1. The model, and what it makes of the test pairs before.
    try:
        model = SentenceTransformer(args.base, similarity_fn_name="cosine", local_files_only=Path(args.base).is_dir())
    except Exception as error:
        sys.exit(f"{args.base} is no model folder and no model on the hub ({' '.join(str(error).split())})")
    before = cosines_of(model, test)

    # 2. Train. In a batch, the positives of the other rows are negatives too, so no text may stand in it twice.
    every = max(1, len(train) * args.epochs // args.batch_size // args.evals)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=out / "checkpoints",
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        warmup_steps=0.1,  # below 1, this is a share of all steps
        batch_sampler=BatchSamplers.NO_DUPLICATES if args.loss == "ranking" else BatchSamplers.BATCH_SAMPLER,
        use_cpu=model.device.type == "cpu",
        bf16=args.bf16,
        eval_strategy="steps",
        eval_on_start=True,
        eval_steps=every,
        save_steps=every,
        save_total_limit=1,  # the best and the last
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_dev_spearman_cosine",
        logging_steps=every,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        loss=losses.MultipleNegativesRankingLoss(model) if args.loss == "ranking" else losses.CoSENTLoss(model),
        evaluator=evaluation.EmbeddingSimilarityEvaluator(*dev.to_dict("list").values(), name="dev", write_csv=False),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=args.patience)],
    )
    trainer.train()
    # If the second column falls while the first falls on, the model over-fits.
    curve = pd.DataFrame(trainer.state.log_history).groupby("step")[["loss", "eval_dev_spearman_cosine"]].first()
    print(curve.set_axis(["training loss", "dev Spearman"], axis=1).dropna(subset="dev Spearman").round(4))

    # 3. Save, then look at the test pairs once more.
    model.save_pretrained(str(out / "model"))
    found = verdict(before, cosines_of(model, test), test["score"].to_numpy())
    print(f"Spearman x 100 on {len(test):,} test pairs: {found}\nsaved in {out / 'model'}")


if __name__ == "__main__":
    main()
