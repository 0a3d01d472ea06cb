"""Record the figures of the card's dataset table for real rows of SNLI, and the range in which a table over 1,000 rows falls.

python research/dataset_table.py --data DATA_FOLDER --json stlib/records/dataset_table.json
"""

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from frame import record

from stlib.data import KINDS, fingerprint, nli
from stlib.model import load_base
from stlib.sources import get_source

ROWS, DRAWS = 1_000, 1_000  # of a table; how many tables are drawn
STATISTICS = {"min": np.min, "mean": np.mean, "max": np.max}
SIDES = KINDS["nli"].texts


def statistics(table: pd.DataFrame) -> dict[str, float]:
    """Return the card's figures for rows of ``tokens of sentence_0``, ``tokens of sentence_1`` and ``label``."""
    lengths = [name for name in table if name != "label"]
    found = {
        f"{name}: {kind}": float(function(table[name])) for name in lengths for kind, function in STATISTICS.items()
    }
    return found | {f"label {label}: percent": 100 * float((table["label"] == label).mean()) for label in range(3)}


def of_split(split: str, source, tokenizer) -> dict:
    """Return the figures over all rows of a split, and the range of 95 % of the tables over 1,000 of them."""
    pairs = nli(split, source)
    texts = pairs.to_pandas()
    lengths = {f"tokens of {name}": list(map(len, tokenizer(texts[name].tolist())["input_ids"])) for name in SIDES}
    table = pd.DataFrame({**lengths, "label": texts["label"]})
    random = np.random.default_rng(0)
    drawn = [statistics(table.iloc[random.choice(len(table), ROWS, replace=False)]) for _ in range(DRAWS)]
    low, high = np.percentile(pd.DataFrame(drawn), [2.5, 97.5], axis=0)
    words = {word for name in SIDES for text in texts[name] for word in re.findall(r"\w+", text.lower())}
    figures = {
        name: {"all": round(value, 3), "low": round(least, 3), "high": round(most, 3)}
        for (name, value), least, most in zip(statistics(table).items(), low, high, strict=True)
    }
    return {
        "split": split,
        "rows": len(table),
        "data_fingerprint": fingerprint(pairs),
        "words": len(words),
        "figures": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    source, tokenizer = get_source(options.data), load_base("cpu").tokenizer
    splits = [of_split(split, source, tokenizer) for split in ("train", "validation")]
    record(
        options.json,
        f"the dataset table of the card for real rows of SNLI: over all rows of a split, and from low to high 95 % of {DRAWS:,} "
        f"tables over {ROWS:,} rows; train is a random sample of the training split; words are distinct ones in lower case",
        "python research/dataset_table.py --data DATA_FOLDER --json stlib/records/dataset_table.json",
        splits,
        under="splits",
        data_fingerprint={found["split"]: found["data_fingerprint"] for found in splits},
    )


if __name__ == "__main__":
    main()
