#!/usr/bin/env python3
"""Training on two processes: it equals one process with twice the batch, to rounding, and when one of them is killed
the job ends with a message and a checkpoint to resume from.

Arguments: the program sptx-model, the folder of patterns. Exit status 77: there is no mpirun."""
import csv
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

MODEL = """data: data
layers: 2
width: 32
heads: 2
length: 64
warmup: 4
steps: 12
learning_rate: 0.002
dropout: 0.1
threads: 1
log_every: 1
"""
# More processes than cores, and as root in a container: both are what a test may meet.
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
# MPI unloads its modules before it ends, so a leak check can neither name nor suppress the blocks they keep.
ENVIRONMENT = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0")


def command(program, folder, out, *words):
    return [program, "train", folder / "config.yaml", "--out", folder / out, *words]


def rows_of(folder):
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights_of(path):
    """The weights' floats: they come first in a checkpoint, moments after them."""
    raw = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    count = (len(raw) - 8 - length) // 12
    return struct.unpack(f"<{count}f", raw[8 + length:8 + length + 4 * count])


def equals_one_process(program, folder):
    subprocess.run(command(program, folder, "one", "--set", "batch=4"), check=True, capture_output=True)
    subprocess.run(MPIRUN + command(program, folder, "two", "--set", "batch=2"), check=True, capture_output=True,
                   env=ENVIRONMENT)
    one, two = rows_of(folder / "one"), rows_of(folder / "two")
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        assert a["step"] == b["step"] and a["tokens"] == b["tokens"], (a, b)
        for key in "bits", "grad_norm", "lr":
            assert abs(float(a[key]) - float(b[key])) <= 1e-5 * float(a[key]), (key, a, b)
    a, b = (weights_of(folder / name / "checkpoint-12.safetensors") for name in ("one", "two"))
    difference = sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5 / sum(x * x for x in a) ** 0.5
    assert difference < 1e-5, difference


def children_of(parent):
    """The processes that a process started, oldest first."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            _, ppid, *rest = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(ppid) == parent:
            found.append((int(rest[17]), int(stat.parent.name)))
    return [process for _, process in sorted(found)]


def survives_a_killed_process(program, folder):
    """The second process is killed once the run has made some steps."""
    words = command(program, folder, "killed", "--steps", "1000000000", "--set", "batch=2")
    job = subprocess.Popen(MPIRUN + words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           env=ENVIRONMENT)
    children = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (len(children) < 2 or len(metrics_lines(folder / "killed")) < 4):
        time.sleep(0.05)
        children = children_of(job.pid)
    assert len(children) >= 2, "the job did not start"
    os.kill(children[-1], signal.SIGKILL)
    message = job.communicate(timeout=120)[1]
    assert job.returncode != 0
    assert "process 0 of 2: interrupted" in message, message
    before = max(int(path.stem.split("-")[1]) for path in (folder / "killed").glob("checkpoint-*"))
    assert before >= 3, "the steps before the loss are not saved"
    subprocess.run(command(program, folder, "killed", "--resume", "--steps", str(before + 2)), check=True,
                   capture_output=True)
    assert int(rows_of(folder / "killed")[-1]["step"]) == before + 2


def metrics_lines(folder):
    path = folder / "metrics.csv"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main(program, patterns):
    if not shutil.which("mpirun"):
        print("there is no mpirun: nothing is tested")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "data").write_bytes(bytes((i * i // 3 + i) % 23 + 65 for i in range(5000)))
        (folder / "config.yaml").write_text(
            f"{MODEL}pattern: {patterns}/strided.yaml\npattern_params: {{stride: 8}}\n", encoding="utf-8")
        equals_one_process(program, folder)
        survives_a_killed_process(program, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
