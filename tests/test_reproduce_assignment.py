"""The reproduction of the report's experiment, at a size that shows that it works."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reproduce_assignment
from assignment import (
    architecture,
    contests,
    document,
    experiments,
    explained,
    findings,
    measures,
    runs,
)

import nst_jax
from nst_jax import examples
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.weights import load

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "scripts" / "reproduce_assignment.py"
SMALL = nst_jax.presets["assignment"].replace(
    size=None,
    content_layers=("block1_conv2",),
    style_layers=("block1_conv1", "block2_conv1"),
    steps=6,
    learning_rate=1.0,
)


def reproduce(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=1200)


def setting_of(folder, *, styles="ab", steps=30, content=None):
    return experiments.Setting(
        content=examples.butterfly(32) if content is None else content,
        styles={name: np.full((32, 32, 3), n, np.float32) for n, name in enumerate(styles)},
        judged_contents={},
        judged_styles={},
        steps=steps,
        models=("vgg16",),
        folder=folder,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a quick run leaves behind."""
    folder = tmp_path_factory.mktemp("assignment")
    done = reproduce("--quick", f"--output_dir={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'report.html'}\n"
    return folder


def test_a_quick_run_writes_the_report(written):
    text = (written / "report.md").read_text("utf-8")
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert shown == [f"figure_{n:02d}.jpg" for n in range(4, 4 + len(shown))]
    assert len(shown) == 8 + 17  # figures 4 to 11 of the report, and those of ours
    for name in shown:
        assert min(nst_jax.io.read_image(written / name).shape[:2]) >= 100
    page = (written / "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == len(shown)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "nan" not in text and "None" not in text
    seconds = json.loads((written / "results.json").read_text("utf-8"))["seconds"]
    assert f"the whole took {findings.short(seconds / 60)} minutes" in text
    pieces = {path.stem for path in written.glob("work/seconds/*.json")}
    assert pieces >= {"reported_vgg16", "constant_vgg19", "effects", "methods", "judged", "figures"}


def test_the_text_has_its_numbers_from_the_results(written):
    text = (written / "report.md").read_text("utf-8")
    results = json.loads((written / "results.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert results["steps"] == 30 and results["models"] == ["vgg16", "vgg19"]
    for finding in results["findings"]:
        assert f"| {finding['claim']} | {finding['verdict']} |" in text
        assert finding["verdict"] in ("confirmed", "corrected", "refuted", "not shown")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| VGG")]
    rows = {tuple(row[:2]): row[2:] for row in rows if row[2].endswith("at 224x224)")}
    assert len(rows) == 4
    for model in results["models"]:
        reported = results["reported"][model]
        for n, (name, _) in enumerate(results["styles"]):
            final, gatys = (reported["styles"][n][key] for key in ("final", "final_gatys"))
            start, *rest = rows[model.upper(), name][1:]
            # The history's, summed in float32: the last digit of 865,171 may differ.
            assert float(start.replace(",", "")) == pytest.approx(_style(reported, n), rel=1e-5)
            assert rest == [
                findings.short(value)
                for value in (
                    final["style"],
                    final["style_saved"],
                    gatys["style"],
                    final["content"],
                )
            ]


def _style(reported, n):
    """The style loss at the start."""
    losses = reported["styles"][n]["rows"][0]["losses"]
    return sum(value for name, value in losses.items() if name.startswith("style/"))


def test_the_same_command_takes_what_is_there(written):
    def times():
        return {path: path.stat().st_mtime_ns for path in written.glob("work/**/*.*")}

    kept = times()
    assert {path.suffix for path in kept} == {".npz", ".json"}
    before = (written / "report.md").read_text("utf-8")
    (written / "report.md").unlink()
    assert reproduce("--quick", f"--output_dir={written}").returncode == 0
    assert times() == kept
    assert (written / "report.md").read_text("utf-8") == before


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--quick", "--models=vgg16"), "models (['vgg16', 'vgg19'] there, ['vgg16'] now)"),
        (
            ("--output_dir=/dev/null/nowhere",),
            str(Path("/dev/null/nowhere", "work", "settings.json")),
        ),
        (("--models=vgg17",), "--models must be one of vgg16, vgg19, got 'vgg17'"),
        (("--models=",), "--models must name at least one of vgg16, vgg19, each once, got ''"),
        (("--content=nowhere.png",), "nowhere.png"),
        (("picture.png",), "unexpected argument 'picture.png'"),
    ],
)
def test_bad_input_is_one_line(written, arguments, words):
    done = reproduce(f"--output_dir={written}", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ['{"a": 1}', "3", "{", '{"sha256": "0", "made": {"a": 1}}'])
def test_kept_work_that_is_damaged_is_named(tmp_path, text):
    path = tmp_path / "kept.json"
    made = {"a": [1.5, None, float("inf")], "b": {"c": 0.1}}
    assert experiments.once(path, lambda: made) == made
    assert experiments.once(path, lambda: pytest.fail("made again")) == made
    path.write_text(text)
    with pytest.raises(ValueError, match="kept.json: damaged, delete it to have it made anew"):
        experiments.once(path, dict)
    with pytest.raises(ValueError, match="kept.json: damaged, take another"):
        experiments.once(path, dict, remedy="take another")


def test_a_kept_run_without_its_pictures_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    np.savez(tmp_path / "run" / "result.npz", total=np.ones(3))
    with pytest.raises(ValueError, match="result.npz: damaged, delete .*run to have it made anew"):
        runs.paint(tmp_path / "run", {}, [], [], SMALL)


def test_work_of_other_code_is_refused_by_what_differs(tmp_path, monkeypatch):
    setting = setting_of(tmp_path)
    reproduce_assignment.check_folder(setting)
    reproduce_assignment.check_folder(setting)

    def refused(module, name, value):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            with pytest.raises(ValueError) as caught:
                reproduce_assignment.check_folder(setting)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    rate = contests.ADAM_RATE
    assert (
        f"differs in configs.adam.learning_rate ({rate} there, 7.0 now); --output_dir takes"
    ) in refused(contests, "ADAM_RATE", 7.0)
    assert "differs in versions.jax (" in refused(jax, "__version__", "0.0.0")
    assert "differs in versions.nst_jax (" in refused(nst_jax, "__version__", "0.0.0")
    assert "differs in weights.vgg16 (" in refused(load, "sha256", lambda model: "0")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="settings.json: damaged, --output_dir takes another"):
        reproduce_assignment.check_folder(setting)


def test_a_run_goes_on_where_it_was_interrupted(tmp_path, vgg16, monkeypatch):
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 2)
    arguments = (vgg16, examples.butterfly(32), [examples.rainbow(32)], SMALL)

    def paint(name, **options):
        return runs.paint(tmp_path / name, *arguments, snapshots_at=(1, 3, 6), **options)

    whole = paint("whole")
    with pytest.raises(KeyboardInterrupt):
        paint("parts", stop_after=5)
    assert not (tmp_path / "parts" / "result.npz").exists()
    parts = paint("parts")
    assert whole.seconds > 0 and parts.seconds is None
    np.testing.assert_array_equal(parts.images, whole.images)
    np.testing.assert_array_equal(parts.history["total"], whole.history["total"])
    assert list(parts.snapshots) == list(whole.snapshots) == [1, 3, 6]
    for step, images in whole.snapshots.items():
        np.testing.assert_array_equal(parts.snapshots[step], images)
    assert not (tmp_path / "parts" / "checkpoints").exists()


def test_pieces_that_were_cut_off_have_no_time(tmp_path):
    def work(name, *, cut_off=False):
        with runs.timed(tmp_path, name):
            time.sleep(0.01)
            if cut_off:
                raise KeyboardInterrupt

    work("first")
    work("second")
    total = runs.total_seconds(tmp_path)
    assert 0.02 <= total < 1
    work("first")  # it is there already
    assert runs.total_seconds(tmp_path) == total
    with pytest.raises(KeyboardInterrupt):
        work("third", cut_off=True)
    work("third")
    assert runs.total_seconds(tmp_path) is None
    (tmp_path / "third.json").write_text("{}")
    with pytest.raises(ValueError, match="third.json: damaged, wanted a number of seconds"):
        runs.total_seconds(tmp_path)


@pytest.fixture(scope="module")
def problem(vgg16):
    """A loss of 192 numbers that is not at its minimum."""
    content, style = (draw(32)[12:20, 12:20] for draw in (examples.butterfly, examples.rainbow))
    (targets,) = experiments.targets_of(vgg16, content, [style], SMALL)
    return 0.5 * content + 0.25, vgg16, targets, SMALL


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian(problem):
    image, *arguments = problem

    def value(levels):
        return nst_jax.objective_value(levels.reshape(image.shape) / 255, *arguments)[0]

    hessian = jax.jit(jax.hessian(value))(255 * jnp.asarray(image).ravel())
    values = np.linalg.eigvalsh(np.asarray(hessian, np.float64))  # oracle: LAPACK
    wanted = values.max()
    assert measures.largest_eigenvalue(*problem) == pytest.approx(wanted, rel=0.02)


def test_gradients_by_layer_are_those_of_each_layer_alone(problem):
    image, params, targets, config = problem
    norms = measures.gradient_norms(*problem)

    def norm(config):
        gradient = jax.grad(lambda x: nst_jax.objective_value(x, params, targets, config)[0])(image)
        return float(jnp.linalg.norm(gradient)) / 255

    assert norms["total"] == pytest.approx(norm(config), rel=1e-4)
    alone = config.replace(
        content_layers={"block1_conv2": 0.0},
        style_layers={"block1_conv1": 0.5, "block2_conv1": 0.0},
    )
    assert norms["style/block1_conv1"] == pytest.approx(norm(alone), rel=1e-4)
    assert set(norms) == {
        "content/block1_conv2",
        "style/block1_conv1",
        "style/block2_conv1",
        "total",
    }


def test_losses_by_layer_sum_to_the_loss(problem):
    total, _ = nst_jax.objective_value(*problem)
    assert sum(measures.layer_losses(*problem).values()) == pytest.approx(float(total), rel=1e-5)


def test_a_pixels_gradient_falls_as_their_number_grows(vgg16):
    """Which the rate at another size than the report's makes up for."""
    tile = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
    config = SMALL.replace(style_layers=("block1_conv1",), content_weight=0.0)

    def middle(times):
        picture = np.tile(tile, (times, times, 1))
        (targets,) = experiments.targets_of(vgg16, picture, [picture**2], config)
        value = lambda image: nst_jax.objective_value(image, vgg16, targets, config)[0]  # noqa: E731
        return jax.grad(value)(picture)[4:12, 4:12]

    ratio = np.linalg.norm(middle(8)) / np.linalg.norm(middle(16))
    assert ratio == pytest.approx(4, rel=0.05)  # but for the border


@pytest.mark.parametrize(
    "model, parameters, field",
    # Parameters: https://keras.io/api/applications/; receptive field of the last pooling:
    # Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    # Distill 2019 (VGG16), and by hand 6 + 6 * 2 + ... for VGG19.
    [("vgg16", 138_357_544, 212), ("vgg19", 143_667_240, 268)],
)
def test_architecture(model, parameters, field):
    rows = {row["layer"]: row for row in architecture.layers(model)}
    assert sum(row["parameters"] for row in rows.values()) == parameters
    assert rows["block5_pool"]["receptive_field"] == field
    assert rows["block1_conv2"]["receptive_field"] == 5 and rows["block1_conv2"]["kernel"] == 3
    assert rows["fc1"]["shape"] == [4096] and rows["fc1"]["receptive_field"] is None
    assert architecture.agrees(model)
    assert architecture.facts(model)["head"] == [25088, 4096, 4096, 1000]


def test_the_reports_own_size_has_its_own_rate():
    def setting(height, width):
        empty = np.zeros((height, width, 3), np.float32)
        return setting_of(Path("nowhere"), steps=3000, content=empty)

    report = setting(224, 224)
    assert report.rate == 100 and report.content_weighs == 1
    assert report.config == nst_jax.presets["assignment"].replace(size=None)
    assert setting(112, 224).rate == 50 and setting(112, 224).content_weighs == 2


def test_variants_and_styles_keep_their_places(tmp_path, monkeypatch):
    """Of runs whose losses say what was painted."""
    setting = setting_of(tmp_path)

    def paint(folder, params, content, painted, config, *, sweep, key=None):
        rates = sweep["learning_rate"]
        decays = sweep.get("decay_rate", np.full(len(painted), config["decay_rate"]))
        ends = [
            1e3 * style[0, 0, 0] + rate * decay
            for style, rate, decay in zip(painted, rates, decays, strict=True)
        ]
        ends = np.array([ends, ends])
        lost = rates > 5 * setting.rate
        return runs.Painted(ends, {"style": ends, "total": ends}, lost, {}, None)

    monkeypatch.setattr(experiments, "paint", paint)
    monkeypatch.setattr(experiments, "held_rates", lambda *_: {"rates": [2.0, 3.0]})
    found = experiments.effects(setting)
    for v, factor in enumerate(experiments.FACTORS):
        for n in range(2):
            assert found["rates"]["style"][v][n][-1] == pytest.approx(
                1e3 * n + factor * setting.rate * 0.96
            )
            assert found["rates"]["diverged"][v][n] == (factor == 10)
    for v, decay in enumerate(experiments.DECAYS):
        for n, rate in enumerate((2.0, 3.0)):
            assert found["decays"]["style"][v][n][-1] == pytest.approx(1e3 * n + rate * decay)
    assert np.shape(found["seeds"]["style"]) == (3, 2, 2)


def test_both_halves_of_a_run_are_measured():
    setting = setting_of(Path("nowhere"), steps=3000)
    assert setting.measured_at == [1, 7, 55, 405, 500, 1000, 1500, 2000, 2500, 3000]
    assert len(setting.marks_at) <= setting.marks == 25
    assert (setting.marks_at[0], setting.marks_at[-1]) == (1, 3000)
    for steps in (30, 31, 200):
        quick = dataclasses.replace(setting, steps=steps, marks=4, measured=2)
        assert quick.measured_at == [steps // 2, steps]
        assert quick.settled <= steps // 2 <= quick.half


def test_every_network_runs_at_a_constant_rate_for_half_the_steps(tmp_path, monkeypatch):
    setting = setting_of(tmp_path)
    seen = []

    def paint(folder, params, content, styles, config, *, sweep):
        seen.append((folder.name, config, sweep))

    monkeypatch.setattr(experiments, "paint", paint)
    experiments.at_constant_rate(setting, "vgg16", {"rates": [4.0, 0.4]})
    ((name, config, sweep),) = seen
    assert name == "constant_vgg16"
    assert config.steps == 15 and config["decay_rate"] == 1.0
    assert sweep.keys() == {"learning_rate"}
    np.testing.assert_allclose(sweep["learning_rate"], [4.0, 0.4])


def test_runs_are_told_by_network_and_style(tmp_path):
    """The lost ones are left out, and those that are lost at a constant rate have no losses."""

    def painted(*lost):
        totals = np.array([[4.0, 4.0, 4.0], [9.0 if each else 2.0 for each in lost]])
        return runs.Painted(totals, {"total": totals}, np.zeros(3, bool), {}, None)

    setting = setting_of(tmp_path, styles="abc")
    numbers = {"styles": [{"n": n} for n in range(3)], "diverged": [True, False, False]}
    reported = {
        "vgg16": (painted(True, False, False), numbers),
        "vgg19": (painted(True, True, True), numbers | {"diverged": [True] * 3}),
    }
    constant = dict.fromkeys(reported, painted(False, True, False))
    found = explained.runs_of(setting, reported, constant)
    assert found == {
        "vgg16": [
            explained.Run("VGG16, b", [4.0, 2.0], None, {"n": 1}),
            explained.Run("VGG16, c", [4.0, 2.0], [4.0, 2.0], {"n": 2}),
        ]
    }


def test_the_optimisers_are_pinned_whatever_becomes_of_the_presets(tmp_path, monkeypatch):
    """And keep the objective, the start and the picture's range."""
    setting = setting_of(tmp_path)
    other = nst_jax.presets["default"].replace(optimizer=LBFGS(), learning_rate=9.0, first_steps=7)
    monkeypatch.setitem(nst_jax.presets, "default", other)
    configs = contests.method_configs(setting)
    sgd, adam, lbfgs = (configs[name] for name in ("sgd", "adam", "lbfgs"))
    assert sgd.optimizer == SGD(
        momentum=0.9, learning_rate=1, schedule="cosine", normalize_gradient="whole"
    )
    assert adam.optimizer == Adam(
        learning_rate=contests.ADAM_RATE, schedule="cosine", normalize_gradient="none"
    )
    assert lbfgs.optimizer == LBFGS(history_size=20, learning_rate=1, schedule="constant")
    for config in configs.values():
        assert config.clip
        same = {name: getattr(setting.config, name) for name in ("optimizer", "clip")}
        assert config.replace(**same) == setting.config
    judged = contests.judge_config(setting)
    assert isinstance(judged.optimizer, LBFGS)
    assert (judged.steps, judged.first_steps) == (30, None)


def test_a_style_that_is_lost_is_painted_at_a_tenth(tmp_path, monkeypatch):
    tried = []

    def paint(folder, params, content, styles, config, *, sweep, snapshots_at):
        tried.append((folder.name, sweep["learning_rate"].tolist()))
        totals = np.array([[1.0, 1.0], [0.5, 0.5 if len(tried) > 1 else 2.0]])
        none = np.zeros(2, bool)
        return runs.Painted(totals, {"total": totals}, none, {}, None)

    monkeypatch.setattr(experiments, "paint", paint)
    monkeypatch.setattr(
        experiments, "held_rates", lambda *_: {"rates": [4.0, 4.0], "lost": [[False, False]]}
    )
    monkeypatch.setattr(experiments, "_measure", lambda s, m, painted, rates: {"measured": rates})
    setting = setting_of(tmp_path)
    _, found = experiments.as_reported(setting, "vgg16")
    assert [name for name, _ in tried] == ["reported_vgg16_0", "reported_vgg16_1"]
    np.testing.assert_allclose([rates for _, rates in tried], [[4.0, 4.0], [4.0, 0.4]])
    assert found["rates"] == found["measured"] == pytest.approx([4.0, 0.4])
    assert found["lost"] == [[False, False], [False, True], [False, False]]


def test_markdown_and_html_say_the_same(tmp_path):
    nst_jax.io.write_image(tmp_path / "a.jpg", examples.rainbow(32))
    blocks = [
        document.Heading("On a < b", 1),
        document.Text("So & so."),
        document.Table(("x", "y"), [("1", "2")]),
        document.Figure("a.jpg", "Figure 4. A picture."),
    ]
    assert document.to_markdown(blocks) == (
        "# On a < b\n\nSo & so.\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n\n"
        "![Figure 4](a.jpg)\n\n*Figure 4. A picture.*\n"
    )
    page = document.to_html(blocks, tmp_path, title="T")
    assert "<h1>On a &lt; b</h1>\n<p>So &amp; so.</p>" in page
    assert "<td>1</td><td>2</td>" in page and "Figure 4. A picture." in page
