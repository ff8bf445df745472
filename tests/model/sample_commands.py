#!/usr/bin/env python3
"""Runs sptx-model sample and attention on small models of text, images and sound, trained for two steps each.
Arguments: the program, the folder of pattern files."""
import json
import math
import pathlib
import struct
import sys
import tempfile
import wave

from command_case import good, pattern, refused, train


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n", path
    return struct.unpack(">II", head[16:24])


def text(root):
    source = root / "text"
    source.write_bytes(bytes(k * k % 61 + 40 for k in range(1000)))
    model = train(root, "bytes", f"data: {source}\nlength: 60\nposition_width: 8\n"
                  + pattern("fixed-merged.yaml", stride=8, columns=2))
    first = good("sample", model, "--seed", 5, "--prompt", "An ")
    assert len(first) == 60 and first.startswith(b"An "), first
    assert first == good("sample", model, "--seed", 5, "--prompt", "An ")
    assert first != good("sample", model, "--seed", 6, "--prompt", "An ")
    assert good("sample", model, "--seed", 5, "--prompt", "An ", "--length", 20) == first[:20]
    greedy = good("sample", model, "--temperature", 0)
    assert greedy == good("sample", model, "--temperature", 0, "--seed", 9) == good("sample", model, "--top-p", 0)
    told = json.loads(good("sample", model, "--seed", 5, "--prompt", "An ", "--json"))
    assert bytes(told["tokens"]) == first and told["given"] == 3 and told["positions"] == 60, told
    assert 1 < told["bits_per_position"] < 9, told
    good("sample", model, "--seed", 5, "--prompt", "An ", "-o", root / "out.txt")
    assert (root / "out.txt").read_bytes() == first
    continued = good("sample", model, "--input", source, "--item", 2, "--given", 17)
    assert continued[:17] == source.read_bytes()[120:137] and len(continued) == 60
    refused(2, "length is 60", "sample", model, "--length", 61)
    refused(2, "more than the length of 2", "sample", model, "--length", 2, "--prompt", "An ")
    refused(2, "no number 17", "sample", model, "--input", source, "--item", 17)
    refused(2, "--prompt or --input", "sample", model, "--input", source, "--prompt", "a")
    refused(2, "at most 1", "sample", model, "--top-p", "1.5")
    refused(2, "missing argument", "sample")
    refused(1, "No such file", "sample", root / "nowhere")
    refused(1, "cannot", "sample", model, "-o", root / "none" / "out.txt")
    attention(root, model, source)


def attention(root, model, source):
    picture = root / "a.png"
    told = json.loads(good("attention", model, "--layer", 1, "--head", 1, "--position", 21, "--input", source,
                           "-o", picture, "--json"))
    keys = {key for key, _ in told["weights"]}
    expected = {j for j in range(22) if j // 8 == 21 // 8 or j % 8 >= 6}
    assert keys == expected, keys  # fixed, stride 8, the last 2 columns
    assert math.isclose(sum(weight for _, weight in told["weights"]), 1, rel_tol=1e-6)
    assert png_size(picture) == (8 * 10, 3 * 16)
    out = good("attention", model, "--layer", 0, "--head", 0, "-o", root / "a.svg").decode()
    weights = [float(line.split()[1]) for line in out.splitlines()]
    assert len(weights) == 10 and weights == sorted(weights, reverse=True), out
    assert b"<svg" in (root / "a.svg").read_bytes()[:200]
    refused(2, "layers 0 to 1", "attention", model, "--layer", 2, "--head", 0, "-o", picture)
    refused(2, "positions 0 to 59", "attention", model, "--layer", 0, "--head", 0, "--position", 60, "-o", picture)
    refused(2, ".png or .svg", "attention", model, "--layer", 0, "--head", 0, "-o", root / "a.gif")
    refused(2, "missing option", "attention", model, "--layer", 0, "--head", 0)


def images(root):
    source = root / "images.bin"
    source.write_bytes(b"".join(bytes([k]) + bytes((p * (k + 3) + p // 32) % 256 for p in range(3072))
                                for k in range(3)))
    model = train(root, "images", f"data: {source}\nformat: cifar10\n" + pattern("strided.yaml", stride=96))
    refused(2, "-o FILE.png", "sample", model)
    refused(2, "models of text", "sample", model, "--prompt", "a", "-o", root / "i.png")
    told = json.loads(good("sample", model, "--input", source, "--item", 1, "--given", 3000, "-o", root / "i.png",
                           "--json"))
    assert png_size(root / "i.png") == (32, 32) and told["positions"] == 3072 and told["given"] == 3000
    record = source.read_bytes()[3073 + 1 : 2 * 3073]
    assert told["tokens"][:3000] == [record[p % 3 * 1024 + p // 3] for p in range(3000)]
    good("attention", model, "--layer", 1, "--head", 0, "--position", 1000, "-o", root / "i.png")
    assert png_size(root / "i.png") == (384, 384)


def sound(root):
    source = root / "sound.wav"
    with wave.open(str(source), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(k / 5))) for k in range(2000)))
    model = train(root, "sound", f"data: {source}\nformat: audio\nsample_rate: 8000\nlength: 128\n"
                  + pattern("strided.yaml", stride=12))
    refused(2, "-o FILE.wav", "sample", model)
    good("sample", model, "--length", 100, "-o", root / "out.wav")
    with wave.open(str(root / "out.wav")) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels()) == (100, 8000, 1)
    good("attention", model, "--layer", 0, "--head", 1, "-o", root / "s.png")


def main():
    for case in (text, images, sound):
        with tempfile.TemporaryDirectory() as root:
            case(pathlib.Path(root))
    for command in ("sample", "attention"):
        assert good(command, "--help").startswith(b"Usage: sptx-model " + command.encode())
        assert good(command, "--version").startswith(b"sptx-model ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
