"""The benchmark measures what it says, and the records that the course ships say how they were made."""

import json
import time
from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from stlib import data, records, sources
from stlib.__main__ import main
from stlib.fast import bench
from stlib.model import load_encoder
from stlib.recipes import Recipe, get_recipe, training_rows
from tests.tiny import SIZE

RECORDS = sorted(path.name for path in files("stlib.records").iterdir() if path.name.endswith(".json"))


def record(name):
    return json.loads((files("stlib.records") / name).read_text(encoding="utf-8"))


@pytest.fixture
def small(monkeypatch, tiny_model):
    """Turns of eight pairs on the tiny encoder."""
    monkeypatch.setattr(bench, "BATCH", 8)
    monkeypatch.setattr(bench, "load_base", lambda device: load_encoder(tiny_model, device))
    return data.nli("validation[:48]", sources.Source("mini"))


@pytest.mark.parametrize("recipe", ["card", None])
def test_variants_take_turns_on_the_same_batches(small, recipe):
    said, recipe = [], get_recipe(recipe) if recipe else bench.LIBRARY_DEFAULTS
    table = bench.compare(small, 6, 2, bench.VARIANTS, said.append, recipe)
    assert table["variant"].tolist() == [variant.name for variant in bench.VARIANTS]
    assert len(said) == 2 * len(bench.VARIANTS)
    assert said[len(bench.VARIANTS)].startswith("round 2, stock, one pass: ")
    assert table["times_stock"][0] == 1.0
    assert (table["lowest"] <= table["times_stock"]).all()
    assert (table["times_stock"] <= table["highest"]).all()
    assert table["loss"].max() - table["loss"].min() < 0.05  # dropout differs, the batches do not


@pytest.mark.parametrize("loss", ["softmax", "mnrl", "matryoshka", "angle"])
def test_columns_in_one_pass_only_if_asked(small, tmp_path, monkeypatch, loss):
    recipe = Recipe("tried", "of the tests", loss="mnrl" if loss == "matryoshka" else loss)
    if loss == "matryoshka":
        recipe = replace(recipe, matryoshka=(SIZE, 8))
    asked, rows = [], training_rows(recipe, small)
    monkeypatch.setattr(bench, "embed_columns", lambda *a, separate_first, **k: asked.append(separate_first) or 1 / 0)
    for variant in bench.VARIANTS[:2]:
        with pytest.raises(ZeroDivisionError):
            bench.one_turn(variant, rows, 6, 0, tmp_path, recipe)
    assert asked == [True, False]


def test_the_fastest_of_several_calls_counts():
    waits = iter([0.05] * 3 + [0.01] * 100)
    assert 0.01 <= bench.fastest(lambda: time.sleep(next(waits))) < 0.02


def test_operations_are_sorted_by_kind():
    names = {"aten::addmm": "matrix products", "aten::bmm": "attention", "aten::lt": "dropout and random numbers",
             "aten::_fused_adamw_": "optimizer and clipping", "aten::gelu_backward": "LayerNorm and GELU",
             "aten::copy_": "copies, fills, gathers", "aten::add_": "sums and products by element",
             "aten::alias": "the rest"}  # fmt: skip
    assert {name: bench.kind_of(name) for name in names} == names


def test_the_expected_time_grows_with_the_work(monkeypatch, tiny):
    monkeypatch.setattr(bench, "product_rate", {torch.float32: 1e11, torch.bfloat16: 4e11}.get)
    pairs = data.nli("train[:64]", sources.Source("mini"))
    ids = tiny.tokenizer([*pairs["sentence_0"], *pairs["sentence_1"]])["input_ids"]
    weights = sum(module.weight.numel() for module in tiny.modules() if isinstance(module, torch.nn.Linear))
    work = 100 * 6 * weights * sum(map(len, ids)) / 64
    one = bench.expected_seconds(tiny, pairs, 100, "packed", "fp32")
    shares = {row["variant"]: row["share_of_product_rate"] for row in records.load("bench_cpu")["rows"]}
    assert one == pytest.approx(work / 1e11 / shares["packed, fp32"])
    assert bench.expected_seconds(tiny, pairs, 200, "packed", "fp32") == pytest.approx(2 * one)
    assert bench.expected_seconds(tiny, pairs, 100, "packed", "bf16") < one
    assert bench.expected_seconds(tiny, pairs, 100, "stock", "fp32") > one


def test_measuring_leaves_the_random_numbers_alone_and_is_done_once():
    bench.product_rate.cache_clear()
    state = torch.get_rng_state()
    assert bench.product_rate(torch.float32, rows=16) > 1e8
    assert torch.equal(torch.get_rng_state(), state)
    assert bench.product_rate(torch.float32, rows=16) == bench.product_rate(torch.float32, rows=16)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.3, "5 seconds"), (38, "40 seconds"), (89, "90 seconds"), (95, "2 minutes"), (5_000, "83 minutes"), (16_200, "4.5 hours")],
)  # fmt: skip
def test_a_duration_in_words(seconds, words):
    assert bench.in_words(seconds) == words


def test_two_steps_take_seconds(base):
    """Of the base model, whatever else the machine does."""
    pairs = data.nli("train[:64]", sources.Source("mini"))
    assert bench.expected_seconds(base, pairs, 64, "packed", "fp32") < 60


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
        found = content["data_fingerprint"]  # one for each split, if there are several; null if the rows are made up
        for fingerprint in found.values() if isinstance(found, dict) else [found]:
            assert (fingerprint is None and name == "library_versions.json") or len(fingerprint) == 16


def test_the_records_of_the_course_are_there():
    assert {"bench_cpu.json", "engine_choice.json", "engine_equality.json", "growing.json"} <= set(RECORDS)
    rows = {row["variant"]: row for row in record("bench_cpu.json")["rows"]}
    assert set(rows) == {variant.name for variant in bench.VARIANTS}
    equality = record("engine_equality.json")
    means = {(run["engine"], run["seed"]): run["mean_loss"] for run in equality["runs"]}
    gaps = [means["packed", seed] - means["stock", seed] for seed in (1, 2, 3)]
    assert gaps == pytest.approx(equality["gaps"], abs=1e-5)
    assert max(map(abs, gaps)) < 0.005
    pairs = [row["pairs"] for row in record("growing.json")["rows"]]
    assert pairs == [20_000, 200_000, 549_367, 5_500_000]


@pytest.mark.parametrize(("recipe", "variants"), [(None, bench.VARIANTS), ("card", bench.BOTH_ENGINES)])
def test_the_command_times_and_records(small, tmp_path, capsys, recipe, variants):
    options = [
        "--steps",
        "5",
        "--rounds",
        "1",
        "--nli-split",
        "validation[:48]",
        "--json",
        str(tmp_path / "bench.json"),
    ]
    assert main(["bench", *options, *(["--recipe", recipe] if recipe else [])]) == 0
    assert "seconds_a_step" in capsys.readouterr().out
    result = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert [row["variant"] for row in result["rows"]] == [variant.name for variant in variants]
    assert result["data_fingerprint"] == data.fingerprint(small)
    assert result["what"].startswith(f"recipe {recipe or 'library_defaults'}, training steps of 8 pairs, 1 rounds of 5")
    assert result["command"].startswith("python -m stlib bench --steps 5 --rounds 1")
