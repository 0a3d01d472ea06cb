"""Label pairs of sentences as entailment, neutral or contradiction, with sentence-transformers alone.

    python classify.py runs/mine/model --premise "A man plays the guitar." --hypothesis "A person makes music."
    python classify.py runs/mine/model --input pairs.csv --output labels.csv

The folder holds a sentence encoder as sentence-transformers saves it and, beside it, the linear head that SoftmaxLoss
trained and that the library does not save: nli_head.safetensors (weight and bias) and nli_head.json (what they mean).
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer


def load_head(folder: Path) -> tuple[torch.nn.Linear, dict]:
    """Return the head and its description: which features it reads, and which labels it scores."""
    for name in ("nli_head.safetensors", "nli_head.json"):
        if not (folder / name).is_file():
            sys.exit(
                f"{folder / name} does not exist: give the model folder of a run that was trained with SoftmaxLoss"
            )
    try:
        config = json.loads((folder / "nli_head.json").read_text(encoding="utf-8"))
        head = torch.nn.Linear(config["in_features"], len(config["labels"]))
        head.load_state_dict(load_file(folder / "nli_head.safetensors"))
    except Exception as error:  # a file that is cut off, or from another model
        sys.exit(
            f"the head in {folder} could not be read ({' '.join(str(error).split())}): copy both of its files again"
        )
    return head, config


def probabilities(
    encoder: SentenceTransformer, head: torch.nn.Linear, features: list[str], pairs: list
) -> torch.Tensor:
    """Return the probabilities of the labels, one row per pair."""
    premises, hypotheses = zip(*pairs, strict=True)
    u, v = (encoder.encode(list(side), convert_to_tensor=True).float().cpu() for side in (premises, hypotheses))
    # The features of the Sentence-BERT paper, in the order in which the head was trained on them.
    known = {"u": u, "v": v, "|u-v|": (u - v).abs(), "u*v": u * v}
    with torch.no_grad():
        return head(torch.cat([known[name] for name in features], dim=1)).softmax(dim=1)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a CSV file with the columns premise and hypothesis."""
    if not path.is_file():
        sys.exit(f"{path} does not exist: give a CSV file with the columns premise and hypothesis")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel writes a mark before the first column
            rows = list(reader := csv.DictReader(file))
    except UnicodeDecodeError as error:
        sys.exit(f"{path} is no text in UTF-8 ({error}): save it as one")
    if not {"premise", "hypothesis"} <= set(reader.fieldnames or []):
        columns = ", ".join(reader.fieldnames or ["none"])
        sys.exit(f"{path} has the columns {columns}: call two of them premise and hypothesis, with commas between")
    for number, row in enumerate(rows, start=1):
        if not row.get("premise") or not row.get("hypothesis"):
            sys.exit(f"row {number} of {path} has no premise or no hypothesis: fill in both columns")
    if not rows:
        sys.exit(f"{path} has no rows: give at least one pair")
    return [(row["premise"], row["hypothesis"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a model folder with an encoder and a head")
    parser.add_argument("--premise")
    parser.add_argument("--hypothesis")
    parser.add_argument("--input", type=Path, help="a CSV file with the columns premise and hypothesis")
    parser.add_argument("--output", type=Path, help="the CSV file to write; without it, the labels are printed")
    args = parser.parse_args()
    if args.input and not args.premise and not args.hypothesis:
        pairs = read_pairs(args.input)
    elif args.premise and args.hypothesis and not args.input:
        pairs = [(args.premise, args.hypothesis)]
    else:
        sys.exit("nothing to label: give --premise and --hypothesis, or --input with a CSV file")
    if args.output and args.output.exists():
        sys.exit(f"{args.output} is there already: choose another --output")

    head, config = load_head(args.folder)
    encoder = SentenceTransformer(str(args.folder), local_files_only=True)
    if len(config["features"]) * encoder.get_embedding_dimension() != head.in_features:
        sys.exit(f"the head in {args.folder} does not fit its encoder: copy both from one run")
    found = probabilities(encoder, head, config["features"], pairs)

    rows = [
        {"premise": premise, "hypothesis": hypothesis, "label": config["labels"][int(row.argmax())]}
        | {label: f"{value:.4f}" for label, value in zip(config["labels"], row.tolist(), strict=True)}
        for (premise, hypothesis), row in zip(pairs, found, strict=True)
    ]
    if args.output:
        with args.output.open("x", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        print(f"wrote {args.output} with {len(rows):,} labels")
    else:
        for row in rows:
            print(
                ", ".join(f"{label} {float(row[label]):.0%}" for label in config["labels"]),
                "|",
                row["premise"],
                "|",
                row["hypothesis"],
            )


if __name__ == "__main__":
    main()
