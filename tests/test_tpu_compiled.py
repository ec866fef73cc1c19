"""What the TPU's own compiler says of the step, held against recorded bounds.

It needs the compiler (the extra `tpu`) and no TPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarking import run

from benchmarks import tpu_compiled

ROOT = Path(__file__).resolve().parent.parent

# What jax 0.10.2 with libtpu 0.0.42 said on 2026-11-29, see docs/benchmarks.md. The bounds leave a
# few in a hundred for other versions of both. If you make a figure better, tighten its bound.
CYCLES = {None: 1.92e6, "style:2,space:2": 1.27e6}
# The check whether a picture has settled costs 0.7 MB of the first program.
TEMPORARIES = {None: 15.6e6, "style:2,space:2": 10.0e6}
ROOM = 1.05
ROW = 32_768  # bytes of the widest row that neighbours exchange: 64 * 256 or 128 * 128 bfloat16


def estimated(*flags):
    command = [sys.executable, "-m", "benchmarks.tpu_compiled", "--json", *flags]
    # Of its own: the tests' processes have eight CPU devices and compile without optimisations.
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.tpu
@pytest.mark.parametrize("mesh", CYCLES)
def test_no_program_gets_worse(mesh):
    """Two styles at 256x256, two steps: the smallest program with all parts of a large one."""
    flags = ("--sizes=256", "--styles=2", "--steps=2")
    found = estimated(*flags, *(() if mesh is None else (f"--mesh={mesh}",)))
    assert found["estimated_cycles_per_style_step"] <= ROOM * CYCLES[mesh]
    assert found["temp_bytes_per_chip"] <= ROOM * TEMPORARIES[mesh]
    chips = 1 if mesh is None else 4
    assert (found["device_kind"], found["chips"]) == ("TPU v5 lite", chips)
    # 2 * 361,152 multiplications a pixel (flops.flops_per_pixel), 65,536 in a cycle.
    ideal = 2 * 361_152 * 256**2 / 65_536 / (1 if mesh is None else 2)
    share = ideal / found["estimated_cycles_per_style_step"]
    assert found["matrix_rate_share"] == pytest.approx(share, rel=1e-3)
    if mesh is None:
        assert not found["collectives"]
        return
    assert found["collectives"].keys() == {"all-reduce", "collective-permute"}
    # Two steps on the one picture of each pair of chips: a row up and down for 13 convolutions and
    # their gradients, and a few for the total variation and the optimiser's bands.
    permutes = found["collectives"]["collective-permute"]
    assert permutes["number"] <= 2 * 74 and permutes["largest"] <= ROW
    # Gram matrices of 64 + 128 + 256 + 512 + 512 channels, block 1 twice as wide: their sums.
    grams = 4 * (128**2 + 128**2 + 256**2 + 512**2 + 512**2)
    sums = found["collectives"]["all-reduce"]
    assert sums["number"] <= 2 * 8 and sums["largest"] <= 1.01 * grams


@pytest.mark.tpu
@pytest.mark.slow
def test_a_picture_that_no_power_of_two_divides():
    """500x375 with a mask and eight outputs."""
    found = estimated("--sizes=500x375", "--styles=8", "--regions=2", "--steps=1")
    assert not found["collectives"] and found["regions"] == 2
    assert found["estimated_cycles_per_style_step"] <= ROOM * 1.344e7
    assert found["temp_bytes_per_chip"] <= ROOM * 1.094e9


@pytest.mark.tpu
def test_the_total_variation_of_a_pod_exchanges_border_rows():
    """Sixteen chips share a picture. With padding, they exchanged strips of their parts."""
    run = """if True:
        import json
        import jax
        from benchmarks import hlo, tpu_compiled
        from nst_jax import losses
        tpu_compiled.wait_for_others()
        mesh = tpu_compiled.mesh_of(tpu_compiled.chips("v5e:4x4"), "space:16")
        rows = jax.NamedSharding(mesh, jax.P("space"))
        picture = jax.ShapeDtypeStruct((1024, 512, 3), "float32", sharding=rows)
        slope = jax.jit(jax.value_and_grad(losses.total_variation_nine_point))
        compiled = slope.lower(picture).compile()
        print(json.dumps(hlo.collectives(hlo.operations(compiled.as_text()))))
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, "-c", run]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=own)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"all-reduce", "collective-permute"}
    assert found["all-reduce"]["largest"] <= 8  # the value
    assert found["collective-permute"]["largest"] == 512 * 3 * 4  # one row


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes=512x"], "--sizes must be HEIGHTxWIDTH or the side of a square"),
        (["--styles=0"], "--styles must be whole numbers of at least 1, got '0'"),
        (["--precisions=float16"], "--precisions must be one of float32, float32:high, "),
        (["--optimizers=none"], "--optimizers must be one of default, sgd, adam, lbfgs"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run(tpu_compiled, *flags)


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--topology=v9e:2x2", "--topology must be one that the compiler knows, such as v5e:2x2"),
        ("--mesh=style:3,space:2", "--mesh=style:3,space:2 needs 6 chips, and the topology has 4"),
        ("--mesh=rows:2", "mesh must be like 'style:4,space:2', got 'rows:2'"),
    ],
)
def test_chips_that_there_are_not_are_one_line(flag, message):
    command = [sys.executable, "-m", "benchmarks.tpu_compiled", flag]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tpu_compiled: {message}") and done.stderr.count("\n") == 1
