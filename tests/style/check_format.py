#!/usr/bin/env python3
"""Fails when a C file is not laid out as .clang-format says. The version is fixed, since the layout changes
with it; without it the test is skipped. Argument: the source tree's root."""
import pathlib
import shutil
import subprocess
import sys

FORMATTER = "clang-format-14"
FOLDERS = ["patterns", "gen", "runtime", "tuner", "model", "examples", "tests"]
SKIP = 77


def main(root):
    if shutil.which(FORMATTER) is None:
        print(f"{FORMATTER} is not installed")
        return SKIP
    files = sorted(
        str(path)
        for folder in FOLDERS
        for path in (pathlib.Path(root) / folder).rglob("*.[ch]")
    )
    done = subprocess.run([FORMATTER, "--dry-run", "-Werror", *files], stderr=subprocess.PIPE, text=True)
    wrong = sorted({line.split(":")[0] for line in done.stderr.splitlines() if "error:" in line})
    for path in wrong:
        print(f"not formatted: {path}\n  {FORMATTER} -i {path}")
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
