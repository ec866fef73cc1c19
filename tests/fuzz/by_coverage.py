"""Coverage-guided fuzzing, for as long as one likes (`pip install atheris`).

    PYTHONPATH=.:tests python -m fuzz.by_coverage KINDS CORPUS_FOLDER -max_total_time=600

KINDS are some of `inputs.TARGETS` that one reader reads, such as png,jpeg,webp,tiff,others, or
flags. Their seeds are put into CORPUS_FOLDER, where what reaches new code is kept for another time;
what follows goes to libFuzzer.

What Python code a changed input reaches leads the next change. Pillow's decoders in C are taken as
they come: of them a crash is seen, no coverage.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["nst_jax", "PIL", "json"]):
    from fuzz import inputs

FLAGS = [b"--size=64\n--styles=a.png", b"--demo\n--mixing=1,0;0,1", b"--list_layers\n--model=vgg16"]


def of_files(kinds: list[inputs.Target], folder: pathlib.Path):
    """Reads an input as the first of `kinds`, which share their reader."""

    def one_input(data: bytes) -> None:
        path = folder / kinds[0].name
        path.write_bytes(data)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(sys.stdout):
                kinds[0].read(path)
        except (ValueError, TypeError) as error:
            assert len(str(error).splitlines()) == 1

    return one_input


def of_flags(folder: pathlib.Path):
    """Takes an input as flags, a line each."""

    def one_input(data: bytes) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = inputs.read_flags(data.decode("utf-8", "replace").split("\n"), folder)
        lines = [line for line in said.getvalue().splitlines() if line.startswith("nst-jax: ")]
        assert (code, len(lines)) == (1, 1) or code == 0

    return one_input


if __name__ == "__main__":
    script, names, corpus, *options = sys.argv
    corpus = pathlib.Path(corpus).resolve()
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-artifact_prefix={pathlib.Path.cwd()}/", *options]
    folder = pathlib.Path(tempfile.mkdtemp())
    os.chdir(folder)  # flags may name files
    if names == "flags":
        seeds, one_input = FLAGS, of_flags(folder)
    else:
        kinds = [inputs.TARGETS[name] for name in names.split(",")]
        seeds = [seed for kind in kinds for seed in (*kind.seeds, *kind.refused)]
        one_input = of_files(kinds, folder)
    for seed in seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    atheris.Setup([script, str(corpus), *options], one_input)
    atheris.Fuzz()
