#!/usr/bin/env python3
"""Writes an archive as numpy.savez does, without NumPy: labels and `data`, uint8 (images, row), whose byte k is
(k * 7 + k // 251) % 256. Arguments: path, images, row, and stored, deflated or wide (64-bit fields in the
directory and at its end, as in archives over 4 GiB)."""
import io
import struct
import sys
import zipfile
import zlib


def npy(descr, shape, body):
    head = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def write_wide(path, name, body):
    """One stored entry whose sizes and place are told in 64-bit extra fields only."""
    none, crc = 0xFFFFFFFF, zlib.crc32(body)
    local_extra = struct.pack("<HHQQ", 1, 16, len(body), len(body))
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, crc, none, none, len(name), len(local_extra))
    extra = struct.pack("<HHI", 0x7075, 4, 0) + struct.pack("<HHQQQ", 1, 24, len(body), len(body), 0)
    entry = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 0, 0, 0, crc, none, none, len(name),
                        len(extra), 0, 0, 0, 0, none)
    begin = len(local) + len(name) + len(local_extra) + len(body)
    size = len(entry) + len(name) + len(extra)
    end64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1, 1, size, begin)
    locator = struct.pack("<IIQI", 0x07064B50, 0, begin + size, 1)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, none, none, 3) + b"end"
    with open(path, "wb") as file:
        file.write(local + name + local_extra + body + entry + name + extra + end64 + locator + end)


def main(path, images, row, how):
    count = images * row
    data = npy("|u1", (images, row), bytes((k * 7 + k // 251) % 256 for k in range(count)))
    if how == "wide":
        return write_wide(path, b"data.npy", data)
    method = zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, body in (("labels", npy("<i8", (images,), bytes(8 * images))), ("data", data)):
            with archive.open(name + ".npy", "w", force_zip64=True) as file:
                file.write(io.BytesIO(body).read())
    return None


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
