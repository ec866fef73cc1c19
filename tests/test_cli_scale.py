"""The command line with tiles, meshes, several processes, and too little memory."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from commandline import FAST, SMALL
from PIL import Image

from nst_jax import optimize, windows
from nst_jax.cli import preflight


@pytest.mark.slow
def test_tiles_and_strips_paint_what_the_whole_picture_does(run, pictures, tmp_path):
    content, style, _ = pictures

    def paint(name, *flags):
        arguments = (f"--content={content}", f"--styles={style}", *FAST)
        return run(*arguments, f"--output_dir={tmp_path / name}", *flags)

    painted = {}
    for name, *flags in (
        ("whole", "--mesh=style:1"),
        ("tiled", "--tile=24"),
        ("strips", "--mesh=style:1", "--strips=3"),
    ):
        code, err = paint(name, *flags)
        assert code == 0, err
        with Image.open(tmp_path / name / "a__b.png") as picture:
            painted[name] = np.asarray(picture, np.int32)
    for name in ("tiled", "strips"):  # a level, where rounding falls otherwise
        assert np.abs(painted["whole"] - painted[name]).max() <= 1, name
    config = {n: json.loads((tmp_path / n / "config.json").read_text()) for n in painted}
    assert config["tiled"]["tile"] == 24 and config["strips"]["strips"] == 3
    # Said before the files that are there.
    code, err = paint("tiled", "--tile=9")
    assert (code, err.strip()) == (1, "nst-jax: tile must be at least 15 for these layers, got 9")
    for flags, told in (
        (("--strips=0",), "strips must be a whole number, at least 1, got 0"),
        (("--strips=2", "--remat"), "remat and strips exclude each other"),
        (("--tile=200", "--mesh=style:1,space:2"), "tile and mesh exclude each other"),
    ):
        code, err = run("--demo", f"--output_dir={tmp_path / 'none'}", *flags)
        assert code == 1 and told in err and err.count("\n") == 1, err


def start_two(*flags, devices=4, second=(), program=("-m", "nst_jax")):
    """Two processes of one run on loopback, with so many CPU devices each; `second` goes to the
    second alone."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, *program, *flags]
    command += [f"--coordinator_address={address}", "--num_processes=2"]
    return [
        subprocess.Popen(
            [*command, f"--process_id={number}", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"},
        )
        for number, more in enumerate(((), second))
    ]


def finish(processes):
    """What each has said on stderr; and nothing on stdout, where Gloo would say it is there."""
    try:
        outs, errs = zip(*(process.communicate(timeout=600) for process in processes), strict=True)
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errs
    assert outs == ("", "")
    return errs


@pytest.mark.slow
def test_two_processes_paint_what_one_does(run, pictures, tmp_path):
    """Four CPU devices each, on loopback, through the command itself."""
    content, *styles = pictures
    flags = (f"--content={content}", f"--styles={styles[0]},{styles[1]}", *FAST)
    flags += ("--report", "--save_every=1", "--animate=gif", "--color=luminance")
    code, err = run(f"--output_dir={tmp_path / 'one'}", *flags, "--mesh=style:1")
    assert code == 0, err
    two = (f"--output_dir={tmp_path / 'two'}", "--mesh=style:2,space:4")
    errs = finish(start_two(*flags, *two, devices=4))
    assert "step 2/2" in errs[0] and "step 2/2" not in errs[1]
    for number, name in enumerate(("a__b.png", "a__c.png")):  # each has written its own
        path = str(tmp_path / "two" / name)
        assert [path in err for err in errs] == [number == 0, number == 1]
    files = [
        sorted(str(path.relative_to(tmp_path / n)) for path in (tmp_path / n).rglob("*"))
        for n in ("one", "two")
    ]
    assert files[0] == files[1]
    # Snapshots and the report are of whole pictures, though no process has all of one.
    for name in ("a__b.png", "a__c.png", "contact_sheet.png", "a__c/step_000001.png"):
        one, two = (np.asarray(Image.open(tmp_path / n / name), np.int32) for n in ("one", "two"))
        assert np.abs(one - two).max() <= 1  # a level, where rounding falls otherwise
    pages = [(tmp_path / n / "report.html").read_text("utf-8") for n in ("one", "two")]
    layers = [re.findall(r'"block\d_conv\d": ([\d.e+-]+)', page) for page in pages]
    # Layers of two outputs after the first and the last step, and their weights in the settings.
    assert len(layers[0]) == 2 * 2 * 3 + 3
    np.testing.assert_allclose(*(np.array(values, float) for values in layers), rtol=1e-3)
    lines = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    ]
    for one, two in zip(*lines, strict=True):
        assert (one["step"], one["style"]) == (two["step"], two["style"])
        np.testing.assert_allclose(two["total"], one["total"], rtol=1e-5)


@pytest.mark.slow
def test_of_several_processes_one_that_fails_ends_at_once(pictures, tmp_path):
    content, style, _ = pictures
    flags = (f"--content={content}", f"--styles={style}", *FAST, f"--output_dir={tmp_path}")
    missing = tmp_path / "missing.png"
    processes = start_two(*flags, "--steps=1000000", second=(f"--content={missing}",))
    try:
        # Where it waited for the other, that took two minutes.
        _, err = processes[1].communicate(timeout=90)
        assert processes[1].returncode == 1 and processes[0].poll() is None
        assert err.splitlines()[-1].startswith(f"nst-jax: {missing}: "), err
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_several_processes_refuse_together_what_does_not_fit_one_of_them(pictures, tmp_path):
    content, style, _ = pictures
    flags = (f"--content={content}", f"--styles={style}", *FAST, f"--output_dir={tmp_path / 'o'}")
    program = (
        "import sys; from nst_jax.cli import main, preflight\n"
        "preflight.available_bytes = lambda: 5_000_000 if sys.argv[-1][-1] == '0' else 2**40\n"
        "preflight._flags_that_fit = lambda *_, **__: []\n"  # each would be compiled
        # Of a smaller picture, in proportion.
        "found, real = [], preflight.Plan.program_bytes\n"
        "def program_bytes(plan):\n"
        "    pixels = plan.shape[0] * plan.shape[1]\n"
        "    found or found.append(real(plan) / pixels)\n"
        "    return int(found[0] * pixels)\n"
        "preflight.Plan.program_bytes, preflight.Plan.targets_bytes = program_bytes, lambda _: 0\n"
        "main.main()"
    )
    processes = start_two(*flags, program=("-c", program))
    try:
        errs = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 1], errs
    one, two = (err.splitlines()[-1] for err in errs)
    assert one == two and re.fullmatch(
        r"nst-jax: a picture of 48x36 would take 0\.\d\d GiB of memory, and there are 0\.00 GiB: "
        r"(no|a) --size.* fits",
        one,
    )
    assert not (tmp_path / "o").exists()


def test_without_a_cluster_it_says_what_to_give(run, pictures, monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    code, err = run(f"--content={pictures[0]}", f"--styles={pictures[1]}", "--distributed")
    assert code == 1 and err == (
        "nst-jax: no cluster's environment says which processes there are (TPU pods, Slurm, "
        "Open MPI): give coordinator_address, num_processes and process_id\n"
    )


@pytest.mark.slow
def test_a_signal_ends_each_of_two_processes_and_they_go_on_to_the_same_pictures(
    pictures, tmp_path
):
    content, *styles = pictures
    flags = (f"--content={content}", f"--styles={styles[0]},{styles[1]}", *SMALL, "--steps=20")
    flags += ("--checkpoint_every=2", "--log_every=100")
    flags += ("--style_layers=block1_conv1", "--content_layers=block1_conv2")

    def start(name):
        own = (f"--output_dir={tmp_path / name}", f"--checkpoint_dir={tmp_path / name}-saved")
        return start_two(*flags, *own, devices=1)

    finish(start("whole"))
    processes, begun = start("killed"), time.monotonic()
    try:
        while not any(path.name.isdigit() for path in (tmp_path / "killed-saved").glob("0/*")):
            assert time.monotonic() - begun < 120
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        # What a shell calls 143: nothing is tidied up, as after SIGKILL.
        assert [process.wait(timeout=30) for process in processes] == [-signal.SIGTERM] * 2
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert not (tmp_path / "killed" / "a__b.png").exists()
    first, second = finish(start("killed"))
    assert re.search(r"^continuing from step \d+ of 20$", first, re.MULTILINE)
    assert "going on" not in second
    for name in ("a__b.png", "a__c.png"):
        found, wanted = ((tmp_path / n / name).read_bytes() for n in ("killed", "whole"))
        assert found == wanted


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("--mesh=style:x", "mesh must be like 'style:4,space:2', got 'style:x'"),
        ("--mesh=style:9", "mesh style:9,space:1 needs 9 devices, but there are 8"),
        ("--num_processes=2", "coordinator_address, num_processes and process_id go together"),
    ],
)
def test_bad_meshes_and_processes_are_one_line(run, pictures, tmp_path, bad, message):
    content, style, _ = pictures
    code, err = run(f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path}", bad)
    assert (code, err.strip()) == (1, f"nst-jax: {message}")


@pytest.mark.slow
def test_too_large_a_picture_is_refused_before_the_first_step(run, pictures, tmp_path, monkeypatch):
    content, style, _ = pictures
    program_bytes, found = preflight.Plan.program_bytes, []

    def in_proportion(plan):
        """Of the picture as it is told by the compiler; others would be compiled one by one."""
        pixels = plan.shape[0] * plan.shape[1]
        if not found:
            found.append(program_bytes(plan) / pixels)
        return int(found[0] * pixels)

    monkeypatch.setattr(preflight.Plan, "program_bytes", in_proportion)
    monkeypatch.setattr(preflight.Plan, "targets_bytes", lambda _: 0)
    monkeypatch.setattr(preflight, "available_bytes", lambda: 5_000_000)
    arguments = (f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path / 'o'}")
    code, err = run(*arguments, *FAST, "--mesh=style:1")
    assert code == 1 and "step" not in err
    assert re.fullmatch(
        r"nst-jax: a picture of 48x36 would take 0\.\d\d GiB of memory, and there are 0\.00 GiB: "
        r".*fits.*\n",
        err,
    )


@pytest.mark.slow
def test_every_shape_is_asked_about_once_and_before_the_first_is_painted(
    run, pictures, tmp_path, monkeypatch
):
    one, style, other = pictures
    asked, out = [], tmp_path / "o"

    def program_bytes(plan):
        asked.append((plan.shape, plan.outputs))
        return plan.outputs * plan.shape[0] * plan.shape[1]

    monkeypatch.setattr(preflight.Plan, "program_bytes", program_bytes)
    monkeypatch.setattr(preflight.Plan, "targets_bytes", lambda _: 0)
    monkeypatch.setattr(preflight._Scale, "least_bytes", lambda _: 0)
    arguments = (f"--content={one},{other}", f"--styles={style}", f"--output_dir={out}", *FAST)
    monkeypatch.setattr(preflight, "available_bytes", lambda: 40 * 48)
    code, err = run(*arguments)
    assert code == 1 and "a picture of 48x48 would take" in err
    assert asked[:2] == [((36, 48), 1), ((48, 48), 1)] and not out.exists()
    # What the host keeps of a tiled run is more than that.
    code, err = run(*arguments, "--tile=24")
    assert code == 1 and "a picture of 48x36 in windows of 24x24 would take 0.00 GiB" in err
    assert not out.exists()
    asked.clear()
    monkeypatch.setattr(preflight, "available_bytes", lambda: 48 * 48)
    code, err = run(*arguments, "--mesh=style:1")
    assert code == 0, err
    assert asked == [((36, 48), 1), ((48, 48), 1)] and len(list(out.glob("?__b.png"))) == 2


def exhaust(monkeypatch, module, name, *, call):
    """From now on the call of that number runs out of memory."""
    function, calls = getattr(module, name), []

    def exhausted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return function(*arguments, **options)

    for attribute in ("lower", "__wrapped__"):  # of a compiled function
        setattr(exhausted, attribute, getattr(function, attribute, None))
    monkeypatch.setattr(module, name, exhausted)


def check_kept(kept, snapshots):
    """The picture that was kept is that after two steps of a run that went on."""
    two, three = (
        np.asarray(Image.open(snapshots / f"step_00000{n}.png"), np.int32) for n in (2, 3)
    )
    assert np.abs(two - three).max() > 1
    np.testing.assert_array_equal(np.asarray(Image.open(kept)), two)


@pytest.mark.slow
def test_running_out_of_memory_keeps_the_last_pictures(run, pictures, tmp_path, monkeypatch):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--steps=5", "--mesh=style:1")
    code, err = run(*arguments, f"--output_dir={tmp_path / 'whole'}", "--save_every=1")
    assert code == 0, err
    exhaust(monkeypatch, optimize, "_advance", call=3)
    code, err = run(*arguments, f"--output_dir={tmp_path / 'o'}")
    assert code == 1
    assert "nst-jax: out of memory: a picture of 48x36 would take" in err and "fits" in err
    assert f"wrote {tmp_path / 'o' / 'a__b.png'}" in err
    assert not (tmp_path / "o" / "contact_sheet.png").exists()
    check_kept(tmp_path / "o" / "a__b.png", tmp_path / "whole" / "a__b")


@pytest.mark.slow
def test_so_does_a_tiled_run_and_names_a_smaller_tile(run, pictures, tmp_path, monkeypatch):
    content, *styles = pictures
    left = np.repeat(np.uint8([[255] * 40 + [0] * 40]), 60, axis=0)
    masks = [tmp_path / "left.png", tmp_path / "right.png"]
    for path, mask in zip(masks, (left, 255 - left), strict=True):
        Image.fromarray(mask).save(path)
    arguments = (f"--content={content}", f"--styles={styles[0]},{styles[1]}", "--tile=24")
    arguments += (f"--masks={masks[0]},{masks[1]}", *FAST, "--steps=5")
    code, err = run(*arguments, f"--output_dir={tmp_path / 'whole'}", "--save_every=1")
    assert code == 0, err
    asked = []

    def program_bytes(plan):
        asked.append(plan.regions)
        return 10_000_000 * plan.shape[0] * plan.shape[1]

    monkeypatch.setattr(preflight.Plan, "program_bytes", program_bytes)
    monkeypatch.setattr(preflight, "TILES", (32, 16))
    exhaust(monkeypatch, windows, "value_and_grad", call=3)
    code, err = run(*arguments, f"--output_dir={tmp_path / 'o'}")
    assert code == 1 and set(asked) == {2}
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"nst-jax: out of memory: a picture of 48x36 in windows of 2\dx2\d would take "
        r"\d\.\d\d GiB of memory: a --size of \d\d fits; --tile=16 makes this one fit",
        last,
    ), last
    check_kept(tmp_path / "o" / "a__b+c.png", tmp_path / "whole" / "a__b+c")
