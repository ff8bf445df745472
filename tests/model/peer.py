#!/usr/bin/env python3
"""The same weights in sptx-model and in PyTorch: loss and every gradient must agree to 1e-4 (relative, float32).

Arguments: the program sptx-model. Gradients are read from Adam's first moments after one step from zero moments
with beta1 = 0.5 and no clipping: they are exactly half the gradients. Exit status 77: PyTorch is missing."""
import csv
import math
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    from torch_model import Peer, read_checkpoint, read_config, weights_of, write_checkpoint
except ImportError:
    print("PyTorch is not installed: nothing is compared")
    sys.exit(77)

LIMIT, SEED = 1e-4, 20240717
STEPS = "steps:\n  row: {window: {left: l}}\n  column: {stride: {every: l}}\n"
SMALL = "layers: 3\nwidth: 64\nheads: 4\nlength: 96\nposition_width: 7\n"
IMAGE = "format: cifar10\nlayers: 2\nwidth: 32\nheads: 2\nfeed_forward: 2\nquery_key: 0.5\n"


def row(i, j, stride):
    return (i - j < stride) & (j <= i)


def column(i, j, stride):
    return ((i - j) % stride == 0) & (j <= i)


def fixed(i, j, stride, count):
    return ((i // stride == j // stride) | (j % stride >= stride - count)) & (j <= i)


# name, model, pattern, mask(layer, head, i, j) or None: dense
CASES = [
    ("dense", SMALL, "attend: all\n", None),
    ("interleaved", SMALL, STEPS + "use: interleave\n",
     lambda layer, head, i, j: (column if layer % 2 else row)(i, j, 11)),
    ("merged", SMALL, STEPS + "use: merge\n", lambda layer, head, i, j: row(i, j, 11) | column(i, j, 11)),
    ("by head", SMALL, STEPS + "use: heads\n",
     lambda layer, head, i, j: (column if head % 2 else row)(i, j, 11)),
    ("fixed", SMALL, "attend:\n  any: [block: {size: l}, columns: {every: l, last: 3}]\n",
     lambda layer, head, i, j: fixed(i, j, 11, 3)),
    ("image, half-size", IMAGE, STEPS + "use: interleave\n",
     lambda layer, head, i, j: (column if layer % 2 else row)(i, j, 96)),
]


def write_case(folder, model, pattern):
    """A configuration, and data that is one sequence long."""
    image = "cifar10" in model
    random = torch.Generator().manual_seed(SEED)
    size = 3072 if image else 96
    tokens = torch.randint(0, 200, (size,), generator=random, dtype=torch.uint8)
    planes = tokens.reshape(1024, 3).T if image else tokens
    (folder / "data").write_bytes((b"\0" if image else b"") + planes.contiguous().numpy().tobytes())
    stride = 96 if image else 11
    (folder / "pattern.yaml").write_text(f"sptx: 1\nname: peer\nparams: {{l: {stride}}}\ncausal: true\n{pattern}")
    (folder / "config.yaml").write_text(f"{model}data: data\npattern: pattern.yaml\nbatch: 1\nwarmup: 0\n"
                                        "beta1: 0.5\nclip: 0\nlog_every: 1\n")
    return tokens.long()


def train(program, folder, steps):
    subprocess.run([program, "train", folder / "config.yaml", "--out", folder / "run", "--resume", "--steps",
                    str(steps)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def roughen(config, tensors):
    """Weights far from their first values: the zero logits layer would hide all gradients below it."""
    random = torch.Generator().manual_seed(SEED + 1)
    dim = config["width"] // config["heads"]
    kept = torch.arange(2 * config["width"]) % dim < round(dim * config["query_key"])
    for name, tensor in weights_of(tensors).items():
        noise = 0.1 * torch.randn(tensor.shape, generator=random)
        if "attention.qkv" in name:  # columns that half-size queries and keys do not have stay zero
            noise[:len(kept)][~kept] = 0
        tensor += noise


def find_sequence(peer, tokens, loss):
    """Text is a ring that starts anywhere: the rotation whose loss is sptx-model's."""
    if peer.config["format"] == "cifar10":
        return tokens
    with torch.no_grad():
        rotations = [tokens.roll(-shift) for shift in range(len(tokens))]
        losses = [peer(rotation[None]).item() for rotation in rotations]
    return min(zip(losses, rotations), key=lambda pair: abs(pair[0] - loss))[1]


def compare(program, folder, model, pattern, mask):
    tokens = write_case(folder, model, pattern)
    train(program, folder, 0)
    config = read_config(folder / "run/config.yaml")
    start = folder / "run/checkpoint-0.safetensors"
    tensors, metadata = read_checkpoint(start)
    roughen(config, tensors)
    write_checkpoint(start, tensors, metadata)
    train(program, folder, 1)
    with open(folder / "run/metrics.csv", encoding="utf-8") as file:
        loss = float(list(csv.DictReader(file))[-1]["bits"]) * math.log(2)
    i, j = torch.arange(config["length"])[:, None], torch.arange(config["length"])[None]
    peer = Peer(config, weights_of(tensors), mask and (lambda layer, head: mask(layer, head, i, j)))
    theirs = peer(find_sequence(peer, tokens, loss)[None])
    theirs.backward()
    moments, _ = read_checkpoint(folder / "run/checkpoint-1.safetensors")
    worst = abs(theirs.item() - loss) / theirs.item(), "loss"
    for ours, name in peer.names.items():
        gradient, expected = 2 * moments["adam.first." + name], getattr(peer, ours).grad
        worst = max(worst, (((gradient - expected).norm() / expected.norm()).item(), name))
    return worst


def main(program):
    bad = 0
    for name, model, pattern, mask in CASES:
        with tempfile.TemporaryDirectory() as folder:
            difference, where = compare(program, pathlib.Path(folder), model, pattern, mask)
        print(f"{name}: the largest relative difference is {difference:.2e} ({where})")
        bad += not difference <= LIMIT
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
