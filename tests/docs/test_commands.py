#!/usr/bin/env python3
"""What all commands have in common: --help and --version on stdout with status 0, wrong usage with status 2, what cannot
be done with status 1, a sentence on stderr that begins with the command's name, and nothing on stdout then; a stdout
that is full is a failure.

Arguments: the source tree's root, then the commands."""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv[1]).resolve()
PROGRAMS = {pathlib.Path(path).name: pathlib.Path(path).resolve() for path in sys.argv[2:]}
STRIDED = ROOT / "patterns/library/strided.yaml"
CONFIG = ROOT / "model/configs/source-small.yaml"
MODEL = ["sptx-model train", "sptx-model eval", "sptx-model sample", "sptx-model attention"]
# A call of each that is right up to what a test adds to it; none of them gets as far as computing something.
CALLS = {
    "sptx-gen": [STRIDED, "--n", 64, "--check"],
    "sptx-run": [STRIDED, "--q", "q.npy", "--k", "k.npy", "--v", "v.npy", "-o", "o.npy"],
    "sptx-bench": [STRIDED, "--n", 64],
    "sptx-tune": [STRIDED, "--n", 64, "--budget", "0"],
    "sptx-model train": [CONFIG, "--out", "out"],
}
ALL = ["sptx-gen", "sptx-run", "sptx-bench", "sptx-tune", "sptx-model", *MODEL]


class Commands(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def run_command(self, command, *arguments, stdout=subprocess.PIPE):
        program, *rest = command.split()
        return subprocess.run([PROGRAMS[program], *rest, *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE,
                              text=True, timeout=60, cwd=self.folder.name)

    def refused(self, status, command, *arguments, words=""):
        done = self.run_command(command, *arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""), (arguments, done.stderr))
        lines = [line for line in done.stderr.splitlines() if line]
        self.assertTrue(lines and command.split()[0] in lines[0] and words in done.stderr, (arguments, done.stderr))

    def test_help_and_version(self):
        for command in ALL:
            with self.subTest(command):
                done = self.run_command(command, "--help")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertTrue(done.stdout.startswith(f"Usage: {command} "), done.stdout)
                self.assertIn("Exit status: 0 done, ", re.sub(r"\s+", " ", done.stdout))
                if command != "sptx-model":
                    for option in ("--set", "--device", "--json", "--help", "--version"):
                        self.assertIn(option, done.stdout)
                done = self.run_command(command, "--version")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertRegex(done.stdout, r"^%s \d+\.\d+\.\d+\n$" % command.split()[0])

    def test_wrong_usage(self):
        for command in ALL:
            with self.subTest(command):
                self.refused(2, command)
                self.refused(2, command, "--nonsense", words=f"see {command} --help")
                self.refused(2, command, "--help", "--nonsense", words="see sptx-")
        for command, call in CALLS.items():
            with self.subTest(command):
                self.refused(2, command, *call, "surplus", words="surplus")
                self.refused(2, command, *call, "--set", words=f"see {command} --help")
                self.refused(2, command, *call, "--set", "unheard_of=1", words="unheard_of")
        self.refused(2, "sptx-model", "unheard_of", words="unheard_of")
        self.refused(2, "sptx-model", "keys", "surplus", words="surplus")

    def test_files_that_are_not_there(self):
        for command, call in CALLS.items():
            with self.subTest(command):
                self.refused(1, command, "missing.yaml", *call[1:], words="missing.yaml")
        for command, call in {"sptx-model eval": ["missing", "--data", "x"], "sptx-model sample": ["missing"],
                              "sptx-model attention": ["missing", "--layer", "0", "--head", "0", "-o", "x.png"]}.items():
            self.refused(1, command, *call, words="missing")

    def test_devices(self):
        for command in ("sptx-bench", "sptx-tune", "sptx-gen", "sptx-model train"):
            with self.subTest(command):
                self.refused(2, command, *CALLS[command], "--device", "abacus", words="abacus")
        self.refused(1, "sptx-bench", *CALLS["sptx-bench"], "--device", "cuda:63")

    def test_full_disk(self):
        for command in ALL:
            with self.subTest(command), open("/dev/full", "w", encoding="utf-8") as full:
                done = self.run_command(command, "--help", stdout=full)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(command.split()[0], done.stderr)

    def test_bootstrap(self):
        for arguments, status in ((["--help"], 0), (["unheard_of"], 2), (["demo", "surplus"], 2)):
            done = subprocess.run([ROOT / "bootstrap", *arguments], capture_output=True, text=True, timeout=60,
                                  env={"PATH": "/usr/bin:/bin", "BUILD": "/dev/null"})
            self.assertEqual(done.returncode, status, arguments)
            self.assertIn("./bootstrap demo", done.stderr if status else done.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
