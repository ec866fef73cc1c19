"""Fetches the full-precision VGG files published with Keras.

    python scripts/fetch_weights.py                             # both networks without head
    python scripts/fetch_weights.py --files=vgg19,imagenet_classes
    python scripts/fetch_weights.py --mirror=https://example.org/weights

Prints the path of each file to stdout, everything else to stderr. A download that was
broken off goes on where it stopped when the same command is run again. Exits 0 when all
files are there, 1 on failure, 130 on Ctrl-C.
"""

import program
from absl import flags

from nst_jax.weights import fetch


def define_flags() -> None:
    flags.DEFINE_list(
        "files",
        ["vgg16_notop", "vgg19_notop"],
        f"What to fetch, of {', '.join(fetch.FILES)}.",
    )
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Folder to keep the files in. By default $NST_JAX_CACHE, or nst_jax in "
        "$XDG_CACHE_HOME or ~/.cache.",
    )
    flags.DEFINE_string(
        "mirror", None, "Address of a folder with the same files, to fetch them from."
    )
    flags.DEFINE_integer("retries", 4, "How often to try again after a failure that may pass.")
    flags.DEFINE_float("timeout", 30.0, "Longest silence of the server, in seconds.")


def run() -> None:
    """Fetches what the flags ask for, printing each path."""
    values = flags.FLAGS
    unknown = [file for file in values.files if file not in fetch.FILES]
    if unknown or not values.files:
        raise ValueError(
            f"--files: wanted some of {', '.join(fetch.FILES)}, got {', '.join(unknown)!r}"
        )
    for file in values.files:
        path = fetch.fetch(
            file,
            directory=values.cache_dir,
            mirror=values.mirror,
            retries=values.retries,
            timeout=values.timeout,
        )
        print(path, flush=True)


if __name__ == "__main__":
    define_flags()
    program.start(run, arguments="files go into --files", again="; run it again to go on")
