"""The reproduction of the report's experiment, at a size that shows that it works."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reproduce_assignment
from assignment import architecture, experiments, figures, measures, report
from assignment.experiments import Setting

import nst_jax
from nst_jax import examples
from nst_jax.files.images import read_image
from nst_jax.optimizers import LBFGS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "reproduce_assignment.py"
FIRST_LAYERS = {
    "content_layers": ("block1_conv2",),
    "style_layers": ("block1_conv1", "block2_conv1"),
}
SMALL = nst_jax.presets["assignment"].replace(size=None, learning_rate=1.0, **FIRST_LAYERS)


def reproduce(folder, *, draw=False):
    """A reproduction in few steps, and its results."""
    few = reproduce_assignment.QUICK | {"steps": 12}
    setting = Setting(folder=folder / "work", **few)
    results, runs = reproduce_assignment.reproduce(setting)
    if draw:
        figures.draw(folder, setting, runs, results)
    return json.loads(json.dumps(results | {"seconds": 60.0}, allow_nan=False))


@pytest.fixture
def shallow(monkeypatch, vgg16):
    """VGG16 stands for VGG19 too, and the first layers for all of them: most time is compiling."""
    judge_config = experiments.judge_config
    monkeypatch.setattr(experiments, "params_of", lambda model: vgg16)
    monkeypatch.setattr(experiments, "JUDGED_STEPS", 3)
    preset = nst_jax.presets["assignment"].replace(**FIRST_LAYERS)
    monkeypatch.setitem(nst_jax.presets, "assignment", preset)
    monkeypatch.setattr(
        experiments, "judge_config", lambda setting: judge_config(setting).replace(**FIRST_LAYERS)
    )


@pytest.mark.usefixtures("many_steps")
def test_a_quick_run_makes_the_whole_report_once(shallow, tmp_path):
    """One test, because two workers would each make a report of their own."""
    results = reproduce(tmp_path, draw=True)
    check_report(tmp_path, results)
    check_variants(results)
    check_again(tmp_path, results)
    check_other_settings(tmp_path)


def check_report(folder, results):
    text = report.write(results)
    assert "the whole took 1 minutes" in text and "nan" not in text and "None" not in text
    shown = {line.partition("](")[2].rstrip(")") for line in text.splitlines() if "](" in line}
    assert shown == {path.name for path in folder.glob("*.jpg")} and len(shown) == 25
    for name in shown:
        assert min(read_image(folder / name).shape[:2]) >= 100
    for own in results["reported"].values():
        assert own["rates"] == [
            pytest.approx(100 * 32**2 / 224**2 / 10 ** sum(lost))
            for lost in zip(*own["lost"], strict=True)
        ]
        assert not any(own["lost"][-1])
        for run in own["styles"]:
            assert [row["step"] for row in run["rows"] if "eigenvalue" in row] == [0, 6, 12]
            assert sum(run["rows"][-1]["losses"].values()) == pytest.approx(
                run["final"]["total"], rel=1e-4
            )
    judged = results["judged"]["vgg19"]["vgg16"]
    assert len(judged["style"]) == len(judged["content"]) == 12


def check_again(folder, results):
    """The same command takes what is there."""

    def times():
        return {path: path.stat().st_mtime_ns for path in folder.glob("work/*")}

    kept = times()
    assert reproduce(folder) == results
    assert times() == kept


def check_variants(results):
    """The rate and the decay of the experiment itself are among the variants."""
    effects = results["effects"]
    assert effects["rates"]["names"] == ["1", "10", "100", "1000"]
    decays = dict(zip(effects["decays"]["names"], effects["decays"]["last"], strict=True))
    rates = dict(zip(effects["rates"]["names"], effects["rates"]["last"], strict=True))
    used = results["reported"]["vgg19"]["rates"]
    for n, rate in enumerate(used):
        name = f"{rate * 224**2 / 32**2:g}"
        assert decays["0.96"][n] == pytest.approx(rates[name][n], rel=1e-4)
    assert np.shape(effects["seeds"]["last"]) == (3, 2)


def check_other_settings(folder):
    """A folder of other settings is refused."""
    command = [sys.executable, SCRIPT, f"--output_dir={folder}", "--size=48"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "holds runs with other size, steps" in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.fixture(scope="module")
def problem(vgg16):
    """A loss of 192 numbers that is not at its minimum."""
    content, style = (draw(32)[12:20, 12:20] for draw in (examples.butterfly, examples.rainbow))
    (targets,) = measures.targets_of(vgg16, content, [style], SMALL)
    return 0.5 * content + 0.25, vgg16, targets, SMALL


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian(problem):
    image, *arguments = problem

    def value(levels):
        return nst_jax.objective_value(levels.reshape(image.shape) / 255, *arguments)[0]

    hessian = jax.jit(jax.hessian(value))(255 * jnp.asarray(image).ravel())
    wanted = np.linalg.eigvalsh(np.asarray(hessian, np.float64)).max()  # oracle: LAPACK
    assert measures.largest_eigenvalue(*problem) == pytest.approx(wanted, rel=0.02)


def test_gradients_and_losses_by_layer_add_up(problem):
    image, *arguments = problem
    value, gradient = jax.jit(
        jax.value_and_grad(lambda x: nst_jax.objective_value(x, *arguments)[0])
    )(image)
    assert sum(measures.layer_losses(*problem).values()) == pytest.approx(float(value), rel=1e-5)
    norms = measures.gradient_norms(*problem)
    assert norms.pop("total") == pytest.approx(float(jnp.linalg.norm(gradient)) / 255, rel=1e-4)
    assert set(norms) == {"content/block1_conv2", "style/block1_conv1", "style/block2_conv1"}


@pytest.mark.parametrize(
    "model, parameters, field",
    # Parameters: https://keras.io/api/applications/; receptive field of the last pooling:
    # Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    # Distill 2019 (VGG16), and by hand 6 + 6 * 2 + ... for VGG19.
    [("vgg16", 138_357_544, 212), ("vgg19", 143_667_240, 268)],
)
def test_architecture(model, parameters, field):
    layers = architecture.layers(model)
    rows = {row["layer"]: row for row in layers}
    assert sum(row["parameters"] for row in layers) == parameters
    assert rows["block5_pool"]["receptive_field"] == field
    assert rows["fc1"]["shape"] == [4096] and rows["fc1"]["receptive_field"] is None
    told, agrees = architecture.facts(model, layers)
    assert agrees and "25088, 4096, 4096, 1000" in told
    assert not architecture.facts(model, layers[:1] + layers[2:])[1]


def test_the_reports_own_size_has_its_own_rate():
    assert Setting(size=224).rate == 100 and Setting(size=224).content_weighs == 1
    assert Setting(size=224).config == nst_jax.presets["assignment"].replace(size=None)
    assert Setting(size=112).rate == 25 and Setting(size=112).content_weighs == 4


def test_both_halves_of_a_run_are_measured():
    setting = Setting()
    assert sorted(setting.measured_at) == [1, 7, 55, 405, 500, 1000, 1500, 2000, 2500, 3000]
    for steps in (30, 31, 200):
        quick = Setting(steps=steps, marks=4, measured=2)
        assert quick.measured_at == {steps // 2, steps}
        assert quick.settled <= steps // 2 <= quick.half


def test_the_optimisers_keep_the_objective_and_the_range_of_pictures():
    setting = Setting(steps=30)
    for config in experiments.method_configs(setting).values():
        assert config.clip
        assert config.replace(optimizer=setting.config.optimizer, clip=False) == setting.config
    judge = experiments.judge_config(setting)
    assert isinstance(judge.optimizer, LBFGS) and judge.first_steps is None


def test_a_style_that_diverges_is_painted_at_a_tenth(tmp_path, monkeypatch):
    """The first rate diverges at once for one style, the second late for the other."""
    tried = []
    lost = [[True, False], [False, False], [False, True], [False, False]]

    def paint(setting, name, model, config, *, sweep, snapshots_at):
        tried.append((config.steps, sweep["learning_rate"].tolist()))
        return experiments.Painted(np.zeros(0), {}, np.array(lost[len(tried) - 1]), {})

    monkeypatch.setattr(experiments, "paint", paint)
    monkeypatch.setattr(experiments, "_measure", lambda *arguments: [])
    _, found = experiments.as_reported(Setting(size=224, steps=3000, folder=tmp_path), "vgg16")
    assert [steps for steps, _ in tried] == [50, 50, 3000, 3000]
    assert found["rates"] == pytest.approx([10, 10]) and found["lost"] == lost
    monkeypatch.setattr(
        experiments, "paint", lambda *a, **k: paint(*a, **k)._replace(lost=~np.zeros(2, bool))
    )
    lost += lost * 4
    with pytest.raises(ValueError, match="vgg16 diverges at every rate"):
        experiments.as_reported(Setting(folder=tmp_path), "vgg16")


def test_a_run_is_kept_with_its_snapshots(tmp_path, monkeypatch, vgg16):
    monkeypatch.setattr(experiments, "params_of", lambda model: vgg16)
    setting = Setting(size=32, folder=tmp_path)

    def paint():
        return experiments.paint(
            *(setting, "run", "vgg16", SMALL.replace(steps=4)), snapshots_at={1, 3, 4}
        )

    made = paint()
    monkeypatch.setattr(nst_jax, "stylize", pytest.fail)
    kept = paint()
    assert list(kept.snapshots) == [1, 3, 4] and kept.images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(kept.snapshots[4], made.images)
    np.testing.assert_array_equal(kept.history["total"], made.history["total"])
    assert not kept.lost.any()
