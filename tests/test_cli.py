import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from commandline import FAST, SMALL
from PIL import Image

import nst_jax
from nst_jax import examples
from nst_jax.cli import outputs as cli_outputs
from nst_jax.cli.look.contact_sheet import contact_sheet
from nst_jax.cli.main import BAD_INPUT, _parse
from nst_jax.cli.run import DIVERGED
from nst_jax.files.images import read_image

STYLES = ("rainbow", "triangles")  # of --demo


@pytest.fixture
def drawn_at_once(monkeypatch):
    """Pictures of --demo that take no time to draw."""
    for name in ("butterfly", *STYLES):
        monkeypatch.setitem(
            examples.by_name, name, lambda size: np.full((size, size, 3), 0.5, np.float32)
        )


def test_writes_every_file_of_a_run(run, curves, pictures, tmp_path):
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
        "step", "style", "output", "total", "content", "style_loss", "tv", "seconds",
    }  # fmt: skip
    assert lines[2]["total"] < lines[0]["total"]
    recorded = json.loads((out / "config.json").read_text())
    assert recorded["network"] == "vgg16"
    assert recorded["config"]["steps"] == 2
    assert recorded["config"]["style_layers"] == {"block1_conv1": 0.5, "block2_conv1": 0.5}
    assert recorded["versions"]["nst_jax"] == nst_jax.__version__
    *_, heading, first, second = err.splitlines()
    assert "step 2/2" in err and heading.split() == ["output", "loss", "steps", "seconds", "state"]
    path, start, arrow, end, steps, seconds, state = first.split()
    assert (path, arrow, steps, state) == (str(out / "a__b.png"), "->", "2", "done")
    assert float(start) == pytest.approx(lines[0]["total"], rel=1e-3)
    assert float(end) < lines[2]["total"]  # after the last step
    assert float(seconds) > 0 and second.split()[0] == str(out / "a__c.png")


@pytest.mark.slow
def test_a_loss_that_rises_is_told_after_the_table(run, pictures, tmp_path):
    """Of two rates, the one that is too large."""
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST)
    arguments += (
        "--learning_rate=1,30000",
        "--mesh=style:1",
        "--noclip",
        "--steps=4",
        "--schedule=constant",
        "--first_size=24",
        "--log_every=1",
    )
    code, err = run(*arguments, f"--output_dir={tmp_path}")
    assert code == 0, err
    lines = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    kept = [line.get("kept_start", 0) for line in lines if "30000" in line["output"]]
    assert kept == [0, 0, 0, 1, 1, 1, 1, 2]  # from the end of each scale on
    assert not any("kept_start" in line for line in lines if "30000" not in line["output"])
    *_, good, bad, told = err.splitlines()
    assert good.split()[-1] == "done" and bad.endswith("no better at 2 scales: start kept")
    assert told.startswith(
        "nst-jax: a__b__learning_rate=30000: the loss rose at 2 of 2 scales, which returned the "
        "picture unchanged; a smaller --learning_rate may help, or other weights of the terms ("
    )
    terms = dict(each.rsplit(" ", 1) for each in told.partition("terms (")[2][:-1].split(", "))
    last = next(line for line in reversed(lines) if "30000" in line["output"])
    for name, value in terms.items():
        np.testing.assert_allclose(
            float(value), last[{"style": "style_loss"}.get(name, name)], rtol=6e-3
        )


def test_styles_of_one_name_keep_their_own_files(run, pictures, tmp_path):
    content, style, _ = pictures
    code, err = run(
        f"--content={content}", f"--styles={style},{style}", f"--output_dir={tmp_path}", *FAST
    )
    assert code == 0, err
    assert (tmp_path / "a__b.png").exists() and (tmp_path / "a__b_2.png").exists()


@pytest.mark.slow
def test_demo_runs_as_a_command_without_input_and_compiles_once_for_all_runs(tmp_path):
    compiled = tmp_path / "cache" / "nst_jax" / "compiled"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "NST_JAX_"))}
    programs, pictures = [], []
    for seed in (0, 1):  # which draws nothing here: the pictures are to be the same
        done = subprocess.run(
            [sys.executable, "-m", "nst_jax", "--demo", *FAST, "--output_dir=here", "--overwrite"]
            + [f"--seed={seed}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment
            | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
            | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # which compiles faster
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        said = {line.split()[0] for line in done.stderr.splitlines()}
        assert said == {
            "painting",
            "compiling",
            "step",
            "output",
            "here/butterfly__rainbow.png",
            "here/butterfly__triangles.png",
        }, done.stderr
        programs.append(sorted(path.name for path in compiled.iterdir()))
        here = tmp_path / "here"
        pictures.append([np.asarray(Image.open(here / f"butterfly__{s}.png")) for s in STYLES])
    assert any("_advance" in name for name in programs[0])
    assert programs[0] == programs[1]
    np.testing.assert_array_equal(*pictures)


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
    assert code == DIVERGED
    assert "b: stopped at a value that is not finite" in err
    assert re.search(r"a__b\.png .* 1 +\d+\.\d  diverged\n", err), err
    assert (tmp_path / "a__b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--styles is needed (or --demo)"),
        (("--styles=x.png",), "--content is needed (or --demo)"),
        (("--demo", "--content=x.png"), "--demo has its own pictures"),
        (("--demo", "stray"), "unexpected argument 'stray'"),
        (("--demo", "--preset=assignement"), "did you mean 'assignment'"),
        (("--demo", "--optimizer=adm"), "did you mean 'adam'"),
        (("--demo", "--steps=0"), "steps must be at least 1, got 0"),
        (("--demo", "--log_every=0"), "--log_every must be at least 1"),
        (("--demo", "--style_layers=block1_conv7"), "unknown layer 'block1_conv7'"),
        (("--demo", "--style_layers=block1_conv1:x"), "--style_layers must be numbers"),
        (("--demo", "--style_layers=block1_conv1:1,b"), "--style_layers must give each layer once"),
        (("--demo", "--size=8"), "at least"),
        (("--demo", "--weights=none.h5"), "none.h5"),
        (
            ("--demo", "--model=vgg18"),
            "--model must be one of vgg16, vgg19, got 'vgg18'; did you mean 'vgg1",
        ),
        (("--demo", "--model=vgg19.h5"), "got 'vgg19.h5'; --weights takes a file\n"),
        (("--demo", "--preset=zzz"), "got 'zzz'\n"),
        (("--list_layers", "--model=vgg"), "--model must be one of vgg16, vgg19, got 'vgg'"),
        (("--show_config=",), "--show_config needs the file of a picture, got ''"),
        (("--demo", "--init="), "--init (or an existing file) must be one of content, recolored"),
        (("--demo", "--init=."), "--init (or an existing file) must be one of content, recolored"),
        (("--content=missing.png", "--styles=missing.png"), "missing.png"),
    ],
)
@pytest.mark.usefixtures("drawn_at_once")
def test_bad_input_gets_one_line(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = run(*arguments)
    assert code == BAD_INPUT
    assert message in err
    assert err.startswith("nst-jax: ") and err.count("\n") == 1, err


def test_an_unknown_flag_ends_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "nst_jax", "--stlyes=x.png"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == BAD_INPUT
    assert done.stderr == "nst-jax: unknown flag --stlyes; did you mean 'styles'?\n"


def test_an_error_in_full_is_there_for_the_asking():
    done = subprocess.run(
        [sys.executable, "-m", "nst_jax", "--demo", "--steps=0", "--verbosity=1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == BAD_INPUT and done.stdout == ""
    assert "Traceback (most recent call last):" in done.stderr
    assert "ValueError: steps must be at least 1, got 0" in done.stderr
    assert done.stderr.splitlines()[-1] == "nst-jax: steps must be at least 1, got 0"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=many", "--steps must be a whole number, got 'many'"),
        ("--steps=", "--steps must be a whole number, got ''"),
        ("--steps=1: 2\n=3", "--steps must be a whole number, got '1: 2\\n=3'"),
        ("--scale_factor=x", "--scale_factor must be a number, got 'x'"),
        ("--demo=perhaps", "--demo must be true or false, got 'perhaps'"),
        ("--help=foo", "--help must be true or false, got 'foo'"),
        ("--size", "Missing value for flag --size"),
    ],
)
def test_a_flag_of_another_kind_ends_with_one_line(flag, message, capsys):
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        _parse(["nst-jax", flag])
    assert ended.value.code == BAD_INPUT
    assert capsys.readouterr().err == f"nst-jax: {message}\n"


def test_blends_are_named_by_their_rows(run, pictures, tmp_path):
    content, *styles = pictures
    code, err = run(
        f"--content={content}",
        f"--styles={styles[0]},{styles[1]}",
        "--mixing=0.7,0.3;0,1",
        f"--output_dir={tmp_path}",
        *FAST,
    )
    assert code == 0, err
    assert (tmp_path / "a__0.7_b+0.3_c.png").exists() and (tmp_path / "a__1_c.png").exists()


@pytest.mark.slow
def test_numbers_with_several_values_give_a_labelled_sheet(run, pictures, tmp_path, monkeypatch):
    content, style, _ = pictures
    sheets = []

    def drawn(*arguments, **options):
        sheets.append((options["style_labels"], contact_sheet(*arguments, **options)))
        return sheets[-1][1]

    monkeypatch.setattr(cli_outputs, "contact_sheet", drawn)
    code, err = run(
        f"--content={content}",
        f"--styles={style}",
        "--content_weight=1e-3,1",
        "--learning_rate=1,2",
        "--mesh=style:1",
        f"--output_dir={tmp_path}",
        *FAST,
    )
    assert code == 0, err
    labels = [f"b__content_weight={w}__learning_rate={r}" for w in ("0.001", "1") for r in (1, 2)]
    [(written, sheet)] = sheets
    assert written == [label.replace("__", "\n") for label in labels]
    found = read_image(tmp_path / "contact_sheet.png")
    np.testing.assert_allclose(found, sheet, atol=1 / 255)
    images = {}
    for label in labels:
        with Image.open(tmp_path / f"a__{label}.png") as picture:
            images[label] = np.asarray(picture, float)
    with Image.open(content) as picture:
        start = np.asarray(picture.resize((48, 36)), float)
    moved = [np.abs(image - start).mean() for image in images.values()]
    assert moved[1] > moved[0] and moved[3] > moved[2]  # a larger rate moves further
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["style"] for line in lines} == set(labels)
    assert json.loads((tmp_path / "config.json").read_text())["sweep"] == {
        "content_weight": [0.001, 1.0],
        "learning_rate": [1.0, 2.0],
    }


@pytest.mark.slow
def test_several_contents_of_several_shapes(run, curves, pictures, tmp_path):
    a, b, c = pictures
    arguments = (f"--content={a},{b}", f"--styles={c}", *FAST, "--mesh=style:1")
    code, err = run(*arguments, f"--output_dir={tmp_path / 'o'}")
    assert code == 0, err
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert {"a__c.png", "b__c.png", "a__contact_sheet.png", "b__loss_curves.png"} <= names
    with Image.open(tmp_path / "o" / "b__c.png") as picture:
        assert picture.size == (36, 48)


@pytest.mark.slow
def test_masks_from_files(run, pictures, tmp_path):
    content, *styles = pictures
    left = np.zeros((60, 80), np.uint8)
    left[:, :40] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    Image.fromarray(255 - left).save(tmp_path / "right.png")
    Image.fromarray(left[:50, 15:65]).save(tmp_path / "part.png")
    code, err = run(
        f"--content={content}",
        f"--styles={styles[0]},{styles[1]}",
        f"--masks={tmp_path / 'left.png'},{tmp_path / 'right.png'}",
        f"--style_masks=,{tmp_path / 'part.png'}",
        f"--output_dir={tmp_path / 'o'}",
        *FAST,
    )
    assert code == 0, err
    assert (tmp_path / "o" / "a__b+c.png").exists()


@pytest.mark.slow
def test_a_style_mask_hides_the_rest_of_the_style(run, pictures, tmp_path):
    """Two styles of one left half: with that alone they paint nearly the same picture."""
    content, style, _ = pictures
    with Image.open(style) as picture:
        left = np.array(picture)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        left[:, 24:] = colour
        Image.fromarray(left).save(tmp_path / f"{name}.png")
    mask = np.zeros(left.shape[:2], np.uint8)
    mask[:, :20] = 255  # what lies at the edge sees across it
    Image.fromarray(mask).save(tmp_path / "left.png")
    apart = {}
    for name, masks in (("whole", ","), ("half", f"{tmp_path}/left.png,{tmp_path}/left.png")):
        out = tmp_path / name
        code, err = run(
            f"--content={content}",
            f"--styles={tmp_path / 'red.png'},{tmp_path / 'blue.png'}",
            f"--style_masks={masks}",
            f"--output_dir={out}",
            *FAST,
            "--learning_rate=4",
        )
        assert code == 0, err
        red, blue = (np.asarray(Image.open(out / f"a__{n}.png"), float) for n in ("red", "blue"))
        apart[name] = np.abs(red - blue).mean()
    assert 0 < apart["half"] < 0.5 * apart["whole"], apart


@pytest.mark.slow
def test_another_seed_is_another_noise_to_start_from(run, pictures, tmp_path):
    made = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        arguments = (f"--styles={pictures[1]}", "--content_weight=0", "--init=noise", *FAST)
        code, err = run(*arguments, f"--seed={seed}", f"--output_dir={out}")
        assert code == 0, err
        made.append(np.asarray(Image.open(out / "texture__b.png"), float))
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).mean() > 20  # grey levels: nothing in common


def test_a_texture_needs_no_content(run, pictures, tmp_path):
    code, err = run(
        f"--styles={pictures[1]}",
        "--content_weight=0",
        "--init=noise",
        f"--output_dir={tmp_path / 'o'}",
        *FAST,
    )
    assert code == 0, err
    with Image.open(tmp_path / "o" / "texture__b.png") as picture:
        assert picture.size == (36, 48)


def test_a_picture_to_start_from(run, pictures, tmp_path):
    content, style, other = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--learning_rate=1e-6")
    code, err = run(*arguments, f"--init={other}", f"--output_dir={tmp_path / 'o'}")
    assert code == 0, err
    with Image.open(tmp_path / "o" / "a__b.png") as picture:
        found = np.asarray(picture, float)
    with Image.open(other) as picture:
        whole = np.asarray(picture, np.float32) / 255
    expected = 255 * np.asarray(nst_jax.image.cover(whole, 36, 48))
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.slow
def test_a_picture_keeps_its_size(run, pictures, tmp_path):
    content, style, _ = pictures
    out, flags = tmp_path / "o", [flag for flag in FAST if not flag.startswith("--size")]
    code, err = run(
        f"--content={content}",
        f"--styles={style}",
        *flags,
        "--size=original",
        f"--output_dir={out}",
    )
    assert code == 0, err
    with Image.open(content) as given, Image.open(out / "a__b.png") as made:
        assert made.size == given.size != (48, 36)
    assert json.loads((out / "config.json").read_text())["config"]["size"] == "original"


def test_colours_alone(run, pictures, tmp_path):
    content, style, _ = pictures
    out = tmp_path / "o"
    code, err = run(
        f"--content={content}",
        f"--styles={style}",
        "--color=transfer",
        *FAST,
        f"--output_dir={out}",
    )
    assert code == 0, err
    with Image.open(out / "a__b.png") as picture:
        found = np.asarray(picture, float) / 255
    with Image.open(style) as picture:
        wanted = np.asarray(picture, float).mean((0, 1)) / 255
    np.testing.assert_allclose(found.mean((0, 1)), wanted, atol=0.03)  # some values are clipped
    assert json.loads((out / "config.json").read_text())["config"]["color"] == "transfer"
    assert (out / "metrics.jsonl").read_text() == ""
    assert (out / "contact_sheet.png").exists() and not (out / "loss_curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mixing=0,0",), "--mixing: each row must have a sum above 0, got 0"),
        (("--mixing=1,1;1,nan",), "--mixing: each row must have a sum above 0, got nan"),
        (("--mixing=1,inf",), "--mixing: each row must have a sum above 0, got inf"),
        (("--mixing=1",), "--mixing needs a weight for each of the 2 styles"),
        (("--mixing=a,b",), "--mixing must be numbers"),
        (("--masks=x.png",), "--masks needs a picture for each of the 2 styles"),
        (("--init=noise.png",), "got 'noise.png': there is no such file\n"),
        (("--init=a/noise",), "got 'a/noise': there is no such file\n"),
        (
            ("--init=xyz",),
            "--init (or an existing file) must be one of content, recolored, style",
        ),
        (("--init=xyz",), "got 'xyz'\n"),
        (("--content_weight=1,-1",), "content_weight must be at least 0"),
        (("--color=lumin",), "did you mean 'luminance'"),
        (("--first_size=0",), "first_size must be at least 1"),
        (("--init=noize",), "did you mean 'noise'"),
        (("--seed=-1",), "--seed must be from 0"),
        (
            ("--content_layers=", "--style_layers=", "--nearest_layers="),
            "config must have a term that looks at a layer",
        ),
    ],
)
@pytest.mark.usefixtures("drawn_at_once")
def test_bad_options_get_one_line(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = run("--demo", *arguments)
    assert code == BAD_INPUT
    assert message in err and err.count("\n") == 1, err


def test_bad_input_leaves_the_files_of_an_earlier_run_alone(run, pictures, tmp_path):
    a, b, c = pictures
    out = tmp_path / "o"
    code, err = run(f"--content={a}", f"--styles={c}", f"--output_dir={out}", *FAST)
    assert code == 0, err
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((60, 80), 200, np.uint8)).save(mask)
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(black)
    deep = "--style_layers=block1_conv1,block5_conv1"
    for arguments in (
        (f"--content={b}", f"--masks={mask}"),  # not of the content's shape
        (f"--content={a},{b}", f"--masks={mask}"),  # nor of the second's
        (f"--content={a}", "--size=20", deep),  # 15 rows are too few for the layer
        (f"--content={a},{b}", "--size_of=height", "--size=17", deep),  # 13 columns, of the second
        (f"--content={a}", f"--profile_dir={mask}"),
        (f"--content={a}", f"--style_masks={black}"),
        (f"--content={a}", "--content_layers=fc1"),
        (f"--content={a}", "--content_layers=", "--style_layers="),
    ):
        fast = SMALL if any("_layers=" in argument for argument in arguments) else FAST
        code, err = run(f"--styles={c}", f"--output_dir={out}", "--overwrite", *fast, *arguments)
        assert code == BAD_INPUT and err.count("\n") == 1, err
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before, arguments
    arguments = (f"--content={a}", f"--styles={c}", f"--output_dir={out}", "--overwrite", *FAST)
    code, err = run(*arguments, "--steps=3")
    assert code == 0, err
    assert json.loads((out / "config.json").read_text())["config"]["steps"] == 3
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3]


@pytest.mark.slow
def test_a_profile_changes_no_picture(run, pictures, tmp_path):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--steps=7")
    code, err = run(*arguments, f"--output_dir={tmp_path / 'plain'}")
    assert code == 0, err
    trace = tmp_path / "trace"
    code, err = run(*arguments, f"--output_dir={tmp_path / 'o'}", f"--profile_dir={trace}")
    assert code == 0 and f"traced 3 steps into {trace}" in err, err
    plain, traced = ((tmp_path / name / "a__b.png").read_bytes() for name in ("plain", "o"))
    assert plain == traced
    (folder,) = (trace / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb")) and (folder / "perfetto_trace.json.gz").exists()
    code, err = run(*arguments, "--steps=2", f"--output_dir={tmp_path}", f"--profile_dir={trace}")
    assert code == 0 and "--profile_dir: too few steps" in err, err


@pytest.mark.slow
def test_precision_is_a_flag(run, pictures, tmp_path):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--mesh=style:1")
    totals = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        code, err = run(*arguments, f"--output_dir={out}", f"--dtype={precision}")
        assert code == 0, err
        assert json.loads((out / "config.json").read_text())["config"]["dtype"] == precision
        line, *_ = (out / "metrics.jsonl").read_text().splitlines()
        totals[precision] = json.loads(line)["total"]
    assert 0 < abs(totals["bfloat16"] / totals["float32"] - 1) < 0.03


def test_a_mask_of_another_shape_is_refused(run, pictures, tmp_path):
    content, *styles = pictures
    Image.fromarray(np.full((40, 160), 255, np.uint8)).save(tmp_path / "wide.png")
    masks = ",".join([str(tmp_path / "wide.png")] * 2)
    code, err = run(
        f"--content={content}", f"--styles={styles[0]},{styles[1]}", f"--masks={masks}", *FAST,
        f"--output_dir={tmp_path / 'o'}",
    )  # fmt: skip
    assert code == BAD_INPUT and "masks[0] must have the shape of its picture" in err


@pytest.mark.slow
def test_contents_of_one_shape_and_several_resolutions(run, pictures, tmp_path, rng):
    content, style, _ = pictures
    Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)).save(tmp_path / "big.png")
    code, err = run(
        f"--content={content},{tmp_path / 'big.png'}",
        f"--styles={style}",
        "--content_weight=0,1",
        f"--output_dir={tmp_path / 'o'}",
        *FAST,
    )
    assert code == 0, err
    names = {path.name for path in (tmp_path / "o").glob("*content_weight*")}
    assert len(names) == 4 and "big__b__content_weight=0.png" in names


def test_settings_that_print_alike_keep_their_own_files(run, pictures, tmp_path):
    content, style, _ = pictures
    code, err = run(
        f"--content={content}",
        f"--styles={style}",
        "--content_weight=1,1.0000001",
        f"--output_dir={tmp_path / 'o'}",
        *FAST,
    )
    assert code == 0, err
    assert len(list((tmp_path / "o").glob("a__b__*.png"))) == 2
