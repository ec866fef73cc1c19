"""Types of flags that absl does not have: paths, lists in parts, and numbers or words.

A list is separated by commas. An item in double quotes may hold commas. If a list flag is given
several times, its items follow each other. In a path, `~` is the home folder of the user, and
`~name` is that of another user.
"""

import glob
import itertools
import os
import re
from collections.abc import Collection, Sequence
from typing import Any

from absl import flags

# The main module of a script has the flags that it defines by these functions.
flags.disclaim_key_flags()

_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*(,|\Z)')
_BARE = re.compile(r"\s*([^,]*?)\s*(,|\Z)")

# The most commas of a name that a message tells how to quote. The search takes time.
_COMMAS = 8


class BadValue(ValueError):
    """The value of a flag cannot be read. The message continues a line that begins with --name."""


def define_path(name: str, default: str | None, help: str, **options: Any) -> None:
    """Defines a flag that takes the name of a file or folder."""
    flags.DEFINE(_Path(), name, default, help, serializer=flags.ArgumentSerializer(), **options)


def define_whole(
    name: str, default: int | str | None, help: str, *, words: Collection[str], **options: Any
) -> None:
    """Defines a flag that takes a whole number, or one of some words."""
    flags.DEFINE(
        _Whole(words), name, default, help, serializer=flags.ArgumentSerializer(), **options
    )


def define_list(name: str, default: Sequence[str] | None, help: str, **options: Any) -> None:
    """Defines a flag that takes a list of words or numbers."""
    _define(_List(), name, default, help, **options)


def define_paths(
    name: str,
    default: Sequence[str] | None,
    help: str,
    *,
    empty_items: bool = False,
    **options: Any,
) -> None:
    """Defines a flag that takes a list of names of files.

    Args:
      name: of the flag.
      default: the list without the flag.
      help: what `--help` says.
      empty_items: whether a name may be empty.
      options: other arguments of `flags.DEFINE_flag`, and of the flag's class.
    """
    _define(_Paths(empty_items=empty_items), name, default, help, **options)


def _define(
    parser: "_List",
    name: str,
    default: Sequence[str] | None,
    help: str,
    *,
    flag_values: flags.FlagValues = flags.FLAGS,
    **options: Any,
) -> None:
    flag = _ListFlag(parser, _Joined(), name, default, help, **options)
    flags.DEFINE_flag(flag, flag_values)


def expanded(path: str) -> str:
    """Returns a path with `~` or `~name` at its beginning replaced by the home folder.

    Raises:
      BadValue: there is no such user.
    """
    found = os.path.expanduser(path)
    if path.startswith("~") and found == path:
        user = path[1:].partition("/")[0]
        raise BadValue(
            f"must be a path, got '{path}', but there is no user '{user}'; "
            f"write './{path}' for a name that begins with ~"
        )
    return found


class _Whole(flags.IntegerParser):
    """Reads a whole number, or one of some words."""

    def __init__(self, words: Collection[str]):
        super().__init__()
        self._words = words

    def parse(self, argument: str) -> Any:
        return argument if argument in self._words else super().parse(argument)


class _Path(flags.ArgumentParser):
    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return expanded(argument)


class _ListFlag(flags.Flag):
    """A list flag. Given again, it appends."""

    def parse(self, argument: str) -> None:
        earlier = self.value if self.present else None
        super().parse(argument)
        self.value = [*(earlier or ()), *(self.value or ())]


class _Joined(flags.ArgumentSerializer):
    """Writes a list so that it is read again as it is."""

    def serialize(self, value: Sequence[Any]) -> str:
        return ",".join(map(quoted, map(str, value)))


def quoted(item: str) -> str:
    """Returns an item as it stands in a list: in double quotes if it needs them."""
    if "," in item or item.startswith('"') or item != item.strip():
        return '"' + item.replace('"', '""') + '"'
    return item


class _List(flags.ListParser):
    """Reads a list. An empty text is an empty list, but no item may be empty."""

    empty_items = False

    def parse(self, argument: str | list[str]) -> list[str]:
        if isinstance(argument, list):  # a default
            return argument
        items = self._items(argument)
        if not self.empty_items and not all(items):
            raise BadValue(f"must be a list separated by commas, got an empty item in '{argument}'")
        return items

    def _items(self, argument: str) -> list[str]:
        if not argument:
            return []
        items, place, comma = [], 0, ","
        while comma:
            found = _QUOTED.match(argument, place)
            if found is not None:
                items.append(found[1].replace('""', '"'))
            else:
                found = _BARE.match(argument, place)
                assert found is not None  # it matches any text
                if found[1].startswith('"'):
                    raise BadValue(
                        f"must be a list separated by commas, got '{argument}', where double "
                        "quotes do not enclose a whole item"
                    )
                items.append(found[1])
            place, comma = found.end(), found[2]
        return items


class _Paths(_List):
    """Reads a list of paths."""

    def __init__(self, *, empty_items: bool = False):
        super().__init__()
        self.empty_items = empty_items

    def parse(self, argument: str | list[str]) -> list[str]:
        if argument == "" and not self.empty_items:
            raise BadValue("must be names of files, got ''")
        items = super().parse(argument)
        if isinstance(argument, str) and '"' not in argument:
            _check_commas(argument.split(","))
        return [expanded(item) for item in items]


def _check_commas(parts: Sequence[str]) -> None:
    """Refuses parts of a list that are no files, but make the name of a file together.

    Raises:
      BadValue: there are such parts.
    """
    absent = [not _names_something(part) for part in parts]
    for first, end in itertools.combinations(range(len(parts) + 1), 2):
        if not 2 <= end - first <= _COMMAS + 1 or not any(absent[first:end]):
            continue
        name = ",".join(parts[first:end]).strip()
        if _names_something(name):
            part = parts[absent.index(True, first)].strip()
            raise BadValue(
                f"must be names separated by commas, got '{part}', which is not there; "
                f"write a name with commas in double quotes: '{quoted(name)}'"
            )


def _names_something(text: str) -> bool:
    """Returns whether a path or a glob pattern names something on a disk."""
    path = os.path.expanduser(text.strip())
    return os.path.lexists(path) or (glob.has_magic(path) and any(glob.iglob(path)))
