"""What the benchmarks read out of a compiled program's text."""

import pytest

from benchmarks import hlo

# The form in which the TPU's compiler writes a program; two loops, one inside the other.
TEXT = """HloModule jit_f, is_scheduled=true

%inner_body (a: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %fusion.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) fusion(%p.1), kind=kOutput, \
calls=%fused.1, metadata={op_name="jit(f)/jvp(block1_conv2)/conv_general_dilated"}, \
backend_config={"window_config":{"estimated_cycles":"100"}}
}

%fused.1 (b: f32[8,128]) -> f32[8,128] {
  %p.2 = f32[8,128]{1,0} parameter(0)
  ROOT %convolution.1 = f32[8,128]{1,0} convolution(%p.2, %p.2), dim_labels=bf_io->bf
}

%inner_condition (c: (s32[], f32[8,128])) -> pred[] {
  %constant.8 = s32[]{:T(128)} constant(8)
  %p.3 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %get.3 = s32[]{:T(128)} get-tuple-element(%p.3), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%get.3, %constant.8), direction=LT
}

%body (d: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p.4 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %copy.4 = f32[8,128]{0,1:T(8,128)} copy(%p.4), metadata={op_name="jit(f)/jvp(block1_pool)/max"}, \
backend_config={"window_config":{"estimated_cycles":"7"}}
  %permute.4 = (bf16[1,4]{1,0}, bf16[1,6]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%copy.4), channel_id=1
  %done.4 = bf16[1,6]{1,0} collective-permute-done(%permute.4)
  %all.4 = (f32[2,2]{1,0}, f32[3]{0}) all-reduce(%copy.4, %copy.4), to_apply=%add
  ROOT %while.4 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%p.4), \
condition=%inner_condition, body=%inner_body
}

%condition (e: (s32[], f32[8,128])) -> pred[] {
  %p.5 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %get.5 = pred[] get-tuple-element(%p.5), index=0
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %while.6 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%x), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"25"}}
  %relu.6 = f32[8,128]{1,0} fusion(%x), kind=kLoop, calls=%fused.2, \
metadata={op_name="jit(f)/jvp(block2_conv1)/relu/max"}, \
backend_config={"window_config":{"estimated_cycles":"3"}}
  ROOT %add.6 = f32[8,128]{1,0} add(%x, %x), metadata={op_name="jit(f)/add"}, \
backend_config={"window_config":{"estimated_cycles":"2"}}
}

%fused.2 (f: f32[8,128]) -> f32[8,128] {
  %p.7 = f32[8,128]{1,0} parameter(0)
  ROOT %maximum.7 = f32[8,128]{1,0} maximum(%p.7, %p.7)
}
"""


def test_loops_count_as_often_as_they_run():
    """One loop's length is noted, and the other's is the bound in its condition."""
    found = hlo.operations(TEXT)
    times = {each.opcode: each.times for each in found if each.cycles}
    assert times == {"fusion": 1, "copy": 25, "add": 1}  # the last fusion is outside the loops
    assert hlo.cycles_by_kind(found) == {
        "convolutions of block1": 25 * 8 * 100,
        "copies": 25 * 7,
        "ReLU": 3,
        "optimiser and state": 2,
    }


def test_exchanges_have_their_bytes():
    assert hlo.collectives(hlo.operations(TEXT)) == {
        "all-reduce": {"number": 25, "bytes": 25 * (4 + 3) * 4, "largest": 28},
        "collective-permute": {"number": 25, "bytes": 25 * 12, "largest": 12},
    }


@pytest.mark.parametrize(
    ("opcode", "name", "inside", "kind"),
    [
        ("fusion", "transpose(jvp(...hwc,...hwd->...cd))/dot_general", {"dot"}, "Gram matrices"),
        ("fusion", "jvp(block3_pool)/reduce_window_max", {"reduce-window"}, "pooling"),
        ("fusion", "jvp(block1_conv1)/reshape", {"slice", "parameter"}, "copies"),
        ("fusion", "jvp(block1_conv1)/convert", {"convert"}, "rest of the network"),
        ("fusion", "jvp()/sub", {"subtract"}, "loss"),
        ("all-gather-start", "anything", set(), "collectives"),
    ],
)
def test_kinds(opcode, name, inside, kind):
    operation = hlo.Operation(opcode, name, "f32[2]{0}", 1, 1, frozenset(inside))
    assert hlo.kind_of(operation) == kind


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="HLO with an ENTRY computation"):
        hlo.operations("nothing")
