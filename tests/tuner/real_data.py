"""The strided and the fixed pattern on real sequences: text of enwik8 and images of CIFAR-10, embedded by sptx-bench and
held against float64 there. The samples are no part of the repository: without them the test is skipped."""
import json
import lzma
import pathlib
import subprocess
import sys
import tempfile

CIFAR_RECORD, CIFAR_IMAGE = 3073, 3072
TEXT_LENGTH = 1024

# Norm of the difference over the norm. float32: a few roundings; bfloat16: outputs carry 8 bits.
F32_LIMIT, BF16_LIMIT = 2e-6, 6e-3


def sequences(samples):
    text = lzma.open(samples / "enwik8-first-4154000.xz").read(1 << 20)
    records = lzma.open(samples / "cifar10-test-846.bin.xz").read(8 * CIFAR_RECORD)
    yield "text", 32, "f32", F32_LIMIT, text[500_000 : 500_000 + TEXT_LENGTH]
    yield "image", 96, "bf16", BF16_LIMIT, records[5 * CIFAR_RECORD + 1 : 5 * CIFAR_RECORD + 1 + CIFAR_IMAGE]


def measure(bench, pattern, stride, dtype, path):
    command = [bench, pattern, "--n", str(path.stat().st_size), "--heads", "1", "--head-dim", "64", "--set", f"stride={stride}",
               "--dtype", dtype, "--pass", "forward,backward", "--seconds", "0.01", "--json", "--bytes", path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout)["passes"]


def main():
    bench, library, samples = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    if not samples.is_dir():
        print(f"no samples at {samples}")
        raise SystemExit(77)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, stride, dtype, limit, sequence in sequences(samples):
            path = pathlib.Path(folder) / name
            path.write_bytes(sequence)
            for pattern in ("strided", "fixed"):
                for row in measure(bench, library / f"{pattern}.yaml", stride, dtype, path):
                    wrong = not row["max_rel_error"] <= limit
                    failures += wrong
                    print(f"{name} {pattern} {dtype} {row['pass']} {row['step']}: {row['max_rel_error']:.2e}",
                          f"> {limit}" if wrong else "")
    raise SystemExit(failures != 0)


main()
