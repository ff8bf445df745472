#!/usr/bin/env python3
"""The article's claim at small scale: in equal wall time, does the strided pattern reach fewer bits per
dimension on CIFAR-10 than dense attention? Both models have the same weights and see the same images; only
the pattern differs. Each gets as many steps as fit the time, measured first, so that its learning rate decays
fully. Prints one line for each run and the means as a table for model/RESULTS.md, whatever comes out.

  equal_time.py --train TRAIN.bin --test TEST.bin --seconds 600 [--seeds 3] [--config YAML] [--set KEY=VALUE]...

Run it on a machine that does nothing else. Where others use it too, --together runs both patterns at the same time on
one thread each, and counts the CPU's time instead of the wall's, which it equals where the machine is free."""
import argparse
import concurrent.futures
import csv
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATTERNS = {"strided": ["pattern_params.stride=96"], "dense": []}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="CIFAR-10 binary batches to train on")
    parser.add_argument("--test", required=True, help="those to measure on")
    parser.add_argument("--seconds", type=float, required=True, help="of training, for each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calibrate", type=float, default=20, help="seconds to measure the time of a step (20)")
    parser.add_argument("--config", default=str(ROOT / "model/configs/cifar10-small.yaml"))
    parser.add_argument("--program", default=str(ROOT / "build/model/sptx-model"))
    parser.add_argument("--set", action="append", default=[], dest="settings", help="for both patterns")
    parser.add_argument("--together", action="store_true", help="both patterns at once, on one thread each; CPU time")
    parser.add_argument("--json", help="also write all numbers to this file")
    return parser.parse_args()


def run(arguments):
    """What it prints, and the CPU seconds it took."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(arguments, stdout=out, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(arguments)}\n{said.read()}")
        return out.read(), usage.ru_utime + usage.ru_stime


def settings(options, name, seed, extra):
    own = [f"data={options.train}", f"pattern={ROOT / 'patterns/library' / (name + '.yaml')}", f"seed={seed}",
           "validation_items=0", "evaluate_every=0", "save_every=1000000000", "keep=1"]
    own += ["threads=1"] if options.together else []
    return [word for setting in own + PATTERNS[name] + options.settings + extra for word in ("--set", setting)]


def without_pattern(options, scratch):
    """The configuration but for its pattern's parameters, which another pattern does not know."""
    lines = pathlib.Path(options.config).read_text(encoding="utf-8").splitlines()
    path = pathlib.Path(scratch) / "config.yaml"
    path.write_text("\n".join(line for line in lines if not line.startswith("pattern")) + "\n", encoding="utf-8")
    return str(path)


def metrics(folder):
    with open(pathlib.Path(folder) / "metrics.csv", encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def seconds_per_step(options, name, folder):
    """Without the start and the first step, which wait for memory and caches."""
    def begin(out, length):
        return run([options.program, "train", options.config, "--out", out, *length,
                    *settings(options, name, 1, ["log_every=1"])])[1]

    first = begin(folder + "-first", ["--steps", "1"]) if options.together else 0
    all_steps = begin(folder, ["--seconds", str(options.calibrate)])
    rows = metrics(folder)
    if len(rows) < 3:
        sys.exit(f"{name}: only {len(rows)} steps in {options.calibrate} seconds; give --calibrate more")
    spent = all_steps - first if options.together else rows[-1]["seconds"] - rows[0]["seconds"]
    return spent / (rows[-1]["step"] - rows[0]["step"])


def train(options, name, seed, steps, folder):
    _, spent = run([options.program, "train", options.config, "--out", folder, "--steps", str(steps),
                    *settings(options, name, seed, [f"steps={steps}", f"warmup={max(1, steps // 20)}"])])
    result = json.loads(run([options.program, "eval", folder, "--data", options.test, "--json"])[0])
    rows = metrics(folder)
    seconds = spent if options.together else rows[-1]["seconds"]
    return {"pattern": name, "seed": seed, "steps": steps, "seconds": seconds,
            "train_bits": rows[-1]["bits"], "test_bits": result["bits_per_byte"]}


def mean_and_deviation(values):
    mean = sum(values) / len(values)
    square = sum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(square / (len(values) - 1)) if len(values) > 1 else 0.0


def report(options, title, runs):
    clock = "CPU seconds of one thread" if options.together else "s"
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.seconds:.0f} {clock} for "
          f"each run, {options.seeds} seeds, {title} {' '.join(options.settings)}\n")
    print("| pattern | steps | seconds | bits per dimension, test | deviation |\n| --- | --- | --- | --- | --- |")
    for name in PATTERNS:
        own = [one for one in runs if one["pattern"] == name]
        bits, deviation = mean_and_deviation([one["test_bits"] for one in own])
        seconds, _ = mean_and_deviation([one["seconds"] for one in own])
        print(f"| {name} | {own[0]['steps']} | {seconds:.0f} | {bits:.4f} | {deviation:.4f} |")


def measure(options, scratch, pool):
    """Of both patterns, in turns or, with --together, at the same time."""
    def each(work):
        return list(pool.map(work, PATTERNS))

    def count_steps(name):
        step = seconds_per_step(options, name, os.path.join(scratch, "calibrate-" + name))
        steps = max(2, int(options.seconds / step))
        print(f"{name}: {1e3 * step:.1f} ms a step, {steps} steps", flush=True)
        return steps

    steps, runs = dict(zip(PATTERNS, each(count_steps))), []
    for seed in range(1, options.seeds + 1):
        for one in each(lambda name: train(options, name, seed, steps[name], os.path.join(scratch, f"{name}-{seed}"))):
            runs.append(one)
            print(json.dumps(one), flush=True)
    return runs


def main():
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        with concurrent.futures.ThreadPoolExecutor(len(PATTERNS) if options.together else 1) as pool:
            title, options.config = pathlib.Path(options.config).name, without_pattern(options, scratch)
            runs = measure(options, scratch, pool)
    report(options, title, runs)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
