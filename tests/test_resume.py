"""The command ended by signals and started again."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from commandline import FAST
from disk import room_for
from PIL import Image
from test_page import Parsed

from nst_jax.cli import console
from nst_jax.cli import run as cli_run
from nst_jax.cli.look.observers import Report
from nst_jax.cli.progress import Bars
from nst_jax.cli.run import environment
from nst_jax.cli.signals import SIGNALS, Stopped, Stopping

KILLS = 4


@pytest.fixture
def job(pictures, tmp_path):
    """`job(name, *flags)`: arguments of a job of its own folders."""
    content, *styles = pictures

    def arguments(name, *flags):
        return [
            f"--content={content}",
            f"--styles={','.join(map(str, styles))}",
            f"--output_dir={tmp_path / name}",
            f"--checkpoint_dir={tmp_path / name}-checkpoints",
            *FAST,
            *flags,
        ]

    return arguments


def files(folder):
    """Pictures byte by byte, and the losses on record."""
    found = {path.name: path.read_bytes() for path in folder.glob("*__*.png")}
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found["metrics"] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return found


def losses_shown(page):
    """{output: {step: total loss}} on a report page."""
    data = json.loads(Parsed(page.read_text("utf-8")).texts["script"][0])
    found = {output["stem"]: output["metrics"] for output in data["outputs"]}
    return {n: dict(zip(m["step"], m["total"], strict=True)) for n, m in found.items()}


def last_step(checkpoints):
    names = [path.name for path in checkpoints.glob("0/[0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_files(command, job, tmp_path, own_cache):
    flags = ("--steps=80", "--checkpoint_every=3", "--log_every=50")
    checkpoints = tmp_path / "killed-checkpoints"
    rng = np.random.default_rng(0)
    reached = [0]
    for number in range(KILLS):
        command.start(*job("killed", *flags))
        start = time.monotonic()
        # Half of them soon after it has come further, the others wherever it may be.
        while number % 2 and last_step(checkpoints) == reached[-1]:
            assert time.monotonic() - start < 600, command.log.read_text()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3 if number % 2 else 1.5))
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.log.read_text()
        reached.append(last_step(checkpoints))
    assert len(set(reached)) > KILLS // 2, reached
    command.start(*job("killed", *flags))
    assert command.wait() == 0, command.log.read_text()
    command.start(*job("undisturbed", *flags))
    assert command.wait() == 0, command.log.read_text()
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
    assert list(own_cache.glob("compiled/*-cache"))  # and not in the user's


@pytest.mark.slow
def test_a_signal_ends_it_after_the_step_with_the_pictures(command, job, tmp_path):
    flags = ("--steps=40", "--checkpoint_every=1000", "--log_every=100", "--report")
    command.start(*job("undisturbed", *flags))
    assert command.wait() == 0
    for number in SIGNALS:
        name = signal.Signals(number).name
        out = tmp_path / name
        command.start(*job(name, *flags))
        while not (out / "metrics.jsonl").exists():
            time.sleep(0.005)
        command.send(number)
        assert command.wait() == 128 + number, command.log.read_text()
        said = command.log.read_text()
        assert (
            f"nst-jax: stopped by {name}, " in said and " holds the pictures as they were" in said
        )
        assert said.rstrip().endswith("; the same command continues from there")
        assert len(list(out.glob("*__*.png"))) == 2
        page = out / "report.html"
        assert f"stopped by {name}" in page.read_text("utf-8")
        step = last_step(tmp_path / f"{name}-checkpoints")
        assert 0 < step < 40
        if number != SIGNALS[0]:  # they go on alike
            continue
        command.start(*job(name, *flags))
        assert command.wait() == 0, command.log.read_text()
        assert files(out) == files(tmp_path / "undisturbed")
        curves = losses_shown(page)
        assert set(curves) == {"a__b", "a__c"}
        lines = list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines()))
        for stem, losses in curves.items():
            assert list(losses) == [*sorted({1, step}), 40]
            logged = {line["step"]: line["total"] for line in lines if line["output"] == stem}
            assert logged == {1: losses[1], 40: losses[40]}


def test_a_closed_terminal_may_hang_up_twice():
    """A shell sends SIGHUP to its jobs, and then the system does."""
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with Stopping() as asked:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.1)
            assert asked.received == signal.SIGHUP
            with pytest.raises(Stopped, match="stopped by SIGHUP") as caught:
                asked.check()
        assert caught.value.exit_code == 129
    finally:
        signal.signal(signal.SIGHUP, before)


class Broken(io.StringIO):
    """A stderr that fails from the n-th message on; it keeps the messages before."""

    def __init__(self, error, after):
        super().__init__()
        self.error, self.after = error, after

    def write(self, text):
        self.after -= 1
        if self.after < 0:
            raise self.error
        return super().write(text)


@pytest.fixture
def broken(monkeypatch):
    """Puts a `Broken` in place of stderr."""

    def broken(error, after=0):
        stream = Broken(error, after)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(console, "_quiet", False)
        monkeypatch.setattr(console, "_reader_left", False)
        return stream

    return broken


def test_messages_that_nobody_reads_end_no_run_but_a_reader_that_leaves_stops_it(broken):
    broken(OSError(errno.EIO, "the terminal is closed"))
    console.say("a line")
    assert Stopping().received is None
    broken(OSError(errno.ENOSPC, "the disk of the log is full"))
    console.complain("an error")
    assert Stopping().received is None
    kept = broken(BrokenPipeError(errno.EPIPE, "head has read enough"), after=1)
    console.say("one line")
    stopping = Stopping()
    stopping.check()
    console.say("another")
    assert kept.getvalue() == "one line\n"
    with pytest.raises(Stopped, match="stopped by SIGPIPE") as caught:
        stopping.check()
    assert caught.value.exit_code == 141


def test_a_bar_on_a_terminal_that_closes_ends_no_run(broken, monkeypatch):
    stream = broken(BrokenPipeError(errno.EPIPE, "closed"), after=2)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    bars = Bars()
    bars.open(total=100, mininterval=0, miniters=1)
    assert bars._bar is not None
    for _ in range(100):
        bars._bar.update(1)
    bars.close(None)
    assert console.reader_left()


def test_without_a_stderr_nothing_is_shown(monkeypatch, capsys):
    """As of `nst-jax 2>&-`: stdout is for answers."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(console, "_quiet", False)
    console.say("a line")
    assert not console.shows_progress()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_if_the_reader_of_the_messages_leaves_the_pictures_are_written(run, job, tmp_path, broken):
    kept = broken(BrokenPipeError(errno.EPIPE, "closed"), after=3)
    code, _ = run(*job("out", "--steps=40", "--checkpoint_every=1000", "--report"))
    assert code == 141
    assert "\ncompiling\nstep 1/40, " in kept.getvalue()
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("*__*.png")) == ["a__b.png", "a__c.png"]
    assert "stopped by SIGPIPE" in (out / "report.html").read_text("utf-8")
    steps = {json.loads(line)["step"] for line in (out / "metrics.jsonl").open()}
    assert min(steps) == 1 and last_step(tmp_path / "out-checkpoints") == 4


@pytest.mark.slow
@pytest.mark.parametrize("waiting", ["time.sleep(60)", "ctypes.CDLL(None).sleep(60)"])
def test_a_second_signal_ends_it_at_once(waiting):
    """Also in what Python knows nothing of, such as a long step."""
    program = f"""
import ctypes, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # or a background job would ignore it
from nst_jax.cli.signals import Stopped, Stopping
with Stopping() as stopping:
    print("ready", flush=True)
    while not stopping.received:
        time.sleep(0.01)
    stopped = Stopped(stopping.received)
    print(stopped, stopped.exit_code, flush=True)
    {waiting}
"""
    for second in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopped by SIGTERM 143\n"
        process.send_signal(second)
        _, said = process.communicate()
        assert process.returncode == 128 + second
        assert said.strip() == "stopping after this step; a second signal stops at once"


def test_where_all_signals_are_ignored_nothing_listens():
    """As in a shell's background jobs, or under nohup."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
    try:
        with Stopping() as asked:
            for number in SIGNALS:
                signal.raise_signal(number)
        assert asked.received is None
        assert [signal.getsignal(n) for n in SIGNALS] == [signal.SIG_IGN] * len(SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, descriptors)


def killed_at_the_end(folder, page):
    """As a process that was killed when its last step was done leaves it."""
    (folder / "report.html").write_bytes(page)
    for stem in ("a__b", "a__c"):
        (folder / stem / "animation.gif").unlink()
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[:-1]) + '{"st')


@pytest.mark.slow
def test_after_the_last_step_what_is_missing_or_running_is_written(run, job, tmp_path, monkeypatch):
    flags = ("--steps=4", "--log_every=2", "--report", "--animate=gif")
    out, seen = tmp_path / "out", []
    call = Report.__call__

    def follow(self, *arguments):
        call(self, *arguments)
        seen.append((out / "report.html").read_bytes())

    monkeypatch.setattr(Report, "__call__", follow)
    code, err = run(*job("out", *flags))
    assert code == 0, err
    whole, names = files(out), {path.relative_to(out) for path in out.rglob("*")}
    losses = losses_shown(out / "report.html")

    def again():
        """Starts the command once more; what it has changed."""
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
        code, err = run(*job("out", *flags))
        assert code == 0 and "step 4/4" not in err, err
        assert files(out) == whole and losses_shown(out / "report.html") == losses
        assert {path.relative_to(out) for path in out.rglob("*")} == names
        assert b'data-state="finished"' in (out / "report.html").read_bytes()
        made = [p for p in out.rglob("*") if p.is_file() and p.stat().st_mtime_ns != before.get(p)]
        return {path.name for path in made}

    pictures = {"a__b.png", "a__c.png", "contact_sheet.png", "loss_curves.png"}
    assert again() == pictures
    killed_at_the_end(out, seen[-1])
    assert again() == {*pictures, "config.json", "metrics.jsonl", "report.html", "animation.gif"}
    seconds = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").open()]
    assert seconds[-1] is None and None not in seconds[:-1]
    assert again() == pictures
    shutil.rmtree(out)
    assert again() == {path.name for path in names} - {"a__b", "a__c"}


@pytest.mark.slow
def test_other_inputs_or_settings_are_refused(run, job, pictures, tmp_path):
    flags = ("--steps=2", "--checkpoint_every=1")
    code, err = run(*job("out", *flags))
    assert code == 0, err
    before = files(tmp_path / "out")
    code, err = run(*job("out", "--steps=3", "--checkpoint_every=1"))
    assert code == 1
    assert err.strip().endswith("holds checkpoints of a run that differs in steps (2 there, 3 now)")
    Image.new("RGB", (64, 48)).save(pictures[1])
    code, err = run(*job("out", *flags))
    assert code == 1
    assert "differs in style b (" in err
    assert len(err.strip().splitlines()) == 1
    assert files(tmp_path / "out") == before


@pytest.mark.slow
def test_another_transparency_is_refused(run, job, pictures):
    """White, on which it is laid, is the same picture under any alpha."""
    arguments = job("out", "--steps=1")
    with Image.open(pictures[0]) as picture:
        colours = np.array(picture.convert("RGBA"))
    colours[:20] = 255
    for alpha in (255, 128):
        colours[:20, :, 3] = alpha
        Image.fromarray(colours).save(pictures[0])
        code, err = run(*arguments)
        assert code == (alpha == 128), err
    assert re.search(
        r"differs in content a \(\['(\w+)', None\] there, \['\1', '\w+'\] now\)$", err
    ), err


@pytest.mark.slow
def test_another_device_or_version_is_refused(run, job, monkeypatch):
    arguments = job("out", "--steps=1")
    assert run(*arguments)[0] == 0
    now = environment()
    for changes, name in (
        ({"device": "another"}, "device"),
        ({"versions": now["versions"] | {"jaxlib": "0"}}, "jaxlib"),
    ):
        monkeypatch.setattr(cli_run, "environment", lambda changes=changes: now | changes)
        code, err = run(*arguments)
        assert code == 1 and f"differs in {name} (" in err


@pytest.mark.slow
def test_the_order_of_the_styles_counts(run, job, pictures):
    arguments = job("out", "--steps=1")
    assert run(*arguments)[0] == 0
    turned = f"--styles={pictures[2]},{pictures[1]}"
    code, err = run(*(turned if one.startswith("--styles") else one for one in arguments))
    assert code == 1
    assert "differs in styles (['b', 'c'] there, ['c', 'b'] now)" in err


@pytest.mark.slow
def test_another_folder_is_another_run(run, job, tmp_path):
    arguments = job("out", "--steps=1")
    assert run(*arguments)[0] == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a__b.png").write_bytes(b"of someone else")
    code, err = run(*arguments, f"--output_dir={tmp_path / 'other'}")
    assert code == 1 and "differs in output_dir (" in err
    assert (tmp_path / "other" / "a__b.png").read_bytes() == b"of someone else"


def test_what_is_refused_before_its_first_step_begins_nothing(run, job, tmp_path):
    code, err = run(*job("out", "--steps=1", "--tile=9"))
    assert (code, "tile must be at least" in err) == (1, True)
    assert not (tmp_path / "out-checkpoints").exists()
    code, err = run(*job("out", "--steps=1"))
    assert code == 0, err


def test_going_on_is_told_and_so_is_a_damaged_checkpoint(run, job, tmp_path):
    flags = ("--steps=4", "--checkpoint_every=1")
    code, err = run(*job("out", *flags))
    assert code == 0 and "continuing" not in err, err
    whole = files(tmp_path / "out")
    code, err = run(*job("out", *flags))
    assert code == 0 and "\ncontinuing from step 4 of 4\n" in err, err
    data = next((tmp_path / "out-checkpoints" / "0" / "4" / "states").rglob("d/*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    code, err = run(*job("out", *flags))
    assert code == 0, err
    assert "\ncheckpoint of step 4 is damaged: continuing from step 3 of 4\n" in err, err
    assert files(tmp_path / "out") == whole
    assert run(*job("out", *flags, "--quiet")) == (0, "")


def test_all_checkpoints_damaged(run, job, tmp_path):
    flags = ("--steps=2", "--checkpoint_every=1")
    assert run(*job("out", *flags))[0] == 0
    for path in (tmp_path / "out-checkpoints").glob("0/*/states/SHA256SUMS"):
        path.unlink()
    code, err = run(*job("out", *flags))
    assert code == 1
    assert err.strip().endswith("all checkpoints are damaged: delete the folder to start again")


# orbax leaves the tasks of a failed write to themselves.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_told_and_leaves_the_pictures_and_the_last_checkpoint(run, job, tmp_path):
    code, err = run(*job("whole", "--steps=4", "--save_every=1"))
    assert code == 0, err
    flags = ("--steps=4", "--checkpoint_every=1")
    with room_for(12_000):  # enough for the settings and the pictures, and not for the states
        code, err = run(*job("out", *flags))
    assert code == 1
    folder = tmp_path / "out-checkpoints" / "0"
    assert err.splitlines()[-1] == f"nst-jax: {folder}: cannot be written: File too large"
    assert "Traceback" not in err
    for stem in ("a__b", "a__c"):
        assert f"wrote {tmp_path / 'out' / stem}.png" in err
        kept = np.asarray(Image.open(tmp_path / "out" / f"{stem}.png"))
        after = [tmp_path / "whole" / stem / f"step_{step:06d}.png" for step in range(1, 5)]
        same = [np.array_equal(kept, np.asarray(Image.open(path))) for path in after]
        assert any(same[:3]) and not same[3]
    code, err = run(*job("out", *flags))
    assert code == 0, err
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_without_checkpoints_files_are_not_overwritten_by_a_job_that_never_began(run, job):
    arguments = job("out", "--steps=1")
    assert run(*arguments)[0] == 0
    others = [flag for flag in arguments if not flag.startswith("--checkpoint_dir")]
    code, err = run(*others)
    assert code == 1
    assert "would be overwritten" in err


@pytest.mark.slow
def test_diverged_outputs_are_tried_at_a_tenth_of_the_rate(run, pictures, tmp_path):
    """A rate of 1e38 leaves the range of float32, 1e37 and below stay in it after one step."""
    content, *styles = pictures
    arguments = [
        *(f"--content={content}", f"--styles={styles[0]}", *FAST, "--steps=1", "--noclip"),
        *(
            "--learning_rate=2,1e38",
            "--normalize_gradient=whole",
            "--schedule=constant",
        ),
    ]
    code, err = run(*arguments, f"--output_dir={tmp_path / 'once'}")
    assert code == 3
    assert "learning_rate=1e+38: stopped at a value that is not finite" in err
    code, err = run(*arguments, f"--output_dir={tmp_path / 'again'}", "--retries=9")
    assert code == 0, err
    assert "diverged, trying again at a tenth of the learning rate" in err
    same = f"{content.stem}__{styles[0].stem}__learning_rate=2.png"
    pictures = [np.asarray(Image.open(tmp_path / name / same)) for name in ("once", "again")]
    np.testing.assert_array_equal(*pictures)
    lines = list(map(json.loads, (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()))
    assert max(line.get("attempt", 0) for line in lines) >= 1


@pytest.mark.slow
def test_lbfgs_at_its_goal_is_done_and_not_diverged(run, pictures, tmp_path):
    """Nothing but a content loss that is zero: no gradient, no curvature."""
    content, *_ = pictures
    code, err = run(
        *(f"--content={content}", f"--styles={content}", f"--output_dir={tmp_path / 'out'}", *FAST),
        *("--steps=4", "--optimizer=lbfgs", "--style_weight=0", "--tv_weight=0"),
    )
    assert code == 0, err
    with Image.open(next((tmp_path / "out").glob("*__*.png"))) as picture:
        found = np.asarray(picture, np.int32)
    with Image.open(content) as picture:
        wanted = np.asarray(picture.convert("RGB").resize(found.shape[1::-1]), np.int32)
    assert np.abs(found - wanted).mean() < 6  # of resampling
