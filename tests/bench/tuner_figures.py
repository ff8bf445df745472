#!/usr/bin/env python3
"""The autotuner's figures, one line each with what they are to reach: tuned against default over the pattern library,
the best found against an exhaustive search on three patterns, the time that tuning takes, the time that wisdom takes
when an attention is created, and the cost model's rank correlation. Runs sptx-tune and sptx-bench of a build folder.

    tests/bench/tuner_figures.py build                    everything on the CPU, about seven minutes on two cores
    tests/bench/tuner_figures.py build --patterns local,dense --budget 5s --exhaustive local    a shorter run
    tests/bench/tuner_figures.py build --device cuda:0 --dtype bf16 --n 16384 --heads 16        a GPU
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "patterns" / "library"
STEPS = {"strided": "column", "fixed": "columns", "axial-2d": "column", "axial-3d": "column"}


def spearman(pairs):
    def ranks(values):
        order = sorted(values)
        return [order.index(v) + (order.count(v) - 1) / 2 for v in values]

    a, b = ranks([p[0] for p in pairs]), ranks([p[1] for p in pairs])
    mean = (len(pairs) - 1) / 2
    top = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    bottom = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return top / bottom if bottom else float("nan")


class Figures:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = pathlib.Path(arguments.build)
        self.root = tempfile.TemporaryDirectory(prefix="sptx-figures-")
        self.wisdom = pathlib.Path(self.root.name) / "wisdom.db"
        self.missed = 0

    def shape(self, pattern):
        a = self.arguments
        options = ["--n", str(a.n), "--heads", str(a.heads), "--head-dim", str(a.head_dim), "--dtype", a.dtype,
                   "--device", a.device]
        if a.threads:
            options += ["--threads", str(a.threads)]
        return options + (["--step", STEPS[pattern]] if pattern in STEPS else [])

    def tune(self, pattern, direction, wisdom, *options):
        command = [self.folder / "tuner" / "sptx-tune", FOLDER / f"{pattern}.yaml", *self.shape(pattern), "--pass",
                   direction, "--wisdom", wisdom, "--json", *options]
        begin = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        if "--exhaustive" in options and self.arguments.keep:
            (self.arguments.keep / f"{pattern}-{direction}.json").write_text(done.stdout)
        return json.loads(done.stdout)["results"][0], time.monotonic() - begin

    def line(self, name, value, goal, reached):
        self.missed += not reached
        print(f"{name:<66} {value:>24}   goal {goal:<22} {'reached' if reached else 'MISSED'}", flush=True)

    def tuned_against_default(self):
        gains, times = [], []
        for pattern in self.arguments.patterns:
            for direction in self.arguments.passes:
                one, seconds = self.tune(pattern, direction, self.wisdom, "--budget", self.arguments.budget)
                gains.append(one["default_ms"] / one["best_ms"])
                times.append(seconds)
                print(f"  {pattern} {direction}: default {one['default_ms']:.4g} ms, tuned {one['best_ms']:.4g} ms "
                      f"({gains[-1]:.2f}x), {one['measured']} of {one['candidates']} measured, struck out "
                      f"{one['struck_out']}, rank correlation {one['spearman'] or float('nan'):.2f}, {seconds:.1f} s, "
                      f"{one['schedule']}", flush=True)
        return gains, times

    def gain(self, pattern, direction, wisdom):
        """How many times as fast as the default the wisdom's schedule is, the calls of both in turns."""
        command = [self.folder / "tuner" / "sptx-bench", FOLDER / f"{pattern}.yaml", *self.shape(pattern), "--pass",
                   direction, "--compare-default", "--wisdom", wisdom, "--seconds", "3", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        one = json.loads(done.stdout)["results"][0]
        return one["default_ms"] / one["tuned_ms"]

    def found_against_exhaustive(self):
        found, shares, default, correlations = [], [], [], []
        for pattern in self.arguments.exhaustive:
            direction = self.arguments.passes[0]
            names = [pathlib.Path(self.root.name) / f"{pattern}.{kind}.db" for kind in ("all", "some")]
            every, _ = self.tune(pattern, direction, names[0], "--exhaustive")
            one, _ = self.tune(pattern, direction, names[1], "--budget", self.arguments.budget)
            # Single measurements of many candidates favour those that nothing disturbed: the winners are measured
            # again, each in turns with the default.
            gains = [self.gain(pattern, direction, name) for name in names]
            found.append(gains[0] / gains[1])
            default.append(gains[0])
            shares.append(one["measured"] / one["candidates"])
            correlations.append(spearman([(m["expected_ms"], m["ms"]) for m in every["measurements"]]))
            print(f"  {pattern} {direction}: {every['measured']} measured, best {every['schedule']}, found "
                  f"{one['schedule']} with {found[-1]:.3f} of its time, default {default[-1]:.3f}, search measured "
                  f"{100 * shares[-1]:.1f} %, rank correlation over the whole space {correlations[-1]:.2f}",
                  flush=True)
        return found, shares, default, correlations

    def lookup(self):
        """What creation takes longer with wisdom than without, the code cache warm in both."""
        done = subprocess.run([self.folder / "tests" / "bench" / "wisdom_lookup", FOLDER / "strided-merged.yaml",
                               self.wisdom], stdout=subprocess.PIPE, text=True, check=True)
        return float(done.stdout)

    def run(self):
        gains, times = self.tuned_against_default()
        found, shares, default, correlations = self.found_against_exhaustive()
        limit = 30 if self.arguments.device == "cpu" else 20
        print()
        if gains:
            gain = statistics.median(gains)
            near = bool(default) and max(default) <= 1.10
            self.line("tuned against default, median over the library", f"{gain:.3f}x", ">= 1.10x, or the next",
                      gain >= 1.10 or near)
            self.line("default against tuned, median", f"{gain:.3f}x", "<= 1.15x", gain <= 1.15)
            self.line("tuned slower than default", f"{sum(g < 1 for g in gains)} of {len(gains)}", "0", min(gains) >= 1)
            self.line("time to tune one pass of one shape, longest", f"{max(times):.1f} s", f"<= {limit} s",
                      max(times) <= limit)
        if default:
            self.line("default against the exhaustive best, worst", f"{max(default):.3f}", "<= 1.10",
                      max(default) <= 1.10)
            self.line("best found against the exhaustive best, worst", f"{max(found):.3f}", "<= 1.03",
                      max(found) <= 1.03)
            self.line("share of the space that was measured, most", f"{100 * max(shares):.1f} %", "<= 10 %",
                      max(shares) <= 0.1)
            correlation = statistics.median(correlations)
            self.line("rank correlation of model and measurement, median", f"{correlation:.2f}", ">= 0.8",
                      correlation >= 0.8)
        if self.arguments.device == "cpu" and gains:
            milliseconds = self.lookup()
            self.line("wisdom looked up in sptx_attention_create", f"{milliseconds:.3f} ms", "<= 1 ms",
                      milliseconds <= 1)
        return 1 if self.missed else 0


def main():
    def names(text):
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", help="the build folder")
    library = ",".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
    parser.add_argument("--patterns", type=names, default=names(library), help="of the library (all)")
    parser.add_argument("--passes", type=names, default=["forward", "backward"], help="%(default)s")
    parser.add_argument("--exhaustive", type=names, default=["local", "strided-merged", "bigbird"],
                        help="patterns to search exhaustively (%(default)s)")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER",
                        help="keeps what exhaustive searches measured, PATTERN-PASS.json")
    parser.add_argument("--budget", default="8s", help="of each search (%(default)s)")
    parser.add_argument("--device", default="cpu", help="%(default)s")
    parser.add_argument("--dtype", default="f32", help="%(default)s")
    parser.add_argument("--n", type=int, default=3072, help="%(default)s")
    parser.add_argument("--heads", type=int, default=4, help="%(default)s")
    parser.add_argument("--head-dim", type=int, default=64, help="%(default)s")
    parser.add_argument("--threads", type=int, default=0, help="all usable cores")
    return Figures(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
