"""The benchmark measures what it says, and the records that the course ships say how they were made."""

import functools
import json
from importlib.resources import files

import pytest

from stlib import bench, data, sources
from stlib.__main__ import main
from stlib.model import load_encoder
from stlib.recipes import get_recipe

RECORDS = sorted(path.name for path in files("stlib.records").iterdir() if path.name.endswith(".json"))


def record(name):
    return json.loads((files("stlib.records") / name).read_text(encoding="utf-8"))


def test_two_variants_take_turns_on_the_same_batches(monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 8)
    pairs = data.nli("validation[:48]", sources.Source("mini"))
    said, variants = [], (bench.VARIANTS[0], bench.VARIANTS[-1])
    table = bench.compare(pairs, steps=5, rounds=1, variants=variants, progress=said.append)
    assert table["variant"].tolist() == ["stock", "packed, bf16"]
    assert len(said) == 2
    stock, packed = table.to_dict("records")
    assert stock["times_stock"] == 1.0
    assert packed["times_stock"] == pytest.approx(stock["seconds_a_step"] / packed["seconds_a_step"], rel=0.02)
    assert abs(packed["loss_gap"]) < 0.05  # dropout differs, the batches do not: nearly the same loss
    for row in (stock, packed):
        assert row["pairs_a_second"] == pytest.approx(8 / row["seconds_a_step"], rel=0.02, abs=0.51)  # rounded
        assert 0 < row["share_of_product_rate"] < 1.5
        assert row["product_gflops"] > 1


def test_both_engines_train_a_recipe(monkeypatch, tiny_model):
    monkeypatch.setattr(bench, "load_base", lambda device: load_encoder(tiny_model, device))
    monkeypatch.setattr(bench, "product_rate", functools.partial(bench.product_rate, repeats=2))
    pairs = data.nli("validation[:192]", sources.Source("mini"))
    result = bench.run(pairs, 5, 1, "mini", "validation[:192]", get_recipe("card"), progress=lambda line: None)
    assert [row["variant"] for row in result["rows"]] == ["stock", "stock, bf16", "packed, fp32", "packed, bf16"]
    assert result["what"].startswith("recipe card, training steps of 32 pairs")
    assert max(abs(row["loss_gap"]) for row in result["rows"]) < 0.02
    assert "packed, bf16" in bench.table(result)


def test_the_weights_in_products_are_those_of_the_base_model(base):
    layers = base[0].auto_model.encoder.layer
    linear = [p for name, p in layers.named_parameters() if p.dim() == 2]
    assert sum(p.numel() for p in linear) == bench.WEIGHTS


def test_bad_input_is_refused(capsys):
    assert main(["bench", "--steps", "3"]) == 2
    assert "--steps is 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_how_it_was_made(name):
    content = record(name)
    assert {"what", "command", "hardware", "versions"} <= content.keys()
    assert content["command"].startswith("python ")
    assert {"torch", "sentence-transformers", "python"} <= content["versions"].keys()
    if "generated" not in content["what"] and "scene grammar" not in content["what"]:
        assert len(content["data_fingerprint"]) == 16


def test_the_records_of_the_course_are_there():
    assert {"bench_cpu.json", "engine_equality.json", "growing.json"} <= set(RECORDS)
    rows = {row["variant"]: row for row in record("bench_cpu.json")["rows"]}
    assert set(rows) == {variant.name for variant in bench.VARIANTS}
    equality = record("engine_equality.json")
    means = {(run["engine"], run["seed"]): run["mean_loss"] for run in equality["runs"]}
    gaps = [means["packed", seed] - means["stock", seed] for seed in (1, 2, 3)]
    assert gaps == pytest.approx(equality["gaps"], abs=1e-5)
    assert max(map(abs, gaps)) < 0.005
    pairs = [row["pairs"] for row in record("growing.json")["rows"]]
    assert pairs == [20_000, 200_000, 549_367, 5_500_000]
