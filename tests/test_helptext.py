"""What the command says of itself, on stdout."""

import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import nst_jax
from nst_jax import vgg
from nst_jax.cli import devices
from nst_jax.cli.flags import (
    ADDRESSES,
    DEVICE_FLAGS,
    KINDS,
    OTHER_FLAGS,
    QUESTION_FLAGS,
    RUN_FLAGS,
    settings_by_flag,
    takes_several,
)
from nst_jax.cli.help import flags_by_group, flags_page, groups
from nst_jax.cli.main import BAD_INPUT, _main, _parse
from nst_jax.config import OTHER_NAMES
from nst_jax.presets import descriptions, presets


@pytest.fixture
def parse(capsys):
    """Parses flags as the command does: `code, stdout, stderr`; the code is None if it goes on."""

    def parse(*arguments):
        with flagsaver.flagsaver():
            try:
                code = _parse(["nst-jax", *arguments]) and None
            except SystemExit as ended:
                code = ended.code
        return code, *capsys.readouterr()

    return parse


def entries(text):
    """{flag: its text}, in the order of the help, each without its line breaks."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"  --(?:\[no\])?(\w+)(\S*)(.*)", line):
            name = match[1]
            found[name] = [match[2].removeprefix("="), match[3].strip()]
        elif line.startswith("      "):
            found[name][1] += f" {line.strip()}"
    return {name: (value, text.strip()) for name, (value, text) in found.items()}


@pytest.mark.parametrize("flag", ["--help", "-h", "-help", "--helpshort", "-?"])
def test_help_is_on_stdout_and_no_error(parse, flag):
    code, out, err = parse(flag)
    assert (code, err) == (0, "") and out.startswith("Neural style transfer")


@pytest.mark.parametrize("flag", ["--help", "--list_presets"])
def test_a_reader_that_has_enough_is_no_error(flag):
    """As of `nst-jax --help | head -1`."""
    program = subprocess.Popen(
        [sys.executable, "-m", "nst_jax", flag], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    program.stdout.close()
    assert (program.stderr.read(), program.wait(timeout=300)) == (b"", 0)
    program.stderr.close()


def test_every_flag_that_there_is_on_stdout_and_no_error(parse):
    code, out, err = parse("--helpfull")
    assert (code, err) == (0, "")
    assert "--content_weight:" in out and "pdb_post_mortem" in out


def test_help_of_the_command_itself():
    """Absl has a flag of this name too, which ends with an error's code."""
    done = subprocess.run(
        [sys.executable, "-m", "nst_jax", "--help"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    config = presets["default"]
    assert done.stdout == flags_by_group(flags.FLAGS, config, width=80) + "\n"


def assert_shown(text, value):
    """Whether a text shows a value of a setting."""
    if isinstance(value, bool) or value is None:
        assert text == {True: "yes", False: "no", None: "none"}[value]
    elif isinstance(value, dict):
        pairs = dict(part.split(":") if ":" in part else (part, None) for part in text.split(","))
        equal = [1 / len(value)] * len(value)
        shares = [float(share) if share else equal[0] for share in pairs.values()]
        assert list(pairs) == list(value)
        np.testing.assert_allclose(shares, list(value.values()), rtol=1e-3)
    elif isinstance(value, tuple):
        np.testing.assert_allclose([float(x) for x in text.split(",")], value, rtol=1e-3)
    elif isinstance(value, float):
        np.testing.assert_allclose(float(text), value, rtol=1e-3)
    else:
        assert text == str(value)


def test_every_flag_is_in_one_group_with_its_default():
    ours = {
        *RUN_FLAGS,
        *KINDS,
        *ADDRESSES,
        *QUESTION_FLAGS,
    }
    grouped = [name for names in groups().values() for name in names]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == ours | {"help", "flagfile", "verbosity", "helpfull"}
    config = presets["default"]
    found = entries(flags_by_group(flags.FLAGS, config, width=100))
    assert list(found) == grouped
    for name, (_, text) in found.items():
        assert len(text) > 5, name
    for name, wanted in settings_by_flag(config).items():
        assert_shown(re.search(r"\(default: ([^()]*)\)$", found[name][1])[1], wanted)
    # What the preset does not have has the default of whoever does.
    assert found["beta1"][1].endswith("(default: 0.9)")
    told = "folder for the pictures, on a disk or in a bucket (default: out)"
    assert found["output_dir"] == ("FOLDER", told)
    assert found["size"][0] == "PIXELS" and found["learning_rate"][0] == "LEVELS,..."
    assert found["content_weight"][0] == "X,..." and found["clip"][0] == ""
    several = {name for name, (value, _) in found.items() if value.endswith(",...")}
    assert several == set(filter(takes_several, ADDRESSES))
    for name in ("tile", "animate", "save_every", "checkpoint_dir", "weights", "masks", "content"):
        assert found[name][1].endswith("(default: none)"), name
    for name in RUN_FLAGS:
        assert found[name][1].count("(default: ") == 1, name


def test_the_page_of_flags_is_what_they_say():
    page = pathlib.Path(__file__).parent.parent / "docs" / "guide" / "flags.md"
    made = flags_page(flags.FLAGS, presets["default"])
    assert page.read_text("utf-8") == made, "run scripts/flags_page.py"
    assert made.count("| `--") == len([*itertools.chain(*groups().values())])


def test_defaults_are_those_of_the_preset(parse):
    code, out, _ = parse("--preset=gatys", "--help")
    assert code == 0
    assert entries(out)["optimizer"][1].endswith("(default: lbfgs)")
    assert entries(out)["steps"][1].endswith("(default: 1000)")
    code, out, err = parse("--preset=gatis", "--help")
    assert (code, out) == (BAD_INPUT, "") and "did you mean 'gatys'" in err


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_help_fits_the_terminal(monkeypatch, parse, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert shutil.get_terminal_size().columns == width
    _, out, _ = parse("--help")
    body = out.split("--demo\n", 1)[1].splitlines()
    widest = max(len(line) for line in body if " " in line.strip())
    assert widest <= min(width, 100)
    assert widest > min(width, 100) - 15  # and makes use of it
    wide = entries(flags_by_group(flags.FLAGS, presets["default"], width=100))
    for name, words in entries(out).items():  # long ones may be broken
        assert "".join(words).replace(" ", "") == "".join(wide[name]).replace(" ", ""), name


def test_every_preset_is_described_by_what_it_changes(run, capsys):
    assert descriptions.keys() == presets.keys()
    with flagsaver.flagsaver():
        assert _main(flags.FLAGS(["nst-jax", "--list_presets"])) == 0
    out = capsys.readouterr().out
    *listed, common = re.split(r"\n(?=\S)", out)
    fields = {}
    for text in listed:
        name, *lines = text.split("\n")
        words = " ".join(lines).split()
        fields[name] = dict(word.split("=") for word in words if re.fullmatch(r"\w+=\S+", word))
        assert " ".join(descriptions[name].split()) in " ".join(words)
    assert list(fields) == list(presets)
    plain = settings_by_flag(nst_jax.Config())
    for name, config in presets.items():
        own = settings_by_flag(config)
        if name != "default":
            own = {k: v for k, v in own.items() if k not in plain or v != plain[k]}
        assert fields[name].keys() == own.keys()
        for field, value in own.items():
            assert_shown(fields[name][field], value)
    assert common.strip() == "Other settings are those of the default."


@pytest.fixture
def answer(capsys):
    """Answers a question of the command: `code, stdout, stderr`."""

    def answer(*arguments):
        with flagsaver.flagsaver():
            code = _main(flags.FLAGS(["nst-jax", *arguments]))
        return code, *capsys.readouterr()

    return answer


def test_the_version(answer):
    code, out, err = answer("--version")
    assert (code, err, out.count("\n")) == (0, "", 1)
    python = ".".join(map(str, sys.version_info[:3]))
    assert out.startswith(f"nst_jax {nst_jax.__version__}, python {python}, ")


def test_the_devices_and_whether_precision_and_mesh_fit(answer, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:2])
    monkeypatch.setattr(devices, "host_bytes", lambda: 3 * 2**29)
    asked = ("--dtype=bfloat16", "--mesh=style:2,space:2")
    code, out, err = answer("--devices", *asked)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"nst_jax {nst_jax.__version__}, python ")
    assert f"jax {jax.__version__}, jaxlib " in lines[1]
    assert "CUDA_VISIBLE_DEVICES=3,4" in lines and "host: 1.50 GiB free" in lines
    kind = jax.local_devices()[0].device_kind
    assert [line for line in lines if line.startswith("cpu ")] == [
        f"cpu {number}: {kind}, the host's memory" for number in (0, 1)
    ]
    assert "precision: bfloat16, products default: works" in lines
    assert lines[-1].startswith("mesh style:2,space:2: does not fit: ")
    assert lines[-1].endswith("needs 4 devices, but there are 2")
    _, out, _ = answer("--devices", "--mesh=style:2")
    assert out.splitlines()[-1] == "mesh style:2,space:1: fits"
    code, out, err = answer("--devices", "--mesh=style")
    assert (code, err) == (BAD_INPUT, "nst-jax: mesh must be like 'style:4,space:2', got 'style'\n")


def test_the_memory_of_a_device_and_a_precision_that_does_not_work(answer, monkeypatch):
    class Device:
        platform, id, device_kind, process_index = "gpu", 5, "Card", 0

        def memory_stats(self):
            return {"bytes_limit": 2**33, "bytes_in_use": 2**31}

    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("no such product\nat length")

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    monkeypatch.setattr(jax.lax, "conv_general_dilated", refuse)
    code, out, err = answer("--devices")
    assert (code, err) == (0, "")
    assert "gpu 5: Card, 6.00 GiB free of 8.00 GiB" in out.splitlines()
    told = "precision: float32, products highest: does not work: no such product"
    assert out.splitlines()[-1] == told


@pytest.mark.parametrize("flag", ["--model=vgg16", "--model=vgg19", "--weights=vgg16.h5"])
def test_the_layers_of_the_network(capsys, flag, monkeypatch):
    monkeypatch.chdir(nst_jax.weights.load.BUNDLED_FOLDER)
    with flagsaver.flagsaver():
        assert _main(flags.FLAGS(["nst-jax", "--list_layers", flag])) == 0
    _, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    model = "vgg19" if "19" in flag else "vgg16"
    assert [row[0] for row in rows] == list(vgg.layer_names(model))
    shapes = vgg.parameter_shapes(model)
    for name, channels, *_ in rows:
        if name in shapes:
            assert int(channels) == shapes[name]["kernel"][-1]
    # Two convolutions of 3x3, the pooling, and a convolution of 3x3 on every other pixel.
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["block1_conv2"] == ["64", "1", "px", "5", "px"]
    assert by_name["block2_conv1"] == ["128", "2", "px", "10", "px"]


def test_flags_from_a_file(parse, tmp_path):
    (tmp_path / "flags").write_text("# a comment\n--size=77\n--styles=a.png,b.png\n\n--noclip\n")
    with flagsaver.flagsaver():
        _parse(["nst-jax", f"--flagfile={tmp_path / 'flags'}", "--steps=3"])
        values = [flags.FLAGS[name].value for name in ("size", "styles", "clip", "steps")]
    assert values == [77, ["a.png", "b.png"], False, 3]
    code, out, err = parse("--flagfile=none")
    assert (code, out) == (BAD_INPUT, "") and err.count("\n") == 1 and "none" in err
    (tmp_path / "flags").write_text("--szie=77\n")
    code, _, err = parse(f"--flagfile={tmp_path / 'flags'}")
    assert (code, err) == (BAD_INPUT, "nst-jax: unknown flag --szie; did you mean 'size'?\n")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("--style=x", "styles"), ("--no_clip", "noclip"), ("--learning-rate=2", "learning_rate")],
)
def test_a_wrong_flag_is_answered_with_the_nearest(parse, wrong, right):
    code, out, err = parse(wrong)
    name = wrong[2:].split("=")[0]
    assert (code, out) == (BAD_INPUT, "")
    assert err == f"nst-jax: unknown flag --{name}; did you mean '{right}'?\n"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--iterations=9", "steps"),
        ("--num_steps=9", "steps"),
        ("--num-iterations=9", "steps"),
        ("--original_colors", "color=luminance"),
        ("--preserve_color", "color=luminance"),
        ("--image_size=9", "size"),
        ("--lr=9", "learning_rate"),
        ("-content_image=x", "content"),
        ("-output_image=x", "output_dir"),
        ("--init_image=x", "init"),
        ("--style_image=x", "styles"),
    ],
)
def test_words_of_other_programs_are_answered_with_the_flag(parse, wrong, right):
    code, out, err = parse(wrong)
    assert (code, out) == (BAD_INPUT, "")
    assert err.endswith(f"; did you mean '{right}'?\n") and err.count("\n") == 1


@pytest.mark.parametrize("wrong", ["--gpu=0", "-gpu", "--use-cpu", "--device=cuda"])
def test_a_flag_for_a_device_is_answered_with_what_chooses_devices(parse, wrong):
    code, _, err = parse(wrong)
    assert code == BAD_INPUT and err.count("\n") == 1
    assert "JAX_PLATFORMS and CUDA_VISIBLE_DEVICES choose devices, and --devices shows" in err


def test_every_answer_for_another_program_is_a_flag_and_no_question_is_left_out():
    for wrong, right in (OTHER_FLAGS | OTHER_NAMES).items():
        name, _, value = right.partition("=")
        assert name in flags.FLAGS and wrong not in flags.FLAGS, wrong
        assert not value or value in ADDRESSES[name][0].field.metadata["choices"]
    assert not set(DEVICE_FLAGS) & set(flags.FLAGS)
    assert {name.partition("=")[0] for name in OTHER_NAMES.values()} <= set(ADDRESSES)


def test_a_single_dash_and_a_space_give_a_flag_its_value(parse):
    assert parse("-content", "x.png", "-styles", "y.png")[0] is None
