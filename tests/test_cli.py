import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import nst_jax
from nst_jax import cli, jobs

FAST = ("--model=vgg16", "--size=48", "--steps=2", "--style_layers=block1_conv1,block2_conv1")
FAST += ("--content_layers=block2_conv2",)


@pytest.fixture
def run(capsys):
    """Runs the command in this process: `code, stderr = run("--flag=value", ...)`."""

    def run(*arguments):
        with flagsaver.flagsaver():
            remaining = flags.FLAGS(["nst-jax", *arguments])
            code = cli._main(remaining)
        captured = capsys.readouterr()
        assert captured.out == ""  # stdout is for what was asked for
        return code, captured.err

    return run


@pytest.fixture
def pictures(tmp_path, rng):
    paths = []
    for name, shape in (("a.png", (60, 80, 3)), ("b.png", (64, 48, 3)), ("c.jpg", (50, 50, 3))):
        paths.append(tmp_path / name)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(paths[-1])
    return paths


def test_writes_every_file_of_a_run(run, pictures, tmp_path):
    content, *styles = pictures
    out = tmp_path / "deep" / "out"
    code, err = run(
        f"--content={content}", f"--styles={styles[0]},{styles[1]}", f"--output_dir={out}", *FAST
    )
    assert code == 0, err
    assert sorted(path.name for path in out.iterdir()) == [
        "a__b.png",
        "a__c.png",
        "config.json",
        "contact_sheet.png",
        "loss_curves.png",
        "metrics.jsonl",
    ]
    with Image.open(out / "a__b.png") as picture:
        assert picture.size == (48, 36)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["style"]) for line in lines] == [
        (1, "b"),
        (1, "c"),
        (2, "b"),
        (2, "c"),
    ]
    assert set(lines[0]) == {
        "step", "style", "output", "total", "content", "style_loss", "total_variation", "seconds",
    }  # fmt: skip
    assert lines[2]["total"] < lines[0]["total"]
    recorded = json.loads((out / "config.json").read_text())
    assert recorded["network"] == "vgg16"
    assert recorded["config"]["steps"] == 2
    assert recorded["config"]["style_layers"] == ["block1_conv1", "block2_conv1"]
    assert recorded["versions"]["nst_jax"] == nst_jax.__version__
    assert "step 2/2" in err and f"wrote {out / 'a__b.png'}" in err


def test_styles_of_one_name_keep_their_own_files(run, pictures, tmp_path):
    content, style, _ = pictures
    code, err = run(
        f"--content={content}", f"--styles={style},{style}", f"--output_dir={tmp_path}", *FAST
    )
    assert code == 0, err
    assert (tmp_path / "a__b.png").exists() and (tmp_path / "a__b_2.png").exists()


def test_demo_runs_as_a_command_without_input(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nst_jax", "--demo", *FAST, "--output_dir=here"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for style in ("rainbow", "triangles"):
        assert (tmp_path / "here" / f"butterfly__{style}.png").exists()


def test_a_diverging_style_is_named_and_the_exit_code_says_so(run, pictures, tmp_path):
    content, style, _ = pictures
    code, err = run(
        f"--content={content}",
        f"--styles={style}",
        f"--output_dir={tmp_path}",
        "--preset=assignment",
        *FAST,
        "--learning_rate=1e30",
        "--steps=4",
    )
    assert code == jobs.DIVERGED
    assert "b: stopped at a value that is not finite" in err
    assert (tmp_path / "a__b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--content and --styles are needed (or --demo)"),
        (("--demo", "--content=x.png"), "--demo has its own pictures"),
        (("--demo", "stray"), "unexpected argument 'stray'"),
        (("--demo", "--preset=assignement"), "did you mean 'assignment'"),
        (("--demo", "--optimizer=adm"), "did you mean 'adam'"),
        (("--demo", "--steps=0"), "steps must be at least 1, got 0"),
        (("--demo", "--log_every=0"), "--log_every must be at least 1"),
        (("--demo", "--style_layers=block1_conv7"), "unknown layer 'block1_conv7'"),
        (("--demo", "--style_layer_weights=1,x,1,1,1"), "--style_layer_weights must be numbers"),
        (("--demo", "--style_layer_weights=1,2"), "one weight for each of the 5"),
        (("--demo", "--size=8"), "at least"),
        (("--demo", "--weights=none.h5"), "none.h5"),
        (("--demo", "--model=vgg18"), "vgg18"),
        (("--content=missing.png", "--styles=missing.png"), "missing.png"),
    ],
)
def test_bad_input_gets_one_line(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = run(*arguments)
    assert code == cli.BAD_INPUT
    assert message in err
    assert err.startswith("nst-jax: ") and err.count("\n") == 1, err


def test_an_unknown_flag_ends_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "nst_jax", "--stlyes=x.png"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "stlyes" in done.stderr and "styles" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_our_flags():
    done = subprocess.run(
        [sys.executable, "-m", "nst_jax", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    for name in (*cli.RUN_FLAGS, *cli.CONFIG_FLAGS, *cli.SWEEP_FLAGS):
        assert f"--{name}" in done.stdout.replace("--[no]", "--"), name
