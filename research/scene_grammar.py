"""A scene grammar that writes NLI pairs whose labels are true by construction.

    python research/scene_grammar.py FOLDER [--rows N] [--split train] [--seed 0]

writes FOLDER/snli/SPLIT.parquet, the layout of any data folder. `stlib/mini/snli` was written so, with seed 0.

A *premise* states some facts about one scene: who, how many, what they do, where, what they wear, and so on.
A *hypothesis* about the same scene states fewer facts, and one of them, the *focus*, decides the label:

- entailment: the focus follows from the premise (the same fact, a paraphrase, or a broader word for it);
- contradiction: the focus is replaced by one that cannot hold at the same time (another place, the other color);
- neutral: the focus is a detail that the premise leaves open.

As in SNLI (Bowman et al. 2015, https://aclanthology.org/D15-1075), both sentences describe the same scene, and each
premise comes with three hypotheses, one a label. The focus is drawn from the same slots with the same weights
whatever the label, so that the hypothesis alone gives little away (Gururangan et al. 2018,
https://aclanthology.org/N18-2017, on how much it gives away in SNLI).
"""

import argparse
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from scene_words import GRAMMAR_VERSION, LABELS, LEXICON  # noqa: F401  (the grammar, for those who look into it)
from scene_writer import Writer

SPLITS = ("train", "validation", "test")
MAX_PAIRS = 549_367  # the size of the card's training set; larger corpora are made from several seeds


def split_of(premise: str) -> str:
    """The split a premise belongs to, read off its text, so that no two splits can share one."""
    bucket = hash_of(premise) % 10
    return {0: "validation", 1: "test"}.get(bucket, "train")


def pairs(split: str, seed: int = 0) -> Iterator[dict]:
    """Endless NLI rows ``{"premise", "hypothesis", "label"}`` of one split, three to a premise, each premise once.

    The same split and seed give the same rows on every platform and Python version. Memory grows by one small
    hash a premise, which keeps premises distinct.

    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"the mini NLI corpus has the splits {', '.join(SPLITS)}, not {split!r}: choose one of these")
    writer = Writer(split, seed)
    seen: set[int] = set()
    while True:
        premise, rows = writer.triplet()
        key = hash_of(premise)
        if split_of(premise) != split or key in seen:
            continue
        seen.add(key)
        for hypothesis, label in rows:
            yield {"premise": premise, "hypothesis": hypothesis, "label": label}


def hash_of(text: str) -> int:
    """64 bits of a text, the same in every process (Python's own ``hash`` is not)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def write(folder: str | Path, rows: int, split: str = "train", seed: int = 0) -> Path:
    """Write pairs as ``folder/snli/SPLIT.parquet`` and return that path. Memory stays bounded: 10,000 rows at a time.

    More rows than one seed may give come from the seeds after it.
    """
    path = Path(folder) / "snli" / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    schema = pa.schema([("premise", pa.string()), ("hypothesis", pa.string()), ("label", pa.int64())])
    with pq.ParquetWriter(temporary, schema, compression="zstd", compression_level=19) as writer:
        for start in range(0, rows, MAX_PAIRS):
            found = itertools.islice(pairs(split, seed + start // MAX_PAIRS), min(MAX_PAIRS, rows - start))
            for chunk in iter(lambda found=found: list(itertools.islice(found, 10_000)), []):
                writer.write_table(pa.Table.from_pylist(chunk, schema))
    temporary.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write generated NLI pairs into a data folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write(options.folder, options.rows, options.split, options.seed))


if __name__ == "__main__":
    main()
