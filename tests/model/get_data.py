#!/usr/bin/env python3
"""Runs examples/data/get.sh against small archives of the published layout in a local folder. The checksums of a
copy of the script are replaced by those of the small archives; everything else is as shipped. Argument: the
script."""
import hashlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

TEXT = b"<mediawiki>" * 100


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return out.getvalue()


def tarred(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return out.getvalue()


def batches(first, last):
    return {f"Imagenet64_train_part_npz/train_data_batch_{k}.npz": b"npz%d" % k for k in range(first, last + 1)}


ARCHIVES = {
    "enwik8.zip": zipped({"enwik8": TEXT}),
    "cifar-10-binary.tar.gz": tarred(
        {f"cifar-10-batches-bin/{n}": n.encode() for n in
         [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin", "batches.meta.txt"]}),
    "Imagenet64_train_part1_npz.zip": zipped(batches(1, 5)),
    "Imagenet64_train_part2_npz.zip": zipped(batches(6, 10)),
    "Imagenet64_val_npz.zip": zipped({"val_data.npz": b"val"}),
    "musicnet.tar.gz": tarred({"musicnet/train_data/1.wav": b"a", "musicnet/train_labels/1.csv": b"b",
                               "musicnet/test_data/2.wav": b"c"}),
}
EXPECTED = {
    "enwik8": {"enwik8"},
    "cifar10": {f"data_batch_{k}.bin" for k in range(1, 6)} | {"test_batch.bin"},
    "imagenet64": {f"train/train_data_batch_{k}.npz" for k in range(1, 11)} | {"val/val_data.npz"},
    "music": {"train/1.wav", "test/2.wav"},
}


class Site:
    """A folder with a mirror, a copy of the script, and the folder it fills."""

    def __init__(self, root, script):
        self.root = pathlib.Path(root)
        (self.root / "mirror").mkdir()
        self.script = self.root / "examples" / "data" / "get.sh"
        self.script.parent.mkdir(parents=True)
        text = pathlib.Path(script).read_text(encoding="utf-8")
        for name, body in ARCHIVES.items():
            (self.root / "mirror" / name).write_bytes(body)
            kind = "md5" if name.startswith("musicnet") else "sha256"
            text, count = re.subn(rf"( {re.escape(name)} {kind} \\\n +)[0-9a-f]+",
                                  lambda m, k=kind, b=body: m.group(1) + hashlib.new(k, b).hexdigest(), text)
            assert count == 1, name
        text = re.sub(r"sum=[0-9a-f]{64}", "sum=" + hashlib.sha256(TEXT).hexdigest(), text)
        self.script.write_text(text, encoding="utf-8")
        self.script.chmod(0o755)

    def run(self, *arguments, mirror=True):
        where = self.root / "mirror" if mirror else self.root / "gone"
        done = subprocess.run(["sh", str(self.script), *arguments], text=True, capture_output=True, check=False,
                              env={**os.environ, "MIRROR": where.as_uri()})
        return done.returncode, done.stderr

    def files(self, name):
        folder = self.root / "data" / name
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def fetches_everything(site):
    for name, expected in EXPECTED.items():
        status, said = site.run(name)
        assert status == 0, said
        assert site.files(name) == expected, (name, site.files(name))
        status, said = site.run(name, mirror=False)  # nothing is fetched twice
        assert status == 0, said
    assert (site.root / "data/enwik8/enwik8").read_bytes() == TEXT


def refuses_what_was_changed(site):
    archive = site.root / "mirror" / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes() + b"x")
    status, said = site.run("cifar10")
    assert status == 1 and "not the file that was published" in said, (status, said)
    assert site.files("cifar10") == set(), site.files("cifar10")


def goes_on_where_it_stopped(site):
    folder = site.root / "data" / "music"
    folder.mkdir(parents=True)
    whole = ARCHIVES["musicnet.tar.gz"]
    (folder / "musicnet.tar.gz.part").write_bytes(whole[: len(whole) // 2])
    status, said = site.run("music")
    assert status == 0 and site.files("music") == EXPECTED["music"], said


def takes_what_was_put_there_by_hand(site):
    folder = site.root / "elsewhere"
    folder.mkdir()
    for name, body in ARCHIVES.items():
        if name.startswith("Imagenet64"):
            (folder / name).write_bytes(body)
    status, said = site.run("imagenet64", str(folder), mirror=False)
    assert status == 0 and (folder / "val" / "val_data.npz").is_file(), said


def says_what_went_wrong(site):
    status, said = site.run("enwik8", mirror=False)
    assert status == 1 and "cannot fetch" in said, (status, said)
    for arguments in ([], ["mnist"]):
        status, said = site.run(*arguments)
        assert status == 2 and "usage" in said, (status, said)
    assert site.run("--help")[0] == 0


def main(script):
    if shutil.which("curl") is None or shutil.which("unzip") is None:
        print("curl or unzip is not installed")
        return 77
    for case in (fetches_everything, refuses_what_was_changed, goes_on_where_it_stopped,
                 takes_what_was_put_there_by_hand, says_what_went_wrong):
        with tempfile.TemporaryDirectory() as root:
            case(Site(root, script))
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
