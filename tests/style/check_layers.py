#!/usr/bin/env python3
"""Fails when a source file breaks the layout's rules: a folder includes a header of a later folder, an example
one that is not installed, patterns/ knows LLVM, a file opens without saying what it is for, or a line is left
unfinished by mark. Also when a file that git tracks is no text, other than an array (.npy): what is built or fetched stays out.

Argument: the source tree's root."""
import pathlib
import re
import subprocess
import sys

LAYERS = ["patterns", "gen", "runtime", "tuner", "model"]
EVERYWHERE = LAYERS + ["examples", "tests"]
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.M)
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
SHORTEST_HEADING = 40  # characters; a file that needs fewer words does not exist


def heading(path, text):
    if path.suffix in (".c", ".h"):
        match = re.match(r"/\*(.*?)\*/", text, re.S) or re.match(r"((?://[^\n]*\n)+)", text)
    else:
        match = re.match(r'(?:#![^\n]*\n)?(?:"""(.*?)"""|((?:#[^\n]*\n)+))', text, re.S)
    return "".join(part or "" for part in match.groups()).strip() if match else ""


def problems_of(root, path):
    text = path.read_text(encoding="utf-8")
    folder = path.relative_to(root).parts[0]
    if len(heading(path, text)) < SHORTEST_HEADING:
        yield 1, "opens without a comment that says what the file is for"
    for match in UNFINISHED.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, f"unfinished: {match.group(0)}"
    if path.suffix not in (".c", ".h") or folder == "tests":  # a test may need a later layer to run what it tests
        return
    for match in INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        target = match.group(1).split("/")[0]
        if folder == "examples":
            if target in EVERYWHERE:
                yield line, f"examples/ may not include {match.group(1)}: it is not installed"
            continue
        if target in LAYERS and LAYERS.index(target) > LAYERS.index(folder):
            yield line, f"{folder}/ may not include {match.group(1)}: {target}/ is built on {folder}/"
        if target in ("tests", "examples"):
            yield line, f"{folder}/ may not include {match.group(1)}"
        if folder == "patterns" and target == "llvm-c":
            yield line, "patterns/ knows no LLVM"


def sources(root):
    for folder in EVERYWHERE:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".c", ".h", ".py", ".sh") and path.is_file():
                yield path


def binaries(root):
    """Tracked files that are no text; none where the tree is no checkout, or git is missing."""
    try:
        done = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=False)
    except FileNotFoundError:
        return
    for name in filter(None, done.stdout.decode().split("\0")):
        path = root / name
        if path.suffix != ".npy" and path.is_file() and b"\0" in path.read_bytes():
            yield name


def main(root):
    root = pathlib.Path(root)
    bad = 0
    for name in binaries(root):
        print(f"{name}: is no text, and stays out of the repository")
        bad += 1
    for path in sources(root):
        for line, message in problems_of(root, path):
            print(f"{path.relative_to(root)}:{line}: {message}")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
