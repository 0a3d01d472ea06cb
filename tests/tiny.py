"""A tiny BERT encoder for tests of logic: built in a moment, trained in milliseconds, saved in a megabyte."""

import re
import string
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

from stlib.model import quiet_loading

SIZE = 24  # dimensions of the embeddings
MAX_LENGTH = 128  # tokens


def vocabulary() -> list[str]:
    """The tokens: special ones, ASCII characters at the start of a word and inside it, and the words of the mini corpora."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    paths = sorted(
        path
        for path in Path(str(files("stlib") / "mini")).glob("*/*.parquet")
        if path.parts[-2:] != ("snli", "train.parquet")
    )
    tables = [pq.read_table(path) for path in paths]
    texts = [
        " ".join(column.to_pylist()) for table in tables for column in table.columns if "string" in str(column.type)
    ]
    words = sorted(set(re.findall("[a-z]{2,}", " ".join(texts).lower())))
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *words]


def save_tiny_model(folder: Path) -> Path:
    """Save the model into ``folder``, the same in every session, and return the model folder.

    It is built as the base model is (BERT with GELU, mean pooling, unit norm), so that both engines can train it.
    The weights are larger than BERT's usual initial ones: attention then differs from token to token.
    """
    tokens = vocabulary()
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * SIZE,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(), quiet_loading():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(str(folder / "bert"))
        numbers = {token: number for number, token in enumerate(tokens)}
        BertTokenizer(vocab=numbers, do_lower_case=True).save_pretrained(str(folder / "bert"))
        transformer = Transformer(str(folder / "bert"), max_seq_length=MAX_LENGTH)
        modules = [transformer, Pooling(SIZE, pooling_mode="mean"), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(
            str(folder / "model"), create_model_card=False
        )
    return folder / "model"
