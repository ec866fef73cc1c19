"""Coverage-guided fuzzing of reading pictures, for as long as one likes (`pip install atheris`).

    PYTHONPATH=.:tests python -m fuzz.atheris_pictures -max_total_time=600 CORPUS_FOLDER

What Python code a changed file reaches leads the next change. Pillow's decoders in C are taken as
they come: of them a crash is seen, no coverage.
"""

import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["nst_jax.io", "PIL"]):
    from nst_jax import io

FOLDER = pathlib.Path(tempfile.mkdtemp())


def one_input(data: bytes) -> None:
    path = FOLDER / "picture"
    path.write_bytes(data)
    try:
        io.read_image(path, max_pixels=10**6)
    except io.ImageError as error:
        assert len(str(error).splitlines()) == 1


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
