#!/usr/bin/env python3
"""Counts the tests of finished `meson test` runs and prints "N passed, N failed, N skipped".

A Criterion program counts with each of its test cases, any other test as one. Arguments: build folders; the
log of each one's last run is read. Exit status 1 when something failed or a log is missing."""
import json
import pathlib
import re
import sys

SYNTHESIS = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+) \| Crashing: (\d+)")


def count(log):
    passed = failed = skipped = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        test = json.loads(line)
        output = re.sub(r"\x1b\[[0-9;]*m", "", test.get("stdout", "") + test.get("stderr", ""))
        cases = SYNTHESIS.findall(output)
        if test["result"] == "SKIP":
            skipped += 1
        elif cases:
            passed += sum(int(case[1]) for case in cases)
            broken = sum(int(case[2]) + int(case[3]) for case in cases)
            failed += broken or (test["result"] not in ("OK", "EXPECTEDFAIL"))
        elif test["result"] in ("OK", "EXPECTEDFAIL"):
            passed += 1
        else:
            failed += 1
    return passed, failed, skipped


def main(folders):
    totals = [0, 0, 0]
    for folder in folders:
        log = pathlib.Path(folder) / "meson-logs" / "testlog.json"
        if not log.exists():
            print(f"{folder}: no test log, so its tests did not run", file=sys.stderr)
            totals[1] += 1
            continue
        totals = [a + b for a, b in zip(totals, count(log))]
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
