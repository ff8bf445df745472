#!/bin/sh
# Makes libsptx.a: one object in which every symbol that libsptx.so would not export is local, so that a program
# linked with it can neither see nor clash with them. Arguments: the archive to write, ld, objcopy, ar, the
# archive taken whole, and those it needs members of.
set -eu
output=$1 ld=$2 objcopy=$3 ar=$4 whole=$5
shift 5
object=${output%.a}.o
"$ld" -r -o "$object" --whole-archive "$whole" --no-whole-archive "$@"
"$objcopy" --localize-hidden "$object"
rm -f "$output"
"$ar" rcs "$output" "$object"
rm -f "$object"
