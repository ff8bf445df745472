#!/usr/bin/env python3
"""sptx-tune from the outside: exit statuses, the fields of its JSON, wisdom that survives interrupts, and a clear
message for each kind of bad input. Arguments: the command, a folder of patterns, a library to preload whose clock
jumps, [mpirun]."""
import json
import math
import os
import pathlib
import pty
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

COMMAND, PATTERNS, JUMPING_CLOCK = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
MPIRUN = sys.argv[4] if len(sys.argv) > 4 else ""
SHAPE = ["--n", "256", "--heads", "2", "--head-dim", "16", "--threads", "1"]
FIELDS = ["piece", "pass", "default_ms", "best_ms", "schedule", "candidates", "measured", "struck_out", "spearman"]


def members(session):
    """The processes of a session, but for dead ones that nobody has waited for."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(its_session) == session and state != "Z":
            found.append(stat.parent.name)
    return found


class Tune(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A database without schedules, but with this machine's ceilings: they take a second to measure."""
        cls.template = pathlib.Path(tempfile.mkdtemp(prefix="sptx-tune-")) / "wisdom.db"
        subprocess.run([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--budget", "0", "--wisdom", cls.template],
                       stdout=subprocess.DEVNULL, check=True, timeout=120)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.template.parent)

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="sptx-tune-"))
        self.wisdom = self.root / "wisdom.db"
        shutil.copy(self.template, self.wisdom)
        self.environment = dict(os.environ, HOME=str(self.root), XDG_CACHE_HOME=str(self.root / "cache"))

    def tearDown(self):
        subprocess.run(["chmod", "-R", "u+w", self.root], check=True)
        shutil.rmtree(self.root)

    def run_command(self, *arguments, **options):
        return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                              env=self.environment, **options)

    def tune(self, *arguments, **options):
        return self.run_command(PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, *arguments, **options)

    def entries(self):
        done = self.run_command("--list", "--json", "--wisdom", self.wisdom)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["entries"]

    def refused(self, done, status, *words):
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        for word in words:
            self.assertIn(word, done.stderr)

    def test_help_and_version(self):
        self.assertIn("--budget", self.run_command("--help").stdout)
        self.assertRegex(self.run_command("--version").stdout, r"^sptx-tune \d+\.\d+\.\d+\n$")

    def test_wrong_usage(self):
        pattern = PATTERNS / "local.yaml"
        self.refused(self.run_command(), 2, "PATTERN.yaml")
        self.refused(self.run_command(pattern), 2, "--n")
        self.refused(self.run_command(pattern, *SHAPE, "--budget", "soon"), 2, "--budget", "soon")
        self.refused(self.run_command(pattern, *SHAPE, "--budget", "-3s"), 2, "--budget")
        self.refused(self.run_command(pattern, *SHAPE, "--list"), 2, "one of them")
        self.refused(self.run_command(pattern, *SHAPE, "--frobnicate"), 2, "--help")
        self.refused(self.run_command("--sweep", "x", "--report", "y"), 2, "--report")
        self.refused(self.tune("--step", "nowhere"), 2, "nowhere")
        self.refused(self.run_command(self.root / "none.yaml", *SHAPE, "--wisdom", self.wisdom), 1, "none.yaml")

    def test_json_and_what_is_remembered(self):
        done = self.tune("--budget", "300ms", "--json", "--pass", "forward,backward")
        self.assertEqual(done.returncode, 0, done.stderr)
        results = json.loads(done.stdout)["results"]
        self.assertEqual([one["pass"] for one in results], ["forward", "backward"])
        for one in results:
            for field in FIELDS:
                self.assertIn(field, one)
            self.assertGreater(one["candidates"], 20)
            self.assertGreaterEqual(one["measured"], 2)
            self.assertEqual(one["struck_out"], len(one["struck"]))
            self.assertEqual(one["measured"], len(one["measurements"]) + one["struck_out"])
            self.assertLessEqual(one["best_ms"], one["default_ms"])
            self.assertEqual(one["schedule"] == "default", one["best_ms"] == one["default_ms"])
        self.assertEqual(sorted(one["pass"] for one in self.entries()), ["backward", "forward"])
        self.assertEqual(done.stderr, "", "nothing but results where stderr is no terminal")

    def test_table(self):
        done = self.tune("--budget", "200ms")
        self.assertEqual(done.returncode, 0, done.stderr)
        head, row = done.stdout.splitlines()[:2]
        self.assertIn("default ms", head)
        self.assertTrue(row.startswith("local "))

    def test_zero_budget_measures_the_default_only(self):
        done = self.tune("--budget", "0", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        one = json.loads(done.stdout)["results"][0]
        self.assertEqual((one["measured"], one["schedule"], one["spearman"]), (1, "default", None))
        self.assertEqual(self.entries(), [], "nothing was compared, so nothing is known")

    def terminal(self):
        try:
            return pty.openpty()
        except OSError as error:  # a root without /dev/pts
            self.skipTest(f"no pseudo-terminal here: {error}")

    def test_progress_on_a_terminal_only(self):
        reader, writer = self.terminal()
        done = subprocess.run([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, "--budget", "300ms"],
                              stdout=subprocess.PIPE, stderr=writer, timeout=120, env=self.environment, check=True)
        os.close(writer)
        shown = os.read(reader, 1 << 16).decode()
        os.close(reader)
        for word in ["candidates", "best", "left", "\r"]:
            self.assertIn(word, shown)
        self.assertNotIn(b"\r", done.stdout)

    def test_interrupt_keeps_what_was_found(self):
        reader, writer = self.terminal()
        process = subprocess.Popen([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, "--json",
                                    "--exhaustive"], stdout=subprocess.PIPE, stderr=writer, text=True,
                                   env=self.environment)
        os.close(writer)
        shown = b""
        while b"best" not in shown:
            shown += os.read(reader, 1 << 16)
        process.send_signal(signal.SIGINT)
        try:
            while b"interrupted" not in shown:
                shown += os.read(reader, 1 << 16)
        except OSError:  # it ended without a word
            pass
        output = process.communicate(timeout=120)[0]
        os.close(reader)
        self.assertEqual(process.returncode, 0, shown)
        self.assertIn(b"interrupted", shown)
        one = json.loads(output)["results"][0]
        self.assertLess(one["measured"], one["candidates"])
        self.assertEqual(len(self.entries()), 1 if one["measured"] > 1 else 0)

    def test_killed_in_the_middle(self):
        """What was filed before stays, no worker stays behind, and the next tuner goes on with the same file."""
        self.assertEqual(self.tune("--budget", "200ms").returncode, 0)
        before = self.entries()
        reader, writer = self.terminal()
        process = subprocess.Popen([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, "--exhaustive",
                                    "--pass", "backward"], stdout=subprocess.DEVNULL, stderr=writer,
                                   env=self.environment, start_new_session=True)
        os.close(writer)
        shown = b""
        while b"best" not in shown:
            shown += os.read(reader, 1 << 16)
        self.assertEqual(len(members(process.pid)), 2, "the tuner and its worker")
        process.kill()
        process.wait(timeout=60)
        for _ in range(600):  # its worker finds the pipe closed
            if not members(process.pid):
                break
            time.sleep(0.1)
        os.close(reader)
        self.assertEqual(members(process.pid), [])
        self.assertEqual(self.entries(), before)
        self.assertEqual(self.tune("--budget", "200ms", "--pass", "backward").returncode, 0)
        self.assertEqual(len(self.entries()), 2)

    def test_a_clock_that_jumps(self):
        environment = dict(self.environment, LD_PRELOAD=JUMPING_CLOCK,
                           ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
        begin = time.monotonic()
        done = subprocess.run([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, "--budget", "1s",
                               "--json"], capture_output=True, text=True, timeout=120, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        one = json.loads(done.stdout)["results"][0]
        self.assertLess(one["seconds"], time.monotonic() - begin)
        self.assertGreater(one["measured"], 1)
        self.assertEqual(one["struck"], [])
        self.assertTrue(0 < one["best_ms"] <= one["default_ms"] < 1e5)
        self.assertEqual(len(self.entries()), 1)

    def test_results_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, "--budget",
                                   "200ms", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
                                  env=self.environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write", done.stderr)
        self.assertEqual(len(self.entries()), 1, "what was found is filed all the same")

    def test_nondeterministic_has_wisdom_of_its_own(self):
        for option in [], ["--nondeterministic"]:
            done = self.tune("--budget", "200ms", "--pass", "backward", "--json", *option)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["results"][0]["nondeterministic"], bool(option))
        self.assertEqual(sorted("nondeterministic" in one["shape"] for one in self.entries()), [False, True])

    def test_report_is_self_contained(self):
        page = self.root / "report.html"
        done = self.tune("--budget", "300ms", "--report", page)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = page.read_text()
        for word in ["Time by tile size", "Cost model against measurement", "Roofline", "<svg"]:
            self.assertIn(word, text)
        for word in ["http:", "https:", "src=", "@import", "url(", "<script", "<link", "nan", "inf\""]:
            self.assertNotIn(word, text)
        self.assertEqual(text.count("<figure>"), text.count("</figure>"))

    def test_report_that_cannot_be_written(self):
        done = self.tune("--budget", "0", "--report", self.root / "none" / "report.html")
        self.assertEqual(done.returncode, 1)
        self.assertIn("report.html", done.stderr)
        self.assertIn("local", done.stdout, "the results are shown all the same")

    def test_wisdom_travels(self):
        self.assertEqual(self.tune("--budget", "300ms").returncode, 0)
        before, text = self.entries(), self.root / "wisdom.yaml"
        self.assertEqual(len(before), 1)
        self.assertEqual(self.run_command("--export", text, "--wisdom", self.wisdom).returncode, 0)
        self.assertEqual(self.run_command("--forget", "no such piece", "--wisdom", self.wisdom).returncode, 0)
        self.assertEqual(self.entries(), before)
        self.assertEqual(self.run_command("--forget", "window", "--wisdom", self.wisdom).returncode, 0)
        self.assertEqual(self.entries(), [])
        self.assertEqual(self.run_command("--import", text, "--wisdom", self.wisdom).returncode, 0)
        after = self.entries()
        for name in ["best_ms", "default_ms"]:  # the text has six digits of them
            self.assertTrue(math.isclose(after[0].pop(name), before[0].pop(name), rel_tol=1e-5))
        self.assertEqual(after, before)
        done = self.run_command("--export", "-", "--wisdom", self.wisdom)
        self.assertEqual(done.stdout, text.read_text())
        text.write_text(text.read_text().replace("sptx_wisdom: ", "sptx_wisdom: 9"))
        self.refused(self.run_command("--import", text, "--wisdom", self.wisdom), 1, "generator", "tune again")

    def test_default_place_is_the_library_s(self):
        done = self.run_command(PATTERNS / "local.yaml", *SHAPE, "--budget", "200ms")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.root / "cache" / "sptx" / "wisdom.db").exists())

    def test_databases_that_cannot_be_used(self):
        self.wisdom.write_text("no database\n" * 1000)
        self.refused(self.tune("--budget", "0"), 1, "wisdom.db", "--wisdom")
        self.assertIn("no database", self.wisdom.read_text(), "it is not overwritten")
        self.wisdom.unlink()
        with sqlite3.connect(self.wisdom) as database:
            database.execute("CREATE TABLE theirs (x)")
        self.refused(self.tune("--budget", "0"), 1, "another program")
        self.wisdom.unlink()
        self.assertEqual(self.tune("--budget", "200ms").returncode, 0)
        with sqlite3.connect(self.wisdom) as database:
            database.execute("PRAGMA user_version = 1000")
        self.refused(self.tune("--budget", "0"), 1, "later sptx")
        self.refused(self.run_command("--list", "--wisdom", self.root / "none.db"), 1, "none.db")

    def test_read_only_home(self):
        home = self.root / "home"
        home.mkdir()
        home.chmod(0o555)
        environment = dict(self.environment, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
        drop = (lambda: (os.setgid(65534), os.setuid(65534))) if os.geteuid() == 0 else None
        self.root.chmod(0o755)
        done = subprocess.run([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--budget", "0"], capture_output=True,
                              text=True, env=environment, preexec_fn=drop, timeout=120)
        self.refused(done, 1, "wisdom", "--wisdom")

    def test_full_disk(self):
        self.assertEqual(self.tune("--budget", "200ms").returncode, 0)
        before = self.entries()

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

        done = self.tune("--budget", "200ms", "--n", "1024", preexec_fn=limit)
        self.assertEqual(done.returncode, 1)
        self.assertIn("wisdom", done.stderr)
        self.assertEqual(self.entries(), before)

    def test_two_tuners_on_one_key(self):
        processes = [subprocess.Popen([COMMAND, PATTERNS / "local.yaml", *SHAPE, "--wisdom", self.wisdom, "--budget",
                                       "300ms", "--json"], stdout=subprocess.PIPE, text=True, env=self.environment)
                     for _ in range(2)]
        results = [json.loads(process.communicate(timeout=120)[0])["results"][0] for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0])
        entries = self.entries()
        self.assertEqual(len(entries), 1)
        self.assertAlmostEqual(entries[0]["best_ms"], min(one["best_ms"] for one in results), places=5)

    def sweep(self, *command, **environment):
        file = self.root / "sweep.yaml"
        (self.root / "pattern.yaml").write_text((PATTERNS / "local.yaml").read_text())
        file.write_text("sptx_sweep: 1\ntune:\n- pattern: pattern.yaml\n  n: [128, 300]\n  heads: 2\n"
                        "  head_dim: [16, 24]\n  set: {window: 8}\n")
        done = subprocess.run([*command, COMMAND, "--sweep", str(file), "--wisdom", str(self.wisdom), "--json",
                               "--threads", "1", "--budget", "50ms"], capture_output=True, text=True, timeout=240,
                              env=dict(self.environment, **environment))
        self.assertEqual(done.returncode, 0, done.stderr)
        results = json.loads(done.stdout)["results"]
        self.assertEqual(sorted((one["n"], one["head_dim"]) for one in results),
                         [(128, 16), (128, 24), (300, 16), (300, 24)])
        self.assertEqual(len(self.entries()), sum(one["measured"] > 1 for one in results))

    def test_bench_compares_with_the_default(self):
        self.assertEqual(self.tune("--budget", "200ms").returncode, 0)
        bench = pathlib.Path(COMMAND).with_name("sptx-bench")
        options = [PATTERNS / "local.yaml", *SHAPE, "--compare-default", "--wisdom", self.wisdom, "--seconds", "0.2"]
        done = subprocess.run([bench, *options, "--json", "--pass", "forward,backward"], capture_output=True, text=True,
                              env=self.environment, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        results = json.loads(done.stdout)["results"]
        self.assertEqual([one["pass"] for one in results], ["forward", "backward"])
        self.assertTrue(all(one["default_ms"] > 0 and one["tuned_ms"] > 0 for one in results))
        table = subprocess.run([bench, *options], capture_output=True, text=True, env=self.environment, timeout=120)
        self.assertIn("tuned ms", table.stdout)

    def test_sweep_alone(self):
        self.sweep()

    @unittest.skipUnless(MPIRUN, "no mpirun")
    def test_sweep_over_ranks(self):
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        # MPI unloads its modules before it ends, so a leak check can neither name nor suppress the blocks they keep.
        self.sweep(MPIRUN, "-n", "2", "--oversubscribe", *root,
                   ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0")

    def test_sweeps_that_cannot_be_read(self):
        file = self.root / "sweep.yaml"
        for text, word in [("sptx: 1\n", "not a sweep"), ("sptx_sweep: 1\ntune: []\n", "tune"),
                           ("sptx_sweep: 1\ntune: [{pattern: a.yaml}]\n", "lacks 'n'"),
                           ("sptx_sweep: 1\ntune: [{pattern: a.yaml, n: 5, haeds: 2}]\n", "did you mean 'heads'"),
                           ("sptx_sweep: 1\ntune: [{pattern: a.yaml, n: none}]\n", ":2:"),
                           ("sptx_sweep: 1\ntune: [{pattern: a.yaml, n: []}]\n", "not empty")]:
            file.write_text(text)
            done = self.run_command("--sweep", file, "--wisdom", self.wisdom)
            self.refused(done, 2, word)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
