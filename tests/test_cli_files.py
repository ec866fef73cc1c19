"""The command line's files: formats, what they carry, and that none is lost."""

import json
import logging
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from commandline import FAST
from disk import closed_folder, room_for
from PIL import Image

from nst_jax.cli import console
from nst_jax.cli.flags import config_from_flags
from nst_jax.cli.look.charts import loss_curves
from nst_jax.cli.look.observers import Picture
from nst_jax.cli.main import BAD_INPUT, RECIPE_FLAGS, _main, recipe_arguments
from nst_jax.cli.outputs import sheet_names
from nst_jax.cli.run import PictureJob
from nst_jax.files.atomic import short
from nst_jax.files.images import FORMATS, read_text, write_image
from nst_jax.presets import presets
from nst_jax.weights.load import BUNDLED_FOLDER, CHECKSUMS, sha256


@pytest.fixture
def ask(capsys):
    """Asks the command something: `code, stdout, stderr = ask("--flag", ...)`."""

    def ask(*arguments):
        with flagsaver.flagsaver():
            code = _main(flags.FLAGS(["nst-jax", *arguments]))
        return code, *capsys.readouterr()

    return ask


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, for runs with paths that are no news to the reader."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_says_what_makes_it_again(run, ask, pictures, folder, kind):
    """Byte by byte, in every format, whatever the files are called."""
    content, *styles = pictures
    strange = folder / 'it\'s, "here" é.png'
    with Image.open(content) as picture:
        alpha = np.zeros((60, 80), np.uint8)
        alpha[:, 40:] = 255
        picture.putalpha(Image.fromarray(alpha))
        picture.save(strange)
    arguments = (f"--styles={styles[0]},{styles[1]}", *FAST, f"--format={kind}")
    quoted = '"' + strange.name.replace('"', '""') + '"'
    code, err = run(f"--content={quoted}", *arguments, "--seed=7", "--init=b.png")
    assert code == 0, err
    suffix = FORMATS[kind].suffix
    made = {name: data for name, data in names(folder / "out").items() if "__" in name}
    assert set(made) == {f"{strange.stem}__b{suffix}", f"{strange.stem}__c{suffix}"}
    picture = folder / "out" / f"{strange.stem}__b{suffix}"
    code, out, err = ask(f"--show_config={picture}")
    assert code == 0 and out.count("\n") == 1
    assert err.startswith("made with ") and sha256("vgg16") in err
    assert f"jax {jax.__version__}" in err and "; on 8 x cpu (cpu)" in err
    program, *again = shlex.split(out)
    assert program == "nst-jax" and "--first_size=128" in again and "--clip" in again
    assert f"--content={quoted}" in again and "--learning_rate=0.8" in again
    code, err = run(*again, "--output_dir=again")
    assert code == 0, err
    assert {n: data for n, data in names(folder / "again").items() if "__" in n} == made
    with Image.open(picture) as seen:
        assert seen.size == (48, 36)
        assert seen.mode == ("RGB" if kind == "jpg" else "RGBA")
        if kind != "jpg":
            found = np.asarray(seen)[..., 3]
            assert (found[:, :22] == 0).all() and (found[:, 26:] == 255).all()
    assert json.loads((folder / "out" / "config.json").read_text())["flags"] == again


# Flags of the style and of the content are for presets with such terms.
WITH_STYLE = [name for name, preset in presets.items() if preset.term("style")]


@pytest.mark.parametrize("preset", WITH_STYLE)
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--steps=7", "--noclip", "--schedule=constant", "--seed=3", "--tile=99", "--mesh=style:2"),
        ("--optimizer=sgd", "--content_weight=0,1e-3,0.1", "--momentum=0.30000000000000004"),
        ("--demo", "--style_layers=block1_conv1:0.1,block2_last:3e-7", "--tv_weight=0"),
        ("--content_layers=", "--optimizer=lbfgs", "--linesearch", "--style_loss=wasserstein"),
        ("--styles=a.png,b c.png", "--masks=x.png,y.png", "--style_masks=,z.png"),
        (
            "--mixing=0.7,0.3;0.5,0.5",
            "--weights=w.h5",
            "--init=style",
            "--optimizer=adam",
            "--beta1=0.1,0.2",
        ),
    ],
)
def test_the_settings_of_a_recipe_are_those_it_was_made_from(preset, arguments):
    def read(*arguments):
        with flagsaver.flagsaver():
            flags.FLAGS(["nst-jax", *arguments])
            others = {name: flags.FLAGS[name].value for name in RECIPE_FLAGS}
            config, sweep = config_from_flags()
            return config, sweep, others, recipe_arguments(config, sweep)

    first = read(f"--preset={preset}", *arguments)
    assert read(*first[-1]) == first


@pytest.mark.slow
def test_nothing_is_overwritten_unless_asked_for(run, pictures, folder):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST)
    code, err = run(*arguments)
    assert code == 0, err
    before = names(folder / "out")
    code, err = run(*arguments, "--steps=3")
    assert code == BAD_INPUT and names(folder / "out") == before
    assert err == (
        "nst-jax: out/a__b.png would be overwritten: choose another --output_dir, or --overwrite\n"
    )
    code, err = run(*arguments, "--steps=3", "--overwrite")
    assert code == 0, err
    after = names(folder / "out")
    assert after.keys() == before.keys() and after["a__b.png"] != before["a__b.png"]


@pytest.mark.slow
def test_quiet_leaves_the_errors(run, pictures, folder):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--quiet")
    assert run(*arguments) == (0, "")
    code, err = run(*arguments)
    assert code == BAD_INPUT and err.startswith("nst-jax: out/a__b.png would be overwritten")
    code, err = run(*arguments, "--overwrite", "--preset=assignment", "--learning_rate=1e30")
    assert (
        code == 3 and err.startswith("nst-jax: a__b: stopped at a value") and err.count("\n") == 1
    )


@pytest.mark.parametrize(("room", "lost"), [(100, "config.json"), (9000, "a__b.png")])
def test_a_full_disk_is_one_line_and_loses_nothing(run, pictures, folder, room, lost):
    """The same refusal of the system's, though in other words: see `room_for`."""
    content, style, _ = pictures
    (folder / "out").mkdir()
    before = b'{"pictures": ["a__b.png"]}'  # of the same pictures
    (folder / "out" / lost).write_bytes(before)
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--format=png16")
    with room_for(room):
        code, err = run(*arguments, "--overwrite")
    assert code == BAD_INPUT
    assert err.splitlines()[-1] == f"nst-jax: out/{lost}: cannot be written: File too large"
    assert (folder / "out" / lost).read_bytes() == before
    assert not list((folder / "out").glob(".*"))


@pytest.mark.parametrize("flag", ["output_dir", "checkpoint_dir", "tensorboard_dir"])
def test_a_folder_that_takes_nothing_is_told_before_anything_is_computed(
    run, pictures, folder, flag
):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST)
    before = set(folder.iterdir())
    for bad in (closed_folder(folder), content, content / "below"):
        code, err = run(*arguments, f"--{flag}={bad}")
        assert code == BAD_INPUT and err.startswith(f"nst-jax: {bad}: cannot be written: ")
        assert err.count("\n") == 1
    assert set(folder.iterdir()) - {folder / "closed"} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format=jpeg",), "--format must be one of png, png16, jpg, webp, tiff, got 'jpeg'; "),
        (("--format=webp", "--size=16400"), "a webp has at most 16383 pixels a side, got 16400"),
        (("--animate=webp", "--size=16400"), "a webp animation has at most 16383 pixels a side, "),
        (("--animate=gif", "--size=66000"), "a gif animation has at most 65535 pixels a side, "),
        (
            ("--format=tiff", "--size=30000"),
            "a tiff has at most 535822336 pixels, got 675000000, 22500x30000: "
            "choose a smaller --size or another --format",
        ),
        (("--content=vanished.png",), "vanished.png: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_written_or_read_is_told_first(run, pictures, folder, arguments, message):
    content, style, _ = pictures
    code, err = run(f"--content={content}", f"--styles={style}", *arguments)
    assert code == BAD_INPUT and err.startswith(f"nst-jax: {message}"), err
    assert err.count("\n") == 1 and not (folder / "out").exists()


@pytest.mark.slow
def test_names_too_long_for_a_disk_are_shortened(run, curves, pictures, folder):
    """Of the sheets and curves, too, each content's own."""
    longs = [folder / f"{'x' * 238}{end}.png" for end in "12"]
    for picture, long in zip(pictures[:2], longs, strict=True):
        picture.rename(long)
    code, err = run(f"--content={longs[0]},{longs[1]}", f"--styles={pictures[2]}", *FAST)
    assert code == 0, err
    stem = "x" * 200
    kinds = ("contact_sheet", "contact_sheet_2", "loss_curves", "loss_curves_2")
    made = {f"{stem}.png", f"{stem}_2.png", *(f"{stem}__{kind}.png" for kind in kinds)}
    found = names(folder / "out")
    assert found.keys() == made | {"config.json", "metrics.jsonl"}
    assert len({found[name] for name in made}) == 6


def test_no_picture_takes_the_name_of_any_contents_sheet():
    contents = [
        Picture(name, np.zeros(shape, np.float32))
        for name, shape in (("a", (60, 80, 3)), ("a__b", (80, 60, 3)))
    ]
    style = Picture("b__contact_sheet", np.zeros((9, 9, 3), np.float32))
    job = PictureJob(contents=contents, styles=[style], config=presets["default"])
    (output,) = job.outputs(contents[:1])  # a group of one shape, as `run` makes them
    assert sheet_names(contents)["a__b"][0] == "a__b__contact_sheet.png"
    assert output.stem == "a__b__contact_sheet_2"


def test_settings_too_long_for_a_jpeg_are_left_out(run, pictures, folder, monkeypatch):
    monkeypatch.setitem(FORMATS, "jpg", FORMATS["jpg"]._replace(longest_text=99))
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST)
    code, err = run(*arguments, "--format=jpg")
    assert code == 0 and "the settings are too long for the metadata of a jpg: left out" in err
    assert read_text(folder / "out" / "a__b.jpg") is None
    assert read_text(folder / "out" / "contact_sheet.png") is not None


@pytest.mark.parametrize(
    "text", [None, "a picture", "[1]", '{"flags": 3}', '{"flags": [3]}', "[" * 60_000]
)
def test_a_picture_without_settings_is_one_line(ask, tmp_path, text):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((40, 40, 3), np.float32), text=text)
    wanted = f"nst-jax: {path}: its metadata has no settings of nst-jax\n"
    assert ask(f"--show_config={path}") == (BAD_INPUT, "", wanted)


SETTINGS = {"flags": ["--size=9"], "versions": {"jax": "1"}, "devices": 1}
SETTINGS |= {"device": "cpu", "platform": "cpu", "weights_sha256": "0"}
MADE = "made with jax 1; on 1 x cpu (cpu); weights' SHA-256 0\n"


def write_settings(path, **changes):
    """A picture with settings in its metadata."""
    write_image(path, np.zeros((40, 40, 3), np.float32), text=json.dumps(SETTINGS | changes))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"device": "cpu\x1b]0;a\x07"}, "1 x cpu\\x1b]0;a\\x07 (cpu)"),
        ({"versions": {"jax": "1\n"}}, "jax 1\\n; on"),
        ({"weights_sha256": "\x9b"}, "SHA-256 \\x9b\n"),
        ({"weights_sha256": "\udc9b\ud800"}, "SHA-256 \\x9b\\ud800\n"),
    ],
)
def test_what_would_move_the_terminal_is_escaped(ask, tmp_path, changes, shown):
    path = tmp_path / "a.png"
    write_settings(path)
    assert ask(f"--show_config={path}") == (0, "nst-jax --size=9\n", MADE)
    write_settings(path, **changes)
    code, out, err = ask(f"--show_config={path}")
    assert (code, out) == (0, "nst-jax --size=9\n") and shown in err
    assert all(c.isprintable() for c in err.rstrip("\n"))


# As macOS names screenshots, an emoji of three, a byte of Latin-1, a right-to-left mark, controls.
ODD = {
    "shot at 9.41.07\u202fAM.png": "'--content=shot at 9.41.07\u202fAM.png'",
    "\U0001f468\u200d\U0001f469.png": "'--content=\U0001f468\u200d\U0001f469.png'",
    "caf\udce9.png": "'--content=caf\udce9.png'",
    "\u200f\u2028.png": "'--content=\u200f\u2028.png'",
    "a\x1b[2J'\\\n\t.png": "$'--content=a\\x1b[2J\\'\\\\\\n\\t.png'",
    "\x85\udc9b0.png": "$'--content=\\u0085\\x9b0.png'",
}


# pytest catches what is printed as text.
TEXTS = [name for name in ODD if "\udce9" not in name]


@pytest.mark.parametrize("name", TEXTS)
def test_the_command_is_shown_with_the_name_that_it_was_given(ask, folder, name):
    write_settings(folder / name, flags=[f"--content={name}"])
    assert ask(f"--show_config={name}") == (0, f"nst-jax {ODD[name]}\n", MADE)


@pytest.mark.slow
def test_the_line_that_is_shown_gives_the_same_bytes_in_a_shell(tmp_path, monkeypatch, request):
    """Also with a picture that is not there, whose name is told byte by byte."""
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("needs bash")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    command = request.getfixturevalue("command")  # in this folder, and speaking UTF-8

    def said(name):
        command.log.write_bytes(b"")
        command.start(f"--show_config={name}")
        return command.wait(), command.log.read_bytes()

    for name in ODD:
        write_settings(tmp_path / name, flags=[f"--content={name}"])
        code, out = said(name)
        assert code == 0 and MADE.encode() in out
        line = out.replace(MADE.encode(), b"").rstrip(b"\n").removeprefix(b"nst-jax ")
        again = subprocess.run(
            (shell, "-c", b"printf %s " + line), capture_output=True, timeout=120, check=False
        )
        assert again.stdout == b"--content=" + os.fsencode(name)
        (tmp_path / name).unlink()
        told = f"nst-jax: {console.escaped(name)}: cannot be read: No such file or directory\n"
        assert said(name) == (BAD_INPUT, os.fsencode(told))


@pytest.mark.parametrize("name", TEXTS)
def test_a_message_has_the_whole_name_on_one_line(run, folder, name):
    code, err = run(f"--show_config={name}")
    assert code == BAD_INPUT
    shown = console.escaped(name)
    assert err == f"nst-jax: {shown}: cannot be read: No such file or directory\n"
    if name[0] not in "a\x85":
        assert shown == name
    (folder / "d").mkdir()
    code, err = run(f"--content=d/{name}*", "--styles=d")
    assert err == f"nst-jax: --content: there are no pictures like 'd/{shown}*'\n"


def test_the_ends_of_long_names_are_whole_characters():
    assert short("x" * 199 + "é") == "x" * 199 and short("x" * 198 + "é") == "x" * 198 + "é"
    assert short("\udce9" * 201) == "\udce9" * 200 and short("caf\udce9") == "caf\udce9"
    assert short("\udc80" * 300) == "\udc80" * 200


def test_tables_and_warnings_keep_names(capsys):
    rows = console.table(("output", "state"), [("a\u202f\n.png", "done"), ("b", "done")])
    assert rows == ["output    state", "a\u202f\\n.png  done", "b         done"]
    told = ("nst_jax.x", logging.WARNING, "", 0, "%s: odd", ("a\u202f  \n",), None)
    record = logging.LogRecord(*told)
    console.Warnings().emit(record)
    assert capsys.readouterr().err == "nst-jax: a\u202f  \\n: odd\n"


def test_labels_that_are_no_text_are_drawn(tmp_path):
    loss_curves(tmp_path / "a.png", {"total": np.ones((3, 1))}, ["caf\udce9"])
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shot\u202fAM", "\U0001f468\u200d\U0001f469", "a\nb"])
def test_odd_names_go_through_all_files(run, ask, pictures, folder, name):
    content, style, _ = pictures
    content.rename(folder / f"{name}.png")
    pictured = (f"--content={name}.png", f"--styles={style}", *FAST, "--report", "--save_every=1")
    code, err = run(*pictured, "--checkpoint_dir=saved")
    assert code == 0, err
    assert f"out/{console.escaped(name)}__b.png" in err
    assert (folder / "out" / f"{name}__b" / "step_000002.png").exists()
    lines = (folder / "out" / "metrics.jsonl").read_text().split("\n")[:-1]
    assert {json.loads(line)["output"] for line in lines} == {f"{name}__b"}
    code, out, err = ask(f"--show_config=out/{name}__b.png")
    assert code == 0 and console.shell_line([f"--content={name}.png"]) in out


def test_the_digest_is_that_of_the_file(tmp_path):
    sums = (BUNDLED_FOLDER / CHECKSUMS).read_text()
    for model in ("vgg16", "vgg19"):
        assert f"{sha256(model)}  {model}.h5" in sums
        assert sha256(BUNDLED_FOLDER / f"{model}.h5") == sha256(model)
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(pathlib.Path(tmp_path / "a")).startswith("ba7816bf8f01cfea414140de5dae")
    with pytest.raises(ValueError, match="none.h5: no such file"):
        sha256("none.h5")


@pytest.mark.parametrize("flag", ["--noquiet", pytest.param("--quiet", marks=pytest.mark.slow)])
def test_a_broken_profile_is_told_in_a_line_of_the_commands_own(tmp_path, flag):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path, icc_profile=b"no profile at all")
    # It is read twice, and told once.
    files = (f"--content={path},{path}", "--styles=none.png")
    command = [sys.executable, "-m", "nst_jax", *files, flag]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    warning, closing = f"nst-jax: {path}: broken colour profile ignored: ", "nst-jax: none.png: "
    *warnings, last = done.stderr.splitlines()
    assert last.startswith(closing) and done.stdout == ""
    assert [line.startswith(warning) for line in warnings] == [True] * (flag == "--noquiet")


def test_what_is_printed_from_below_python_in_a_run_goes_to_stderr(capfd):
    with console.stdout_on_stderr():
        os.write(1, b"from below")
    os.write(1, b"an answer")
    assert capfd.readouterr() == ("an answer", "from below")
