#!/usr/bin/env python3
"""sptx beside what else computes the same attention on a GPU, on the same tensors in the same run.

Peers: PyTorch's dense causal SDPA (cuDNN, flash), FlexAttention with the same mask (Triton; its FLASH backend),
for strided attention SDPA on tensors transposed by hand (the copies counted), FlashAttention 2, 3 and 4, and
NATTEN's na1d. What is not installed, or fails, is left out and named on stderr. Every peer's output is compared
with sptx's; peers that compute a different set of pairs (dense causal) are marked.

Times are medians over CUDA events. Before each sample a buffer larger than the L2 cache is overwritten, and the
GPU waits for the host, so that launch latency does not count. Needs PyTorch and libsptx.so."""
import argparse
import ctypes
import json
import os
import re
import statistics
import sys

import torch
import torch.nn.functional as F

ROWS = ("name pattern parameters step batch heads n head_dim stride columns").split()
CASES = [dict(zip(ROWS, row)) for row in [
    ("dense-d64", "dense", {}, 0, 1, 16, 16384, 64, 0, 0),
    ("dense-d128", "dense", {}, 0, 1, 16, 16384, 128, 0, 0),
    ("local-d64", "local", {}, 0, 1, 16, 16384, 64, 128, 0),
    ("local-d128", "local", {}, 0, 1, 16, 16384, 128, 128, 0),
    ("strided-d64", "strided", {}, 1, 1, 16, 16384, 64, 128, 0),
    ("strided-d128", "strided", {}, 1, 1, 16, 16384, 128, 128, 0),
    ("strided-merged-d64", "strided-merged", {}, 0, 1, 16, 16384, 64, 128, 0),
    ("fixed-merged-d64", "fixed-merged", {}, 0, 1, 16, 16384, 64, 128, 32),
    ("fixed-merged-d128", "fixed-merged", {}, 0, 1, 16, 16384, 128, 128, 32),
    ("cifar-strided-d128", "strided", {"stride": "96"}, 1, 16, 2, 3072, 128, 96, 0),
]]


class Strides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "head", "position")]


class Description(ctypes.Structure):
    """sptx_attention_desc of sptx.h."""
    _fields_ = ([("struct_size", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("dtype", ctypes.c_int)] +
                [(name, ctypes.c_int64) for name in "batch heads kv_heads n_q n_k head_dim step".split()] +
                [("scale", ctypes.c_float), ("soft_cap", ctypes.c_float), ("alibi_slopes", ctypes.c_void_p)] +
                [(name, Strides) for name in "qkvo"] + [("tune_seconds", ctypes.c_double)])


class Parameter(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_char_p)]


WITH_BACKWARD, NONDETERMINISTIC, BF16 = 1, 4, 2


def load_library(path, folder):
    """Loads a shared library; libraries it needs that the system lacks come from folder."""
    while True:
        try:
            return ctypes.CDLL(path)
        except OSError as failure:
            missing = re.match(r"(\S+): cannot open shared object file", str(failure))
            found = missing and folder and os.path.join(folder, missing[1])
            if not found or found == path or not os.path.exists(found):
                raise
            load_library(found, folder)


class Sptx:
    def __init__(self, path, folder, device, patterns):
        self.api = load_library(path, folder)
        self.api.sptx_last_error.restype = ctypes.c_char_p
        self.patterns = patterns
        self.context = ctypes.c_void_p()
        self.check(self.api.sptx_context_create(ctypes.byref(self.context), device.encode()))

    def check(self, status):
        if status:
            raise RuntimeError(self.api.sptx_last_error(self.context).decode())

    def attention(self, case, flags):
        names = case["parameters"]
        parameters = (Parameter * (len(names) + 1))(
            *[Parameter(name.encode(), value.encode()) for name, value in names.items()])
        path = os.path.join(self.patterns, case["pattern"] + ".yaml").encode()
        pattern, attention = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.api.sptx_pattern_load(self.context, path, parameters, ctypes.c_size_t(len(names)),
                                                  ctypes.byref(pattern)))
        description = Description(struct_size=ctypes.sizeof(Description), flags=flags, dtype=BF16,
                                  batch=case["batch"], heads=case["heads"], n_q=case["n"], n_k=case["n"],
                                  head_dim=case["head_dim"], step=case["step"])
        status = self.api.sptx_attention_create(self.context, pattern, ctypes.byref(description),
                                                    ctypes.byref(attention))
        self.api.sptx_pattern_destroy(pattern)
        self.check(status)
        return attention

    def call(self, function, attention, tensors):
        arguments = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.check(getattr(self.api, function)(attention, *arguments, stream))

    def peer(self, case, tensors, flags):
        q, k, v, d_o = tensors
        attention = self.attention(case, flags)
        o, lse = torch.empty_like(q), torch.empty(q.shape[:3], device=q.device)
        gradients = [torch.empty_like(q) for _ in range(3)]

        def forward():
            self.call("sptx_attention_forward", attention, [q, k, v, o, lse])
            return o

        def backward():
            self.call("sptx_attention_backward", attention, [q, k, v, o, lse, d_o] + gradients)
            return gradients

        return forward, backward


def with_autograd(compute, tensors, leave=lambda o: o):
    """A peer out of a differentiable function of (q, k, v): its forward without gradients, and its backward."""
    *inputs, d_o = tensors
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    state = {}

    def forward():
        with torch.no_grad():
            return leave(compute(*inputs))

    def backward():
        if "o" not in state:
            state["o"] = compute(*inputs)
            state["d_o"] = d_o if state["o"].shape == d_o.shape else d_o.transpose(1, 2).contiguous()
        return torch.autograd.grad(state["o"], inputs, state["d_o"], retain_graph=True)

    return forward, backward


def sdpa(backend):
    def compute(q, k, v):
        with torch.nn.attention.sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return compute


def transposed(case, backend):
    """Strided attention the usual way: residues become sequences, by copying (Child et al. 2019's kernels)."""
    stride = case["stride"]

    def split(tensor):
        batch, heads, n, dim = tensor.shape
        folded = tensor.view(batch, heads, n // stride, stride, dim).transpose(2, 3)
        return folded.reshape(batch, heads * stride, n // stride, dim)

    def compute(q, k, v):
        batch, heads, n, dim = q.shape
        o = sdpa(backend)(split(q), split(k), split(v))
        return o.view(batch, heads, stride, n // stride, dim).transpose(2, 3).reshape(batch, heads, n, dim)

    return compute


def mask_of(case):
    stride, columns = case["stride"], case["columns"]
    masks = {
        "dense": lambda b, h, i, j: i >= j,
        "local": lambda b, h, i, j: (i >= j) & (i - j < stride),
        "strided": lambda b, h, i, j: (i >= j) & ((i - j) % stride == 0),
        "strided-merged": lambda b, h, i, j: (i >= j) & ((i - j < stride) | ((i - j) % stride == 0)),
        "fixed-merged": lambda b, h, i, j: (i >= j) & ((i // stride == j // stride) |
                                                       (j % stride >= stride - columns)),
    }
    return masks[case["pattern"]]


def flex(case, **options):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = torch.compile(create_block_mask)(mask_of(case), None, None, case["n"], case["n"], device="cuda")
    return lambda q, k, v: compiled(q, k, v, block_mask=mask, kernel_options=options or None)


def positions_first(function):
    """For peers whose layout is (batch, n, heads, head_dim): sptx's tensors are copied once, outside the timing."""
    def peer(case, tensors):
        moved = [tensor.transpose(1, 2).contiguous() for tensor in tensors]
        *inputs, d_o = moved
        return with_autograd(lambda q, k, v: function(case, q, k, v), inputs + [d_o],
                             leave=lambda o: o.transpose(1, 2))
    return peer


def first(result):
    return result[0] if isinstance(result, tuple) else result


def window(case):
    if case["pattern"] not in ("dense", "local"):
        raise NotImplementedError("it has dense and window masks only")
    return (case["stride"] - 1, 0) if case["pattern"] == "local" else (-1, -1)


def flash_attention_2(case, q, k, v):
    from flash_attn import flash_attn_func
    return first(flash_attn_func(q, k, v, causal=True, window_size=window(case)))


def flash_attention_3(case, q, k, v):
    from flash_attn_interface import flash_attn_func
    return first(flash_attn_func(q, k, v, causal=True, window_size=window(case)))


def flash_attention_4(case, q, k, v):
    from flash_attn.cute import flash_attn_func
    size = tuple(None if side < 0 else side for side in window(case))
    return first(flash_attn_func(q, k, v, causal=True, window_size=size))


def natten(case, q, k, v):
    from natten import na1d
    stride, n = case["stride"], case["n"]
    shape = {"local": (stride, 1), "strided": (n // stride, stride)}.get(case["pattern"])
    if not shape:
        raise NotImplementedError("it has windows with and without dilation only")
    return na1d(q, k, v, kernel_size=shape[0], dilation=shape[1], is_causal=True)


def peers_of(case, sptx):
    """Name, whether it computes the case's own pairs, and what makes (forward, backward) of the tensors."""
    from torch.nn.attention import SDPBackend
    dense = case["pattern"] == "dense"
    yield "sptx", True, lambda t: sptx.peer(case, t, WITH_BACKWARD | NONDETERMINISTIC)
    yield "sptx deterministic", True, lambda t: sptx.peer(case, t, WITH_BACKWARD)
    yield "cuDNN dense", dense, lambda t: with_autograd(sdpa(SDPBackend.CUDNN_ATTENTION), t)
    yield "flash SDPA dense", dense, lambda t: with_autograd(sdpa(SDPBackend.FLASH_ATTENTION), t)
    yield "FlexAttention", True, lambda t: with_autograd(flex(case), t)
    yield "FlexAttention FLASH", True, lambda t: with_autograd(flex(case, BACKEND="FLASH"), t)
    if case["pattern"] == "strided":
        yield "transposed cuDNN", True, lambda t: with_autograd(transposed(case, SDPBackend.CUDNN_ATTENTION), t)
        yield "transposed flash", True, lambda t: with_autograd(transposed(case, SDPBackend.FLASH_ATTENTION), t)
    yield "FlashAttention 2", True, lambda t: positions_first(flash_attention_2)(case, t)
    yield "FlashAttention 3", True, lambda t: positions_first(flash_attention_3)(case, t)
    yield "FlashAttention 4", True, lambda t: positions_first(flash_attention_4)(case, t)
    yield "NATTEN na1d", True, lambda t: positions_first(natten)(case, t)


class Timer:
    WARM_UPS, WAIT_CYCLES = 3, 2_000_000  # about a millisecond for the host to run ahead

    def __init__(self, samples):
        self.samples = samples
        self.flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")

    def median_ms(self, call):
        times = []
        for sample in range(self.WARM_UPS + self.samples):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            torch.cuda._sleep(self.WAIT_CYCLES)
            begin.record()
            call()
            end.record()
            end.synchronize()
            if sample >= self.WARM_UPS:
                times.append(begin.elapsed_time(end))
        return statistics.median(times)


def measure(name, same, make, tensors, timer, passes, reference):
    """One row of the table; reference is sptx's output, or None when this is sptx."""
    forward, backward = make(tensors)
    o = forward().float()
    row = {"peer": name, "same_pairs": same}
    if reference is not None and same:
        row["difference"] = ((o - reference).norm() / reference.norm()).item()
    if "forward" in passes:
        row["forward_ms"] = timer.median_ms(forward)
    if "backward" in passes:
        try:
            row["backward_ms"] = timer.median_ms(backward)
        except Exception as failure:  # a peer without a backward pass still has its forward row
            print(f"{name}: backward: {describe(failure)}", file=sys.stderr)
    return row, o


def describe(failure):
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]


def print_row(row, base):
    cells = []
    for key in ("forward_ms", "backward_ms"):
        value, ours = row.get(key), base.get(key)
        ratio = f"{value / ours:6.2f}x" if value and ours else " " * 7
        cells.append(f"{value:9.4f} ms {ratio}" if value else " " * 20)
    note = "" if row["same_pairs"] else "other pairs"
    if "difference" in row:
        note = f"difference {row['difference']:.1e}"
    print(f"  {row['peer']:20s} {cells[0]}  {cells[1]}  {note}", flush=True)


def run_case(case, sptx, timer, arguments):
    print(f"{case['name']}: B{case['batch']} H{case['heads']} N{case['n']} D{case['head_dim']} bf16", flush=True)
    generator = torch.Generator(device="cuda").manual_seed(1)
    shape = (case["batch"], case["heads"], case["n"], case["head_dim"])
    tensors = [torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    rows, reference = [], None
    for name, same, make in peers_of(case, sptx):
        if arguments.peers and not any(word.lower() in name.lower() for word in arguments.peers.split(",")):
            continue
        try:
            row, o = measure(name, same, make, tensors, timer, arguments.passes.split(","), reference)
        except Exception as failure:  # whatever a peer raises, the others go on
            print(f"{case['name']}: {name}: {describe(failure)}", file=sys.stderr, flush=True)
            continue
        rows.append(row)
        print_row(row, next((row for row in rows if row["peer"] == "sptx"), {}))
        if name.startswith("sptx") and reference is None:
            reference = o
        torch.cuda.empty_cache()
    return {"case": case["name"], "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", dest="libsptx", default="build/runtime/libsptx.so", help="libsptx.so (%(default)s)")
    parser.add_argument("--libraries", help="a folder with libraries that libsptx.so needs and the system lacks")
    parser.add_argument("--patterns", default="patterns/library", help="the pattern library (%(default)s)")
    parser.add_argument("--cases", help="words, comma separated: only cases whose names contain one")
    parser.add_argument("--peers", help="the same for peers")
    parser.add_argument("--passes", default="forward,backward", help="%(default)s")
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--device", type=int, default=0, help="the GPU's ordinal")
    parser.add_argument("--json", help="a file for the figures")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("peers.py: PyTorch finds no GPU")
    torch.cuda.set_device(arguments.device)
    torch.empty(1, device="cuda")  # the context that sptx then shares
    sptx = Sptx(arguments.libsptx, arguments.libraries, f"cuda:{arguments.device}", arguments.patterns)
    timer = Timer(arguments.samples)
    print(f"{torch.cuda.get_device_name()}; PyTorch {torch.__version__}; median of {arguments.samples}, L2 "
          "overwritten before each; ratios to sptx")
    cases = [case for case in CASES
             if not arguments.cases or any(word in case["name"] for word in arguments.cases.split(","))]
    results = [run_case(case, sptx, timer, arguments) for case in cases]
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"device": torch.cuda.get_device_name(), "pytorch": torch.__version__, "cases": results},
                      file, indent=1)


if __name__ == "__main__":
    main()
