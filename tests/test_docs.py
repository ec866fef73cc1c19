"""What README and docs show is run, at small sizes: Python, commands and the notebook."""

import functools
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import nbclient
import nbformat
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from commandline import SMALL
from PIL import Image
from test_footage import write_film

import nst_jax
from benchmarks import common
from nst_jax import examples
from nst_jax.cli import main as cli_main
from nst_jax.cli import outputs as cli_outputs
from nst_jax.cli.flags import QUESTION_FLAGS
from nst_jax.cli.main import _main, _parse
from nst_jax.files.images import to_uint8, write_animation, write_image
from nst_jax.weights.load import load_params

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
GUIDE = DOCS / "guide"
# Every page that people write; docs/assignment is made by a script.
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *GUIDE.glob("*.md")])
NOTEBOOK = DOCS / "notebook.ipynb"

# Commands that no test of a page runs, by how they begin: with what runs them, or why nothing does.
ELSEWHERE = {
    "scripts/demo.sh": "installs; test_demo.py",
    "scripts/test.sh": "runs this test",
    "scripts/on_device.sh": "measures for minutes; test_benchmarks_device.py",
    "pip install": "installs",
    ".venv/bin/pip install": "installs",
    "peers/bin/pip install": "installs",
    "source .venv/bin/activate": "sets up a shell",
    "cp docs/benchmarks.md": "copies a file",
    "python -c": "names the device",
    "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 nst-jax": "sets how the process starts",
    "JAX_NUM_CPU_DEVICES=8 nst-jax": "needs a process with devices of its own",
    "srun nst-jax": "needs a cluster",
    "gcloud compute tpus": "needs a pod",
    "xprof --port": "serves until it is ended",
    "python scripts/fetch_weights.py": "needs a network; test_fetch.py",
    "python scripts/classify.py": "needs what is fetched; test_classify.py",
    "python scripts/convert_weights.py": "needs what is fetched; test_convert.py",
    "python scripts/reproduce_assignment.py": "takes long; test_reproduce_assignment.py",
    "python scripts/train_fast_network.py": "takes long; test_train_fast_network.py",
    "python -m benchmarks.": "test_every_benchmark_and_flag_of_the_pages_exists",
    ".venv/bin/python -m benchmarks.": "test_every_benchmark_and_flag_of_the_pages_exists",
}
# Flags of commands for several machines or devices.
TOGETHER = ("--coordinator_address", "--distributed", "--num_processes")

# What makes the examples small. In Python, beside the layers of `small`:
SMALLER = {
    r'"vgg19"': '"vgg16"',
    r"\bsize=\d+": "size=48",
    r"\bsteps=\d+": "steps=2",
    r"\btile=\d+": "tile=32",
}
# The first layers, which compile fastest; and on the command line, one device, so that both compile
# the same programs.
FASTEST = (*SMALL, "--style_layers=block1_conv1", "--content_layers=block1_conv2")
FLAGS = (*FASTEST, "--mesh=style:1", "--nocompilation_cache")


@pytest.fixture
def small(monkeypatch):
    """The default preset, at the layers of `FASTEST`, in two steps."""
    named = dict(flag.removeprefix("--").split("=") for flag in FASTEST)
    layers = {name: tuple(named[name].split(",")) for name in ("content_layers", "style_layers")}
    layers["nearest_layers"] = ("block1_conv2",)
    default = nst_jax.presets["default"].replace(**layers, first_steps=None, steps=2)
    monkeypatch.setitem(nst_jax.presets, "default", default)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of the examples, with the pictures that they name."""
    butterfly, rainbow, triangles = (
        examples.by_name[name](64) for name in ("butterfly", "rainbow", "triangles")
    )
    pictures = {
        "photo.jpg": butterfly,
        "painting.jpg": rainbow,
        "drawing.png": triangles,
        "photos/one.jpg": butterfly,
        "photos/more/two.png": butterfly[:, ::-1],
        "paintings/one.jpg": rainbow,
        "paintings/more/two.jpg": triangles,
    }
    for name, image in pictures.items():
        write_image(tmp_path / name, image)
    film = list(to_uint8(examples.butterfly_film(48, frames=3).frames))
    for number, frame in enumerate(film):
        write_image(tmp_path / f"frames/{number}.png", frame / 255)
    write_animation(tmp_path / "dance.gif", film, milliseconds=100)
    write_film(tmp_path / "holiday.mp4", film)
    left = np.repeat(np.uint8([[255, 0]]), 32, axis=1).repeat(64, axis=0)
    Image.fromarray(left).save(tmp_path / "left.png")
    colours = np.where(left[..., None] > 0, np.uint8([255, 0, 0]), np.uint8([0, 0, 255]))
    Image.fromarray(colours).save(tmp_path / "map.png")
    lines = ["content,style,output", "photos/one.jpg,paintings/one.jpg,first"]
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "photos/more/two.png,photo.jpg,"]))
    Image.fromarray(255 - left).save(tmp_path / "right.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


def blocks(page, *languages):
    """(line number, text) of each fenced block of a page in one of these languages."""
    text = page.read_text("utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if found[1] in languages:
            yield text.count("\n", 0, found.start(2)), found[2]


def execute(parts, source, namespace):
    """Runs parts of a file one after the other, smaller; errors name the file's own lines."""
    for line, text in parts:
        exec(compile("\n" * line + smaller(text), source, "exec"), namespace)
    return namespace


def smaller(text):
    """Python of a page, with sizes that suit a test."""
    for pattern, other in SMALLER.items():
        text = re.sub(pattern, other, text)
    return text


def commands(page):
    """The commands of a page, comments left out."""
    for _, text in blocks(page, "sh", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if arguments := shlex.split(line.removeprefix("$ "), comments=True):
                yield arguments


def is_elsewhere(arguments):
    line = " ".join(arguments)
    return line.startswith(tuple(ELSEWHERE)) or any(x.startswith(TOGETHER) for x in arguments)


def test_every_page_with_python_is_run():
    pages = {page for page in PAGES if list(blocks(page, "python"))}
    names = [
        "README",
        "checkpoints",
        "extending",
        "python",
        "scale",
        "sequences",
        "terms",
        "training",
    ]
    assert sorted(page.stem for page in pages) == names


@pytest.mark.slow
def test_pyright_accepts_the_python_of_every_page(tmp_path):
    """The package itself is checked by scripts/test.sh."""
    examples = []
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        if text := "\n".join(text for _, text in blocks(page, "python")):
            path = tmp_path / page.relative_to(ROOT).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            examples.append(page)
    assert ROOT / "README.md" in examples and len(examples) > 1
    settings = {"typeCheckingMode": "basic", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "-p", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run_page(page):
    return execute(blocks(page, "python"), page.name, {"__name__": page.stem})


def test_python_of_the_page_of_terms():
    config = run_page(GUIDE / "terms.md")["config"]
    assert [term.name for term in config.terms] == ["content", "nearest", "tv"]


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", GUIDE / "checkpoints.md", GUIDE / "scale.md"])
def test_python_of_the_short_pages(folder, small, page):
    found = run_page(page)
    assert np.all(np.isfinite(found["result"].images))
    assert found["result"].images.shape[1:] == (48, 48, 3)
    if page.name == "README.md":
        assert (folder / "painted.png").exists()
    elif page.name == "checkpoints.md":
        assert (folder / "kept").is_dir()
        again = run_page(page)["result"]
        np.testing.assert_array_equal(again.images, found["result"].images)
    else:
        assert found["placed"].mesh is not None
        assert found["large"].images.shape == (1, 48, 48, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("many_steps")
def test_python_of_the_guide(folder, small, capsys):
    found = run_page(GUIDE / "python.md")
    assert "did you mean 'style_weight'?" in capsys.readouterr().out
    assert len(list(folder.glob("painted_*.png"))) == 2
    for name in ("result", "blends", "sweep"):
        assert np.all(np.isfinite(found[name].images)), name
        assert found[name].images.shape == (2, 48, 48, 3), name
    # The first step from the content is the style's alone: the pictures still agree.
    content = found["sweep"].history["content"][-1]
    assert content[0] > 0 and content[1] == pytest.approx(4 * content[0], rel=1e-3)
    assert np.any(found["textures"][0] != found["textures"][1])
    assert [images.shape for images in found["augmented"]] == [(2, 48, 48, 3)]
    assert found["gram"].shape == (64, 64) and found["covariance"].shape == (128, 128)
    assert found["slopes"].shape == found["images"].shape and np.any(found["slopes"])
    untrained = found["network"].init(jax.random.key(0), found["blurred"])
    inputs = (found["params"], found["blurred"], found["sharp"])
    _, _, before = found["train"](untrained, found["adam"].init(untrained), *inputs)
    assert 0.0 < found["value"] < before


@pytest.mark.slow
def test_python_of_own_parts(folder, small):
    found = run_page(GUIDE / "extending.md")
    for name in ("result", "logits", "own_term", "held", "own_network"):
        assert np.all(np.isfinite(found[name].images)), name
        assert found[name].images.shape == (2, 48, 48, 3), name
    assert found["losses"][-1] < found["losses"][0]
    assert found["own_term"].history["means"].shape == found["own_term"].history["style"].shape
    assert np.all(found["held"].history["held"][1] > 0)


@pytest.mark.slow
def test_python_of_the_page_of_sequences(folder, small):
    found = run_page(GUIDE / "sequences.md")
    assert found["images"].shape == (1, 48, 48, 3) and found["number"] == 2
    assert len(list(folder.glob("dance_*.png"))) == 3


@pytest.mark.slow
def test_python_of_the_training(folder):
    found = run_page(GUIDE / "training.md")
    for name in ("losses", "nnx_losses"):
        assert found[name][-1] < found[name][0], name
    assert found["photos"].shape == (2, 48, 48, 3)
    assert found["values"].shape == (2,) and np.all(np.isfinite(found["values"]))
    assert found["painted"].shape == (64, 64, 3) and (folder / "painted.png").exists()


WITH_COMMANDS = [page for page in PAGES if not all(map(is_elsewhere, commands(page)))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands(folder, monkeypatch, capsys, page):
    """A command runs here, or `ELSEWHERE` says where it does."""
    # Slow, and tested elsewhere.
    monkeypatch.setattr(cli_outputs, "loss_curves", lambda path, *_: path.touch())
    monkeypatch.setattr(cli_main, "load_params", functools.cache(load_params))
    ran = []
    for program, *arguments in commands(page):
        if is_elsewhere([program, *arguments]):
            continue
        line = shlex.join([program, *arguments])
        assert program == "nst-jax", line
        smaller = [*arguments, *FLAGS]
        if any(argument.startswith("--tile=") for argument in arguments):
            smaller.append("--tile=32")
        with flagsaver.flagsaver():
            try:
                code = _main(_parse(["nst-jax", *smaller]))
            except SystemExit as ended:
                code = ended.code
        out, err = capsys.readouterr()
        assert code == 0, f"{line}: {err}"
        asked = {argument.removeprefix("--").partition("=")[0] for argument in arguments}
        question = bool(asked & {"help", *QUESTION_FLAGS})
        assert bool(out) == question, line
        if not question:
            given = [a.partition("=")[2] for a in arguments if a.startswith("--output_dir=")]
            (output,) = given or ["out"]
            assert list((folder / output).rglob("*.[pj][np]g")), line
            ran.append(output)
    assert len(set(ran)) == len(ran)
    if ran:
        pattern = rf"`((?:{'|'.join(ran)})/[\w./]+)`"
        for name in set(re.findall(pattern, page.read_text("utf-8"))):
            assert (folder / name).exists(), name
    if page.stem == "command_line":
        assert len(ran) > 6
        assert len(list((folder / "sweep").glob("*content_weight=*.png"))) == 3
        assert len(list((folder / "masked").glob("photo__*.png"))) == 1


def test_every_command_that_is_run_elsewhere_is_shown():
    shown = [" ".join(arguments) for page in PAGES for arguments in commands(page)]
    for start, reason in ELSEWHERE.items():
        assert any(line.startswith(start) for line in shown), start
        for name in re.findall(r"test_\w+\.py", reason):
            assert (ROOT / "tests" / name).exists(), name


def test_every_benchmark_and_flag_of_the_pages_exists():
    found = [line for page in PAGES for line in commands(page) if "-m" in line]
    found = [line[line.index("-m") + 1 :] for line in found]
    assert len(found) > 10
    for module, *arguments in found:
        assert module.startswith("benchmarks."), module
        values = flags.FlagValues()
        common.define(importlib.import_module(module).FLAGS, values)
        assert len(values([module, *arguments])) == 1, (module, arguments)


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path):
    """The whole of it, smaller, in a kernel as of Jupyter."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, "outputs are left out"
            cell.source = smaller(cell.source)
    told = "print(values[-1] < values[0], result.images.shape, blend.images.shape, len(sweep.loss))"
    notebook.cells.append(nbformat.v4.new_code_cell(told))
    # The kernel imports the package from this checkout.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        client = nbclient.NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs[-1].text == "True (2, 48, 48, 3) (2, 48, 48, 3) 2\n"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 7


def found_in_package(name):
    """The module or the object of this name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
    assert len(pages) > 8
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    texts = {page: page.read_text("utf-8") for page in pages}
    texts[NOTEBOOK] = "\n".join("".join(cell["source"]) for cell in notebook)
    for page, text in texts.items():
        for target, name in re.findall(r"\]\(([^)#\s]+)(?:#(nst_jax[\w.]+))?", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                assert not name or found_in_package(name), name


def test_the_reference_names_what_there_is():
    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    names = re.findall(r"^::: (\S+)$", text, re.M)
    assert len(set(names)) == len(names) > 8 and "nst_jax" in names
    for name in names:
        assert found_in_package(name) is not None


def test_the_site_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"^ +- .+: (\S+\.md)", text, re.M)
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    # These lie elsewhere: see scripts/docs_hooks.py.
    elsewhere = {"index.md", "changelog.md", "contributing.md", "weights.md"}
    assert sorted(listed) == sorted(there | elsewhere)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "guide" / "extending.html").exists()


def test_no_sentence_begins_with_of():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        found = re.findall(r"(?:^|[.;:] )Of .*", page.read_text("utf-8"), re.M)
        assert not found, f"{page.name}: {found}"
