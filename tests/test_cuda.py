"""The packed engine and whole runs on an NVIDIA card, and the tool that measures there, ``research/gpu.py``.

Tests marked ``cuda`` need a card. The dry run of the tool runs them on the processor.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stlib.fast.packed import Masks, PackedEncoder, Packing
from stlib.model import load_base, load_classifier, load_encoder
from stlib.recipes import CARD
from stlib.settings import PRECISIONS, best_precision
from stlib.train import train
from tests.conftest import weights
from tests.test_interruption import interrupted
from tests.test_packed import HEADS, gradients, packed, random_sentences, stock

ROOT = Path(__file__).resolve().parents[1]
DEVICE = os.environ.get("STLIB_CUDA_TESTS_ON", "cuda")
NO_CARD = DEVICE == "cuda" and not torch.cuda.is_available()
LENGTHS = [5, 12, 17, 1, 33, 64, 256]
SIZE = 384  # the base model's
NO_DROPOUT = dataclasses.replace(CARD, dropout=0.0)


def on_card(test):
    """Mark a test as one that needs a card; without one, it is skipped."""
    return pytest.mark.cuda(pytest.mark.skipif(NO_CARD, reason="torch finds no CUDA device here")(test))


@pytest.fixture(scope="module")
def model():
    return load_base(DEVICE).eval()


@pytest.fixture
def full_float32():
    """TF32 is off, whatever ran before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def settings(monkeypatch):
    """Training on the card, in float32 unless a test says otherwise."""
    monkeypatch.setenv("STLIB_DEVICE", DEVICE)
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    return monkeypatch


def differences(model, dtype, note):
    """How far the packed engine is from the library: embeddings (largest), gradients (each relative to its norm)."""
    sentences = random_sentences(model, LENGTHS)
    with torch.device(DEVICE):
        expected, embeddings = stock(model, sentences), packed(PackedEncoder(model, dtype), sentences)
    wanted = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    theirs, ours = gradients(model, expected, wanted), gradients(model, embeddings, wanted)
    overall = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    assert ours.keys() == theirs.keys()
    # Some gradients are zero but for rounding, such as a key's bias: these count by the size of all together.
    relative = [(ours[name] - g).norm().item() / (g.norm() + 1e-3 * overall).item() for name, g in theirs.items()]
    found = {"embeddings": (embeddings - expected).abs().max().item(), "gradients": relative}
    note("embeddings_differ_by", found["embeddings"])
    note("gradients_differ_by_at_most", max(relative))
    note("gradients_differ_by_median", float(np.median(relative)))
    return found


@on_card
def test_in_float32_embeddings_and_gradients_are_the_librarys(model, full_float32, record_property):
    found = differences(model, torch.float32, record_property)
    assert found["embeddings"] < 2e-5
    assert max(found["gradients"]) < 5e-4


@on_card
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_they_stay_close(model, full_float32, record_property, precision):
    if precision == "bf16" and best_precision(DEVICE) == "fp16":
        pytest.skip("this card multiplies no bf16")
    found = differences(model, PRECISIONS[precision], record_property)
    assert found["embeddings"] < 0.01
    assert np.median(found["gradients"]) < 0.03


@on_card
def test_dropout_masks_have_the_right_share_and_follow_torchs_seed():
    def draw():
        return Masks(Packing([30] * 64, HEADS, DEVICE), 6, SIZE, (0.1, 0.1), torch.float32)

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    again = draw()
    for mask, scale in ((first.hidden, first.scale), (first.attention, 1.0)):
        assert mask.device.type == DEVICE
        kept = mask * scale
        assert kept.unique().tolist() == pytest.approx([0, 1 / 0.9])
        assert (kept > 0).float().mean().item() == pytest.approx(0.9, abs=5 * (0.09 / kept.numel()) ** 0.5)
    for name in ("hidden", "attention"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(second, name))


@on_card
def test_with_dropout_the_gradient_is_that_of_the_same_masks(model, full_float32, record_property):
    """A small step along the gradient changes the result by the gradient's length, where both passes drop the same values."""
    sentences, encoder = random_sentences(model, [6, 20, 33]), PackedEncoder(model)
    wanted = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def result():
        torch.manual_seed(5)
        with torch.device(DEVICE):
            return (packed(encoder, sentences) * wanted).sum()

    model.train()
    try:
        model.zero_grad()
        result().backward()
        used = [parameter for parameter in model.parameters() if parameter.grad is not None]
        directions = [parameter.grad.clone() for parameter in used]
        norm = torch.stack([direction.norm() for direction in directions]).norm().item()
        values = []
        with torch.no_grad():
            for step in (1e-3, -2e-3, 1e-3):  # there, to the other side, and back to where it was
                torch._foreach_add_(used, directions, alpha=step / norm)
                values.append(result().item())
    finally:
        model.eval()
    slope = (values[0] - values[1]) / 2e-3
    record_property("slope_by_gradient", slope / norm)
    assert slope == pytest.approx(norm, rel=0.02)


@on_card
def test_both_engines_train_the_same_run_and_the_saved_models_load_on_a_processor(tmp_path, settings, record_property):
    """In float32, without dropout; a model gives the same embeddings on a processor as on the card."""
    runs = [
        train(NO_DROPOUT, "mini", tmp_path / engine, nli_split="train[:328]", log_every=2, engine=engine)
        for engine in ("packed", "stock")
    ]
    ours, theirs = (run.log() for run in runs)
    assert all(run.info["hardware"].startswith(DEVICE) for run in runs)
    assert ours[["step", "epoch", "learning_rate"]].equals(theirs[["step", "epoch", "learning_rate"]])
    record_property("losses_differ_by", float((ours["loss"] - theirs["loss"]).abs().max()))
    np.testing.assert_allclose(ours["loss"], theirs["loss"], atol=5e-4)
    sentences = ["A man sleeps.", "Two dogs are running in a park."]
    embeddings = [load_encoder(run, "cpu").encode(sentences) for run in runs]
    np.testing.assert_allclose(*embeddings, atol=5e-3)
    for run, embedding in zip(runs, embeddings, strict=True):
        np.testing.assert_allclose(load_encoder(run, DEVICE).encode(sentences), embedding, atol=1e-4)
        assert load_classifier(run, "cpu").predict_proba(sentences[:1], sentences[1:]).sum() == pytest.approx(
            1, abs=1e-5
        )


@on_card
@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_a_resumed_run_goes_on_with_the_same_dropout(tmp_path, settings, record_property, six_steps, engine):
    """Sums on a card may differ in their last digits from run to run, so not bit for bit."""
    options = {**six_steps, "recipe": "card", "engine": engine, "max_steps": 6}
    whole = train(out=tmp_path / "whole", **options)
    interrupted(settings, tmp_path / "cut", at_step=5, **options)
    run = train(out=tmp_path / "cut", resume=True, **options)
    assert (whole.info["recipe"]["dropout"], run.info["resumed_at_step"]) == (0.1, 4)
    base, first, second = (
        load_file(six_steps["start"] / "model.safetensors"),
        weights(whole.folder),
        weights(run.folder),
    )
    # The gradient of a key's bias is nothing but rounding errors, of which AdamW makes steps.
    names = [name for name in base if not name.endswith("key.bias")]

    def distance(one, other):
        return torch.stack([(one[name] - other[name]).norm() for name in names]).norm().item()

    relative = distance(first, second) / distance(first, base)
    record_property("distance_by_way_trained", relative)
    assert relative < 0.02  # with other dropout from there on: above 0.06
    np.testing.assert_allclose(run.log()["loss"], whole.log()["loss"], atol=1e-3)


@on_card
@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_half_precision_trains_as_float32_does(tmp_path, settings, record_property, tiny, six_steps, engine):
    """In fp16, as on cards before Ampere, where the loss is scaled; a processor trains in bf16 instead."""
    half = "fp16" if DEVICE == "cuda" else "bf16"
    options = {**six_steps, "recipe": NO_DROPOUT, "nli_split": "train[:1920]", "engine": engine}
    losses = {}
    for precision in ("fp32", half):
        settings.setenv("STLIB_PRECISION", precision)
        run = train(out=tmp_path / precision, **options)
        assert run.info["precision"] == precision
        losses[precision] = run.log()["loss"]
    record_property("losses_differ_by", float((losses[half] - losses["fp32"]).abs().max()))
    np.testing.assert_allclose(losses[half], losses["fp32"], atol=0.01)
    assert np.abs(load_encoder(run, "cpu").encode(["A man sleeps."]) - tiny.encode(["A man sleeps."])).max() > 1e-3


@on_card
def test_the_card_trains_in_the_precision_that_it_has():
    if DEVICE == "cuda":
        assert best_precision("cuda") == ("bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16")
    assert best_precision(DEVICE) in PRECISIONS


# ---- research/gpu.py, on any machine --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "research" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_old_cards_train_in_fp16(monkeypatch, capability, precision):
    monkeypatch.delenv("STLIB_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert best_precision("cuda") == precision


def test_without_a_card_it_is_refused_in_one_sentence(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--json", str(tmp_path / "gpu.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "an NVIDIA card, its driver and a torch for CUDA are needed" in error
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_without_a_python_it_is_refused(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "research" / "gpu.sh"], env={**os.environ, "PYTHON": str(tmp_path / "python")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "name it with PYTHON=" in done.stderr


def test_parts_that_do_not_fit_are_skipped(gpu):
    """The limit holds: no part starts with more to do than there is time for, and a quick one leaves its time to the others."""
    clock, saved = [0.0], {}

    def run(name, budget):
        clock[0] += {"quick": 10, "slow": 60}[name]
        return {"state": "done"}

    budgets = {"quick": 50, "large": 95, "slow": 60, "late": 31}
    gpu.work_through(budgets, lambda: 100 - clock[0], run, lambda name, found: saved.update({name: found}))
    assert {name: found["state"] for name, found in saved.items()} == {
        "quick": "done", "large": "skipped", "slow": "done", "late": "skipped",
    }  # fmt: skip
    assert saved["large"]["why"] == "it may take 95 s, and 90 s were left"
    assert clock[0] <= 100


@pytest.mark.parametrize(("program", "budget", "state"), [
    ("raise SystemExit('the card is on fire')", 60, "failed"),
    ("import time; print('begun', flush=True); time.sleep(60)", 0.5, "stopped"),
    ("import sys; open(sys.argv[-1], 'w').write('{\"rows\": 3}')", 60, "done"),
    ("import sys; open(sys.argv[-1], 'w').write('{\"state\": \"skipped\", \"why\": \"no kernel\"}')", 60, "skipped"),
])  # fmt: skip
def test_a_part_ends_within_its_budget_and_says_how(gpu, monkeypatch, tmp_path, program, budget, state):
    (tmp_path / "part.py").write_text(program, encoding="utf-8")
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "part.py"))
    found = gpu.run_part([], tmp_path, "some_part", budget)
    assert found["state"] == state
    assert found["seconds"] < 30
    if state == "failed":
        assert (found["why"], found["output"]) == ("exit status 1", ["the card is on fire"])
    if state == "done":
        assert found["rows"] == 3


def test_a_curve_is_a_run_of_the_cards_recipe(gpu, monkeypatch, tmp_path, tiny_model):
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("STLIB_DEVICE", "cpu")
    monkeypatch.setattr(gpu, "train", lambda *a, **k: train(*a, **k, start=tiny_model))
    options = SimpleNamespace(part="curve", steps=2, data="mini", split="train[:96]")
    found = gpu.run_curve(options, "packed", STLIB_DEVICE="cpu")
    assert list(found["loss"]) == ["2"]
    assert found["run"]["engine"] == "packed"


def test_bands_are_means_of_steps_run_in_full(gpu):
    loss = {str(step): float(step) for step in range(50, 1_250, 50)}
    assert gpu.bands(loss) == {"1-100": 75.0, "1-500": 275.0, "501-1000": 775.0}
    assert gpu.bands({"2": 1.0}) == {}


def test_curves_stand_beside_those_of_a_processor(gpu):
    parts = {
        "tests": {"state": "done"},
        "curve_cpu": {"bands": {"1-100": 1.0}},
        "curve_packed": {"bands": {"1-100": 1.25, "1-500": 0.5}},
    }
    other = gpu.beside_a_processor({"data_fingerprint": "0" * 16, "parts": parts})
    assert not other["same_data_as_recorded"]
    assert other["processor"] == {"made here, seed 1": {"1-100": 1.0}}
    assert other["card_minus_processor"] == {"curve_packed": {"1-100": 0.25}}
    fingerprint = gpu.forensics.recorded("card", nli_split="validation+test")[0]["data_fingerprint"]
    same = gpu.beside_a_processor({"data_fingerprint": fingerprint, "parts": {"curve_stock": parts["curve_packed"]}})
    assert same["same_data_as_recorded"]
    assert len(same["processor"]) == 3
    recorded = [curve["1-500"] for curve in same["processor"].values()]
    assert same["card_minus_processor"]["curve_stock"]["1-500"] == pytest.approx(0.5 - np.mean(recorded), abs=1e-5)


@pytest.mark.slow
@pytest.mark.soak
def test_a_dry_run_goes_through_every_part(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "research" / "gpu.py", "--device", "cpu", "--steps", "2", "--limit", "2000",
         "--json", tmp_path / "gpu.json"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    states = {name: part["state"] for name, part in record["parts"].items()}
    assert states.keys() == {
        "tests", "bench_32", "curve_packed", "curve_stock", "curve_cpu", "bench_256", "flash_32", "flash_256",
        "compile_32", "compile_256",
    }  # fmt: skip
    assert set(states.values()) <= {"done", "skipped"}
    assert {name.split("_")[0] for name, state in states.items() if state == "skipped"} <= {"flash"}
    assert {test["outcome"] for test in record["parts"]["tests"]["tests"].values()} == {"passed"}
    names = ["stock", "stock, bf16", "packed, fp32", "packed, bf16"]
    assert [row["variant"] for row in record["parts"]["bench_32"]["rows"]] == names
    assert record["command"].startswith("python research/gpu.py")
    assert record["what"].startswith("a dry run on the processor, no result")
    assert len(record["data_fingerprint"]) == 16
    assert {"hardware", "cuda", "versions", "seconds", "curves"} <= record.keys()
