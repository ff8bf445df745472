"""What the tests of sptx-model's commands share: running it, and small models to run it on.
The test's arguments are the program and the folder of pattern files."""
import pathlib
import subprocess
import sys

PROGRAM, LIBRARY = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
SHARED = """layers: 2
width: 32
heads: 2
batch: 1
steps: 2
warmup: 1
learning_rate: 0.01
threads: 1
"""


def run(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def good(*arguments):
    status, out, said = run(*arguments)
    assert status == 0, (arguments, status, said)
    return out


def refused(expected, words, *arguments):
    status, out, said = run(*arguments)
    assert status == expected and words in said and not out, (arguments, status, said)


def pattern(name, **params):
    return f"pattern: {LIBRARY / name}\npattern_params: {{{', '.join(f'{k}: {v}' for k, v in params.items())}}}\n"


def train(root, name, text):
    """A model trained for two steps, in the folder `name`."""
    config = root / f"{name}.yaml"
    config.write_text(SHARED + text, encoding="utf-8")
    good("train", config, "--out", root / name)
    return root / name
