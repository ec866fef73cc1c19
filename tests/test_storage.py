"""The command with pictures, records and checkpoints in buckets on this machine: see `buckets`."""

import io
import json
import signal

import numpy as np
import pytest
from buckets import forget_clients
from commandline import FAST
from PIL import Image
from test_cli_scale import finish, start_two

from nst_jax.cli.progress import StepProgress
from nst_jax.cli.signals import Stopping
from nst_jax.files import mirror, paths

FAST = (*FAST, "--mesh=style:1")


@pytest.fixture
def inputs(tmp_path, rng, monkeypatch):
    """Two contents and two styles, in folders of this machine."""
    monkeypatch.chdir(tmp_path)
    for name, shape in (("in/a", (36, 48)), ("in/deep/b", (36, 48)), ("styles/s", (40, 40)),
                        ("styles/t", (48, 36))):  # fmt: skip
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
    return tmp_path


def copied(bucket, folder):
    """Copies a folder of this machine into a bucket."""
    for path in folder.rglob("*.png"):
        bucket.put(path.relative_to(folder).as_posix(), path.read_bytes())


def local(folder):
    """{name: bytes} of the files below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")
            if p.is_file()}  # fmt: skip


def same(files, *roots):
    """Files without what differs from run to run: times, and names of folders."""
    found = {}
    for name, data in files.items():
        if name.endswith((".jsonl", ".json")):
            text = data.decode()
            for root in roots:
                text = text.replace(f"{root}/", "")
            lines = text.splitlines() if name.endswith(".jsonl") else [text]
            found[name] = [
                {k: v for k, v in json.loads(line).items() if k not in ("seconds", "flags")}
                for line in lines
            ]
        elif name.endswith(".png") and "curves" not in name and "sheet" not in name:
            with Image.open(io.BytesIO(data)) as picture:
                found[name] = np.asarray(picture).tobytes()
        else:
            found[name] = None
    return found


def line(err):
    (only,) = err.strip().splitlines()
    return only


def test_a_run_in_a_bucket_is_the_run_on_a_disk(run, inputs, bucket):
    copied(bucket, inputs)
    flags = (*FAST, "--report", "--log_every=1", "--save_every=1", "--animate=gif")

    def paint(root):
        return run(f"--content={root}/in/a.png", f"--styles={root}/styles/s.png",
                   f"--output_dir={root}/out", *flags)  # fmt: skip

    code, err = paint(inputs)
    assert code == 0, err
    code, err = paint(bucket.address)
    assert code == 0, err
    assert f"wrote {bucket / 'out/report.html'}" in err and bucket / "out/a__s.png" in err
    files = bucket.files("out")
    assert same(files, bucket.address) == same(local(inputs / "out"), inputs)
    wanted = {"a__s.png", "config.json", "metrics.jsonl", "report.html", "contact_sheet.png"}
    assert wanted < set(files) and "a__s/step_000002.png" in files
    assert b'data-state="finished"' in files["report.html"]

    # It is not written over, and tells how it was made.
    code, err = paint(bucket.address)
    assert code == 1
    assert line(err).startswith(f"nst-jax: {bucket / 'out/a__s.png'} and 1 more would be overwri")
    assert bucket.files("out") == files


def test_show_config_reads_a_bucket(s3, inputs, capsys):
    from absl import flags
    from absl.testing import flagsaver

    from nst_jax.cli.main import _main
    from nst_jax.files.images import write_image

    described = {"flags": ["--size=48"], "versions": {}, "devices": 1, "device": "x",
                 "platform": "cpu", "weights_sha256": "0"}  # fmt: skip
    write_image(s3 / "a.png", np.zeros((40, 40, 3), np.float32), text=json.dumps(described))
    with flagsaver.flagsaver():
        assert _main(flags.FLAGS(["nst-jax", f"--show_config={s3 / 'a.png'}"])) == 0
    assert capsys.readouterr().out == "nst-jax --size=48\n"


@pytest.mark.slow
def test_masks_and_the_start_come_from_a_bucket_too(run, inputs, s3, rng):
    for name, shape in (("left", (36, 48)), ("right", (36, 48)), ("part", (48, 36)),
                        ("start", (36, 48))):  # fmt: skip
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        Image.fromarray(image).save(inputs / f"{name}.png")
    copied(s3, inputs)
    for root in (inputs, s3.address):
        code, err = run(
            f"--content={root}/in/a.png", f"--styles={root}/styles/s.png,{root}/styles/t.png",
            f"--masks={root}/left.png,{root}/right.png", f"--style_masks=,{root}/part.png",
            f"--init={root}/start.png", f"--output_dir={root}/out", *FAST,
        )  # fmt: skip
        assert code == 0, err
    assert same(s3.files("out"), s3.address) == same(local(inputs / "out"), inputs)


# --------------------------------- Data sets ------------------------------------


@pytest.mark.slow
def test_a_data_set_in_a_bucket_goes_on_where_it_ended(run, inputs, s3, monkeypatch):
    copied(s3, inputs)
    s3.put("in/broken.png", b"no picture")
    (inputs / "in" / "broken.png").write_bytes(b"no picture")

    def paint(root, *more):
        return run(f"--content={root}/in/**/*.png", f"--styles={root}/styles",
                   f"--output_dir={root}/out", "--batch_size=2", *FAST, *more)  # fmt: skip

    assert paint(inputs)[0] == 4
    code, err = paint(s3.address)
    assert code == 4, err
    assert f"skipped {s3 / 'in/broken.png'}: not an image" in err
    files = s3.files("out")
    assert set(files) == {"a__s.png", "a__t.png", "deep/b__s.png", "deep/b__t.png",
                          "config.json", "manifest.jsonl"}  # fmt: skip
    assert same(files, s3.address) == same(local(inputs / "out"), inputs)

    # Nothing is left to do; the storage is not asked about each picture.
    asked, kind = [], paths._kind
    monkeypatch.setattr(paths, "_kind", lambda path: asked.append(str(path)) or kind(path))
    assert paint(s3.address)[0] == 4
    assert s3.files("out") == files and not [name for name in asked if "__" in name]

    # A picture that is gone, and one that the manifest lacks, are painted again.
    s3.fs.rm_file(s3 / "out/a__s.png")
    lines = files["manifest.jsonl"].splitlines(keepends=True)
    s3.put("out/manifest.jsonl", b"".join(lines[:-1]) + lines[-1][:20])
    code, err = paint(s3.address)
    assert code == 4, err
    again = s3.files("out")
    assert {n: d for n, d in again.items() if n.endswith("png")} == {
        n: d for n, d in files.items() if n.endswith("png")
    }
    assert len(again["manifest.jsonl"].splitlines()) == len(lines) + 1

    code, err = paint(s3.address, "--steps=3")
    assert code == 1
    assert line(err).startswith(f"nst-jax: {s3 / 'out/config.json'} belongs to a run that differs")


def test_processes_share_a_data_set_in_a_bucket(run, inputs, s3):
    copied(s3, inputs)
    for number in (1, 0, 1):
        code, err = run(f"--content={s3 / 'in'}", f"--styles={s3 / 'styles/s.png'}", *FAST,
                        "--num_processes=2", f"--process_id={number}",
                        f"--output_dir={s3 / 'out'}")  # fmt: skip
        assert code == 0, err
    assert "1/1 pictures" not in err  # process 1 had no more to do
    files = same(s3.files("out"))
    assert set(files) == {"a__s.png", "deep/b__s.png", "config.json", "manifest.jsonl",
                          "manifest-1.jsonl"}  # fmt: skip
    assert [len(files[f"manifest{number}.jsonl"]) for number in ("", "-1")] == [1, 1]


# -------------------------------- Checkpoints -----------------------------------


@pytest.fixture
def job(run, inputs, s3):
    """Runs of four steps, with a checkpoint after each second one."""
    copied(s3, inputs)

    def job(root, name, *more):
        return run(f"--content={root}/in/a.png", f"--styles={root}/styles/s.png",
                   f"--output_dir={root}/{name}", f"--checkpoint_dir={root}/{name}-steps",
                   *FAST, "--steps=4", "--checkpoint_every=2", "--log_every=1", *more)  # fmt: skip

    return job


def steps(bucket, folder):
    """The steps below a folder of checkpoints, with all their sums or without."""
    found = {}
    for name in bucket.files(f"{folder}/0"):
        step, slash, rest = name.partition("/")
        if slash:
            found.setdefault(int(step), set()).add(rest)
    sums = {"states/SHA256SUMS", "history/SHA256SUMS"}
    return {step: sums <= names for step, names in found.items()}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["signal", "error"])
def test_an_interrupted_run_is_resumed_to_the_same_bits(job, s3, temporary, monkeypatch, ended):
    assert job(s3.address, "undisturbed")[0] == 0
    follow, enter, stopping = StepProgress.__call__, Stopping.__enter__, []

    def entered(self):
        stopping.append(self)
        return enter(self)

    def interrupt(self, progress, *arguments):
        follow(self, progress, *arguments)
        if progress.step == 3 and ended == "error":
            raise KeyboardInterrupt
        if progress.step == 3:
            stopping[0].signalled = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(StepProgress, "__call__", interrupt)
        patch.setattr(Stopping, "__enter__", entered)
        code, err = job(s3.address, "out")
    assert code == {"signal": 143, "error": 130}[ended], err
    last = {"signal": 3, "error": 2}[ended]
    assert steps(s3, "out-steps") == dict.fromkeys(range(2, last + 1), True)
    code, err = job(s3.address, "out")
    assert code == 0 and f"continuing from step {last} of 4" in err, err
    assert same(s3.files("out")) == same(s3.files("undisturbed"))
    assert steps(s3, "out-steps") == {last: True, 4: True}  # the newest two


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["unfinished", "damaged"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(job, s3, temporary, damage):
    assert job(s3.address, "out")[0] == 0
    whole = s3.files("out")
    assert steps(s3, "out-steps") == {2: True, 4: True}
    names = [name for name in s3.files("out-steps/0/4") if name.startswith("states")]
    if damage == "unfinished":
        s3.fs.rm_file(s3 / "out-steps/0/4/states/SHA256SUMS")
        s3.put("out-steps/0/7/history/half", b"x")
    else:
        data = max((name for name in names if "/d/" in name), key=len)
        s3.put(f"out-steps/0/4/{data}", b"x" * len(s3.fs.cat_file(s3 / f"out-steps/0/4/{data}")))
    for name in whole:
        s3.fs.rm_file(s3 / f"out/{name}")
    code, err = job(s3.address, "out")
    assert code == 0, err
    passed = "checkpoint of step 4 is damaged: " if damage == "damaged" else ""
    assert f"\n{passed}continuing from step 2 of 4" in f"\n{err}"
    assert same(s3.files("out")) == same(whole)
    assert steps(s3, "out-steps") == {2: True, 4: True}


@pytest.mark.slow
def test_an_upload_that_breaks_off_is_told_and_does_not_count(job, s3, temporary, monkeypatch):
    upload, left = mirror.upload, [12]

    def breaking(source, target):
        left[0] -= 1
        if not left[0]:
            raise paths.StorageError(5, "the line is cut", str(target))
        upload(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "upload", breaking)
        code, err = job(s3.address, "out")
    assert code == 1
    assert err.strip().splitlines()[-1] == (
        f"nst-jax: {s3 / 'out-steps/0'}: cannot be written: the line is cut"
    )
    assert steps(s3, "out-steps") == {2: False}
    code, err = job(s3.address, "out", "--overwrite")
    assert code == 0 and "continuing" not in err, err
    assert steps(s3, "out-steps") == {2: True, 4: True}


def test_checkpoints_of_another_run_are_refused(job, s3):
    assert job(s3.address, "out", "--steps=2")[0] == 0
    code, err = job(s3.address, "out")
    assert code == 1
    assert line(err) == (
        f"nst-jax: {s3 / 'out-steps/0'} holds checkpoints of a run that differs in steps (2 there, "
        "4 now)"
    )
    s3.fs.rm_file(s3 / "out-steps/0/settings.json")
    code, err = job(s3.address, "out")
    assert code == 1 and "holds checkpoints without their settings.json" in line(err)


@pytest.mark.slow
def test_two_processes_share_a_bucket(inputs, s3):
    """Both read it, each writes its pictures, and the first writes the checkpoints."""
    copied(s3, inputs)
    flags = [f"--content={s3 / 'in/a.png'}", f"--output_dir={s3 / 'out'}", *FAST[:-1]]
    flags += [f"--styles={s3 / 'styles/s.png'},{s3 / 'styles/t.png'}", "--mesh=style:2"]
    flags += [f"--checkpoint_dir={s3 / 'steps'}", "--steps=4", "--checkpoint_every=2"]
    finish(start_two(*flags, devices=1))
    whole = s3.files("out")
    assert steps(s3, "steps") == {2: True, 4: True} and {"a__s.png", "a__t.png"} < set(whole)
    for name in s3.files("steps/0/4"):
        s3.fs.rm_file(s3 / f"steps/0/4/{name}")
    for name in whole:
        s3.fs.rm_file(s3 / f"out/{name}")
    first, second = finish(start_two(*flags, devices=1))
    assert "continuing from step 2 of 4" in first and "continuing" not in second
    assert same(s3.files("out")) == same(whole)
    assert steps(s3, "steps") == {2: True, 4: True}


# ----------------------------------- Errors -------------------------------------


@pytest.fixture
def refused(run, inputs, s3):
    copied(s3, inputs)

    def refused(**changes):
        flags = {"content": s3 / "in/a.png", "styles": s3 / "styles/s.png", "output_dir": "out"}
        code, err = run(*FAST, *(f"--{n}={v}" for n, v in (flags | changes).items()))
        assert code == 1, err
        assert not (inputs / "out").exists() and not s3.files("out")
        return line(err).removeprefix("nst-jax: ")

    return refused


def test_what_a_bucket_lacks_is_told_in_one_line(refused, s3):
    s3.put("text.png", b"no picture")
    missing = "s3://nobody-has-it/x"
    assert refused(content=s3 / "none.png") == (
        f"{s3 / 'none.png'}: cannot be read: no such object or bucket"
    )
    assert refused(styles=s3 / "text.png").startswith(f"{s3 / 'text.png'}: not an image in a known")
    assert refused(content=missing) == f"{missing}: cannot be read: no such object or bucket"
    assert refused(content=f"{missing}/*.png") == f"{missing}: no such bucket"
    assert refused(output_dir=missing) == f"{missing}: no such bucket"
    assert refused(output_dir=missing, overwrite="true") == (
        f"{missing}: cannot be written: no such bucket"
    )
    assert refused(checkpoint_dir=missing) == f"{missing}/0: cannot be read: no such bucket"
    assert refused(init=s3 / "none.png").endswith("cannot be read: no such object or bucket")


def test_missing_credentials_are_told_in_one_line(refused, s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients()
    monkeypatch.setattr(s3, "files", lambda folder: {})  # which nobody may look at now
    assert refused() == f"{s3 / 'in/a.png'}: Unable to locate credentials"


def test_what_stays_on_this_machine_is_refused_by_its_flag(refused):
    for flag in ("tensorboard_dir", "profile_dir", "weights"):
        assert refused(**{flag: "gs://b/x"}) == (
            f"--{flag} must be a path on this machine, got 'gs://b/x'"
        )
    assert refused(content="http://x/a.png") == (
        "http://x/a.png: web addresses are not fetched: wanted a path on this machine, gs:// or s3://"
    )
