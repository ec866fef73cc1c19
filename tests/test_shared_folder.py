"""Several runs in one folder: numbers of their records, what they made, and locks."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from commandline import FAST
from disk import room_for

from nst_jax.cli import run as cli_run
from nst_jax.cli import shared_folder
from nst_jax.cli.dataset.manifest import Manifest
from nst_jax.cli.dataset.pairs import expand
from nst_jax.cli.look.observers import Picture, Records
from nst_jax.cli.main import BAD_INPUT
from nst_jax.cli.outputs import sheet_names
from nst_jax.cli.shared_folder import free_number, made, numbered, records, writing
from nst_jax.files.atomic import FileError


def files(folder):
    paths = filter(pathlib.Path.is_file, folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def config_names(number):
    return [numbered("config.json", number), numbered("metrics.jsonl", number)]


def test_names_of_later_runs_have_their_number():
    assert config_names(1) == ["config.json", "metrics.jsonl"]
    assert config_names(2) == ["config_2.json", "metrics_2.jsonl"]
    contents = [Picture(name, np.zeros((9, 9, 3), np.float32)) for name in "ab"]
    found = sheet_names(contents[:1], number=3)
    assert found == {"a": ("contact_sheet_3.png", "loss_curves_3.png")}
    assert sheet_names(contents, number=2)["b"] == (
        "b__contact_sheet_2.png", "b__loss_curves_2.png",
    )  # fmt: skip


def test_a_run_takes_the_first_number_whose_files_are_free(tmp_path):
    assert free_number(tmp_path / "none", config_names) == 1
    (tmp_path / "metrics.jsonl").touch()
    assert free_number(tmp_path, config_names) == 2
    assert free_number(tmp_path, config_names, taken={2, 3}) == 4
    assert free_number(tmp_path, config_names, own=["config_2.json"]) == 3


def test_records_and_what_they_made(tmp_path):
    assert records(tmp_path / "none") == [] and made(tmp_path / "none") == set()
    for name, found in {
        "config.json": {"pictures": ["a.png"], "files": ["contact_sheet.png", "a"]},
        "config_10.json": {"pictures": ["c.png"]},
        "config_2.json": {"pictures": ["b.png"], "files": 3},
        "config_3.json": [1],  # foreign, as are the next ones
        "config-1.json": {"pictures": ["d.png"]},
        "configuration.json": {"pictures": ["e.png"]},
    }.items():
        (tmp_path / name).write_text(json.dumps(found))
    (tmp_path / "config_4.json").write_text("{")
    assert [record.number for record in records(tmp_path)] == [1, 2, 10]
    (tmp_path / "manifest_2-1.jsonl").write_text('{"output": "deep/f.png"}\n{"path": "g"}\n{"outp')
    (tmp_path / ".nst_jax-0.lock").write_text('[1, ["h.png"], "process 9 on a"]')  # of one killed
    (tmp_path / ".nst_jax-1.lock").write_text('[1, ["i.')
    wanted = {"a.png", "contact_sheet.png", "a", "b.png", "c.png", "deep/f.png", "h.png"}
    own = {"config.json", *(f"config_{number}.json" for number in (2, 3, 4, 10))}
    assert made(tmp_path) == wanted | own | {"manifest_2-1.jsonl"}


# ------------------------- Inputs and outputs in one folder ---------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "deep/b.png", "a__s.png", "deep/b__s.png", "b__t/step_000001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    manifest = Manifest(tmp_path)
    manifest.write(
        [
            {"content": "a", "style": "s", "output": name, "diverged": False}
            for name in ("a__s.png", "deep/b__s.png")
        ]
    )
    manifest.close()
    (tmp_path / "config.json").write_text('{"files": ["b__t"]}')
    return tmp_path


@pytest.mark.parametrize("item", [".", "**/*.*", "{}", "{}/**/*"])
def test_pictures_that_earlier_runs_made_are_no_inputs(folder, capsys, item):
    found = expand([item.format(folder)], flag="--content", output_dir=".", made=made(folder))
    assert [source.name for source in found] == ["a", "deep/b"]
    told = "nst-jax: --content: passed over 3 pictures that earlier runs made\n"
    assert capsys.readouterr().err == told


def test_a_folder_of_outputs_alone_says_so(folder):
    for name in ("a.jpg", "deep/b.png"):
        (folder / name).unlink()
    with pytest.raises(ValueError) as caught:
        expand(["."], flag="--content", output_dir=".", made=made(folder))
    assert str(caught.value) == (
        "--content: there are no pictures in the folder '.', but the 3 that earlier runs made"
    )


def test_the_command_takes_its_inputs_from_the_folder_of_its_outputs(run, folder):
    """All of them are empty files, so each is named as one that cannot be read."""
    for name in ("a__s.png", "deep/b__s.png", "b__t/step_000001.png"):
        (folder / name).write_bytes(b"never read")
    (folder / "config.json").write_text('{"files": ["b__t"]}')
    code, err = run("--content=.", "--styles=.", "--output_dir=.", *FAST)
    assert code == BAD_INPUT
    *passed, last = err.splitlines()
    assert passed == [
        f"nst-jax: --{flag}: passed over 3 pictures that earlier runs made"
        for flag in ("content", "styles")
    ]
    assert last == "nst-jax: no pair of pictures can be read: a.jpg: the file is empty"


# ------------------------------------ Locks -------------------------------------


def first(taken):
    return next(number for number in range(1, 9) if number not in taken)


def test_runs_with_other_pictures_write_at_once_and_have_numbers_of_their_own(tmp_path):
    with writing(tmp_path, ["a.png"], choose=first) as one:
        with writing(tmp_path, ["b.png"], choose=first) as two, pytest.raises(FileError) as caught:
            assert (one, two) == (1, 2)
            with writing(tmp_path, ["c.png", "b.png"], choose=first):
                pytest.fail("two runs write one picture")
        wanted = f"{tmp_path / 'b.png'} is being written by another run (process {os.getpid()} on "
        assert str(caught.value).startswith(wanted)
        assert str(caught.value).endswith("): wait for its end, or choose another --output_dir")
        with writing(tmp_path, ["b.png"], choose=first) as again:
            assert again == 2
    assert list(tmp_path.iterdir()) == []


HOLD = """
import pathlib, sys, time
from nst_jax.cli.shared_folder import writing
with writing(pathlib.Path(sys.argv[1]), ["a.png"], choose=lambda _: 1):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_that_was_killed_leaves_no_lock(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with (
            pytest.raises(FileError, match=rf"written by another run \(process {process.pid} on "),
            writing(tmp_path, ["a.png"], choose=first),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    with writing(tmp_path, ["a.png"], choose=first) as number:
        assert number == 1
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_begin_at_once_each_has_its_own_number(tmp_path):
    numbers, barrier, stay = [], threading.Barrier(8), threading.Barrier(8)

    def begin(index):
        barrier.wait()
        with writing(tmp_path, [f"{index}.png"], choose=first) as number:
            numbers.append(number)
            stay.wait()

    threads = [threading.Thread(target=begin, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(numbers) == list(range(1, 9))


@pytest.mark.parametrize("problem", ["no locks", "no module", "full disk"])
def test_a_run_goes_on_without_a_lock_where_there_is_none(tmp_path, monkeypatch, problem):
    if problem == "no module":
        monkeypatch.setattr(shared_folder, "fcntl", None)
    elif problem == "no locks":

        def refuse(*_):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(shared_folder.fcntl, "flock", refuse)
    with room_for(5), writing(tmp_path, ["a.png"], choose=first) as number:
        assert number == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------ Runs of the command -----------------------------


def test_records_have_the_number_of_their_run(tmp_path):
    for number in (1, 3):
        with Records(tmp_path, {"n": number}, number=number) as kept:
            kept.write([{"output": "a", "step": number, "seconds": 1.0}])
    assert sorted(files(tmp_path)) == sorted([*config_names(1), *config_names(3)])
    assert json.loads(files(tmp_path)["config_3.json"]) == {"n": 3}
    assert [line["step"] for line in Records(tmp_path, {}, number=3).earlier] == [3]


def test_later_runs_leave_the_records_of_earlier_ones_alone(run, pictures, tmp_path, monkeypatch):
    """What a run decides before it paints; here a picture is an empty file."""
    content, *styles = pictures
    out = tmp_path / "out"
    common = (f"--content={content}", f"--output_dir={out}", *FAST)
    refused = []

    def paint(delivery, number, job, runner, described, paintings, outputs, *, first):
        with Records(delivery.folder, described, number=number) as kept:
            kept.write([])
        for name in described["pictures"]:
            (delivery.folder / name).touch()
        names = set(described["pictures"])
        with contextlib.suppress(FileError), writing(out, names, choose=lambda _: 9):
            pytest.fail("the run holds no lock")
        refused.append(number)
        return 0

    monkeypatch.setattr(cli_run, "_paint_into", paint)
    both = f"--styles={styles[0]},{styles[1]}"
    for number, (flags, pictures_made) in enumerate(
        [
            ((f"--styles={styles[0]}",), ["a__b.png"]),
            ((f"--styles={styles[1]}",), ["a__c.png"]),
            ((f"--styles={styles[0]}", "--format=jpg"), ["a__b.jpg"]),
            ((both, "--overwrite"), ["a__b.png", "a__c.png"]),
        ],
        start=1,
    ):
        before = files(out)
        assert run(*common, *flags)[0] == 0
        after = files(out)
        assert {name: after[name] for name in before} == before
        assert json.loads(after[numbered("config.json", number)])["pictures"] == pictures_made
    assert refused == [1, 2, 3, 4]
    before = files(out)
    code, err = run(*common, both)
    assert (code, files(out)) == (BAD_INPUT, before)
    wanted = f"nst-jax: {out / 'a__b.png'} and 1 more would be overwritten: choose another "
    assert err == wanted + "--output_dir, or --overwrite\n"
    # The same pictures have the same records.
    assert run(*common, f"--styles={styles[1]}", "--seed=7", "--overwrite")[0] == 0
    after = files(out)
    assert json.loads(after.pop("config_2.json"))["seed"] == 7
    assert after == {name: data for name, data in before.items() if name != "config_2.json"}


@pytest.mark.slow
def test_a_further_style_adds_its_picture_and_records_of_its_own(run, pictures, tmp_path):
    content, *styles = pictures
    out = tmp_path / "out"
    common = (f"--content={content}", f"--output_dir={out}", *FAST, "--steps=1", "--mesh=style:1")
    code, err = run(*common, f"--styles={styles[0]}")
    assert code == 0, err
    before = files(out)
    code, err = run(*common, f"--styles={styles[1]}", "--report")
    assert code == 0, err
    assert "nst-jax: the records of this run are config_2.json and so on" in err
    after = files(out)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        "a__c.png", "config_2.json", "metrics_2.jsonl", "contact_sheet_2.png", "loss_curves_2.png",
        "report_2.html",
    }  # fmt: skip
    record = json.loads(after["config_2.json"])
    assert record["pictures"] == ["a__c.png"] and "contact_sheet_2.png" in record["files"]
    assert f"--styles={styles[1]}" in record["flags"]
    assert made(out) >= after.keys()

    # The same pictures again are refused, and replaced with their own records when asked for.
    code, err = run(*common, f"--styles={styles[1]}")
    wanted = f"nst-jax: {out / 'a__c.png'} would be overwritten: choose another --output_dir, or "
    assert (code, err) == (BAD_INPUT, wanted + "--overwrite\n")
    code, err = run(*common, f"--styles={styles[1]}", "--seed=5", "--overwrite")
    assert code == 0, err
    again = files(out)
    assert again.keys() == after.keys() and json.loads(again["config_2.json"])["seed"] == 5
    assert {name: again[name] for name in before} == before

    # Nobody writes a picture that another run is writing.
    with writing(out, ["a__c.png"], choose=lambda _: 9):
        code, err = run(*common, f"--styles={styles[1]}", "--overwrite")
    assert code == BAD_INPUT and err.startswith(f"nst-jax: {out / 'a__c.png'} is being written by ")
    assert err.count("\n") == 1 and files(out) == again


@pytest.mark.slow
def test_a_further_data_set_adds_its_pictures_and_records_of_its_own(run, pictures, tmp_path):
    content, *styles = pictures
    out = tmp_path / "out"

    def paint(style, *more):
        flags = (f"--content={content}", f"--styles={style}", "--pairing=all", *FAST, "--steps=1")
        return run(*flags, f"--output_dir={out}", "--mesh=style:1", *more)

    code, err = paint(styles[0])
    assert code == 0, err
    before = files(out)
    assert before.keys() == {"a__b.png", "config.json", "manifest.jsonl"}
    code, err = paint(styles[1])
    assert code == 0 and "nst-jax: the records of this run are config_2.json and so on" in err
    after = files(out)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"a__c.png", "config_2.json", "manifest_2.jsonl"}
    for style in styles:  # each continues its own
        code, err = paint(style)
        assert code == 0 and " holds 1 of 1 pictures" in err and files(out) == after
    code, err = paint(styles[0], "--seed=3")
    assert code == BAD_INPUT
    assert err.startswith(f"nst-jax: {out / 'config.json'} belongs to a run that differs in seed ")
    with writing(out, ["a__c.png"], choose=lambda _: 9):
        code, err = paint(styles[1])
    assert code == BAD_INPUT and err.startswith(f"nst-jax: {out / 'a__c.png'} is being written by ")
