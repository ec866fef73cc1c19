"""`leads`: that each change leaves the result as it is, and what the table tells of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarking import parse, run, table

from benchmarks import leads, processes, stepping
from nst_jax import losses, objective, optimize, vgg

SMALL = ("--size=32x48", "--model=vgg16", "--repeats=2")


def test_half_of_a_gram_matrix_is_all_of_it():
    features = jax.random.normal(jax.random.key(0), (5, 7, 64))
    found = jax.jit(leads.half_gram)(features)
    np.testing.assert_allclose(found, losses.gram_matrix(features), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.slow
def test_layouts_and_pooling_change_no_value(vgg16):
    """Oracle: `vgg.features`, to the fourth layer, with a pooling between."""
    layers = vgg.layer_names("vgg16")[:4]
    assert layers[2] == "block1_pool"
    image = jax.random.uniform(jax.random.key(0), (1, 11, 9, 3))

    def features(x):
        run = vgg.network(
            vgg16,
            pooling="max",
            pooling_correction=True,
            padding="zeros",
            dtype="float32",
            precision="highest",
        )
        x = run.apply({"params": vgg16}, x, layers=(layers[-1],))
        return jnp.sum(jnp.square(x[layers[-1]]))

    value, gradient = jax.value_and_grad(features)(image)
    # The chain takes what the network makes of a picture.
    inputs = vgg.preprocess(image)
    for layout, axes in (("NHWC", (0, 1, 2, 3)), ("NCHW", (0, 3, 1, 2))):
        found, slope = jax.value_and_grad(leads.chain)(
            inputs.transpose(axes), vgg16, layout=layout, layers=layers
        )
        np.testing.assert_allclose(found, value, rtol=1e-4)
        back = 255 * slope.transpose(np.argsort(axes))[..., ::-1]
        np.testing.assert_allclose(back, gradient, rtol=1e-3, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.slow
def test_pooling_by_windows_is_the_same_objective(vgg16):
    case = leads.case_of(parse(leads, *SMALL))
    work = stepping.problem(vgg16, case, prepare=False)
    arguments = (work.images[0], *work.shared, work.each[0], work.config)
    texts = [
        str(jax.make_jaxpr(loss)(*arguments))
        for loss in (objective.objective_value, leads.pooled_by_windows)
    ]
    assert ["reduce_window" in text for text in texts] == [False, True]
    wanted, found = (
        loss(*arguments)[0] for loss in (objective.objective_value, leads.pooled_by_windows)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert vgg.POOLINGS["max"] is vgg.max_pool


@pytest.mark.slow
def test_every_lead_has_a_row(capsys, monkeypatch):
    """The parts are real; whole steps would take long to compile, and processes to start."""
    steps, given = [], []

    def step(work, *, loss=objective.objective_value, length=None):
        steps.append((loss, length, "winograd" in work.shared[0]["block1_conv2"]))
        return 0.5 if length else 2.0

    def measured(name, arguments, environment):
        given.append((arguments[-1], environment["XLA_FLAGS"]))
        if "eigen" in environment["XLA_FLAGS"]:
            raise ValueError("Unknown flag in XLA_FLAGS: --xla_cpu_multi_thread_eigen=false")
        return {"seconds": 3.0 if arguments[-1] == "--cores=1" else 2.0}

    monkeypatch.setattr(leads, "step", step)
    monkeypatch.setattr(processes, "measured", measured)
    monkeypatch.setenv("XLA_FLAGS", "--xla_given=1")
    shallow = {"content_layers": ("block1_conv2",), "style_layers": ("block1_conv1",)}
    monkeypatch.setitem(stepping.CONFIGS, "sgd", stepping.CONFIGS["sgd"].replace(**shallow))
    found = run(leads, *SMALL)
    rows = {row["lead"]: row for row in found["rows"]}
    assert len(rows) == 5 + len(leads.IN_A_PROCESS)
    for name in ("convolutions in NCHW", "half by symmetry"):
        row = rows.pop(name)
        assert row["ratio"] == row["seconds"] / row["as_it_is"] > 0
        assert len(row["turns"]["seconds"]) == 2
    scan = rows["a scan of 4 steps"]
    assert (scan["seconds"], scan["as_it_is"], scan["ratio"]) == (0.5, 2.0, 0.25)
    plain = (objective.objective_value, None, True)
    # Side by side, in the second round the other way round.
    assert steps == [
        *((leads.pooled_by_windows, None, True), plain, plain, steps[0]),
        *((objective.objective_value, None, False), plain, plain, steps[4]),
        *((objective.objective_value, 4, True), plain, plain, steps[8]),
    ]
    assert rows["one core"]["ratio"] == 1.5
    assert ("--cores=1", "--xla_given=1") in given
    assert ("--repeats=2", "--xla_given=1 --xla_disable_hlo_passes=fusion") in given
    unknown = rows["--xla_cpu_multi_thread_eigen=false"]
    assert unknown["note"].startswith("Unknown flag in XLA_FLAGS") and "ratio" not in unknown
    assert len(table(capsys.readouterr().out)) == 1 + len(found["rows"])


def test_a_process_times_the_step_on_its_cores(capsys, monkeypatch):
    limited = []
    monkeypatch.setattr(leads.os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(
        leads.os, "sched_setaffinity", lambda _, cores: limited.append(cores), raising=False
    )

    class Work:
        def run(self, *, dispatches):
            return None, [9.0, 1.0, 3.0][: dispatches - 1]

    monkeypatch.setattr(stepping, "problem", lambda params, case: Work())
    assert run(leads, *SMALL, "--here", "--cores=1") is None
    assert json.loads(capsys.readouterr().out) == {"seconds": 2.0}
    assert limited == [[3]]


def test_a_step_of_a_scan_is_a_part_of_its_dispatch():
    class Work:
        def run(self, *, dispatches, loss):
            assert dispatches == 2 and loss is None  # as stylize evaluates it
            return None, [float(12 * optimize.steps_per_dispatch())]

    assert leads.step(Work(), length=4) == 12.0
    assert optimize.steps_per_dispatch() == 1


@pytest.mark.parametrize("argument", ["--size=16", "--size=abc", "--model=vgg17"])
def test_bad_flags_are_refused(argument):
    with pytest.raises(ValueError, match=argument.partition("=")[0]):
        run(leads, argument)
