"""Reads the optimised HLO of a compiled program: the text that lists its operations.

In this text, the compiler of a TPU notes how many cycles it estimates for each operation. An
estimate is not a measured time. It leaves out waits for memory that the compiler did not foresee.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = (
    *("all-gather", "all-reduce", "all-to-all", "collective-broadcast"),
    *("collective-permute", "ragged-all-to-all", "reduce-scatter"),
)
# Operations that only move numbers.
MOVES = {
    *("bitcast", "broadcast", "concatenate", "copy", "copy-done", "copy-start", "dynamic-slice"),
    *("dynamic-update-slice", "get-tuple-element", "iota", "pad", "reshape", "reverse", "slice"),
    *("slice-done", "slice-start", "transpose", "tuple", "parameter", "constant"),
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "f64": 8, "s64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_BOUND = re.compile(r"^s32\[\]\S* constant\((\d+)\)")
_NAME = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
    """An operation of a compiled program.

    Attributes:
      opcode: HLO's name for the kind of operation, such as "fusion".
      name: JAX's name, with all scopes, such as "jit(step)/VGG/block1_conv1/conv_general_dilated".
        It is empty if the compiler made the operation.
      shape: the shape and layout of the result, as text.
      cycles: the compiler's estimate for one execution; 0 if there is no estimate.
      times: how often one call of the program executes the operation. A loop of unknown length
        counts once.
      inside: the opcodes of the computation that a fusion calls; empty for other operations.
    """

    opcode: str
    name: str
    shape: str
    cycles: int
    times: int
    inside: frozenset[str]

    @property
    def bytes(self) -> int:
        """Bytes of the result, without padding.

        The start of an asynchronous operation counts the bytes that its end returns.
        """
        arrays = _ARRAY.findall(self.shape)
        if self.opcode == "collective-permute-start":  # (operand, result, two numbers)
            arrays = arrays[1:2]
        elif self.opcode == "all-gather-start":  # (operands, results)
            arrays = arrays[len(arrays) // 2 :]
        return sum(
            BYTES.get(kind, 4) * math.prod(int(side) for side in sides.split(",") if side)
            for kind, sides in arrays
        )


class _Instruction(NamedTuple):
    opcode: str
    shape: str
    rest: str


def _computations(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    """The name of the entry computation, and the instructions of all computations."""
    found: dict[str, list[_Instruction]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if heading := _COMPUTATION.match(line):
            name = heading[2]
            found[name] = []
            entry = name if heading[1] else entry
        elif name and (instruction := _INSTRUCTION.match(line)):
            rest = instruction[2]
            # A shape of a tuple has parentheses of its own, but no lower-case word before them.
            if opcode := _OPCODE.search(rest):
                shape = rest[: opcode.start(1)].strip()
                found[name].append(_Instruction(opcode[1], shape, rest))
    if not entry:
        raise ValueError("the text must be HLO with an ENTRY computation")
    return entry, found


def operations(text: str) -> list[Operation]:
    """The operations that one call of a compiled program executes.

    Operations in loops, branches and asynchronous calls are listed. Operations inside a fusion are
    not.

    Args:
      text: the optimised HLO, from `Compiled.as_text()`.

    Raises:
      ValueError: the text is not HLO.
    """
    entry, computations = _computations(text)

    def inside(name: str) -> frozenset[str]:
        found = set()
        for opcode, _, rest in computations.get(name, ()):
            called = _CALLED.search(rest) if opcode == "fusion" else None
            found |= {opcode} if called is None else inside(called[1])
        return frozenset(found)

    def listed(name: str, times: int) -> Iterator[Operation]:
        for opcode, shape, rest in computations[name]:
            called = [name for name in _CALLED.findall(rest) if name in computations]
            if branches := _BRANCHES.search(rest):
                called += [name.strip().lstrip("%") for name in branches[1].split(",")]
            cycles, jax_name = _CYCLES.search(rest), _NAME.search(rest)
            yield Operation(
                opcode,
                jax_name[1] if jax_name else "",
                shape,
                int(cycles[1]) if cycles else 0,
                times,
                inside(called[0]) if opcode == "fusion" and called else frozenset(),
            )
            if opcode in ("while", "conditional", "call", "async-start"):
                each_time = times * (_trips(rest, computations) if opcode == "while" else 1)
                for each in called:
                    yield from listed(each, each_time)

    return list(listed(entry, 1))


def _trips(rest: str, computations: Mapping[str, list[_Instruction]]) -> int:
    """How often a loop runs: the count that the compiler notes, or the bound in its condition.

    JAX's loops count from 0. A loop of unknown length counts once.
    """
    if noted := _TIMES.search(rest):
        return int(noted[1])
    condition = computations[_CONDITION.search(rest)[1]]
    compares = any(each.opcode == "compare" and "direction=LT" in each.rest for each in condition)
    bounds = [_BOUND.search(each.rest) for each in condition if each.opcode == "constant"]
    return int(bounds[0][1]) if compares and len(bounds) == 1 and bounds[0] else 1


def kind_of(operation: Operation) -> str:
    """The kind of an operation of the step, such as "pooling", from its opcode and JAX's scopes.

    The kind of a convolution names its block. An operation outside all scopes of the loss is
    "optimiser and state".
    """
    opcode, name = operation.opcode, operation.name
    if opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES:
        return "collectives"
    multiplies = bool({"convolution", "dot"} & {opcode, *operation.inside})
    layer = re.search(r"(block\d)_conv\d", name)
    if multiplies and layer:
        return f"convolutions of {layer[1]}"
    if multiplies and "hwc" in name:
        return "Gram matrices"
    if opcode in MOVES or (operation.inside and operation.inside <= MOVES):
        return "copies"
    if "_pool" in name:
        return "pooling"
    if "/relu" in name:
        return "ReLU"
    if layer or "hwc" in name:
        return "rest of the network"
    return "loss" if "jvp" in name else "optimiser and state"


def cycles_by_kind(found: list[Operation]) -> dict[str, int]:
    """The estimated cycles of each kind of `kind_of`, the largest first."""
    sums: dict[str, int] = defaultdict(int)
    for operation in found:
        if operation.cycles:
            sums[kind_of(operation)] += operation.cycles * operation.times
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def collectives(found: list[Operation]) -> dict[str, Mapping[str, int]]:
    """Counts exchanges between chips: `{kind: {"number": ..., "bytes": ..., "largest": ...}}`.

    "number" and "bytes" are sums over one call of the program. "largest" is the bytes of the
    largest exchange. The bytes are those of the results on one chip.
    """
    kinds: dict[str, dict[str, int]] = {}
    for operation in found:
        kind = operation.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            own = kinds.setdefault(kind, {"number": 0, "bytes": 0, "largest": 0})
            own["number"] += operation.times
            own["bytes"] += operation.times * operation.bytes
            own["largest"] = max(own["largest"], operation.bytes)
    return dict(sorted(kinds.items()))
