"""Pictures of a data-set job: files, pairs of a content and a style, and batches of pairs.

The pairs, their order and their outputs depend only on the names of the files and on the settings.
Therefore processes that do not communicate make each pair once, if each takes its share.

The batches depend on a process's share, its devices and its readable files, but not on what is
finished. Therefore an interrupted job ends with the same files as one that ran through.
"""

import collections
import csv
import fnmatch
import glob
import hashlib
import io
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from nst_jax.cli.console import say
from nst_jax.files import images
from nst_jax.files.atomic import FileError, short, unique
from nst_jax.files.paths import (
    exists,
    is_dir,
    is_pipe,
    is_remote,
    listing,
    path_of,
    read_bytes,
    real,
)

Pairing = Literal["all", "zip", "random"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)


class Source(NamedTuple):
    """A picture file.

    Attributes:
      path: of the file.
      name: part of the names of its outputs, without a suffix. It is the path below the folder or
        below the fixed part of the pattern, with "/" between folders. A file that was named by
        itself has only its file name there.
    """

    path: str
    name: str


class Pair(NamedTuple):
    """One picture to be made.

    Attributes:
      content: path of the content.
      style: path of the style.
      output: path of the picture, relative to the output folder.
    """

    content: str
    style: str
    output: str


class Batch(NamedTuple):
    """Pairs that are painted at once.

    Attributes:
      pairs: at most `size` of them.
      size: number of outputs of the program. A pair is repeated in the places that are left.
      shape: `(H, W)` of the resized contents.
    """

    pairs: tuple[Pair, ...]
    size: int
    shape: tuple[int, int]


def names_several(items: Sequence[str]) -> bool:
    """Whether any of `items` is a folder or a glob pattern.

    Raises:
      ValueError: a remote item is of an unknown kind, or its package is not installed.
      OSError: a storage cannot be reached.
    """
    paths = map(path_of, items)
    return any(is_dir(path) or (_is_pattern(str(path)) and not exists(path)) for path in paths)


def expand(
    items: Sequence[str],
    *,
    flag: str,
    output_dir: str | os.PathLike[str],
    made: Collection[str] = (),
) -> list[Source]:
    """Lists the picture files that `items` name, each file once.

    A file stands for itself. A folder stands for the pictures in it and in its subfolders. A glob
    pattern stands for the pictures that match it; `**` matches any number of folders. Folders and
    patterns may be remote. Each of these takes one listing.

    In folders and patterns, a picture is a file with the suffix of one. It does not begin with a
    dot, and no run has recorded it as its own. The pictures of an item are sorted. Links are
    followed, but each folder is visited once. A broken link counts as a picture, so that reading it
    gives the error. Other files are passed over, and counted in a message.

    Args:
      items: paths of files and folders, and glob patterns.
      flag: the start of error messages.
      output_dir: folder of the outputs.
      made: names in `output_dir` of what earlier runs made, files and folders. They are passed
        over, and a line tells how many pictures these are.

    Raises:
      FileError: an item names no picture, or a pipe.
      OSError: a remote folder cannot be listed.
    """
    outputs = real(output_dir) + ("/" if is_remote(output_dir) else os.sep)

    def is_made(path: pathlib.Path) -> bool:
        """Whether a picture, or a folder that it is in, is in `made`."""
        name = real(path)
        if not name.startswith(outputs):
            return False
        parts = pathlib.PurePath(name.removeprefix(outputs)).parts
        return any("/".join(parts[:end]) in made for end in range(1, len(parts) + 1))

    suffixes = images.suffixes()
    found: dict[str, Source] = {}
    passed: set[str] = set()
    for item in items:
        path = path_of(item)
        folder = is_dir(path)
        if folder:
            root, pattern = path, ("**", "*")
        elif _is_pattern(item) and not exists(path):
            fixed = tuple(itertools.takewhile(lambda part: not _is_pattern(part), path.parts))
            root, pattern = type(path)(*fixed), path.parts[len(fixed) :]
        elif is_pipe(path):
            raise FileError(
                f"{flag}: a data set needs files, which it reads more than once, got the pipe "
                f"'{item}'"
            )
        else:
            found.setdefault(str(path), Source(str(path), path.stem))
            continue
        below = _objects if is_remote(path) else _files
        files = list(below(root, pattern))
        every = sorted(match for match in files if match.suffix.lower() in suffixes)
        matches = [match for match in every if not is_made(match)]
        passed |= {str(match) for match in every} - {str(match) for match in matches}
        others = _passed_over(
            match for match in files if match.suffix.lower() not in suffixes and not is_made(match)
        )
        where = "in the folder" if folder else "like"
        if not matches:
            but = f", but the {len(every)} that earlier runs made" if every else ""
            but += others and f", only {others}"
            raise FileError(f"{flag}: there are no pictures {where} '{item}'{but}")
        if others:
            say(f"nst-jax: {flag}: passed over {others} {where} '{item}'")
        for match in matches:
            parts = match.relative_to(root).with_suffix("").parts
            # Without "..", so that outputs stay in the output folder.
            name = "/".join(part for part in parts if part != "..")
            found.setdefault(str(match), Source(str(match), name))
    if passed:
        say(f"nst-jax: {flag}: passed over {len(passed)} pictures that earlier runs made")
    return list(found.values())


def _passed_over(files: Iterable[pathlib.Path]) -> str:
    """Counts files, such as "3 files that cannot be read (2 .psd, 1 .txt)"; "" for none."""
    counts = collections.Counter(path.suffix for path in files)
    if not counts:
        return ""
    commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in commonest]
    count = sum(counts.values())
    heif = {suffix.lower() for suffix in counts} & set(images.HEIF_SUFFIXES)
    needs = "; HEIC pictures need pillow-heif: pip install pillow-heif" if heif else ""
    return f"{count} file{'s' if count > 1 else ''} that cannot be read ({', '.join(kinds)}{needs})"


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _files(root: pathlib.Path, pattern: Sequence[str]) -> Iterator[pathlib.Path]:
    """The files below `root` that match the parts of a pattern, and broken links."""
    whole = os.path.join(glob.escape(str(root)), *pattern)
    for match in map(pathlib.Path, _matching(whole)):
        if match.is_file() or not match.exists():
            yield match


def _objects(root: pathlib.Path, pattern: Sequence[str]) -> Iterator[pathlib.Path]:
    """The objects below a remote `root` that match the parts of a pattern."""
    for name in listing(root):
        if _match(name.split("/"), pattern):
            yield root / name


def _match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a pattern, by the rules of `_matching`."""
    if not pattern or not parts:
        return not pattern and not parts
    first, *rest = pattern
    if first == "**":
        below = not parts[0].startswith(".") and len(parts) > 1 and _match(parts[1:], pattern)
        return below or _match(parts, rest or ["*"])
    hidden = parts[0].startswith(".") and not first.startswith(".")
    return not hidden and fnmatch.fnmatchcase(parts[0], first) and _match(parts[1:], rest)


def _matching(pattern: str) -> Iterator[str]:
    """The paths that match a glob pattern.

    Unlike `glob`, it stops at a link that leads back to a folder around it.
    """
    parts = pathlib.PurePath(pattern).parts
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    place = parts.index("**")
    for top in glob.iglob(os.path.join(*parts[:place], "")) if place else ["."]:
        for folder in _folders(top):
            yield from _matching(os.path.join(glob.escape(folder), *parts[place + 1 :] or "*"))


def _folders(top: str) -> Iterator[str]:
    """`top` and the folders below it, each once, without hidden ones."""
    seen = set()
    for folder, below, _ in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield folder


def pair(
    contents: Sequence[Source],
    styles: Sequence[Source],
    *,
    pairing: Pairing,
    seed: int = 0,
    suffix: str = ".png",
) -> list[Pair]:
    """Lists the pictures to be made, each with an output of its own.

    An output lies in the same subfolder as its content.

    Args:
      contents: the content files.
      styles: the style files.
      pairing: "all" pairs every content with every style. "zip" pairs the first content with the
        first style, and so on. "random" pairs each content with one style, drawn by the seed.
      seed: of the random pairing. The style drawn for a content depends only on the seed, the
        content's name and the number of styles.
      suffix: of the outputs.

    Raises:
      ValueError: "zip" with different numbers of contents and styles.
    """
    if pairing == "zip":
        if len(contents) != len(styles):
            raise ValueError(
                "--pairing=zip needs as many contents as styles, "
                f"got {len(contents)} and {len(styles)}"
            )
        found = list(zip(contents, styles, strict=True))
    elif pairing == "random":
        found = [(content, styles[_draw(seed, content.name, len(styles))]) for content in contents]
    else:
        found = list(itertools.product(contents, styles))
    stems = [_stem(content.name, style) for content, style in found]
    return [
        Pair(content.path, style.path, f"{stem}{suffix}")
        for (content, style), stem in zip(found, unique(stems), strict=True)
    ]


def read_pairs(path: str, *, suffix: str) -> tuple[list[Source], list[Source], list[Pair]]:
    """Reads a CSV file of pairs.

    The first line names the columns: `content`, `style` and, if wanted, `output`. Contents and
    styles are relative to the folder of the file, outputs to the folder of the data set. An output
    may leave out its suffix. Without an output, its name is made of the other two.

    Args:
      path: the file. It may be remote.
      suffix: of the outputs.

    Returns:
      The contents, the styles and the pairs, in the order of the file.

    Raises:
      ValueError: the file is no such list; the message names the line. Or there is no pair.
      OSError: the file cannot be read.
    """
    place = path_of(path)
    try:
        text = read_bytes(place).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--pairs: {path} must be a CSV file in UTF-8: {error}") from None
    columns = [name.strip() for name in rows[0]] if rows else []
    if columns not in (["content", "style"], ["content", "style", "output"]):
        raise ValueError(
            f"--pairs: the first line of {path} must be content,style or content,style,output, got "
            f"{','.join(columns)!r}"
        )
    contents: dict[str, Source] = {}
    styles: dict[str, Source] = {}
    found: list[tuple[Source, Source, str]] = []
    lines: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != len(columns) or not all(cells[:2]):
            raise ValueError(
                f"--pairs: line {line} of {path} must be {','.join(columns)}, got {','.join(row)!r}"
            )
        named = []
        for sources, name in ((contents, cells[0]), (styles, cells[1])):
            file = path_of(name) if is_remote(name) else place.parent / name
            named.append(sources.setdefault(str(file), Source(str(file), file.stem)))
        output = cells[2] if len(cells) > 2 else ""
        if output:
            output = _output(output, suffix, f"--pairs: line {line} of {path}")
            if lines.setdefault(output, line) != line:
                raise ValueError(
                    f"--pairs: lines {lines[output]} and {line} of {path} have one output, {output}"
                )
        found.append((*named, output))
    if not found:
        raise ValueError(f"--pairs: {path} must hold a pair, got none")
    given = [output.removesuffix(suffix) for *_, output in found if output]
    made = [_stem(content.name, style) for content, style, output in found if not output]
    stems = iter(unique([*given, *made])[len(given) :])
    pairs = [
        Pair(content.path, style.path, output or f"{next(stems)}{suffix}")
        for content, style, output in found
    ]
    return list(contents.values()), list(styles.values()), pairs


def _output(name: str, suffix: str, where: str) -> str:
    """The path of an output that a user names, with its suffix.

    Raises:
      ValueError: it is not below the folder of the outputs, or of another format.
    """
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or is_remote(name):
        raise ValueError(f"{where}: the output must be below the output folder, got {name!r}")
    if path.suffix.lower() in images.suffixes() and path.suffix.lower() != suffix:
        raise ValueError(f"{where}: the output must end in {suffix} or in nothing, got {name!r}")
    return str(path) if path.suffix.lower() == suffix else f"{path}{suffix}"


def _stem(content: str, style: Source) -> str:
    """The path of an output without its suffix, for a content of this name."""
    folder, _, name = content.rpartition("/")
    stem = short(f"{name}__{style.name.rpartition('/')[2]}")
    return f"{folder}/{stem}" if folder else stem


def draw_again(
    pairs: Sequence[Pair],
    contents: Sequence[Source],
    styles: Sequence[Source],
    *,
    seed: int,
    bad: Container[str],
    suffix: str = ".png",
    finished: Callable[[Pair], bool] = lambda one: False,
) -> list[Pair]:
    """Draws another style for each readable content whose style cannot be read.

    The style drawn depends only on the seed, the content's name, the number of styles, and on which
    of the styles drawn before it are bad.

    Args:
      pairs: from `pair` with the pairing "random".
      contents, styles, seed: as for `pair`.
      bad: paths of the files that cannot be read.
      suffix: of the outputs.
      finished: whether a pair is painted already. Such a pair stays.

    Returns:
      The pairs, in their order. If no style can be read, they stay as they are.
    """
    if all(style.path in bad for style in styles):
        return list(pairs)
    names = {content.path: content.name for content in contents}
    drawn: dict[int, tuple[str, Source]] = {}
    for number, one in enumerate(pairs):
        if one.style not in bad or one.content in bad or finished(one):
            continue
        name = names[one.content]
        style = next(
            style
            for attempt in itertools.count(1)
            for style in [styles[_draw(seed, f"{name}/{attempt}", len(styles))]]
            if style.path not in bad
        )
        drawn[number] = name, style
    stems = [one.output.removesuffix(suffix) for one in pairs]
    stems = unique([*stems, *(_stem(name, style) for name, style in drawn.values())])
    found = list(pairs)
    for (number, (_, style)), stem in zip(drawn.items(), stems[len(pairs) :], strict=True):
        found[number] = Pair(pairs[number].content, style.path, f"{stem}{suffix}")
    return found


def _draw(seed: int, name: str, count: int) -> int:
    """A pseudorandom number below `count`."""
    digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest) % count


def plan(
    pairs: Sequence[Pair],
    shapes: Mapping[str, tuple[int, int]],
    *,
    batch_size: int,
    devices: int = 1,
) -> list[Batch]:
    """Divides pairs into batches.

    A batch may hold several contents and styles. Contents of one shape share batches of one size,
    so that each shape is compiled once. That size is the smallest with which the number of batches
    is still the minimum. So a shape has fewer empty places than batches.

    Args:
      pairs: the pairs of one process.
      shapes: `(H, W)` of each resized content, by its path.
      batch_size: the largest number of pictures at once.
      devices: number of devices. A batch with more pictures than this has a multiple of it, where
        `batch_size` allows one.
    """
    if batch_size > devices:
        batch_size -= batch_size % devices
    groups: dict[tuple[int, int], list[Pair]] = {}
    for one in pairs:
        groups.setdefault(shapes[one.content], []).append(one)
    batches = []
    for shape, group in groups.items():
        size = math.ceil(len(group) / math.ceil(len(group) / batch_size))
        if size > devices:
            size = math.ceil(size / devices) * devices
        for first in range(0, len(group), size):
            batches.append(Batch(tuple(group[first : first + size]), size, shape))
    return batches
