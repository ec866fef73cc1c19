"""Data-set jobs through the command line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import basic
import jax
import numpy as np
import pytest
from commandline import FAST
from PIL import Image

from nst_jax.cli import preflight
from nst_jax.cli import run as cli_run
from nst_jax.cli.dataset.pairs import expand
from nst_jax.cli.dataset.run import BAD_FILES, DataSetJob, run_data_set
from nst_jax.cli.main import BAD_INPUT
from nst_jax.cli.run import DIVERGED
from nst_jax.coarse_to_fine import Result

ONE_DEVICE = "--mesh=style:1"


def save(path, rng, height, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path, rng, monkeypatch):
    """Three contents of two resolutions and one shape, one of them in a folder, and two styles."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.png", rng, 60, 80)
    save(tmp_path / "in" / "b.png", rng, 120, 160)
    save(tmp_path / "in" / "deep" / "c.png", rng, 60, 80)
    save(tmp_path / "styles" / "s.png", rng, 64, 48)
    save(tmp_path / "styles" / "t.png", rng, 50, 50)
    return tmp_path


@pytest.fixture
def painted(monkeypatch):
    """How many pictures each program that ran had."""
    sizes, stylize = [], cli_run.stylize

    def counting(params, contents, styles, *arguments, **options):
        sizes.append(len(contents))
        return stylize(params, contents, styles, *arguments, **options)

    monkeypatch.setattr(cli_run, "stylize", counting)
    return sizes


def arguments(*more, out="out", batch_size=2):
    inputs = ("--content=in", "--styles=styles")
    given = {argument.partition("=")[0] for argument in more}
    inputs = [argument for argument in inputs if argument.partition("=")[0] not in given]
    return (*inputs, f"--output_dir={out}", *FAST, ONE_DEVICE, f"--batch_size={batch_size}", *more)


def files(folder):
    """The bytes of every file, of manifests the lines without times and in any order."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("manifest"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = sorted(
                json.dumps({k: v for k, v in line.items() if k != "seconds"}) for line in lines
            )
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def manifest_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def level(path):
    with Image.open(path) as picture:
        return np.asarray(picture, np.int32)


NAMES = [f"{c}__{s}.png" for c in ("a", "b", "deep/c") for s in "st"]


@pytest.mark.slow
def test_a_data_set_holds_what_single_runs_paint_and_goes_on_where_it_ended(run, folders, painted):
    out = folders / "out"
    code, err = run(*arguments())
    assert code == 0, err
    assert painted == [2, 2, 2]  # two programs' worth of shapes would not share one
    assert "6/6 pictures, " in err and "out holds 6 of 6 pictures" in err
    first = files(out)
    assert sorted(first) == sorted([*NAMES, "config.json", "manifest.jsonl"])
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["output"] for line in lines] == NAMES
    assert lines[5] | {"loss": 0, "seconds": 0} == {
        "content": "in/deep/c.png", "style": "styles/t.png", "output": "deep/c__t.png",
        "loss": 0, "seconds": 0, "diverged": False, "kept_start": 0, "steps": 2,
    }  # fmt: skip

    # The same as by themselves.
    code, err = run("--content=in/a.png", "--styles=styles/s.png,styles/t.png", *FAST,
                    ONE_DEVICE, "--output_dir=single")  # fmt: skip
    assert code == 0, err
    for name in NAMES[:2]:
        assert np.abs(level(out / name) - level(folders / "single" / name)).max() <= 1
    ends = [float(line.split("->")[1].split()[0]) for line in err.splitlines()[-2:]]
    np.testing.assert_allclose([line["loss"] for line in lines[:2]], ends, rtol=2e-3)

    # Nothing is left to do, then one picture; a new one goes with those that were there.
    painted.clear()
    code, err = run(*arguments())
    assert (code, painted, files(out)) == (0, [], first), err
    (out / "b__t.png").unlink()
    code, err = run(*arguments())
    assert (code, painted) == (0, [2]), err
    again = files(out)
    assert again["b__t.png"] == first["b__t.png"]
    # Its line is there a second time.
    assert set(again.pop("manifest.jsonl")) == set(first["manifest.jsonl"])
    assert again == {name: text for name, text in first.items() if name != "manifest.jsonl"}

    # So is one that holds nothing, which a crash of the machine may leave; and where memory is
    # saved, it goes on as before.
    painted.clear()
    whole = level(out / "b__t.png")
    (out / "b__t.png").write_bytes(b"")
    code, err = run(*arguments("--remat"))
    assert (code, painted) == (0, [2]), err
    assert np.abs(level(out / "b__t.png") - whole).max() <= 1

    # Other settings are another data set's.
    before = files(out)
    code, err = run(*arguments("--seed=1", "--pairing=random", "--steps=3"))
    assert (code, err) == (
        1,
        "nst-jax: out/config.json belongs to a run that differs in pairing (all there, random "
        "now), seed (0 there, 1 now), steps (2 there, 3 now); use another --output_dir\n",
    )
    assert files(out) == before


@pytest.mark.slow
def test_bad_files_are_recorded_and_passed_over(run, folders, rng, painted):
    whole = (folders / "in" / "b.png").read_bytes()
    (folders / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folders / "in" / "d.jpg")
    whole = (folders / "in" / "d.jpg").read_bytes()  # of which the header is fine
    (folders / "in" / "d.jpg").write_bytes(whole[: len(whole) // 2])
    (folders / "styles" / "text.png").write_text("no picture")
    save(folders / "in" / "wide.png", rng, 32, 3200)
    (folders / "in" / "e.png").symlink_to("nowhere.png")
    for share in ([3, 3, 3], []):
        code, err = run(*arguments(batch_size=3))
        assert (code, painted) == (BAD_FILES, share), err
        painted.clear()
        assert "nst-jax: 5 bad files were skipped and 15 pictures not made; manifest" in err
        lines = (folders / "out" / "manifest.jsonl").read_text().splitlines()
        bad = {line["path"]: line["error"] for line in map(json.loads, lines) if "error" in line}
        assert len(lines) == len(bad) + 6  # no line comes twice
        assert list(bad) == ["in/cut.png", "in/e.png", "in/wide.png", "styles/text.png", "in/d.jpg"]
        assert "nowhere" not in bad["in/e.png"] and "No such file" in bad["in/e.png"]
        assert "cannot be read" in bad["in/cut.png"] and "truncated" in bad["in/d.jpg"]
        assert bad["in/wide.png"] == (
            "in/wide.png: the layers need 2 pixels a side, but it is resized to 48 x 1 "
            "(width x height)"
        )
        made = {path.name for path in (folders / "out").rglob("*.png")}
        assert made == {name.rpartition("/")[2] for name in NAMES}
    save(folders / "in" / "d.jpg", rng, 60, 80)  # mended
    code, err = run(*arguments(batch_size=3))
    assert (code, painted) == (BAD_FILES, [3]), err
    assert "4 bad files" in err and (folders / "out" / "d__t.png").exists()


@pytest.mark.slow
def test_contents_drawn_to_bad_styles_are_drawn_to_others(run, folders, rng, painted):
    """One style has no header, and one breaks only while it is decoded."""
    (folders / "styles" / "none.png").write_text("no picture")
    save(folders / "styles" / "cut.jpg", rng, 60, 80)
    whole = (folders / "styles" / "cut.jpg").read_bytes()
    (folders / "styles" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for n in range(5):
        save(folders / "in" / f"e{n}.png", rng, 60, 80)
    random = ("--pairing=random", "--seed=4")
    code, err = run(*arguments(*random))
    assert code == BAD_FILES and "2 bad files were skipped and 0 pictures not made" in err
    assert "another style was drawn for" in err
    lines = [line for line in manifest_lines(folders / "out" / "manifest.jsonl") if "loss" in line]
    assert len(lines) == 8 == len({line["content"] for line in lines})
    assert {line["style"] for line in lines} <= {"styles/s.png", "styles/t.png"}
    instead = {line["instead_of"] for line in lines if "instead_of" in line}
    assert instead == {"styles/none.png", "styles/cut.jpg"}
    # Nothing is left to do, also after the styles are mended.
    before, _ = files(folders / "out"), painted.clear()
    for name in ("none.png", "cut.jpg"):
        save(folders / "styles" / name, rng, 60, 80)
    code, err = run(*arguments(*random))
    assert (code, painted) == (0, []), err
    assert files(folders / "out") == before
    # The same again elsewhere gives the same.
    for name in ("none.png", "cut.jpg"):
        (folders / "styles" / name).write_bytes(whole[:100])
    run(*arguments(*random, out="again"))
    again = files(folders / "again")
    for name, data in before.items():
        if name.endswith(".png"):
            assert again[name] == data


def test_nothing_readable_is_an_error(run, folders):
    (folders / "text.png").write_text("no picture")
    code, err = run(*arguments("--content=text.png"))
    assert code == 1 and err.count("\n") == 1
    assert "no pair of pictures can be read: text.png: not an image" in err
    assert not (folders / "out").exists()


@pytest.mark.slow
def test_processes_that_never_meet_share_the_work(run, folders, painted):
    code, err = run(*arguments(out="one"))
    assert code == 0, err
    painted.clear()
    for process, share in ((0, [2, 2]), (1, [2, 2]), (0, []), (1, [])):
        code, err = run(*arguments("--num_processes=2", f"--process_id={process}"))
        assert (code, painted) == (0, share), err
        painted.clear()
    one, two = (
        {
            line["output"]: line
            for path in folder.glob("manifest*.jsonl")
            for line in manifest_lines(path)
        }
        for folder in (folders / "one", folders / "out")
    )
    assert sorted(one) == sorted(two) == NAMES
    for name in NAMES:  # other pictures are beside it in its batch, so rounding may fall otherwise
        assert np.abs(level(folders / "one" / name) - level(folders / "out" / name)).max() <= 1
        np.testing.assert_allclose(two[name]["loss"], one[name]["loss"], rtol=1e-4)


def test_processes_with_other_devices_and_files_make_every_pair_once(folders, vgg16, monkeypatch):
    def stylize(params, contents, styles, config, **_):  # as if after no step
        zeros = np.zeros(len(contents))
        return Result(
            np.stack(contents),
            {"total": zeros[None]},
            zeros.astype(bool),
            zeros.astype(int),
            np.ones(len(contents), int),
            zeros,
            None,
        )

    monkeypatch.setattr(cli_run, "stylize", stylize)
    contents, styles = (expand([item], flag="", output_dir="out") for item in ("in", "styles"))
    job = DataSetJob(
        contents=contents,
        styles=styles,
        pairing="all",
        config=basic.CONFIG.replace(
            size=48, content_layers=("block1_conv1",), style_layers=("block1_conv1",)
        ),
        mesh={"style": 1, "space": 1},
        processes=2,
    )

    def made(process, devices):
        """What the process has made in a folder of its own, where it sees nothing of the other."""
        monkeypatch.setattr(jax, "local_device_count", lambda: devices)
        out = folders / f"out{process}"
        run_data_set(dataclasses.replace(job, process=process), vgg16, out, described={})
        (manifest,) = out.glob("manifest*.jsonl")
        outputs = [line["output"] for line in manifest_lines(manifest) if "output" in line]
        assert sorted(outputs) == sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
        return outputs

    whole = (folders / "in" / "b.png").read_bytes()
    (folders / "in" / "b.png").write_text("no picture")
    assert made(0, devices=1) == NAMES[:2]
    (folders / "in" / "b.png").write_bytes(whole)  # mended
    others = made(1, devices=8)
    assert sorted(made(0, devices=1) + others) == NAMES


@pytest.mark.slow
def test_a_picture_that_diverged_is_recorded_and_remembered(run, folders, painted):
    huge = ("--preset=gatys", "--style_weight=1e38", "--content=in/a.png", "--pairing=all")
    for share in ([2], []):
        code, err = run(*arguments(*huge))
        assert (code, painted) == (DIVERGED, share), err
        assert "2 pictures stopped at a value that is not finite" in err
        painted.clear()
    lines = (folders / "out" / "manifest.jsonl").read_text().splitlines()
    assert [(line["loss"], line["diverged"]) for line in map(json.loads, lines)] == [
        (None, True)
    ] * 2


def test_what_does_not_fit_names_the_batch_size_too(run, folders, monkeypatch):
    def refuse(plan, **_):
        assert (plan.styles, plan.contents, plan.placement.tile) == ([(48, 48)] * 3, 3, None)
        raise preflight.DoesNotFit(
            f"{plan.outputs} pictures of {plan.shape} take too much: a --size of 10 fits"
        )

    monkeypatch.setattr(preflight.Plan, "check", refuse)
    code, err = run(*arguments(batch_size=4))
    assert (code, err) == (
        1,
        "nst-jax: 3 pictures of (36, 48) take too much: a --size of 10 fits; "
        "a --batch_size below 3 takes less\n",
    )
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("--demo",), "--demo cannot be combined with --pairing, --pairs, folders or patterns"),
        (("--mixing=1,0",), "--mixing cannot be combined with"),
        (("--masks=in/a.png",), "--masks cannot be combined with"),
        (("--content_weight=1,2",), "--content_weight with several values cannot be combined"),
        (("--pairing=al",), "--pairing must be one of all, zip, random, got 'al'"),
        (("--pairing=zip",), "--pairing=zip needs as many contents as styles, got 3 and 2"),
        (("--content=in/a.png", "--styles=in/b.png"), "--batch_size needs --pairing, or"),
        (("--batch_size=0",), "--batch_size must be at least 1, got 0"),
        (("--content=in/*.gif",), "--content: there are no pictures like 'in/*.gif'"),
        (("--process_id=1",), "--num_processes and --process_id must be given together"),
        (("--process_id=2", "--num_processes=2"), "process_id must be from 0 to 1, got 2"),
        (("--process_id=0", "--num_processes=0"), "num_processes must be at least 1, got 0"),
        (("--content_layers=block9_conv1",), "unknown layer 'block9_conv1'"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, folders, bad, message):
    code, err = run(*arguments(*bad))
    assert code == BAD_INPUT
    assert message in err and err.count("\n") == 1, err
    assert not (folders / "out").exists()


@pytest.mark.slow
def test_a_job_that_was_killed_ends_with_the_files_of_one_that_was_not(folders, rng):
    for number in range(4):
        save(folders / "in" / f"{number}.png", rng, 60, 80)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "NST_JAX_"))}
    environment |= {"XDG_CACHE_HOME": str(folders / "cache"), "JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # which compiles faster

    def start(out):
        flags = arguments("--pairing=random", "--steps=20", out=out, batch_size=1)
        return subprocess.Popen(
            [sys.executable, "-m", "nst_jax", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def finish(process):
        out, err = process.communicate(timeout=600)
        assert (process.returncode, out) == (0, ""), err
        return err

    finish(start("whole"))
    process, manifest = start("killed"), folders / "killed" / "manifest.jsonl"
    try:
        while process.poll() is None and not (manifest.exists() and manifest.stat().st_size):
            time.sleep(0.002)
    finally:
        process.kill()
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    lines = manifest.read_bytes()
    assert 1 <= lines.count(b"\n") < 7
    manifest.write_bytes(lines + b'{"content": "in/')  # as one that was killed while it wrote
    (folders / "killed" / ".unfinished-0").mkdir(exist_ok=True)
    (folders / "killed" / ".unfinished-0" / "picture.png").write_bytes(b"half")
    pictures = {path: path.stat().st_mtime_ns for path in (folders / "killed").rglob("*.png")}
    recorded = [json.loads(line)["output"] for line in lines.splitlines()]
    assert f"{7 - 1}/7 pictures" in finish(start("killed"))
    for name in recorded:  # not painted again
        path = folders / "killed" / name
        assert path.stat().st_mtime_ns == pictures[path]
    whole, killed = files(folders / "whole"), files(folders / "killed")
    assert len([name for name in whole if name.endswith(".png")]) == 7
    assert killed == whole


@pytest.mark.slow
def test_a_signal_ends_it_after_the_step_and_it_goes_on(folders, command):
    """Which signals are heard is in test_resume.py."""
    out, whole = folders / "out", folders / "whole"
    flags = ("--steps=30", "--batch_size=1")
    command.start(*arguments(*flags))
    while not ((out / "manifest.jsonl").exists() and (out / "manifest.jsonl").stat().st_size):
        time.sleep(0.005)
    command.send(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM, command.log.read_text()
    said = command.log.read_text().splitlines()
    # The line on a finished picture may come between them.
    assert "stopping after this step; a second signal stops at once" in said[-3:-1]
    assert said[-1] == (
        "nst-jax: stopped by SIGTERM, finished pictures are in out; the same command continues "
        "from there"
    )
    made = files(out)
    lines = manifest_lines(out / "manifest.jsonl")
    pictures = {line["output"] for line in lines}
    assert set(made) == {"config.json", "manifest.jsonl"} | pictures and 1 <= len(pictures) < 6
    assert not list(out.glob(".*"))
    for name in ("out", "whole"):
        command.start(*arguments(*flags, out=name))
        assert command.wait() == 0, command.log.read_text()
    assert files(out) == files(whole)
    assert manifest_lines(out / "manifest.jsonl")[: len(lines)] == lines
