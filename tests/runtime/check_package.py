#!/usr/bin/env python3
"""Installs into a temporary root and uses sptx as somebody would who has only what was installed: the exported
symbols are the functions of sptx.h and no others, in both libraries; the header compiles alone as C99, C11 and
C++; examples/attention.c builds with `cc $(pkg-config ...)`, shared and static, and agrees with a plain loop; each
command has its manual page.

Arguments: the build folder, the source tree's root, the install prefix, the library folder below it."""
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

MOST_EXAMPLE_LINES = 40
HEADS, N, DIM, STRIDE = 4, 1024, 64, 128  # of the example and its pattern


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def declared(header):
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.S)
    return set(re.findall(r"SPTX_API[^;]*?\b(sptx_\w+)\(", text))


def exported(library, *options):
    lines = (line.split() for line in run("nm", "--defined-only", *options, library).splitlines())
    return {words[2].split("@")[0] for words in lines if len(words) == 3 and words[1] != "A"}


def check_symbols(libdir, header):
    want = declared(header)
    assert len(want) > 15, f"found only {len(want)} functions in the header"
    for have in (exported(libdir / "libsptx.so", "-D"), exported(libdir / "libsptx.a", "-g")):
        assert have == want, f"exported but not in the header: {have - want}; missing: {want - have}"
    soname = re.search(r"SONAME.*\[(.*)\]", run("readelf", "-d", libdir / "libsptx.so")).group(1)
    assert re.fullmatch(r"libsptx\.so\.\d+", soname), soname
    assert (libdir / soname).exists(), soname


def check_header(work, header):
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-include", header]
    empty = {"c": work / "empty.c", "c++": work / "empty.cc"}
    empty["c"].write_text("int main(void) { sptx_attention_desc d = SPTX_ATTENTION_DESC_INIT; return d.flags != 1; }\n")
    empty["c++"].write_text("int main() { sptx_attention_desc d = SPTX_ATTENTION_DESC_INIT; return d.flags != 1; }\n")
    for compiler, standard, language in (("cc", "c99", "c"), ("cc", "c11", "c"), ("c++", "c++11", "c++")):
        if language == "c++" and not have_cxx():
            print("no C++ compiler: the header was not tried as C++")
            continue
        run(compiler, f"-std={standard}", *strict, empty[language])


def have_cxx():
    return any((pathlib.Path(folder) / "c++").exists() for folder in os.environ["PATH"].split(":"))


def expected_row(query):
    """What the example prints: head 0 of the pattern's first step, a window of STRIDE keys."""
    count = HEADS * N * DIM
    value = lambda tensor, row, d: math.sin(tensor * count + row * DIM + d)
    keys = range(max(0, query - STRIDE + 1), query + 1)
    scores = [sum(value(0, query, d) * value(1, j, d) for d in range(DIM)) / math.sqrt(DIM) for j in keys]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [sum(w * value(2, j, d) for w, j in zip(weights, keys)) / sum(weights) for d in range(3)]


def check_example(work, root, prefix, libdir, static):
    config = ["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs"]
    environment = dict(os.environ, PKG_CONFIG_PATH=str(libdir / "pkgconfig"), XDG_CACHE_HOME=str(work / "cache"))
    flags = shlex.split(run(*config, *(["--static"] if static else []), "sptx", env=environment))
    if static:  # of the two libraries, this one
        flags = ["-l:libsptx.a" if flag == "-lsptx" else flag for flag in flags]
    program = work / ("static" if static else "shared")
    run("cc", "-Wall", "-Wextra", "-Werror", root / "examples/attention.c", *flags, "-lm", "-o", program)
    linked = "libsptx" in run("readelf", "-d", program)
    assert linked != static, "the wrong one of the two libraries was linked"
    pattern = prefix / "share/sptx/patterns/strided.yaml"
    output = run(program, pattern, env=dict(environment, LD_LIBRARY_PATH=str(libdir)))
    got = [float(number) for number in re.match(r"o\[0\]\[\d+\] = (\S+) (\S+) (\S+)", output).groups()]
    for ours, right in zip(got, expected_row(N - 1)):
        assert abs(ours - right) < 2e-5, f"{got}, not {expected_row(N - 1)}"
    wrong = subprocess.run([program, work / "missing.yaml"], capture_output=True, text=True,
                           env=dict(environment, LD_LIBRARY_PATH=str(libdir)))
    assert wrong.returncode == 1 and "missing.yaml" in wrong.stderr, wrong


def check_commands(installed, environment):
    """Each command runs, and its manual page names all the options that --help names."""
    commands = sorted(path.name for path in (installed / "bin").iterdir())
    assert {"sptx-gen", "sptx-run", "sptx-bench", "sptx-tune", "sptx-model"} <= set(commands), commands
    for command in commands:
        assert run(installed / "bin" / command, "--version", env=environment).startswith(command)
        page = (installed / "share/man/man1" / f"{command}.1").read_text(encoding="utf-8").replace("\\-", "-")
        words = set(re.findall(r"--[a-z-]+", run(installed / "bin" / command, "--help", env=environment)))
        assert words and page.startswith(".TH"), page
        assert all(word in page for word in words), f"{command}.1 lacks some of {words}"


def main(build, root, prefix, libdir):
    root = pathlib.Path(root)
    lines = len((root / "examples/attention.c").read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_EXAMPLE_LINES, f"examples/attention.c has {lines} lines"
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        run("meson", "install", "--no-rebuild", "-C", build, "--destdir", work / "root")
        installed = pathlib.Path(f"{work}/root{prefix}")
        check_symbols(installed / libdir, installed / "include/sptx/sptx.h")
        check_header(work, installed / "include/sptx/sptx.h")
        for static in (False, True):
            check_example(work, root, installed, installed / libdir, static)
        check_commands(installed, dict(os.environ, LD_LIBRARY_PATH=str(installed / libdir)))


if __name__ == "__main__":
    main(*sys.argv[1:])
