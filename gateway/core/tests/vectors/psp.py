#!/usr/bin/env python3
"""Writes psp.json beside itself: PSP packets sealed by scapy, an implementation that shares no code
with Landbridge. Needs scapy 2.7 or later and cryptography:

    python3 -m venv /tmp/psp && /tmp/psp/bin/pip install 'scapy>=2.7' cryptography
    /tmp/psp/bin/python gateway/core/tests/vectors/psp.py
"""

import json
import pathlib

from scapy.contrib.psp import PSP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

KEY_128 = bytes.fromhex("ffeeddccbbaa99887766554433221100")
KEY_256 = bytes(range(32))
V4 = IP(src="10.1.1.10", dst="10.2.1.10", ttl=63)
V6 = IPv6(src="fd00:1::a", dst="fd00:2::a", hlim=63)

CASES = [
    # name, version, key, spi, iv, crypt offset (units of 4 bytes), inner packet
    ("aes-128, IPv4, TCP SYN", 0, KEY_128, 0x11223344, 1, 0, V4 / TCP(sport=40000, dport=8080, flags="S")),
    ("aes-128, IPv4, 1400 bytes", 0, KEY_128, 0x11223344, 2, 0,
     V4 / TCP(sport=40000, dport=8080, flags="A") / Raw(bytes(i % 251 for i in range(1360)))),
    ("aes-128, IPv6", 0, KEY_128, 1, 0x0102030405060708, 0, V6 / TCP(sport=1, dport=2, flags="SA")),
    ("aes-128, ports in clear", 0, KEY_128, 0xFFFFFFFF, 7, 6, V4 / UDP(sport=53, dport=53) / Raw(b"x" * 9)),
    ("aes-256, IPv4", 1, KEY_256, 0x80000001, 2**32, 0, V4 / ICMP() / Raw(b"ping")),
    ("aes-256, IPv6, header in clear", 1, KEY_256, 2, 2**64 - 1, 10, V6 / TCP(sport=3, dport=4) / Raw(b"y" * 64)),
]


def seal(version, key, spi, iv, offset, inner):
    packet = PSP(
        nexthdr=41 if inner.version == 6 else 4,
        version=version,
        cryptoffset=offset,
        spi=spi,
        iv=iv.to_bytes(8, "big"),
        data=bytes(inner),
    )
    packet.encrypt(key)
    return bytes(packet)


def main():
    vectors = [
        {
            "name": name,
            "key": key.hex(),
            "spi": spi,
            "iv": str(iv),
            "crypt_offset": offset,
            "inner": bytes(inner).hex(),
            "packet": seal(version, key, spi, iv, offset, inner).hex(),
        }
        for name, version, key, spi, iv, offset, inner in CASES
    ]
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")
    print(f"{len(vectors)} vectors written to {path.name}")


main()
