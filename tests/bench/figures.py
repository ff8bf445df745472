#!/usr/bin/env python3
"""The figures that the CPU kernels aim at, in one table: useful GFLOP/s beside the machine's own GEMM rate, growth
with the sequence's length, and the time from a pattern's text to a callable kernel. Ratios are sptx-bench's, of
one run each; a step of an interleaved pattern has a row of its own. What is missed is said, and decides no exit
status: run it on a machine that does nothing else.

  figures.py --bench build/tuner/sptx-bench --startup build/tests/bench/startup [--json]"""
import argparse
import json
import math
import pathlib
import re
import subprocess
import sys

LIBRARY = pathlib.Path(__file__).resolve().parents[2] / "patterns/library"
HEADS, N = 8, 4096
# (case, pattern, its parameters, head dimension, pass, least share of the GEMM rate)
RATIOS = [
    ("dense causal", "dense", {}, 64, "forward", 0.75),
    ("dense causal", "dense", {}, 128, "forward", 0.75),
    ("dense causal", "dense", {}, 64, "backward", 0.60),
    ("dense causal", "dense", {}, 128, "backward", 0.60),
    ("strided, l 64", "strided", {"stride": 64}, 64, "forward", 0.35),
    ("local, w 64", "local", {"window": 64}, 64, "forward", 0.45),
    ("fixed, l 64, c 16", "fixed", {"stride": 64, "columns": 16}, 64, "forward", 0.55),
]
GROWTH = [("strided, l sqrt(n)", "strided", {}), ("fixed, l sqrt(n), c 16", "fixed", {"columns": 16})]
GROWTH_SIZES, GROWTH_AIM = (4096, 16384, 36864, 65536), 1.60
STARTUP_WORST = re.compile(r"worst (\S+): cold ([\d.]+) ms \(aim ([\d.]+)\), warm ([\d.]+) ms \(aim ([\d.]+)\)")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program sptx-bench")
    parser.add_argument("--startup", required=True, help="the program startup")
    parser.add_argument("--threads", type=int, help="all usable cores when left out")
    parser.add_argument("--seconds", type=float, default=1, help="for each measurement (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args()


def run(arguments):
    print(" ".join(map(str, arguments))[:150], file=sys.stderr, flush=True)
    done = subprocess.run([str(word) for word in arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def bench(options, pattern, params, n, heads, head_dim, which="forward"):
    arguments = [options.bench, LIBRARY / f"{pattern}.yaml", "--n", n, "--heads", heads, "--head-dim", head_dim,
                 "--pass", which, "--seconds", options.seconds, "--json"]
    for name, value in params.items():
        arguments += ["--set", f"{name}={value}"]
    if options.threads:
        arguments += ["--threads", options.threads]
    return json.loads(run(arguments))


def row(case, unit, measured, aim, reached):
    return {"case": case, "unit": unit, "measured": measured, "aim": aim, "reached": reached}


def step_name(one):
    return f", step {one['step']}" if one.get("step") else ""


def ratio_rows(options, machine):
    for case, pattern, params, head_dim, which, aim in RATIOS:
        report = bench(options, pattern, params, N, HEADS, head_dim, which)
        machine.update({"cpu": report["cpu"], "threads": report["threads"]})
        for one in report["passes"]:
            yield row(f"{case}, {which}, head dimension {head_dim}{step_name(one)}", "of the GEMM rate",
                      one["ratio_to_gemm"], aim, one["ratio_to_gemm"] >= aim)


def exponent(sizes, times):
    """Of t = c n^e, by least squares of the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    return (sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y)) / sum((a - middle_x) ** 2 for a in x))


def growth_rows(options):
    """One head: dense attention beside the longest sequences would take too long, and is left out by sptx-bench."""
    for case, pattern, params in GROWTH:
        times = {}
        for n in GROWTH_SIZES:
            for one in bench(options, pattern, {"stride": math.isqrt(n), **params}, n, 1, 64)["passes"]:
                times.setdefault(step_name(one), []).append(one["ms"])
        for step, of_step in times.items():
            measured = exponent(GROWTH_SIZES, of_step)
            yield row(f"{case}, growth{step}", "exponent of n", measured, GROWTH_AIM, measured <= GROWTH_AIM)


def startup_rows(options):
    text = run([options.startup, *sorted(LIBRARY.glob("*.yaml"))])
    for passes, *numbers in STARTUP_WORST.findall(text):
        cold, cold_aim, warm, warm_aim = map(float, numbers)
        yield row(f"text to kernel, {passes}, worst pattern", "ms", cold, cold_aim, cold <= cold_aim)
        yield row(f"the same from the code cache, {passes}", "ms", warm, warm_aim, warm <= warm_aim)


def print_table(machine, rows):
    print(f"{machine['cpu']}, {machine['threads']} threads; float32, {HEADS} heads, n {N} where not said otherwise\n")
    print("| case | measured | aim | |\n| --- | --- | --- | --- |")
    for one in rows:
        more = "<=" if one["unit"] != "of the GEMM rate" else ">="
        print(f"| {one['case']} | {one['measured']:.3g} {one['unit']} | {more} {one['aim']:g} | "
              f"{'reached' if one['reached'] else 'MISSED'} |")


def main():
    options = parse()
    machine = {}
    rows = [*ratio_rows(options, machine), *growth_rows(options), *startup_rows(options)]
    if options.json:
        print(json.dumps({**machine, "figures": rows}, indent=1))
    else:
        print_table(machine, rows)


if __name__ == "__main__":
    main()
