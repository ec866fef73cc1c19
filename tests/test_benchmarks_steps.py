"""`step_time`, `batch_scaling`, and the operations that they count."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarking import run, table

import nst_jax
from benchmarks import batch_scaling, flops, reporting, step_time, stepping
from nst_jax import optimize, vgg

SMALLEST = ("--models=vgg16", "--sizes=32x48", "--repeats=1", "--matmul_size=32")


def test_operations_are_those_of_a_count_by_hand():
    style = tuple(nst_jax.presets["default"]["style_layers"])
    assert flops.flops_per_pixel("vgg19", style) == 722_304
    assert flops.flops_per_pixel("vgg16", style) == 574_848
    assert flops.flops_per_pixel("vgg16", ("block1_conv1",)) == 2 * 9 * 3 * 64
    # Pooling costs nothing, and the next block is at a quarter of the positions.
    first, second = (
        flops.flops_per_pixel("vgg16", (layer,)) for layer in ("block1_pool", "block2_conv1")
    )
    assert second - first == 2 * 9 * 64 * 128 // 4
    assert flops.step_flops("vgg16", style, height=32, width=48) == 2 * 574_848 * 32 * 48
    with pytest.raises(ValueError, match="unknown layer 'block1_conv' of vgg16"):
        flops.flops_per_pixel("vgg16", ("block1_conv",))


@pytest.mark.parametrize("model", vgg.CONVOLUTIONS)
def test_operations_are_those_of_the_traced_convolutions(model):
    """Oracle: the shapes of the convolutions in the jaxpr."""
    params = jax.eval_shape(lambda key: vgg.init_params(key, model), jax.random.key(0))
    image = jax.ShapeDtypeStruct((64, 32, 3), jnp.float32)
    layers = ("block5_last", "block2_pool")
    traced = jax.make_jaxpr(lambda p, x: nst_jax.features(p, x, layers=layers))(params, image)
    counted = 0
    for equation in traced.jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            counted += 2 * math.prod(kernel[:3]) * math.prod(equation.outvars[0].aval.shape)
    assert flops.flops_per_pixel(model, layers) * 64 * 32 == counted > 0


def test_bytes_of_the_parameters_that_run(vgg16):
    assert flops.parameter_bytes(vgg16, ("block1_conv2",)) == 4 * (
        9 * 3 * 64 + 64 + 9 * 64 * 64 + 64
    )


def test_a_matmul_rate_is_positive_and_finite():
    for dtype in ("float32", "bfloat16"):
        assert 0 < flops.matmul_rate(dtype, size=32, repeats=1) < math.inf


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "highest"), ("bfloat16", None)])
def test_the_product_compared_with_is_as_precise_as_the_network(monkeypatch, dtype, precision):
    asked = []

    def multiply(a, b, *, times, precision):
        asked.append((a.dtype.name, precision))
        return a

    monkeypatch.setattr(flops, "_multiply", multiply)
    flops.matmul_rate(dtype, size=32, repeats=1)
    assert set(asked) == {(dtype, precision)}


@pytest.mark.slow
def test_the_operations_counted_are_those_that_xla_counts():
    """Of convolutions done directly, forward and for the gradient, as bfloat16's are."""
    direct = ("--models=vgg16", "--sizes=64", "--styles=1", "--precisions=bfloat16")
    (row,) = run(step_time, *direct, "--repeats=1", "--matmul_size=32")["rows"]
    assert row["xla_lowered_ratio"] == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_the_timed_program_is_the_one_that_stylize_runs(vgg16, compilations):
    case = stepping.Case("vgg16", 32, 48, 2, "float32", "sgd")
    content, *styles = (
        stepping.picture(name, 32, 48) for name in ("butterfly", "rainbow", "triangles")
    )
    config = stepping.CONFIGS["sgd"].replace(steps=2)
    result = nst_jax.stylize(vgg16, content, styles, config)
    problem = stepping.problem(vgg16, case)
    with compilations() as count:
        states, seconds = problem.run(dispatches=2)
        assert count() == 0
    assert len(seconds) == 1 and seconds[0] > 0
    np.testing.assert_array_equal(states.tree, result.images)


@pytest.mark.slow
def test_step_time_prints_and_keeps_the_same_rows(tmp_path, capsys, monkeypatch):
    # As on an accelerator: chunks of steps, and a device that tells its peak.
    monkeypatch.setattr(optimize, "steps_per_dispatch", lambda **_: 2)
    peaks = iter([3 * 2**20, 5 * 2**20])
    monkeypatch.setattr(stepping, "_device_peak", lambda: next(peaks))
    path = tmp_path / "results.json"
    found = run(step_time, *SMALLEST, "--styles=2", f"--json={path}")
    assert json.loads(path.read_text("utf-8")) == {"step_time": found}
    assert found["platform"] == "cpu" and found["matmul_float32_gflops"] > 0
    (row,) = found["rows"]
    assert row["style_step_flops"] == 2 * 574_848 * 32 * 48
    assert row["steps_per_dispatch"] == 2 and row["repeats"] == 1
    assert row["style_step_seconds"] == row["step_seconds"] / 2
    rate = row["style_step_flops"] / row["style_step_seconds"]
    assert row["flops_per_second"] == pytest.approx(rate)
    assert row["matmul_share"] == pytest.approx(rate / 1e9 / found["matmul_float32_gflops"])
    # A CPU convolves by Winograd's algorithm: 36 products for 144, and its transforms; tiles reach
    # beyond so small a picture. Of a loop XLA counts one pass, which the tables rely on.
    assert 0.3 < row["xla_lowered_ratio"] < 0.7
    assert row["xla_compiled_ratio"] == pytest.approx(row["xla_lowered_ratio"], rel=0.05)
    assert row["program_bytes"] > 30e6 and row["style_bytes"] > 0
    assert row["device_peak_bytes"] == 5 * 2**20
    headings, *lines = table(capsys.readouterr().out)
    assert headings[:3] == ["model", "size", "styles"]
    # Of a CPU there is no column of what the device tells.
    assert headings[-1] == "MiB/style"
    assert lines == [[column.cell(row) for column in step_time.COLUMNS[:-1]]]
    assert lines[0][:6] == ["vgg16", "32x48", "2", "float32", "sgd", lines[0][5]]
    assert lines[0][5] == reporting.significant(row["step_seconds"])


@pytest.mark.slow
def test_batch_scaling_compares_with_the_fewest_styles(capsys):
    found = run(batch_scaling, *SMALLEST, "--styles=2,1")
    one, two = found["rows"]
    assert (one["styles"], two["styles"]) == (1, 2)
    assert one["first_ratio"] == 1.0 and "further_bytes" not in one
    assert two["first_ratio"] == two["style_step_seconds"] / one["style_step_seconds"]
    assert two["further_bytes"] == two["program_bytes"] - one["program_bytes"] > 0
    assert one["device_peak_bytes"] is None  # a CPU doesn't tell
    assert len(table(capsys.readouterr().out)) == 3


def test_what_does_not_fit_into_memory_gets_a_note(vgg16, monkeypatch):
    def fail(text):
        def measured(*_):
            raise jax.errors.JaxRuntimeError(text)

        monkeypatch.setattr(stepping, "_measured", measured)
        case = stepping.Case("vgg16", 32, 32, 64, "float32", "sgd")
        return stepping.measure(vgg16, case, repeats=1, limit=1.0, matmul=1.0)

    row = fail("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    assert (row["styles"], row["note"]) == (64, "out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fail("INTERNAL: something else")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--models=vgg17", "--models must be one of vgg16, vgg19, got 'vgg17'; did you mean"),
        ("--optimizers=sdg", "--optimizers must be one of sgd, adam, lbfgs"),
        ("--precisions=float16", "--precisions must be one of float32"),
        ("--sizes=32x16", "--sizes must be HEIGHTxWIDTH or the side of a square, at least 32"),
        ("--sizes=64x64x64", "--sizes must be HEIGHTxWIDTH"),
        ("--sizes=abc", "--sizes must be HEIGHTxWIDTH or the side of a square, .*, got 'abc'"),
        ("--styles=", "--styles must be whole numbers of at least 1, got ''"),
        ("--styles=0", "--styles must be whole numbers of at least 1, got '0'"),
    ],
)
def test_bad_flags_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        run(step_time, argument)


def test_a_bad_argument_ends_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_time", "now"],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "step_time: unexpected argument 'now'\n"
