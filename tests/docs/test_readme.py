#!/usr/bin/env python3
"""Runs what README.md tells its reader to run, as somebody who has installed sptx, and checks that what it shows is so.

Every block marked sh runs in order, line by line, with shorter times and smaller sizes where SMALLER says so. A block
after the comment "not run: REASON" is left out and printed with its reason. A yaml block that begins with "# NAME.yaml"
is saved under that name; lines of a C block stand in examples/attention.c in that order; files that the text names
exist.

Arguments: the build folder, the source tree's root, the install prefix, the library folder below it."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
SMALLER = {"--n 4096": "--n 384", "--seconds 60": "--steps 2", "--seconds 1": "--seconds 0.05", "--budget 30s": "--budget 1s"}
LONGEST = 120  # seconds that one command may take
FEWEST_RUN = 5  # blocks


def blocks(text):
    found = [match.groupdict() for match in BLOCK.finditer(text)]
    assert len(found) == text.count("\n```") // 2, "a block is without its language, or not closed"
    return found


def installed(build, prefix, libdir, root):
    """The environment of a user of an installation in root."""
    subprocess.run(["meson", "install", "--no-rebuild", "--quiet", "-C", build, "--destdir", root], check=True,
                   stdout=subprocess.DEVNULL)
    place = f"{root}{prefix}"
    return dict(os.environ, PATH=f"{place}/bin:{os.environ['PATH']}", LD_LIBRARY_PATH=f"{place}/{libdir}",
                PKG_CONFIG_PATH=f"{place}/{libdir}/pkgconfig", PKG_CONFIG_SYSROOT_DIR=str(root),
                XDG_CACHE_HOME=f"{root}/cache", OMP_WAIT_POLICY="passive")


def smaller(line, used):
    for long, short in SMALLER.items():
        if re.search(re.escape(long) + r"(?!\S)", line):
            used.add(long)
            line = line.replace(long, short)
    return line


def run_lines(text, work, environment, used):
    for line in text.splitlines():
        command = smaller(line, used)
        print(f"$ {command}", flush=True)
        done = subprocess.run(["sh", "-c", command], cwd=work, env=environment, timeout=LONGEST, text=True,
                              errors="replace", capture_output=True)
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.stdout or done.stderr or re.search(r"-o |--draw|--export", command), "it says nothing"


def check_c(text, root):
    rest = [line.strip() for line in (root / "examples/attention.c").read_text(encoding="utf-8").splitlines()]
    for line in text.splitlines():
        assert line in rest, f"not in examples/attention.c, or in another order: {line}"
        rest = rest[rest.index(line) + 1:]


def check_paths(text, root):
    """Words in backquotes that look like paths of the tree exist; examples/data/get.sh NAME is one with an argument."""
    folders = {path.name for path in root.iterdir() if path.is_dir()} - {"out", "build"}
    for code in CODE.findall(BLOCK.sub("", text)):
        path = code.split()[0]
        if path.split("/")[0] in folders:
            assert (root / path).exists(), f"README.md names {path}, which does not exist"
    for _, target in re.findall(r"\[([^\]]*)\]\(([^):]+)\)", text):
        assert (root / target).exists(), f"README.md links {target}, which does not exist"


def check_primitives(text, work, environment):
    """The table of sets has every set that the compiler knows, and no other."""
    (work / "unknown.yaml").write_text("sptx: 1\nname: x\nabout: x\nattend: {unknown: 1}\n", encoding="utf-8")
    done = subprocess.run(["sptx-gen", "unknown.yaml", "--n", "8", "--check"], cwd=work, env=environment, text=True,
                          capture_output=True)
    known = set(re.findall(r"\w+", done.stderr.split("known are: ")[1])) - {"any", "all_of", "not"}
    table = set(re.findall(r"^\| `(\w+)", text[text.index("| set | pairs"):].split("\n\n")[0], re.M))
    assert known == table, f"known {known - table} are not in the table, and {table - known} are not known"


def run_blocks(text, root, work, environment):
    used, ran, left_out = set(), 0, 0
    for block in blocks(text):
        if block["language"] == "c":
            check_c(block["text"], root)
        elif block["language"] == "yaml":
            (work / re.match(r"# (\w+\.yaml)\n", block["text"])[1]).write_text(block["text"], encoding="utf-8")
        elif block["reason"]:
            print(f"not run ({block['reason']}):\n{block['text']}", end="")
            left_out += 1
        else:
            assert block["language"] == "sh", f"a block marked {block['language']}"
            run_lines(block["text"], work, environment, used)
            ran += 1
    assert used == set(SMALLER), f"nothing in README.md is made smaller by {set(SMALLER) - used}"
    assert ran >= FEWEST_RUN, f"only {ran} blocks ran, {left_out} were left out"


def main(build, root, prefix, libdir):
    root = pathlib.Path(root)
    text = (root / "README.md").read_text(encoding="utf-8")
    check_paths(text, root)
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary) / "work"
        work.mkdir()
        for folder in ("patterns", "gen", "runtime", "tuner", "model", "examples"):
            (work / folder).symlink_to(root / folder)
        (work / "out").mkdir()
        environment = installed(build, prefix, libdir, pathlib.Path(temporary) / "root")
        check_primitives(text, work, environment)
        run_blocks(text, root, work, environment)


if __name__ == "__main__":
    main(*sys.argv[1:])
