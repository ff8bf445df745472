#!/bin/sh
# Fetches a data set from its publisher, checks it, and unpacks it where model/configs/*.yaml look for it.
set -eu

usage() {
  cat <<'TEXT'
usage: get.sh NAME [FOLDER]

  enwik8      35 MB  the first 100 MB of a dump of English Wikipedia   CC BY-SA, GFDL
  cifar10    162 MB  60,000 photographs of 32 x 32                     see cs.toronto.edu/~kriz/cifar.html
  imagenet64  14 GB  1,331,167 photographs of 64 x 64                  needs an account, see below
  music       11 GB  330 recordings of classical music (MusicNet)      CC BY 4.0

FOLDER is data/NAME of the source tree when left out. What is there already is not fetched again, and a broken
download goes on where it stopped. MIRROR=URL takes the files from the folder that URL names instead.

imagenet64: image-net.org may ask to log in and to agree to its terms. Then download Imagenet64_train_part1_npz.zip,
Imagenet64_train_part2_npz.zip and Imagenet64_val_npz.zip there by hand, put them into FOLDER and run this again.
TEXT
}

fail() {
  echo "get.sh: $1" >&2
  exit 1
}

need() {
  for program; do
    command -v "$program" >/dev/null || fail "$program is needed and not installed"
  done
}

# check FILE KIND SUM: is it the file that was published?
check() {
  [ -f "$1" ] && [ "$("$2sum" "$1" | cut -d ' ' -f 1)" = "$3" ]
}

# fetch URL FILE KIND SUM: FILE appears only when it is whole and right.
fetch() {
  url=$1 file=$2
  if check "$file" "$3" "$4"; then
    return
  fi
  [ ! -e "$file" ] || fail "$file is there, but it is not the file that was published ($3 $4); move it away"
  if [ -n "${MIRROR:-}" ]; then
    url=${MIRROR%/}/$(basename "$file")
  fi
  echo "get.sh: fetching $url" >&2
  curl --fail --location --retry 3 --continue-at - --output "$file.part" "$url" ||
    fail "cannot fetch $url; run this again to go on where it stopped"
  if ! check "$file.part" "$3" "$4"; then
    rm -f "$file.part"
    fail "$url is not the file that was published ($3 $4); nothing is kept of it. A publisher that asks to log in answers with a web page: see get.sh --help"
  fi
  mv "$file.part" "$file"
}

# keep FOLDER FILE...: the unpacked files go to their place when all are unpacked; the archive goes last.
keep() {
  target=$1
  shift
  mkdir -p "$target"
  mv -f "$@" "$target"
}

get_enwik8() {
  need curl unzip sha256sum
  sum=2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8
  if check enwik8 sha256 "$sum"; then
    return
  fi
  fetch https://mattmahoney.net/dc/enwik8.zip enwik8.zip sha256 \
    547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc
  unzip -o -q enwik8.zip -d unpacked
  check unpacked/enwik8 sha256 "$sum" || fail "enwik8.zip does not hold enwik8 (sha256 $sum)"
  keep . unpacked/enwik8
  rm -rf enwik8.zip unpacked
}

get_cifar10() {
  need curl tar gzip sha256sum
  if [ -f data_batch_5.bin ] && [ -f test_batch.bin ] && [ ! -f cifar-10-binary.tar.gz ]; then
    return
  fi
  fetch https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz cifar-10-binary.tar.gz sha256 \
    c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
  mkdir -p unpacked
  tar -xzf cifar-10-binary.tar.gz -C unpacked
  keep . unpacked/cifar-10-batches-bin/data_batch_*.bin unpacked/cifar-10-batches-bin/test_batch.bin
  rm -rf cifar-10-binary.tar.gz unpacked
}

get_imagenet64() {
  need curl unzip sha256sum find
  if [ -f train/train_data_batch_10.npz ] && [ -f val/val_data.npz ]; then
    return
  fi
  site=https://image-net.org/data/downsample
  fetch $site/Imagenet64_train_part1_npz.zip Imagenet64_train_part1_npz.zip sha256 \
    9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1
  fetch $site/Imagenet64_train_part2_npz.zip Imagenet64_train_part2_npz.zip sha256 \
    9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30
  fetch $site/Imagenet64_val_npz.zip Imagenet64_val_npz.zip sha256 \
    e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8
  for archive in Imagenet64_*_npz.zip; do
    unzip -o -q "$archive" -d unpacked
  done
  mkdir -p train val
  find unpacked -name 'train_data_batch_*.npz' -exec mv -f {} train \;
  find unpacked -name 'val_data.npz' -exec mv -f {} val \;
  if [ ! -f train/train_data_batch_10.npz ] || [ ! -f val/val_data.npz ]; then
    fail "the archives lack some batches"
  fi
  rm -rf Imagenet64_*_npz.zip unpacked
}

get_music() {
  need curl tar gzip md5sum
  if [ -d train ] && [ -d test ] && [ ! -f musicnet.tar.gz ]; then
    return
  fi
  # Zenodo publishes MD5 sums only.
  fetch 'https://zenodo.org/records/5120004/files/musicnet.tar.gz?download=1' musicnet.tar.gz md5 \
    844764911fa0d5b97c97da944a057590
  mkdir -p unpacked
  tar -xzf musicnet.tar.gz -C unpacked
  keep train unpacked/musicnet/train_data/*.wav
  keep test unpacked/musicnet/test_data/*.wav
  rm -rf musicnet.tar.gz unpacked
}

name=${1:-}
case $name in
-h | --help) usage && exit 0 ;;
enwik8 | cifar10 | imagenet64 | music) ;;
*) usage >&2 && exit 2 ;;
esac
folder=${2:-$(dirname "$0")/../../data/$name}
mkdir -p "$folder"
cd "$folder"
"get_$name"
echo "get.sh: $name is in $(pwd)" >&2
