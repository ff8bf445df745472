#!/usr/bin/env python3
"""Proves that the layer check can fail: plants each mistake in a copy of a small tree and expects the
complaint. Argument: the folder of check_layers.py."""
import contextlib
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import check_layers  # noqa: E402

GOOD = "/* A heading that is long enough to say what this is for. */\n"
CASES = [
    ("patterns/a.c", GOOD + '#include "patterns/a.h"\n', None),
    ("tuner/a.c", GOOD + '#include "runtime/sptx.h"\n', None),
    ("tests/a.c", GOOD + '#include "model/a.h"\n', None),
    ("patterns/a.c", GOOD + '#include "gen/kernel.h"\n', "may not include gen/kernel.h"),
    ("gen/a.h", GOOD + '#include "runtime/sptx.h"\n', "may not include runtime/sptx.h"),
    ("gen/a.c", GOOD + '#include "tests/support/reference.h"\n', "may not include tests/support"),
    ("patterns/a.c", GOOD + "#include <llvm-c/Core.h>\n", "knows no LLVM"),
    ("examples/a.c", GOOD + '#include "sptx.h"\n', None),
    ("examples/a.c", GOOD + '#include "gen/ir.h"\n', "it is not installed"),
    ("model/a.c", "int x;\n", "opens without a comment"),
    ("model/a.c", "/* short */\nint x;\n", "opens without a comment"),
    ("examples/a.py", "import sys\n", "opens without a comment"),
    ("gen/a.c", GOOD + "/* TO" "DO: later */\n", "unfinished"),
]
if shutil.which("git"):
    CASES.append(("a.whl", "PK\0", "a.whl: is no text"))


def complaint(path, text):
    with tempfile.TemporaryDirectory() as root:
        file = pathlib.Path(root) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if path.endswith(".whl"):  # only what git tracks counts
            subprocess.run(["git", "init", "-q", root], check=True)
            subprocess.run(["git", "-C", root, "add", path], check=True)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = check_layers.main(root)
        return status, output.getvalue()


def main():
    bad = 0
    for path, text, expected in CASES:
        status, output = complaint(path, text)
        right = status == 1 and expected in output if expected else status == 0
        if not right:
            print(f"{path} with {text!r}: status {status}, said {output!r}, expected {expected!r}")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
