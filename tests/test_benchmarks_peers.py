"""Other programs beside ours: the weights that they get, and how pairs are painted and kept."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import benchmarking
import foreign
import numpy as np
import pytest

import nst_jax
from benchmarks import judge, peers, quality, tables
from benchmarks.peers import painting, programs, runner, weights
from nst_jax import vgg
from nst_jax.files.images import read_image, write_image

MEASURED = Path(programs.__file__).parent / "measured.py"
# A peer: it counts its runs, and mixes its two pictures.
STAND_IN = """
import pathlib, sys
import numpy as np
from PIL import Image
count = pathlib.Path(sys.argv[1])
count.write_text(count.read_text() + "x" if count.exists() else "x")
pair = [np.asarray(Image.open(name), np.float32) for name in ("content.png", "style.png")]
Image.fromarray(np.uint8(sum(pair) / 2)).save("output.png")
"""


def program(tmp_path, source=STAND_IN, name="stand-in", **options):
    script = tmp_path / f"{name}.py"
    script.write_text(source, "utf-8")
    command = (sys.executable, str(script), str(tmp_path / f"{name}.count"))
    return programs.Program(name, "vgg19", command, "output.png", ("--mix=0.5",), **options)


def runs(tmp_path, name="stand-in"):
    count = tmp_path / f"{name}.count"
    return len(count.read_text("utf-8")) if count.exists() else 0


@pytest.fixture
def pair(tmp_path, rng):
    each = {name: {name: rng.random((32, 32, 3), np.float32)} for name in ("photo", "paint")}
    return tuple(quality.write_sized(one, tmp_path / name, 32)[0] for name, one in each.items())


# ---------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_forms_of_the_weights(model):
    """Oracle: torchvision's layout and preprocessing, written down in `foreign`."""
    params = foreign.random_params(model)
    wanted = foreign.torchvision_state(params)
    found = weights.caffe(params)
    assert found.keys() == {name for name in wanted if name.startswith("features")}
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted[name])
    wanted = foreign.torchvision_state(foreign.without_preprocessing(params))
    for name, array in weights.torchvision(params).items():
        unit = weights.UNIT if name.endswith(".bias") or name == "features.0.weight" else 1
        np.testing.assert_allclose(unit * array, wanted[name], rtol=1e-5, atol=1e-6)
        assert array.dtype == np.float32


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("form", ["caffe", "torchvision"])
def test_features_are_ours(vgg16, rng, form):
    """PyTorch, on the forms, against `vgg.features`; without the border in torchvision's."""
    import torch

    picture = rng.random((96, 96, 3), np.float32)
    if form == "caffe":
        x = 255 * picture[..., ::-1] - np.float32(vgg.MEAN_BGR)
    else:
        x = (picture - np.float32(foreign.MEAN)) / np.float32(foreign.STD)
    x = torch.tensor(np.ascontiguousarray(x.transpose(2, 0, 1)[None]))
    state = {name: torch.tensor(value) for name, value in weights.FORMS[form](vgg16).items()}
    layers = ("block1_conv1", "block2_conv2", "block3_conv3", "block4_conv1")
    ours = vgg.features(vgg16, picture, layers=layers)
    for name, number in zip(vgg.layer_names("vgg16"), _modules(), strict=False):
        if name.endswith("_pool"):
            x = torch.nn.functional.max_pool2d(x, 2)
            continue
        kernel, bias = (state[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
        x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1))
        if name in ours:
            found = x[0].numpy().transpose(1, 2, 0) * (1 if form == "caffe" else weights.UNIT)
            wanted = np.asarray(ours[name]).reshape(found.shape)
            margin = 0 if form == "caffe" else found.shape[0] // 3
            inside = np.s_[margin : found.shape[0] - margin, margin : found.shape[1] - margin]
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(found[inside], wanted[inside], atol=2e-4 * scale)


def _modules():
    """Numbers of the modules of VGG16: `foreign.FEATURES`, with the pools between."""
    numbers = list(foreign.FEATURES["vgg16"])
    pools = [
        after - 1 for before, after in zip(numbers, numbers[1:], strict=False) if after - before > 2
    ]
    return sorted([*numbers, *pools, numbers[-1] + 2])


# --------------------------------------------------------------------------------------- painting


def test_a_picture_and_its_record(tmp_path, pair):
    out = tmp_path / "out"
    record = painting.paint(program(tmp_path), *pair, out)
    path = out / "stand-in" / "photo__paint.png"
    mixed = (pair[0].pixels + pair[1].pixels) / 2
    np.testing.assert_allclose(read_image(path), mixed, atol=1 / 255)
    assert json.loads(path.with_suffix(".json").read_text("utf-8")) == record
    assert (record["program"], record["content"], record["style"]) == ("stand-in", "photo", "paint")
    assert record["size"] == [32, 32] and record["settings"] == ["--mix=0.5"]
    assert 0 < record["seconds"] < 60 and 0 < record["cpu_seconds"] < 60
    assert not list(path.parent.glob("*.part"))


def test_the_peak_is_the_childs_own(tmp_path):
    """Not that of the process that starts it, which holds JAX and 200 MB more here."""
    ballast = np.ones(25_000_000)
    code = "x = bytearray(b'1') * 60_000_000"
    result = tmp_path / "result.json"
    subprocess.run([sys.executable, MEASURED, result, sys.executable, "-c", code], check=True)
    found = json.loads(result.read_text("utf-8"))
    assert found["exit_code"] == 0
    assert 60e6 < found["peak_bytes"] < 120e6 < ballast.nbytes


def test_a_finished_picture_is_not_painted_again(tmp_path, pair):
    out, own = tmp_path / "out", program(tmp_path)
    assert painting.finished(own, *pair, out) is None
    first, _ = peers.paint_all([own], [pair], out)
    again, _ = peers.paint_all([own], [pair], out)
    assert runs(tmp_path) == 1 and first == again
    assert painting.finished(own, *pair, out) == first["stand-in"]["photo", "paint"]
    # Stopped before the record was written.
    (out / "stand-in" / "photo__paint.json").unlink()
    peers.paint_all([own], [pair], out)
    assert runs(tmp_path) == 2


def test_a_picture_of_other_settings_is_refused(tmp_path, pair):
    out, own = tmp_path / "out", program(tmp_path)
    painting.paint(own, *pair, out)
    other = dataclasses.replace(own, settings=("--mix=0.1",))
    with pytest.raises(ValueError, match="settings --mix=0.5, not --mix=0.1: delete it or give"):
        peers.paint_all([other], [pair], out)
    brighter = pair[0]._replace(pixels=pair[0].pixels * 0.5)
    with pytest.raises(ValueError, match="photo__paint.json: was painted with inputs"):
        painting.finished(own, brighter, pair[1], out)


def test_programs_take_turns_in_reverse_order(tmp_path, pair, capsys):
    both = [program(tmp_path, name=name) for name in ("a", "b")]
    second = pair[1]._replace(name="other")
    peers.paint_all(both, [pair, (pair[0], second)], tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["a", "b", "b", "a"]
    assert lines[0].startswith("a: photo in paint: ") and lines[0].endswith(" MiB")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit('first\\nno such layer')", "no such layer"),
        ("raise ValueError('bad\\npicture')", "picture"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("", "wrote 0 pictures output.png"),
        (
            "from PIL import Image; Image.new('RGB', (40, 36)).save('output.png')",
            "painted 36x40 pixels, but the content has 32x32",
        ),
    ],
)
def test_a_program_that_fails(tmp_path, pair, capsys, source, message):
    failing, own = program(tmp_path, source, name="failing"), program(tmp_path)
    records, failures = peers.paint_all([failing, own], [pair], tmp_path / "out")
    assert records["failing"] == {} and failures["failing"] == [message]
    assert records["stand-in"].keys() == {("photo", "paint")}  # the others go on
    assert f"failing: photo in paint failed: {message}" in capsys.readouterr().err
    row = peers.table_row(failing, {}, failures["failing"], {}, pairs=1, size=32)
    assert row["note"] == f"failed on 1 of 1 pairs: {message}" and "seconds" not in row


def test_the_losses_of_each_scale_are_recorded(tmp_path, pair):
    """Of a scale with two steps and one with three."""
    totals = [5.0, 2.0, 9.0, 9.5, 4.0]
    lines = "".join(json.dumps({"total": total}) + "\n" for total in totals)
    logs = f"\nopen('log', 'w').write({lines!r})"
    own = program(tmp_path, STAND_IN + logs, log="log", steps=(2, 3))
    record = painting.paint(own, *pair, tmp_path / "out")
    assert record["losses"] == [[5.0, 5.0, 2.0], [9.0, 9.5, 4.0]]
    with pytest.raises(painting.Failed, match="logged 5 steps of 6"):
        painting.paint(dataclasses.replace(own, steps=(2, 4)), *pair, tmp_path / "out")


def test_a_program_that_cannot_start(tmp_path, pair):
    missing = programs.Program("x", "vgg19", (str(tmp_path / "python"),), "output.png", ())
    with pytest.raises(painting.Failed, match="No such file or directory"):
        painting.paint(missing, *pair, tmp_path / "out")


def test_stopping_ends_what_is_painting(tmp_path, pair):
    """A signal to the benchmark alone; its child's child must not paint on for hours."""
    waiting = (
        "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))"
    )
    own = program(tmp_path, waiting + "\ntime.sleep(600)")
    count = tmp_path / "stand-in.count"

    def stop():
        while not (count.exists() and count.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    # A shell's background job would ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            painting.paint(own, *pair, tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    status = Path("/proc", count.read_text(), "stat")
    limit = time.monotonic() + 10
    while status.exists() and status.read_text().rpartition(") ")[2][0] not in "ZX":
        assert time.monotonic() < limit
    assert not (tmp_path / "out").exists()


def test_sizes_that_a_peer_cannot_paint(tmp_path, pair):
    small = program(tmp_path, sides=programs.PEERS["nnst"].sides)
    with pytest.raises(painting.Failed, match="needs at least 256 pixels a side, got 32x32"):
        painting.paint(small, *pair, tmp_path / "out")
    assert runs(tmp_path) == 0
    strotss = programs.PEERS["strotss"]
    assert [strotss.sides(size, 64) is None for size in (64, 128, 256, 512)] == 4 * [True]
    assert "64, 128, 256, 512 or 1024" in str(strotss.sides(200, 200))
    # 64 * 2 ** (scales - 2) is the side of its last scale.
    assert [strotss.arguments(size, None, "cpu")[3] for size in (64, 256, 512)] == ["2", "4", "5"]


# ---------------------------------------------------------------------------------------- command


def checkout(tmp_path, name):
    entry = tmp_path / name / programs.PEERS[name].entry
    entry.parent.mkdir(parents=True)
    entry.touch()
    return str(tmp_path / name)


def found_peers(tmp_path, texts, steps=(), device="cpu"):
    return programs.peers(texts, steps, size=256, python="python3", device=device, weights=tmp_path)


def test_commands_of_the_peers(tmp_path):
    names = [name for name in programs.PEERS if name != "pastiche"]
    texts = ["pastiche", *(f"{name}:{checkout(tmp_path, name)}" for name in names)]
    steps = ["neural-style-pt:50", "style-transfer-pytorch:20", "pastiche:7"]
    found = {one.name: one for one in found_peers(tmp_path, texts, steps)}
    assert list(found) == ["pastiche", *names] and set(found) == set(runner.PROGRAMS)
    for name, one in found.items():
        peer = programs.PEERS[name]
        folder = "" if name == "pastiche" else str((tmp_path / name).resolve())
        file = str(tmp_path.resolve() / f"{peer.network}-{peer.form}.npz")
        assert one.command[0] == "python3" and one.command[1].endswith("runner.py")
        assert one.command[2:] == (name, folder, file, "256", *one.settings)
        assert str(tmp_path) not in " ".join(one.settings)
    said = {name: " ".join(one.settings) for name, one in found.items()}
    assert "--num-steps 7" in said["pastiche"]
    assert "-num_iterations 50" in said["neural-style-pt"]
    assert "--iterations 20 --initial-iterations 40" in said["style-transfer-pytorch"]
    own = {one.name: " ".join(one.settings) for one in found_peers(tmp_path, texts)}
    assert not any("iterations" in text or "num-steps" in text for text in own.values())
    assert own["nnst"].endswith("--cpu") and own["strotss"].endswith("-cpu")
    other = {one.name: " ".join(one.settings) for one in found_peers(tmp_path, texts, (), "gpu")}
    assert not any("cpu" in text for text in other.values())


@pytest.mark.parametrize(
    ("texts", "steps", "message"),
    [
        (["nsst:x"], [], "--peers must be one of pastiche, .*, got 'nsst'.*nnst"),
        (["nnst"], [], "wanted nnst:FOLDER with a checkout of https://github.com/nkolkin13/Neural"),
        (["nnst:/no/such"], [], "--peers: nnst: no such folder: /no/such"),
        (["nnst:."], [], "--peers: nnst: . has no styleTransfer.py; it is at https"),
        (["pastiche:."], [], "pastiche is an installed package, give it no folder"),
        (["pastiche", "pastiche"], [], "--peers: pastiche is there twice"),
        (["pastiche"], ["nnst:5"], "--peer_steps: nnst is not in --peers"),
        (["pastiche"], ["pastiche:0"], "wanted pastiche:N with N of at least 1, got '0'"),
        (["pastiche"], ["pastiche"], "wanted pastiche:N with N of at least 1, got ''"),
    ],
)
def test_wrong_peers_are_refused(tmp_path, texts, steps, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        found_peers(tmp_path, texts, steps)


def test_steps_of_a_peer_that_has_no_flag_for_them(tmp_path):
    texts = [f"strotss:{checkout(tmp_path, 'strotss')}"]
    with pytest.raises(ValueError, match="no argument of strotss changes its iterations"):
        found_peers(tmp_path, texts, ["strotss:5"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --output_dir=FOLDER"),
        (["--presets=defaults"], "--presets must be one of .*, got 'defaults'"),
        (["--judges=vgg17"], "--judges must be one of"),
        (["--presets="], "needs --presets or --peers"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, arguments, message):
    own = arguments and [f"--output_dir={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match=message):
        benchmarking.run(peers, *own, *arguments)
    assert not (tmp_path / "out").exists()


def test_arguments_are_shown_without_folders():
    given = ["--size=64", "--peers=pastiche,nnst:/home/me/nnst/,strotss:b", "--nosquare"]
    given += ["--python=/usr/bin/python3", "--peer_steps=pastiche:9"]
    assert peers.shown_arguments(given) == [
        *("--size=64", "--peers=pastiche,nnst:nnst,strotss:b", "--nosquare"),
        *("--python=python3", "--peer_steps=pastiche:9"),
    ]


def test_the_middle_of_a_picture():
    picture = np.arange(4 * 7 * 3).reshape(4, 7, 3)
    np.testing.assert_array_equal(peers.middle(picture), picture[:, 1:5])
    np.testing.assert_array_equal(peers.middle(picture.swapaxes(0, 1)), picture.swapaxes(0, 1)[1:5])


@pytest.mark.slow
def test_our_command_paints(tmp_path, pair):
    """What a preset's program calls, with fewer steps."""
    (own,) = programs.ours(["fast"], 32)
    steps = ("--steps=1", "--first_steps=1", "--style_layers=block1_conv1")
    command = (*own.command, *steps, "--content_layers=block1_conv2")
    assert own.steps == (50,)
    few = dataclasses.replace(own, command=command, steps=(1,))
    record = painting.paint(few, *pair, tmp_path / "out")
    assert [len(scale) for scale in record["losses"]] == [3]
    assert record["settings"][:3] == ["--preset=fast", "--model=vgg19", "--size=32"]
    assert read_image(tmp_path / "out" / "fast" / "photo__paint.png").shape == (32, 32, 3)


@pytest.mark.slow
def test_the_whole_run(tmp_path, monkeypatch, rng, capsys):
    """Two stand-ins, and one that fails, on two pairs: pictures, judge, table and JSON."""
    for kind, names in {"contents": ("one", "two"), "styles": ("red",)}.items():
        for name in names:
            write_image(tmp_path / kind / f"{name}.png", rng.random((64, 80, 3), np.float32))
    flip = STAND_IN.replace("sum(pair) / 2", "pair[0]")
    chosen = {
        "mixed": program(tmp_path, name="mixed"),
        "same": program(tmp_path, flip, name="same"),
        "broken": program(tmp_path, "raise SystemExit('out of paint')", name="broken"),
    }
    monkeypatch.setattr(programs, "ours", lambda presets, size: [chosen[name] for name in presets])
    arguments = [
        *(f"--output_dir={tmp_path / 'out'}", "--size=64", "--presets=mixed,same,broken"),
        *(f"--contents={tmp_path / 'contents'}", f"--styles={tmp_path / 'styles'}"),
        "--judges=vgg16",
    ]
    report = benchmarking.run(peers, *arguments)
    mixed, same, broken = report["rows"]
    assert (mixed["program"], mixed["pairs"], same["pairs"], broken["pairs"]) == ("mixed", 2, 2, 0)
    assert broken["note"] == "failed on 2 of 2 pairs: out of paint"
    assert same["content_vgg16"] < mixed["content_vgg16"]  # it is the content itself
    assert mixed["seconds_range"][0] <= mixed["seconds"] <= mixed["seconds_range"][1]
    for name in ("contents/one.png", "mixed/two__red.png", "sheet.png"):
        assert (tmp_path / "out" / name).is_file(), name
    assert read_image(tmp_path / "out" / "contents" / "one.png").shape == (64, 64, 3)
    saved = json.loads((tmp_path / "out" / "peers.json").read_text("utf-8"))
    assert saved == {"peers": report}
    text = tables.render([saved])
    assert peers.TITLE in text and "| mixed, pairs 2 | " in text and "(vgg19)" not in text
    assert "failed on 2 of 2" in text
    capsys.readouterr()
    # The rows of another size stay; a finished picture does, too.
    saved["peers"]["rows"] += [mixed | {"size": 48}]
    (tmp_path / "out" / "peers.json").write_text(json.dumps(saved), "utf-8")
    again = benchmarking.run(peers, *arguments)
    assert runs(tmp_path, "mixed") == runs(tmp_path, "same") == 2
    assert again["rows"] == [mixed | {"size": 48}, mixed, same, broken]
    # Another machine has the file alone, and one more pair to paint.
    write_image(tmp_path / "contents" / "zebra.png", rng.random((64, 80, 3), np.float32))
    painted = tmp_path / "out" / "mixed" / "one__red.png"
    wanted = judge.judge(
        *map(read_image, (painted, *(tmp_path / "out").glob("*/one.png"))),
        read_image(tmp_path / "out" / "styles" / "red.png"),
        nst_jax.load_params("vgg16"),
    )
    elsewhere = [f"--output_dir={tmp_path / 'elsewhere'}", *arguments[1:]]
    elsewhere += [f"--json={tmp_path / 'out' / 'peers.json'}"]
    more = benchmarking.run(peers, *elsewhere)["rows"][1]
    assert runs(tmp_path, "mixed") == runs(tmp_path, "same") == 3
    assert not (tmp_path / "elsewhere" / "mixed" / "one__red.png").exists()
    assert more["pairs"] == 3 and more["records"][:2] == mixed["records"]
    judged = more["records"][0]["judged"]["vgg16"]
    assert judged == pytest.approx({name: wanted[name] for name in judged}, rel=1e-5)
    assert judged.keys() == {name for group in judge.GROUPS.values() for name in group}
    # Other pictures of the same names are painted anew.
    write_image(tmp_path / "contents" / "zebra.png", np.zeros((64, 80, 3), np.float32))
    third = [f"--output_dir={tmp_path / 'third'}", *elsewhere[1:]]
    benchmarking.run(peers, *third)
    assert runs(tmp_path, "mixed") == 4


# ----------------------------------------------------------------------------------- PyTorch's side


@pytest.mark.torch
@pytest.mark.parametrize("name", ["neural-style-pt", "pastiche"])
def test_the_runner_hands_over_our_weights(tmp_path, vgg19, name):
    """What a program loads, in the runner's process, is what we gave."""
    np.savez(tmp_path / "weights.npz", **weights.caffe(vgg19))
    entry = {
        "neural-style-pt": "import torch; found = torch.load('vgg19.pth')['features.2.weight']",
        "pastiche": (
            "from pastiche.vgg19 import VGG19\n"
            "found = VGG19.from_quantized_bin('none').block1_conv2.weight.detach()"
        ),
    }[name]
    # In place of the program's own start.
    tail = "\nimport numpy, sys; numpy.save(sys.argv[1], found.numpy())"
    (tmp_path / "stand_in_of_peer.py").write_text(entry + tail, "utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(runner.__file__).parent)!r})\n"
        "import runner\n"
        "own = runner.PROGRAMS[sys.argv[1]]\n"
        "runner.import_torchvision = lambda: None\n"  # not in the extra `compare`
        "runner.PROGRAMS[sys.argv[1]] = lambda *given: (own(*given), 'stand_in_of_peer')[1]\n"
        "runner.main(*sys.argv[1:])"
    )
    given = [name, str(tmp_path), str(tmp_path / "weights.npz"), "64", "found.npy"]
    subprocess.run([sys.executable, "-c", code, *given], cwd=tmp_path, check=True)
    kernel = np.asarray(vgg19["block1_conv2"]["kernel"])
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), kernel.transpose(3, 2, 0, 1))
    assert json.loads((tmp_path / "versions.json").read_text("utf-8"))["torch"]
