#!/usr/bin/env python3
"""Training time of sptx-model against the same model in PyTorch (dense causal scaled_dot_product_attention, fused
AdamW), both on the CPU with the same number of threads, the same first weights and the same data.

Runs alternate, because machines drift; the figure is the ratio of medians. On a machine that others use too, the CPU's
time with --threads 1 is the surer one: several threads spin while they wait for each other. With --curves N both also
train N steps, sptx-model on the dense pattern, and their losses are printed side by side. Needs PyTorch.

Example: train_speed.py build/model/sptx-model model/configs/enwik8-small.yaml --set data=enwik8"""
import argparse
import csv
import math
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "model"))
import torch  # noqa: E402
from torch_model import Peer, read_checkpoint, read_config, weights_of  # noqa: E402


def run_sptx(options, out, steps, *settings):
    """Rows of metrics.csv, one a step, and the CPU seconds of the whole process."""
    sets = [f"threads={options.threads}", "log_every=1", *options.set, *settings]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([options.program, "train", options.config, "--out", out, "--resume", "--steps", str(steps),
                    *(word for setting in sets for word in ("--set", setting))],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(pathlib.Path(out) / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file)), after.ru_utime - before.ru_utime


def seconds_of(rows):
    """Of each step but the first, which also warms caches up."""
    seconds = [float(row["seconds"]) for row in rows]
    return [after - before for before, after in zip(seconds, seconds[1:])]


class Trainer:
    """The peer with its optimizer, on random windows of the training part."""

    def __init__(self, config, weights, compiled):
        self.config = config
        self.peer = Peer(config, weights)
        self.step_model = torch.compile(self.peer) if compiled else self.peer
        vectors = [p for p in self.peer.parameters() if p.dim() == 1]
        matrices = [p for p in self.peer.parameters() if p.dim() == 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config["weight_decay"]},
             {"params": vectors, "weight_decay": 0.0}],
            betas=(config["beta1"], config["beta2"]), eps=config["epsilon"], fused=True)
        raw = pathlib.Path(config["data"]).read_bytes()[:config["train_items"] or None]
        self.data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        self.random = torch.Generator().manual_seed(1)
        self.done = 0

    def learning_rate(self):
        c, step = self.config, self.done
        if step < c["warmup"]:
            return c["learning_rate"] * (step + 1) / c["warmup"]
        progress = (step - c["warmup"]) / (c["steps"] - c["warmup"])
        return c["final_learning_rate"] + (c["learning_rate"] - c["final_learning_rate"]) * 0.5 * (
            1 + math.cos(math.pi * progress))

    def step(self):
        c = self.config
        starts = torch.randint(0, len(self.data) - c["length"], (c["batch"],), generator=self.random).tolist()
        tokens = torch.stack([self.data[s:s + c["length"]] for s in starts]).long()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss = self.step_model(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.peer.parameters(), c["clip"])
        self.optimizer.step()
        self.done += 1
        return loss.item() / math.log(2)


def time_torch(trainer, steps):
    seconds = []
    trainer.step()
    before = time.process_time()
    for _ in range(steps - 1):
        start = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - start)
    return seconds, (time.process_time() - before) / (steps - 1)


def compare_speed(options, folder, trainer):
    ours, theirs, our_cpu, their_cpu = [], [], [], []
    _, start = run_sptx(options, folder / "first", 1)
    for turn in range(options.rounds):
        rows, spent = run_sptx(options, folder / f"run{turn}", options.steps)
        ours += seconds_of(rows)
        our_cpu.append((spent - start) / (options.steps - 1))
        seconds, spent = time_torch(trainer, options.steps)
        theirs += seconds
        their_cpu.append(spent)
    tokens = trainer.config["batch"] * trainer.config["length"]
    for clock, a, b in ("wall", ours, theirs), ("CPU", our_cpu, their_cpu):
        for name, seconds in ("sptx-model", a), ("PyTorch", b):
            step = statistics.median(seconds)
            print(f"{clock:5} {name:10} {step * 1e3:9.1f} ms a step, {tokens / step:8.0f} tokens/s (fastest "
                  f"{min(seconds) * 1e3:.1f} ms)")
        print(f"{clock:5} {'ratio':10} {statistics.median(b) / statistics.median(a):9.2f} (of the fastest "
              f"{min(b) / min(a):.2f})")


def write_dense(folder):
    """A dense pattern that takes the parameters of the configuration's own."""
    lines = (folder / "start/config.yaml").read_text(encoding="utf-8").splitlines()
    params = ", ".join(f"{line.split(':')[0].strip()}: 1" for line in lines if line.startswith("  "))
    path = folder / "dense.yaml"
    path.write_text(f"sptx: 1\nname: dense\nparams: {{{params}}}\ncausal: true\nattend: all\n", encoding="utf-8")
    return path


def compare_curves(options, folder, config, weights):
    rows, _ = run_sptx(options, folder / "dense", options.curves, f"pattern={write_dense(folder)}")
    trainer = Trainer(config, weights, options.compile)
    losses = [trainer.step() for _ in range(options.curves)]
    part = max(options.curves // 10, 1)
    print(f"{'steps':>12} {'sptx dense':>11} {'PyTorch':>8}   bits per byte, mean over the steps")
    for begin in range(0, options.curves, part):
        bits = [float(row["bits"]) for row in rows[begin:begin + part]]
        print(f"{begin:6}-{begin + len(bits) - 1:<5} {statistics.mean(bits):11.4f} "
              f"{statistics.mean(losses[begin:begin + part]):8.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curves", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the PyTorch model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run_sptx(options, folder / "start", 0)
        config = read_config(folder / "start/config.yaml")
        weights = weights_of(read_checkpoint(folder / "start/checkpoint-0.safetensors")[0])
        print(f"{options.config}: {sum(w.numel() for w in weights.values()) / 1e6:.1f} M weights, length "
              f"{config['length']}, batch {config['batch']}, {options.threads} threads, PyTorch {torch.__version__}")
        compare_speed(options, folder, Trainer(config, weights, options.compile))
        if options.curves:
            compare_curves(options, folder, config, weights)


if __name__ == "__main__":
    main()
