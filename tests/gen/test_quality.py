#!/usr/bin/env python3
"""Holds what the compiler makes of every library pattern against tests/quality.csv, without running any of it:
pairs, tiles, launches, instructions and code size, and for PTX what ptxas says, where it is installed (SPTX_PTXAS
names another than /usr/local/cuda/bin/ptxas). Spills, local memory and serialised wgmma fail whatever the file
says. All at n 3072, 4 heads of 64, forward and backward; f32 for x86, bf16 for PTX.

Arguments: the sptx-gen binary, the source tree's root, the target, and --rewrite to write the file anew."""
import concurrent.futures
import csv
import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

COLUMNS = ["name", "target", "pass", "useful_pairs", "computed_pairs", "tiles_full", "tiles_partial", "launches",
           "shared_bytes", "instructions", "code_bytes", "registers"]
OF_LLVM = {"instructions", "code_bytes"}  # change with LLVM's version
OF_PTXAS = {"code_bytes", "registers"}  # of PTX targets, change with ptxas's version
SHAPE = ["--n", "3072", "--heads", "4", "--head-dim", "64"]
PTXAS = os.environ.get("SPTX_PTXAS", "/usr/local/cuda/bin/ptxas")


def fail(message):
    print(message)
    sys.exit(1)


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode:
        fail(f"{' '.join(map(str, command))}\n{result.stderr}")
    return result.stdout + result.stderr


def code_bytes(path):
    """The size of an ELF file's executable sections."""
    data = path.read_bytes()
    table, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    total = 0
    for section in range(count):
        _, kind, flags, _, _, length = struct.unpack_from("<IIQQQQ", data, table + section * size)
        total += length if kind == 1 and flags & 4 else 0
    return total


def instructions(text, ptx):
    if ptx:
        return len(re.findall(r"^\t(?:@!?%p\d+ )?[a-z][\w.:]*[ \t;]", text, re.M))
    return len(re.findall(r"^\t[a-z]", text, re.M))


def ptxas_version():
    found = re.search(r"release (\S+),", run(PTXAS, "--version")) if os.access(PTXAS, os.X_OK) else None
    return found.group(1) if found else "none"


class Assembler:
    """ptxas, once for each distinct text."""

    def __init__(self, target):
        self.target, self.known = target, {}

    def __call__(self, path):
        text = re.sub(r"^//.*\n", "", path.read_text(), flags=re.M)
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in self.known:
            self.known[key] = self.assemble(path)
        return self.known[key]

    def assemble(self, path):
        cubin = path.with_suffix(".cubin")
        said = run(PTXAS, "-v", f"-arch={self.target}", path, "-o", cubin)
        bad = [line for line in said.splitlines() if "C75" in line or "spill" in line and
               "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" not in line]
        if bad:
            fail(f"{path.name}: a kernel spills, uses local memory or serialises wgmma:\n" + "\n".join(bad))
        return code_bytes(cubin), max(map(int, re.findall(r"Used (\d+) registers", said)))


def rows_of(gen, pattern, target, folder, assembler):
    ptx = target.startswith("sm_")
    shape = [*SHAPE, "--dtype", "bf16" if ptx else "f32"]
    said = json.loads(run(gen, pattern, *shape, "--check", "--json"))
    out = folder / pattern.stem
    run(gen, pattern, *shape, "--target", target, "--pass", "forward,backward", "--any-order", "-o", out)
    for path in sorted(out.glob("*.ptx" if ptx else "*.s")):
        name, which = path.stem.rsplit("_", 1)
        text = path.read_text()
        step = re.search(r"pattern: [^,]*, step (\w+)", text)
        heads = [head for head in said["heads"] if head["step"] == (step and step.group(1))]
        pairs = re.search(r"useful pairs (\d+), computed pairs (\d+)", text)
        shared = re.findall(r"launch \d+: .* block \d+ shared (\d+)", text)
        assembled = assembler(path) if ptx and assembler else (None, None)
        yield {"name": name, "target": target, "pass": which,
               "useful_pairs": pairs.group(1), "computed_pairs": pairs.group(2),
               "tiles_full": sum(piece["tiles_full"] for head in heads for piece in head["pieces"]),
               "tiles_partial": sum(piece["tiles_partial"] for head in heads for piece in head["pieces"]),
               "launches": len(re.findall(r"^\S+ launch \d+: ", text, re.M)),
               "shared_bytes": max(map(int, shared)) if shared else "",
               "instructions": instructions(text, ptx),
               "code_bytes": assembled[0] if ptx else code_bytes(path.with_suffix(".o")),
               "registers": assembled[1] if ptx else ""}


def measure(gen, root, target, assembler):
    with tempfile.TemporaryDirectory(prefix="sptx-quality-") as folder:
        patterns = sorted((root / "patterns" / "library").glob("*.yaml"))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(lambda p: list(rows_of(gen, p, target, pathlib.Path(folder), assembler)), pattern)
                    for pattern in patterns]
            return [{key: "" if value is None else str(value) for key, value in row.items()}
                    for job in jobs for row in job.result()]


def read(path):
    if not path.exists():
        return "", []
    first, rest = path.read_text().split("\n", 1)
    return first, list(csv.DictReader(rest.splitlines()))


def write(path, versions, rows):
    with open(path, "w", newline="") as stream:
        stream.write(versions + "\n")
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: (row["name"], row["target"], row["pass"])))


def compare(old, new, skipped):
    key = lambda row: (row["name"], row["target"], row["pass"])
    before, after = {key(row): row for row in old}, {key(row): row for row in new}
    for row in sorted(before.keys() | after.keys()):
        if row not in before or row not in after:
            yield f"{' '.join(row)}: {'new' if row in after else 'gone'}"
            continue
        for column in COLUMNS:
            if column not in skipped and before[row][column] != after[row][column]:
                yield f"{' '.join(row)}: {column} was {before[row][column]}, is {after[row][column]}"


def main(gen, root, target, rewrite=None):
    root = pathlib.Path(root)
    path, ptxas = root / "tests" / "quality.csv", ptxas_version()
    llvm = re.search(r"LLVM (\S+)", run(gen, root / "patterns/library/dense.yaml", "--n", 64, "--dump", "ir")).group(1)
    versions = f"# LLVM {llvm}, ptxas {ptxas}; n 3072, 4 heads of 64, f32 for x86, bf16 for PTX"
    new = measure(gen, root, target, Assembler(target) if ptxas != "none" else None)
    written, old = read(path)
    if rewrite:
        write(path, versions, [row for row in old if row["target"] != target] + new)
        return 0
    skipped = set()
    if f"LLVM {llvm}," not in written:
        skipped |= OF_LLVM | OF_PTXAS
    if target.startswith("sm_") and f"ptxas {ptxas};" not in written:
        skipped |= OF_PTXAS
    if skipped:
        print(f"LLVM {llvm}, ptxas {ptxas}, the file has {written[2:]}: {', '.join(sorted(skipped))} not compared")
    differences = list(compare([row for row in old if row["target"] == target], new, skipped))
    for line in differences:
        print(line)
    if differences:
        print(f"{len(differences)} differences. Where they are meant, run\n  python3 tests/gen/test_quality.py {gen} "
              f"{root} {target} --rewrite\nand say why in the commit.")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
