"""`against_torch`: that the other side does the same work, and what it tells where it can't."""

import sys

import jax
import numpy as np
import pytest
from benchmarking import run, table

import nst_jax
from benchmarks import against_torch, stepping
from benchmarks.torch_side import TorchSide

CASE = stepping.Case("vgg16", 32, 48, 2, "float32", "sgd")
SMALLEST = ("--models=vgg16", "--sizes=32x48", "--styles=2", "--rounds=2", "--steps=1")


def torch_side(params, variant, config=None):
    content, *styles = (
        stepping.picture(name, 32, 48) for name in ("butterfly", "rainbow", "triangles")
    )
    config = config or stepping.CONFIGS["sgd"]
    return TorchSide(params, content, styles, config, variant=variant, device="cpu")


@pytest.mark.torch
@pytest.mark.parametrize(
    "variant, tolerance",
    [("eager", 1e-4), ("channels_last", 1e-4), ("channels_last+bfloat16", 0.2)],
)
def test_loss_and_gradient_are_ours(vgg16, variant, tolerance):
    images = against_torch.starting_pictures(CASE)
    with jax.default_matmul_precision("highest"):
        exact = against_torch.our_value_and_gradient(stepping.problem(vgg16, CASE), images)
    found = against_torch.errors(*torch_side(vgg16, variant).value_and_gradient(images), exact)
    assert max(found.values()) < tolerance
    assert (max(found.values()) > 1e-4) == ("bfloat16" in variant)  # it does what it says


@pytest.mark.torch
def test_steps_are_ours(vgg16):
    config = stepping.CONFIGS["sgd"].replace(steps=3)
    content, *styles = (
        stepping.picture(name, 32, 48) for name in ("butterfly", "rainbow", "triangles")
    )
    expected = nst_jax.stylize(vgg16, content, styles, config).images
    side = torch_side(vgg16, "eager", config)
    for _ in range(3):
        side.step()
    moved = np.abs(np.asarray(expected) - content[None]).max()
    assert moved > 5 / 255
    np.testing.assert_allclose(side.pictures(), expected, rtol=0, atol=0.01 * moved)


@pytest.mark.torch
def test_the_table_compares_each_method_with_ours(capsys, monkeypatch):
    import torch

    def no_compiler(_):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    found = run(against_torch, *SMALLEST, "--optimizers=sgd", "--variants=eager,compile")
    assert found["torch_device"] == "cpu" and found["versions"]["torch"]
    own, eager, compiled = found["rows"]
    assert own["method"] == "nst_jax" and own["alike_ratio"] == own["sgd_ratio"] == 1.0
    assert eager["method"] == "torch eager"
    assert (eager["optimizer"], eager["precision"]) == ("sgd", "float32")
    ratio = eager["style_step_seconds"] / own["style_step_seconds"]
    assert eager["alike_ratio"] == eager["sgd_ratio"] == pytest.approx(ratio)
    assert len(eager["turns"]) == len(own["turns"]) == 2
    assert eager["gradient_error"] <= 1e-4 and own["gradient_error"] <= 1e-4
    assert compiled["note"] == "RuntimeError: no C++ compiler"
    assert "style_step_seconds" not in compiled
    _, *lines = table(capsys.readouterr().out)
    assert [line[:3] for line in lines] == 3 * [["vgg16", "32x48", "2"]]
    assert lines[2][-4:] == ["RuntimeError:", "no", "C++", "compiler"]


@pytest.mark.torch
def test_pastiche_is_compared_where_it_has_the_network():
    small = ("--sizes=32", "--optimizers=sgd", "--variants=eager", "--rounds=1", "--steps=1")
    found = run(against_torch, *small)
    assert found["versions"]["pastiche"]
    *_, row = found["rows"]
    assert (row["method"], row["optimizer"]) == ("pastiche", "lbfgs")
    assert row["style_step_seconds"] > 0 and row["loss_error"] < 0.01


@pytest.mark.torch
def test_variants_are_words_that_there_are(vgg16):
    with pytest.raises(ValueError, match="must be of channels_last, compile, .*, tf32 or eager"):
        torch_side(vgg16, "fast")


def test_two_sides_that_disagree_are_not_compared():
    against_torch.must_agree("torch", 1e-4, 1e-3)
    for error in (2e-3, float("nan")):
        with pytest.raises(against_torch.Disagreement, match="do not minimise the same"):
            against_torch.must_agree("torch", error, 1e-3)

    def start():
        return (lambda steps: 0.1), (lambda: against_torch.must_agree("torch", 1.0, 1e-3))

    with pytest.raises(against_torch.Disagreement):
        against_torch.Method({"method": "torch"}, start).warm_up()


def test_like_is_compared_with_like():
    """Ours of the same optimiser and precision, and ours with SGD in float32."""

    def method(name, optimizer, precision, seconds):
        made = against_torch.Method(
            {"method": name, "optimizer": optimizer, "precision": precision}, None
        )
        made.turns = [3 * seconds, seconds, 0.0]
        return made

    methods = [
        method("nst_jax", "sgd", "float32", 2.0),
        method("nst_jax", "lbfgs", "float32", 4.0),
        method("nst_jax", "sgd", "bfloat16", 1.0),
        method("torch channels_last+bfloat16", "sgd", "bfloat16", 3.0),
        method("torch tf32", "sgd", "tf32", 5.0),
        method("pastiche", "lbfgs", "float32", 6.0),
    ]
    methods[4].row["note"] = "failed"
    rows = against_torch.compared(methods, 2)
    assert [row.get("style_step_seconds") for row in rows] == [1.0, 2.0, 0.5, 1.5, None, 3.0]
    assert [row.get("alike_ratio") for row in rows] == [1.0, 1.0, 1.0, 3.0, None, 1.5]
    assert [row.get("sgd_ratio") for row in rows] == [1.0, 2.0, 0.5, 1.5, None, 3.0]
    del methods[4].row["note"]
    other = against_torch.compared(methods, 2)[4]  # TF32 is no precision of ours
    assert other["sgd_ratio"] == 2.5 and "alike_ratio" not in other


def test_without_torch_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs PyTorch: pip install '\.\[compare\]'"):
        run(against_torch)
