"""The operators as torch.compile sees them: schemas, fake tensors, autograd, one graph."""

import pytest
import torch
from tests.kernels.cases import assert_near, make_case, random
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code
from torch.library import opcheck
from torch.nn import functional
from torch.testing import assert_close

from afstream_kernels import (
    BACKENDS,
    choose_backend,
    linear_write,
    modulate,
    norm_rope,
    norm_rope_write,
    rope_shift_tables,
    rope_tables,
    slot_attention,
)

pytest.importorskip("triton")

BATCH, TOKENS, HEADS, DIM = 1, 4, 2, 32
WIDTH = HEADS * DIM
EPS = 1e-6


def examples():
    """Arguments of every operator; those that carry gradients ask for them."""
    case = make_case((1, -1), num_tokens=3, slot_tokens=3, own_tokens=2)
    case = case.with_slots_on_the_device()
    cached = case.keys, case.values, case.slots, [], case.cos, case.sin
    q_leaf, *own_leaves = (part.clone().requires_grad_() for part in (case.q, *case.own))
    x, weight, grad = random(1, 3, 64), random(64), random(1, 3, 2, 32)
    x_leaf, weight_leaf = x.clone().requires_grad_(), weight.clone().requires_grad_()
    cos, sin = rope_tables(0, grid=(3, 1, 1), head_dim=32)
    layers, to_layers = random(2, 1, 3, 2, 2, 32), torch.zeros(2, 1, 2, 2, 2, 32)
    shift = rope_shift_tables([5], head_dim=32)
    lse = random(1, 2, 3)
    frames, vector = random(1, 2, 3, 12), random(1, 2, 1, 12)
    video, past, gain = random(1, 3, 2, 2, 12), random(1, 2, 2, 2, 12), random(12)
    return {
        "slot_attention": (q_leaf, *cached, *own_leaves, 2),
        "slot_attention_backward": (case.q, *cached, *case.own, case.q, lse, case.q),
        "norm_rope": (x_leaf, weight_leaf, cos, sin, 2, EPS),
        "norm_rope_backward": (x, weight, cos, sin, grad, EPS),
        "norm_rope_write": (x, x, weight, weight, cos, sin, random(1, 2, 3, 2, 32), [1], EPS),
        "modulate": (frames, vector, vector, EPS),
        "norm_silu": (video, gain, past, gain, None),
        "norm_silu_add": (video, gain, past, gain, video.clone()),
        "add_up": (video, gain, video.clone()),
        "linear_write": (random(2, 6, 8), random(8, 8), random(8), random(2, 3, 3, 2, 4), [2, 0]),
        "vendor_attention": (case.q, *case.own),
        "copy_slots": (layers, layers, to_layers, to_layers.clone(), [2], [0], *shift),
    }


OPERATORS = tuple(examples())


def test_every_operator_is_checked():
    names = torch._C._dispatch_get_all_op_names()
    ours = {name.removeprefix("afstream::") for name in names if name.startswith("afstream::")}
    assert ours == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_keep_torchs_rules(name):
    operator = getattr(torch.ops.afstream, name).default
    assert set(opcheck(operator, examples()[name]).values()) == {"SUCCESS"}


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def chosen(name):
    """A backend as compiled code needs it: chosen before."""
    return choose_backend(name, device="cpu", dtype=torch.float32)


def make_block(backend, slots):
    """What one attention layer does: norm, rotate, write, attend, modulate."""
    cos, sin = rope_tables(0, grid=(2, 1, 2), head_dim=DIM)
    shift = rope_shift_tables([6, 3], head_dim=DIM)

    def block(x, weight, keys, values, vector):
        q = norm_rope(x, weight, cos, sin, num_heads=HEADS, eps=EPS, backend=backend)
        # a cache is written without gradient
        with torch.no_grad():
            norm_rope_write(
                x, x, weight, weight, cos, sin, keys, slots[:1], eps=EPS, backend=backend
            )
        seen = slot_attention(
            q, keys, values, slots, *shift, own=(q, x.view_as(q)), backend=backend
        )
        return modulate(seen.reshape(BATCH, 2, 2, WIDTH), vector, vector, eps=EPS, backend=backend)

    return block


def make_inputs():
    x, weight, vector = random(BATCH, TOKENS, WIDTH), random(WIDTH), random(1, 2, 1, WIDTH)
    keys, values = random(2, BATCH, 3, TOKENS, HEADS, DIM)
    return x, weight, keys, values, vector


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_compiles_into_one_graph(backend):
    block, counter = make_block(chosen(backend), [1, 0]), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    x, weight, keys, values, vector = make_inputs()
    same_keys = keys.clone()
    with torch.no_grad():
        assert_near(
            compiled(x, weight, same_keys, values, vector), block(x, weight, keys, values, vector)
        )
    assert_near(same_keys, keys)
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_layer_has_the_same_gradients(backend):
    block, counter = make_block(chosen(backend), [1, 0]), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    x, weight, keys, values, vector = make_inputs()
    leaves = [part.requires_grad_() for part in (x, weight, vector)]
    found, expected = (
        torch.autograd.grad(run(x, weight, keys.clone(), values, vector).square().sum(), leaves)
        for run in (compiled, block)
    )
    for part, eager in zip(found, expected, strict=True):
        # sums over all tokens
        assert_near(part, eager, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["triton", "sdpa"])
def test_other_slots_are_not_mistaken_for_the_first(backend):
    x, weight, keys, values, vector = make_inputs()
    backend = chosen(backend)

    def attend(slots):
        return make_block(backend, slots)(x, weight, keys.clone(), values, vector)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    for slots in ([1, 0], [0, 2], [2, -1]):
        out, eager = compiled(slots), attend(slots)
        assert_near(out, eager)
        found, expected = (torch.autograd.grad(y.sum(), x)[0] for y in (out, eager))
        assert_near(found, expected)


def test_slots_on_the_device_change_without_another_graph():
    case = make_case(num_tokens=3, slot_tokens=3)
    counter, backend = CompileCounterWithBackend("aot_eager"), chosen("triton")
    compiled = torch.compile(slot_attention, fullgraph=True, backend=counter)
    for slots in ([3, 0, -1], [0, -1, 3]):
        placed = case.but(slots=slots).with_slots_on_the_device()
        assert_near(compiled(**vars(placed), backend=backend), placed.attend())
    assert counter.frame_count == 1


def test_a_linear_map_writes_its_slots_and_nothing_else():
    x, weight, bias, values = random(2, 6, 8), random(8, 8), random(8), random(2, 4, 3, 2, 4)
    found = values.clone()
    linear_write(x, weight, bias, found, [3, 1])
    values[:, [3, 1]] = functional.linear(x, weight, bias).view(2, 2, 3, 2, 4)
    assert_close(found, values)


# torch's compiler loads parts of torch that torch itself calls out of date
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.no_grad()
def test_compiled_values_are_written_in_place_and_copied_nowhere():
    def write(x, weight, bias, values):
        linear_write(x, weight, bias, values, [2])

    arguments = random(1, 3, 8), random(8, 8), random(8)
    values = random(1, 4, 3, 2, 4)
    found = values.clone()
    _, (code,) = run_and_get_code(torch.compile(write, fullgraph=True), *arguments, found)
    write(*arguments, values)
    assert torch.equal(found, values)
    body = code[code.index("def call(") : code.index("runner =")]
    assert "afstream.linear_write.default(" in body
    # neither a buffer of its own nor a kernel that moves it
    assert not {word for word in ("empty_strided", "fused", "copy_") if word in body}
