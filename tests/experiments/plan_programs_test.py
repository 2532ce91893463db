"""What a plan reads from compiled programs, against sums by hand."""

import collections

import jax
import jax.numpy as jnp
import pytest

from experiments.plan import cycles, hlo, launches
from experiments.plan.loops import Loops
from experiments.plan.target import Launch

NOTE = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
# As libtpu prints it. Five outer steps, each with a condition around seven epochs, a
# loop of unknown length, and one of four augmentations.
STEP = f"""HloModule jit_step, is_scheduled=true

%epoch (state: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {{
  %state = (s32[]{{:T(128)}}, f32[8,8]{{1,0:T(8,128)S(1)}}) parameter(0)
  ROOT %trained = f32[8,8]{{1,0:T(8,128)}} fusion(%state), {NOTE % 1000}
}}

%less.1 (state: (s32[], f32[8,8])) -> pred[] {{
  %seven = s32[]{{:T(128)}} constant(7)
  ROOT %less.2 = pred[] compare(%counter, %seven), direction=LT
}}

%unknown (state: (s32[], s32[])) -> pred[] {{
  ROOT %less.3 = pred[] compare(%counter, %bound), direction=LT
}}

%train (a: f32[8,8]) -> f32[8,8] {{
  %many = (s32[], f32[8,8]) while(%a), condition=%less.1, body=%epoch
}}

%skip (a: f32[8,8]) -> f32[8,8] {{
  %copied = f32[8,8] copy(%a), {NOTE % 1}
}}

%flip (a: f32[8,8]) -> f32[8,8] {{
  %flipped = f32[8,8] reverse(%a), {NOTE % 40}
}}

%outer (state: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {{
  %condition = f32[8,8] conditional(%i, %a, %a), branch_computations={{%skip, %train}}
  %augmented = f32[8,8] conditional(%i, %a, %a), branch_computations={{%flip, %none}}
  %gathered = f32[8,8] all-gather(%condition), replica_groups={{{{0,1}}}}
}}

%none (a: f32[8,8]) -> f32[8,8] {{
  ROOT %a = f32[8,8] parameter(0)
}}

ENTRY %main.12 (x.1: f32[8,8], n.1: s32[]) -> f32[8,8] {{
  %x.1 = f32[8,8] parameter(0), metadata={{op_name="x"}}
  %steps = (s32[], f32[8,8]) while(%x.1), condition=%unknown, body=%outer, \
backend_config={{"known_trip_count":{{"n":"5"}}}}
  %old = (s32[], f32[8,8]) while(%x.1), condition=%unknown, body=%epoch
}}
"""


def _times(loops: Loops) -> dict[str, list[float]]:
    """Returns how often each operation runs, in each place where it is."""
    times = collections.defaultdict(list)
    for run in hlo.walk(hlo.parse(STEP), loops):
        times[run.operation.name].append(run.times)
    return times


def test_an_operation_runs_as_often_as_its_loops_and_conditions():
    assert hlo.parse(STEP).entry == "main.12"
    times = _times(Loops(trips=3, share=0.8))
    assert times["gathered"] == [5]
    assert times["flipped"] == [2.5]  # One of two augmentations.
    # Of five outer steps four train and one does not.
    assert times["copied"] == pytest.approx([1])
    assert times["trained"] == pytest.approx([5 * 0.8 * 7, 3 * 0.8])


def test_a_loop_of_unknown_length_needs_a_number():
    with pytest.raises(ValueError, match="unknown length"):
        _times(Loops())


def test_cycles_are_those_that_the_compiler_notes():
    counted = cycles.count(hlo.parse(STEP), Loops(trips=3, share=0.8))
    trained = 5 * 0.8 * 7 + 3 * 0.8
    assert counted.total == pytest.approx(1000 * trained + 40 * 2.5 + 1)
    assert counted.missing == 5  # The exchanges.


@pytest.mark.parametrize(
    ("result", "num"),
    [
        ("f32[2,3]{1,0}", 24),
        ("(f32[2,3]{1,0:T(8,128)S(1)}, /*index=1*/u8[0]{0}, s32[])", 28),
        ("pred[7]", 7),
        ("bf16[2,2]", 8),
        ("f8e4m3fn[5]", 5),
        ("((f64[2], c64[]), token[])", 24),
    ],
)
def test_bytes_of_results(result, num):
    assert hlo.num_bytes(result) == num


LAUNCH = Launch(seconds=1.0, bandwidth=100.0, flops=1000.0)
CONVOLUTIONS = """
ENTRY %main (x: f32[2,8,8,3], w: f32[3,3,3,5]) -> f32[2,8,8,5] {
  %x = f32[2,8,8,6]{3,2,1,0} parameter(0)
  %w = f32[5,3,3,3]{3,2,1,0} parameter(1)
  %y = (f32[2,8,8,5]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, feature_group_count=2, \
custom_call_target="__cudnn$convForward"
  %g = f32[2,8,8,5]{3,2,1,0} get-tuple-element(%y), index=0
  %dx = (f32[2,8,8,6]{3,2,1,0}, u8[0]{0}) custom-call(%g, %w), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %dw = (f32[5,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
}
"""


def test_launches_of_convolutions():
    counted = launches.count(hlo.parse(CONVOLUTIONS), Loops(), LAUNCH)
    x, w, y = 2 * 64 * 6, 5 * 27, 2 * 64 * 5
    assert counted.number == 3
    assert counted.bytes == 3 * 4 * (x + w + y)
    # Each output meets the nine entries of three channels of its group.
    flops = 2 * y * 27
    assert counted.flops == 3 * flops
    # Products take longer than moving.
    assert counted.seconds == pytest.approx(
        3 * max(flops / 1000, 4 * (x + w + y) / 100)
    )


PRODUCTS = """
%inside (p: f32[4,6], q: f32[6,5]) -> f32[4,5] {
  %p = f32[4,6]{1,0} parameter(0)
  %q = f32[6,5]{1,0} parameter(1)
  ROOT %r = f32[4,5]{1,0} dot(%p, %q), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

ENTRY %main (a: f32[4,6], b: f32[6,5]) -> f32[4,5] {
  %a = f32[4,6]{1,0} parameter(0)
  %b = f32[6,5]{1,0} parameter(1)
  %c = f32[4,5]{1,0} fusion(%a, %b), kind=kCustom, calls=%inside
  %d = (f32[4,5]{1,0}, s8[64]{0}) custom-call(%a, %b), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":\
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
}
"""


def test_launches_of_products():
    counted = launches.count(hlo.parse(PRODUCTS), Loops(), LAUNCH)
    assert counted.number == 2
    assert counted.flops == 2 * (2 * 4 * 5 * 6)
    moved = 4 * (24 + 30 + 20)
    assert counted.bytes == 2 * moved + 64
    # Moving takes longer than the products.
    assert counted.seconds == pytest.approx((2 * moved + 64) / 100)


PARTS = """
%cut (all: u8[1000,4], i: s32[]) -> u8[3,4] {
  %all = u8[1000,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %some = u8[3,4]{1,0} gather(%all, %i), offset_dims={1}
}

%write (all: f32[1000], i: s32[], new: f32[10]) -> f32[1000] {
  %all = f32[1000]{0} parameter(0)
  %i = s32[] parameter(1)
  %new = f32[10]{0} parameter(2)
  ROOT %changed = f32[1000]{0} dynamic-update-slice(%all, %new, %i)
}

ENTRY %main (a: u8[1000,4], b: f32[1000], i: s32[], new: f32[10]) -> f32[1000] {
  %a = u8[1000,4]{1,0} parameter(0)
  %b = f32[1000]{0} parameter(1)
  %i = s32[] parameter(2)
  %new = f32[10]{0} parameter(3)
  %some = u8[3,4]{1,0} fusion(%a, %i), kind=kLoop, calls=%cut
  ROOT %c = f32[1000]{0} fusion(%b, %i, %new), kind=kLoop, calls=%write
}
"""


def test_parts_of_arrays_move_only_these():
    counted = launches.count(hlo.parse(PARTS), Loops(), LAUNCH)
    assert counted.bytes == (12 + 4 + 12) + (4 + 40 + 40)
    # Neither is longer than a launch.
    assert counted.seconds == counted.number == 2


@pytest.mark.parametrize("is_traced", [False, True])
def test_both_forms_of_the_inner_loop_run_as_often(is_traced):
    """Trained in four of five outer steps: a condition, or a number that may be 0."""

    def step(matrix):
        def train(matrix, epochs):
            return jax.lax.fori_loop(0, epochs, lambda _, m: jnp.sin(m @ m), matrix)

        def outer(matrix, t):
            if is_traced:
                return train(matrix, jnp.where(t > 0, 7, 0)), None
            return jax.lax.cond(t > 0, lambda m: train(m, 7), lambda m: m, matrix), None

        return jax.lax.scan(outer, matrix, jnp.arange(5))[0]

    text = jax.jit(step).lower(jnp.ones((64, 64))).compile().as_text()
    counted = launches.count(hlo.parse(text), Loops(7, 0.8), LAUNCH)
    assert counted.flops == pytest.approx(4 * 7 * 2 * 64**3)
