#!/usr/bin/env python3
"""Runs sptx-model train and eval: what a run leaves in its folder, what a kill takes from it, and what bad input gets.
Arguments: the program, the folder of pattern files."""
import csv
import json
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time

from command_case import PROGRAM, SHARED, good, pattern, refused, run, train

TEXT = "length: 60\nposition_width: 8\n" + pattern("fixed-merged.yaml", stride=8, columns=2)


def source(root):
    path = root / "text"
    path.write_bytes(bytes(k * k % 61 + 40 for k in range(1000)))
    return f"data: {path}\n{TEXT}"


def read_safetensors(path):
    """By the format's own definition: a length, a JSON header, and tensors without gaps to the file's end."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    metadata, at = header.pop("__metadata__"), 0
    for name, tensor in sorted(header.items(), key=lambda entry: entry[1]["data_offsets"]):
        count = 1
        for size in tensor["shape"]:
            count *= size
        assert tensor["dtype"] == "F32" and tensor["data_offsets"] == [at, at + 4 * count], (name, tensor, at)
        at += 4 * count
    assert 8 + length + at == len(raw) and (8 + length) % 8 == 0
    assert all(isinstance(value, str) for value in metadata.values()), metadata
    return {name: tensor["shape"] for name, tensor in header.items()}, metadata


def folder(root):
    """What README.md says of a run's folder and of its checkpoints."""
    model = train(root, "run", source(root) + "validation_items: 120\nevaluate_every: 1\nlog_every: 1\n")
    names = sorted(path.name for path in model.iterdir())
    assert names == ["checkpoint-2.safetensors", "config.yaml", "metrics.csv", "validation.csv"], names
    with open(model / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "seconds", "tokens", "bits", "grad_norm", "lr"]
    assert [row["tokens"] for row in rows] == ["60", "120"]
    shapes, metadata = read_safetensors(model / "checkpoint-2.safetensors")
    weights = {"embedding.token": [256, 32], "embedding.start": [32], "embedding.position.0": [8, 32],
               "embedding.position.1": [8, 32], "norm.gain": [32], "norm.bias": [32], "output.weight": [256, 32]}
    for layer in range(2):
        for name, shape in (("norm1.gain", [32]), ("norm1.bias", [32]), ("norm2.gain", [32]), ("norm2.bias", [32]),
                            ("attention.qkv.weight", [96, 32]), ("attention.qkv.bias", [96]),
                            ("attention.projection.weight", [32, 32]), ("attention.projection.bias", [32]),
                            ("feed_forward.expand.weight", [128, 32]), ("feed_forward.expand.bias", [128]),
                            ("feed_forward.contract.weight", [32, 128]), ("feed_forward.contract.bias", [32])):
            weights[f"layers.{layer}.{name}"] = shape
    moments = {f"adam.{which}.{name}": shape for which in ("first", "second") for name, shape in weights.items()}
    assert shapes == {**weights, **moments}, set(shapes) ^ {*weights, *moments}
    assert metadata["format"] == "sptx-1" and metadata["step"] == metadata["updates"] == "2", metadata
    assert metadata["tokens"] == "120" and metadata["skipped_steps"] == "0", metadata


def evaluation(root):
    """A model of zero logits takes eight bits for every byte of a file that is no whole number of windows."""
    config = root / "new.yaml"
    config.write_text(SHARED + source(root), encoding="utf-8")
    good("train", config, "--out", root / "new", "--steps", 0)
    told = json.loads(good("eval", root / "new", "--data", root / "text", "--json"))
    assert list(told) == ["bits_per_byte", "positions"] and told["positions"] == 1000, told
    assert abs(told["bits_per_byte"] - 8) < 1e-5, told
    assert good("eval", root / "new", "--data", root / "text").decode() == "8.000000 bits per byte over 1000 positions\n"
    refused(2, "missing option: --data", "eval", root / "new")
    refused(2, "59", "eval", root / "new", "--data", root / "text", "--context", 60)
    refused(1, "no file, folder or match", "eval", root / "new", "--data", root / "nothing")


def killed(root):
    """The process is killed for good, twice; the run that is resumed ends with the same bytes as one that was not."""
    config = root / "long.yaml"
    config.write_text(SHARED + source(root) + "save_every: 5\nkeep: 2\nlog_every: 1\nsteps: 400\ndropout: 0.1\n",
                      encoding="utf-8")
    good("train", config, "--out", root / "whole")
    for _ in range(2):
        process = subprocess.Popen([PROGRAM, "train", config, "--out", root / "parts", "--resume"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = newest(root / "parts")
        while newest(root / "parts") < before + 20 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < newest(root / "parts"), "nothing was saved"
    good("train", config, "--out", root / "parts", "--resume")
    whole, parts = (root / name / "checkpoint-400.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    kept = sorted(path.name for path in (root / "parts").glob("checkpoint-*"))
    assert kept == ["checkpoint-395.safetensors", "checkpoint-400.safetensors"], kept


def newest(run_folder):
    return max((int(path.stem.split("-")[1]) for path in run_folder.glob("checkpoint-*.safetensors")), default=0)


def interrupted(root):
    """Ctrl-C ends the run after its step, with a checkpoint."""
    config = root / "endless.yaml"
    config.write_text(SHARED + source(root) + "steps: 1000000\nlog_every: 1\n", encoding="utf-8")
    process = subprocess.Popen([PROGRAM, "train", config, "--out", root / "endless"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    while not (root / "endless/metrics.csv").exists() or (root / "endless/metrics.csv").stat().st_size < 200:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0].decode()
    step = newest(root / "endless")
    assert process.returncode == 0 and step > 2 and f"step {step}," in out, (process.returncode, step, out)


def bad_input(root):
    def config(text):
        path = root / "bad.yaml"
        path.write_text(text, encoding="utf-8")
        return "train", path, "--out", root / "bad"

    good_text = SHARED + source(root)
    lines = len(good_text.splitlines())
    refused(2, f"bad.yaml:{lines + 1}: width 33 is not a multiple of 8", *config(good_text + "width: 33\n"))
    refused(2, f"bad.yaml:{lines + 1}: width / heads is 4", *config(good_text + "heads: 8\n"))
    length = good_text.splitlines().index("length: 60") + 1
    refused(2, f"bad.yaml:{length}: length is 60, but an image", *config(good_text + "format: cifar10\n"))
    refused(1, f"bad.yaml:{lines + 1}: ", *config(good_text + "pattern: nowhere.yaml\n"))
    refused(2, "no_such_parameter", *config(good_text), "--set", "pattern_params.no_such_parameter=1")
    refused(2, "fewer than the 2000", *config(good_text + "length: 2000\n"))
    refused(2, "--out", "train", root / "bad.yaml")
    refused(2, "steps", *config(good_text), "--steps", "few")
    status, out, said = run(*config(good_text), "--device", "cuda:99")
    assert status == 1 and not out and ("CUDA" in said or "cuda:99" in said), (status, said)
    record = root / "images.bin"
    record.write_bytes(bytes(3072))
    refused(1, "cut short", *config(f"{SHARED}format: cifar10\ndata: {record}\n" + pattern("strided.yaml", stride=96)))
    assert not list((root / "bad").glob("checkpoint-*"))


def main():
    for case in (folder, evaluation, killed, interrupted, bad_input):
        with tempfile.TemporaryDirectory() as root:
            case(pathlib.Path(root))
    for command in ("train", "eval"):
        assert good(command, "--help").startswith(b"Usage: sptx-model " + command.encode())
        assert good(command, "--version").startswith(b"sptx-model ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
