#!/usr/bin/env python3
"""Makes a command's manual page (roff, man macros) out of what it prints with --help.

Arguments: the output, the command's name, its version, one line that says what it is, the program, then the
program's subcommands, each of which gets a section of its own."""
import pathlib
import re
import subprocess
import sys

COMMANDS = ["sptx-gen", "sptx-run", "sptx-bench", "sptx-tune", "sptx-model"]
OPTION = re.compile(r"^  (\S.*?)(?:  +(\S.*))?$")


def escaped(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def usage_lines(lines):
    """The "Usage:" lines without that word, and what is left."""
    usage = [lines[0].removeprefix("Usage: ")]
    rest = lines[1:]
    while rest and rest[0].startswith("       "):
        usage.append(rest.pop(0).strip())
    return usage, rest


def synopsis(usage):
    for number, line in enumerate(usage):
        words = line.split(" ")
        head = 2 if words[0] == "sptx-model" and words[1].islower() else 1
        yield ".br" if number else None
        yield f".B {escaped(' '.join(words[:head]))}"
        yield escaped(" ".join(words[head:])) if words[head:] else None


def body(lines, heading=None):
    """Paragraphs as they are; lines that begin with two spaces and a name are options with their text, the first
    of them under the heading."""
    paragraph, within = True, False
    for line in lines:
        option = OPTION.match(line)
        if not line.strip():
            paragraph = True
        elif option and not line.startswith("   "):
            if heading:
                yield f".SH {heading}"
                heading = None
            yield ".TP"
            yield f".B {escaped(option[1])}"
            if option[2]:
                yield escaped(option[2])
            paragraph, within = False, True
        elif within and line.startswith("   "):
            yield escaped(line.strip())
        else:
            if paragraph:
                yield ".PP"
            paragraph = within = False
            yield escaped(line.strip())


def help_of(program, *subcommand):
    return subprocess.run([program, *subcommand, "--help"], check=True, capture_output=True, text=True).stdout.splitlines()


def page(name, version, about, program, subcommands):
    usage, rest = usage_lines(help_of(program))
    yield f'.TH {name.upper()} 1 "" "sptx {version}" "User commands"'
    yield ".SH NAME"
    yield f"{escaped(name)} \\- {escaped(about)}"
    yield ".SH SYNOPSIS"
    yield from synopsis(usage)
    yield ".SH DESCRIPTION"
    yield from body(rest, "COMMANDS" if subcommands else "OPTIONS")
    for subcommand in subcommands:
        usage, rest = usage_lines(help_of(program, subcommand))
        yield f'.SH "{name.upper()} {subcommand.upper()}"'
        yield from synopsis(usage)
        yield from body([""] + rest)
    yield ".SH SEE ALSO"
    yield " ,\n".join(f".BR {escaped(other)} (1)" for other in COMMANDS if other != name)


def main(output, name, version, about, program, *subcommands):
    lines = (line for line in page(name, version, about, program, subcommands) if line is not None)
    pathlib.Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
