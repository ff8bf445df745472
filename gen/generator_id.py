#!/usr/bin/env python3
"""Writes a C file that defines sptx_generator_id: a hash of the sources that decide what code comes out for a
kernel of a given name. Code in caches is filed under it. Arguments: the file to write, a file for the list of
what was read (a depfile), the folders to read."""
import hashlib
import pathlib
import sys


def main(output, depfile, *folders):
    digest = hashlib.sha256()
    sources = sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*.[ch]"))
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    with open(output, "w", encoding="utf-8") as file:
        file.write("/* Made by generator_id.py. */\n#include \"gen/generator.h\"\n\n"
                   f"const char *sptx_generator_id(void) {{\n  return \"{digest.hexdigest()}\";\n}}\n")
    with open(depfile, "w", encoding="utf-8") as file:
        file.write(f"{output}: {' '.join(str(path).replace(' ', chr(92) + ' ') for path in sources)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
