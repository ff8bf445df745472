#!/usr/bin/env python3
"""sptx-gen from outside: exit statuses and messages, the text forms, the files of -o and what their heads say,
outputs that cannot be written, and emitted objects linked into a program and compared with float64.

Arguments: the sptx-gen binary, the C compiler, the source tree's root."""
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

GEN, CC, ROOT = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
LIBRARY = ROOT / "patterns" / "library"
GOLDEN = ROOT / "tests" / "gen" / "golden"
HERE = ROOT / "tests" / "gen"


def run(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120, **options}
    return subprocess.run([GEN, *map(str, arguments)], **options)


def pattern(name):
    return LIBRARY / f"{name}.yaml"


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sptx-gen-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def done(self, *arguments, **options):
        result = run(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def refused(self, status, words, *arguments, **options):
        result = run(*arguments, **options)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertIn(words, result.stderr)
        self.assertEqual(result.stdout, "")
        return result.stderr


class Usage(Case):
    def test_help_and_version(self):
        text = self.done("--help")
        self.assertTrue(text.startswith("Usage: sptx-gen"))
        self.assertRegex(self.done("--version"), r"^sptx-gen \d+\.\d+\.\d+\n$")

    def test_wrong_usage_is_status_2_and_says_what_is_accepted(self):
        local = pattern("local")
        for words, arguments in [
            ("PATTERN.yaml", []),
            ("--n", [local, "--check"]),
            ("nothing to do", [local, "--n", 64]),
            ("unexpected argument", [local, local, "--n", 64]),
            ("needs a number from 1", [local, "--n", 0, "--check"]),
            ("needs a number from 1", [local, "--n", "12x", "--check"]),
            ("--heads needs", [local, "--n", 64, "--heads", -1, "--check"]),
            ("--kv-heads does not divide", [local, "--n", 64, "--heads", 4, "--kv-heads", 3, "--check"]),
            ("--dtype is f32, f16 or bf16", [local, "--n", 64, "--dtype", "f64", "--check"]),
            ("--pass is a list of forward", [local, "--n", 64, "--pass", "sideways", "--check"]),
            ("--dump is pattern, pieces", [local, "--n", 64, "--dump", "tokens"]),
            ("--set needs NAME=VALUE", [local, "--n", 64, "--set", "window", "--check"]),
            ("--name needs letters", [local, "--n", 64, "--name", "1st", "-o", self.folder]),
            ("--json prints one object", [local, "--n", 64, "--json", "--dump", "ir"]),
            ("--target", [local, "--n", 64, "--device", "cuda:0", "--check"]),
            ("is not a target", [local, "--n", 64, "--target", "pdp-11", "--dump", "ir"]),
            ("cannot read 'tile=3'", [local, "--n", 64, "--schedule", "tile=3", "--dump", "ir"]),
            ("query_tile", [local, "--n", 64, "--schedule", "query_tile=7", "--dump", "schedule"]),
            ("step", [pattern("strided"), "--n", 64, "--step", "diagonal", "--dump", "schedule"]),
            ("takes no pattern", ["--targets", local]),
            ("unrecognized option", ["--frobnicate"]),
        ]:
            with self.subTest(words=words):
                self.refused(2, words, *arguments)

    def test_bad_patterns_name_the_place(self):
        path = self.folder / "bad.yaml"
        path.write_text("sptx: 1\nname: bad\nattend: {window: {lefft: 3}}\n")
        self.refused(2, f"{path}:3:", path, "--n", 64, "--check")
        self.refused(2, "windo", pattern("local"), "--n", 64, "--set", "windo=3", "--check")

    def test_failures_are_status_1(self):
        self.refused(1, "missing.yaml", self.folder / "missing.yaml", "--n", 64, "--check")
        self.refused(1, "multiple of 8", pattern("local"), "--n", 64, "--head-dim", 20, "--dump", "schedule")

    def test_a_full_disk_behind_stdout_is_a_failure(self):
        with open("/dev/full", "w") as full:
            result = run(pattern("local"), "--n", 64, "--dump", "ir", stdout=full)
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot write", result.stderr)


class Forms(Case):
    def test_targets(self):
        rows = json.loads(self.done("--targets", "--json"))["targets"]
        lines = self.done("--targets").splitlines()[1:]
        self.assertEqual([row["name"] for row in rows], [line.split()[0] for line in lines])
        self.assertTrue({"x86-64-v3", "x86-64-v4", "sm_80", "sm_90a"} <= {row["name"] for row in rows})
        for row, line in zip(rows, lines):
            said = [name for name, mark in zip(("forward", "backward", "decode"), line.split()[2:5]) if mark == "yes"]
            self.assertEqual(row["passes"], said)

    def test_the_support_matrix_is_true(self):
        for row in json.loads(self.done("--targets", "--json"))["targets"]:
            for which in row["passes"]:
                for dtype in ("f32", "f16", "bf16"):
                    with self.subTest(target=row["name"], which=which, dtype=dtype):
                        self.done(pattern("strided"), "--n", 256, "--target", row["name"], "--pass", which,
                                  "--dtype", dtype, "--dump", "schedule")

    def test_check(self):
        said = json.loads(self.done(pattern("strided"), "--n", 1 << 20, "--check", "--json"))
        self.assertEqual(said["name"], "strided")
        self.assertEqual(said["n"], 1 << 20)
        self.assertEqual(len(said["heads"]), 16)  # two steps of 8
        self.assertIn("pieces", said["heads"][0])
        self.assertIn("strided", self.done(pattern("strided"), "--n", 1000, "--check"))

    def test_mask(self):
        path = self.folder / "mask.npy"
        self.done(pattern("local"), "--n", 100, "--heads", 2, "--set", "window=7", "--mask", path)
        data = path.read_bytes()
        self.assertIn(b"(2, 100, 100", data[:128])
        mask = data[-20000:]
        for h in range(2):
            for i in range(100):
                for j in range(100):
                    self.assertEqual(mask[(h * 100 + i) * 100 + j], int(0 <= i - j < 7))
        self.refused(1, "cannot", pattern("local"), "--n", 100, "--mask", self.folder / "no" / "mask.npy")
        self.refused(2, "8192", pattern("local"), "--n", 8193, "--mask", self.folder / "large.npy")
        self.assertEqual(sorted(os.listdir(self.folder)), ["mask.npy"])

    def test_draw(self):
        for name, start in (("picture.svg", b"<?xml"), ("picture.png", b"\x89PNG")):
            self.assertEqual(self.done(pattern("strided"), "--n", 256, "--draw", self.folder / name), "")
            self.assertEqual((self.folder / name).read_bytes()[:len(start)], start)
        self.refused(2, ".svg", pattern("strided"), "--n", 256, "--draw", self.folder / "picture.gif")
        self.refused(1, "no", pattern("strided"), "--n", 256, "--draw", self.folder / "no" / "picture.png")
        self.assertEqual(sorted(os.listdir(self.folder)), ["picture.png", "picture.svg"])

    def test_schedules_are_those_of_the_golden_files(self):
        for name, arguments in [
            ("schedule-x86", ["--target", "x86-64-v3", "--pass", "forward,backward,decode"]),
            ("schedule-x86-bf16", ["--target", "x86-64-v4", "--pass", "forward,backward", "--dtype", "bf16"]),
            ("schedule-given", ["--target", "x86-64-v3", "--schedule", "query_tile=32 key_tile=64"]),
            ("schedule-sm_80", ["--target", "sm_80", "--dtype", "f16"]),
            ("schedule-sm_90a", ["--target", "sm_90a", "--dtype", "bf16"]),
        ]:
            said = ""
            for each in ("strided", "fixed-merged", "bigbird"):
                said += self.done(pattern(each), "--n", 1000, "--heads", 4, "--kv-heads", 2, "--dump", "schedule",
                                  *arguments)
            path = GOLDEN / f"{name}.txt"
            if os.environ.get("SPTX_REWRITE_GOLDEN"):
                path.write_text(said)
            self.assertEqual(said, path.read_text(), f"{path} differs; if that is right, run the test once with "
                             "SPTX_REWRITE_GOLDEN=1 and say in the commit why")

    def test_pattern_and_pieces(self):
        self.assertIn("every: 33", self.done(pattern("strided"), "--n", 1000, "--set", "stride=33", "--step", "column",
                                              "--dump", "pattern"))
        pieces = self.done(pattern("strided"), "--n", 1000, "--dump", "pieces")
        self.assertIn("window", pieces)
        self.assertIn("stride", pieces)

    def test_ir_and_assembly(self):
        arguments = [pattern("local"), "--n", 300, "--target", "x86-64-v3"]
        ir = self.done(*arguments, "--dump", "ir")
        self.assertIn("define void @local_forward_item(", ir)
        self.assertIn("@llvm.fma.v8f32", ir)
        self.assertRegex(self.done(*arguments, "--dump", "asm"), r"vfmadd\d+ps")
        wide = self.done(pattern("local"), "--n", 300, "--target", "x86-64-v4", "--dump", "asm")
        self.assertRegex(wide, r"vfmadd\d+ps.*%zmm")
        ptx = self.done(pattern("local"), "--n", 300, "--target", "sm_80", "--dtype", "bf16", "--dump", "asm")
        self.assertIn("mma.sync", ptx)
        self.assertIn(".target sm_80", ptx)
        hopper = self.done(pattern("local"), "--n", 300, "--target", "sm_90a", "--dtype", "bf16", "--dump", "asm")
        self.assertIn("wgmma.mma_async", hopper)


    def test_bfloat16_products_are_the_instructions_of_the_target(self):
        for target, which, names in (("x86-64-avx512bf16", "forward", ("scores", "values", "values_rest")),
                                     ("x86-64-avx512bf16", "backward", ("scores", "keys", "keys_last", "d_query")),
                                     ("x86-64-avx512bf16", "decode", ("scores", "values", "values_rest")),
                                     ("x86-64-amx", "forward", ("amx_scores", "amx_output"))):
            text = self.done(pattern("dense"), "--n", 300, "--head-dim", 88, "--target", target, "--dtype", "bf16",
                             "--pass", which, "--dump", "asm")
            bodies = dict(re.findall(r"^\"?sptx_\w+\.(\w+)\"?:(.*?)^\.Lfunc_end", text, re.M | re.S))
            for name in names:
                with self.subTest(target=target, which=which, product=name):
                    instruction = "\ttdpbf16ps" if name.startswith("amx") else "\tvdpbf16ps"
                    loops = [loop for loop in re.findall(r"^\.LBB\w+:(.*?)^\tj", bodies[name], re.M | re.S)
                             if instruction in loop]
                    self.assertEqual(len(loops), 1, bodies[name])
                    self.assertNotIn("vfmadd", loops[0])
                    spill = r"[xyz]mm\d+.*\(%r[sb]p\)|\(%r[sb]p\).*[xyz]mm\d+"
                    self.assertNotRegex(bodies[name], spill, "a vector is spilled")


class Files(Case):
    def included(self, header, *flags):
        """Compiles a file that only includes the header."""
        command = [CC, "-std=c11", "-Wall", "-Wextra", "-Werror", *flags, "-include", header, "-fsyntax-only", "-x", "c",
                   os.devnull]
        check = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stderr)

    def test_names_and_heads(self):
        out = self.folder / "a" / "b"
        said = self.done(pattern("strided"), "--n", 300, "--pass", "forward,backward", "--target", "x86-64-v3", "-o", out)
        wanted = [f"strided_{step}{rest}" for step in ("column", "row") for rest in
                  (".h", *(f"_{which}{suffix}" for which in ("backward", "forward") for suffix in (".ll", ".o", ".s")))]
        self.assertEqual(sorted(os.listdir(out)), sorted(wanted))
        self.assertEqual(sorted(said.split()), sorted(f"{out}/{name}" for name in wanted))
        for name in wanted:
            if name.endswith(".o"):
                continue
            head = (out / name).read_text()[:4096]
            for words in ("written by sptx", "LLVM 19", f"command: sptx-gen {pattern('strided')}", "hash ", "shape: ",
                          "schedule: default", "launch 0: ", "useful pairs", "operations: ", "bytes: "):
                self.assertIn(words, head, name)
        self.assertIn(b"written by sptx", (out / "strided_row_forward.o").read_bytes())

    def test_json_report(self):
        said = json.loads(self.done(pattern("local"), "--n", 100, "--target", "sm_80", "-o", self.folder, "--json"))
        self.assertEqual(said["target"], "sm_80")
        self.assertEqual({file["name"]: file["bytes"] for file in said["files"]},
                         {name: (self.folder / name).stat().st_size for name in os.listdir(self.folder)})
        self.assertEqual(sorted(os.listdir(self.folder)), ["local.h", "local_forward.ll", "local_forward.ptx"])

    def test_the_hash_is_the_meaning(self):
        def hash_of(*arguments):
            self.done(*arguments, "--n", 256, "--target", "sm_80", "--name", "x", "-o", self.folder)
            return re.search(r"hash ([0-9a-f]{16})", (self.folder / "x.h").read_text()).group(1)

        other = self.folder / "other.yaml"
        other.write_text("sptx: 1\nname: other\ncausal: true\nattend: {window: {left: 2 * 64}}\n")
        local = hash_of(pattern("local"), "--set", "window=128")
        self.assertEqual(hash_of(other), local)
        self.assertNotEqual(hash_of(pattern("local"), "--set", "window=64"), local)

    def test_odd_words_in_the_command_line_stay_comments(self):
        out = self.folder / "it's *" / "end"
        self.done(pattern("local"), "--n", 100, "--target", "x86-64-v3", "-o", out)
        self.included(out / "local.h")

    def test_headers_compile_in_c11_without_warnings(self):
        for target in ("x86-64-v4", "x86-64-amx", "sm_80", "sm_90a"):
            self.done(pattern("bigbird"), "--n", 300, "--dtype", "bf16", "--target", target, "-o", self.folder)
            for threads in ([], ["-fopenmp"]):
                self.included(self.folder / "bigbird.h", "-pedantic", "-Wconversion", *threads)

    def test_the_driver_of_ptx_compiles_where_cuda_is(self):
        header = pathlib.Path("/usr/local/cuda/include/cuda.h")
        if not header.exists():
            self.skipTest("no cuda.h here")
        self.done(pattern("strided"), "--n", 512, "--dtype", "bf16", "--target", "sm_90a", "-o", self.folder)
        self.included(self.folder / "strided_row.h", "-isystem", header.parent, "-include", "cuda.h")


class Unwritable(Case):
    arguments = (pattern("strided"), "--n", 200, "--target", "x86-64-v3")

    def test_a_file_where_the_folder_should_be(self):
        (self.folder / "file").write_text("mine")
        self.refused(1, "file", *self.arguments, "-o", self.folder / "file")
        self.refused(1, "file", *self.arguments, "-o", self.folder / "file" / "deeper")
        self.assertEqual(os.listdir(self.folder), ["file"])
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_a_folder_that_cannot_be_made(self):
        self.refused(1, "/proc/none", *self.arguments, "-o", "/proc/none")

    def test_one_file_that_cannot_be_written_keeps_all_from_being_written(self):
        (self.folder / "strided_column.h").mkdir()
        self.refused(1, "strided_column.h", *self.arguments, "-o", self.folder)
        self.assertEqual(os.listdir(self.folder), ["strided_column.h"])

    def test_a_disk_that_fills_up(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))

        self.refused(1, "cannot write", *self.arguments, "-o", self.folder / "new" / "deep", preexec_fn=limit)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_later_step_that_fails(self):
        path = self.folder / "late.yaml"
        path.write_text("sptx: 1\nname: late\nsteps:\n  good: all\n  bad: {where: \"i / (j - 5) == 0\"}\nuse: interleave\n")
        result = run(path, "--n", 64, "-o", self.folder / "out")
        self.assertNotEqual(result.returncode, 0)
        self.assertEqual(os.listdir(self.folder), ["late.yaml"])


class Linked(Case):
    """Objects in a program without sptx or LLVM, against float64 over the mask that --mask writes."""

    def link(self, name, arguments, macros, flags=(), mask_arguments=()):
        self.done(*arguments, "--name", "case_of_test", "-o", self.folder)
        self.done(*arguments, *mask_arguments, "--mask", self.folder / "mask.npy")
        for header in self.folder.glob("*.h"):
            stem = header.stem
        program = self.folder / name
        objects = [str(path) for path in self.folder.glob("*.o")]
        build = subprocess.run([CC, "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused", "-Werror", *flags, "-I", self.folder,
                                f'-DHEADER="{stem}.h"', f"-DNAME={stem}", f"-DUPPER={stem.upper()}",
                                *(f"-D{macro}" for macro in macros), HERE / "emitted_case.c", *objects, "-lm", "-o",
                                program], capture_output=True, text=True)
        self.assertEqual(build.returncode, 0, build.stderr)
        result = subprocess.run([program, self.folder / "mask.npy"], capture_output=True, text=True, timeout=60)
        if result.returncode == 77:
            self.skipTest("this CPU lacks the target's instructions")
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_all_passes_grouped_heads(self):
        self.link("all", [pattern("strided"), "--step", "column", "--set", "stride=9", "--n", 133, "--batch", 2,
                          "--heads", 4, "--kv-heads", 2, "--head-dim", 40, "--pass", "forward,backward,decode",
                          "--target", "x86-64-v3"], ["BACKWARD", "DECODE"], ["-fopenmp"])

    def test_bfloat16_merged_pieces_one_thread(self):
        self.link("bf16", [pattern("fixed-merged"), "--set", "stride=32", "--set", "columns=5", "--n", 150, "--heads", 2,
                           "--head-dim", 16, "--dtype", "bf16", "--pass", "forward,decode"], ["BF16", "DECODE"])

    def test_half_with_score_changes_and_fewer_queries(self):
        self.link("half", [pattern("longformer"), "--n", 140, "--n-q", 77, "--heads", 2, "--head-dim", 24, "--dtype",
                           "f16", "--soft-cap", "--alibi"], ["F16", "SOFT_CAP", "ALIBI"], ["-fopenmp"])

    def test_generic_tiles_with_a_schedule(self):
        self.link("generic", [pattern("bigbird"), "--n", 300, "--heads", 1, "--head-dim", 16, "--schedule",
                              "query_tile=32 key_tile=96", "--pass", "forward,backward"], ["BACKWARD"], ["-fopenmp"])

    def test_wider_instructions(self):
        self.link("wide", [pattern("local"), "--set", "window=20", "--n", 100, "--heads", 1, "--target", "x86-64-v4"], [])

    def test_the_comparison_can_fail(self):
        arguments = [pattern("local"), "--n", 100, "--heads", 1, "--set", "window=20"]
        with self.assertRaisesRegex(AssertionError, "o without lse"):
            self.link("wrong", arguments, [], mask_arguments=["--set", "window=21"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
