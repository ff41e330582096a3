#!/usr/bin/env python3
"""Writes llm/text/unicode_tables.inc from the Unicode Character Database (Debian package unicode-data):

    python3 llm/text/make_unicode.py [/usr/share/unicode] > llm/text/unicode_tables.inc

Classes of code points as bits in a two-stage table; canonical combining classes as ranges; canonical
decompositions as pairs; and the search order of those that compose again (Unicode Standard Annex 15).
"""
import sys

UCD = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/unicode"
LIMIT = 0x110000
BLOCK = 128
BITS = {"L": 1, "M": 2, "N": 4, "P": 8, "S": 16}  # general categories; named in unicode.h
SPACE, UNSETTLED = 32, 64                         # White_Space; NFC may change it


def records(name):
    with open(f"{UCD}/{name}", encoding="utf-8") as f:
        for line in f:
            fields = [x.strip() for x in line.split("#")[0].split(";")]
            if fields[0]:
                yield fields


def code_points(field):
    first, _, last = field.partition("..")
    return range(int(first, 16), int(last or first, 16) + 1)


def version():
    with open(f"{UCD}/PropList.txt", encoding="utf-8") as f:
        return f.readline().split("-")[1].split(".txt")[0]


def read():
    classes, combining, pairs = bytearray(LIMIT), bytearray(LIMIT), {}
    first_of_range = None
    for r in records("UnicodeData.txt"):
        cp = int(r[0], 16)
        first = first_of_range if r[1].endswith(", Last>") else cp
        first_of_range = cp if r[1].endswith(", First>") else None
        for c in range(first, cp + 1):
            classes[c] |= BITS.get(r[2][0], 0)
            combining[c] = int(r[3])
        if r[5] and not r[5].startswith("<"):
            pairs[cp] = ([int(x, 16) for x in r[5].split()] + [0])[:2]
    for r in records("PropList.txt"):
        if r[1] == "White_Space":
            for c in code_points(r[0]):
                classes[c] |= SPACE
    excluded = set()
    for r in records("DerivedNormalizationProps.txt"):
        if r[1] == "Full_Composition_Exclusion":
            excluded.update(code_points(r[0]))
        if r[1] == "NFC_QC":
            for c in code_points(r[0]):
                classes[c] |= UNSETTLED
    for c in range(LIMIT):
        if combining[c]:
            classes[c] |= UNSETTLED
    return classes, combining, pairs, excluded


def emit(kind, name, values):
    print(f"inline constexpr {kind} {name}[{len(values)}] = {{")
    line = "   "
    for v in values:
        word = f" {v},"
        if len(line) + len(word) > 150:
            print(line)
            line = "   "
        line += word
    print(line + "\n};\n")


def main():
    classes, combining, pairs, excluded = read()
    blocks, index = {}, []
    for start in range(0, LIMIT, BLOCK):
        index.append(blocks.setdefault(bytes(classes[start:start + BLOCK]), len(blocks)))
    print("// Written by llm/text/make_unicode.py from the Unicode Character Database; see there. Do not edit.")
    print()
    print(f'inline constexpr char version[] = "{version()}";')
    print(f"inline constexpr unsigned class_block = {BLOCK};\n")
    emit("uint8_t" if len(blocks) <= 256 else "uint16_t", "class_index", index)
    emit("uint8_t", "classes", [c for b in blocks for c in b])
    ranges, c = [], 0
    while c < LIMIT:
        end = c + 1
        while end < LIMIT and combining[end] == combining[c]:
            end += 1
        if combining[c]:
            ranges.append(f"{{{c:#x}, {end - 1:#x}, {combining[c]}}}")
        c = end
    emit("combining_range", "combining_ranges", ranges)
    rows = sorted(pairs)
    decompositions = [f"{{{c:#x}, {pairs[c][0]:#x}, {pairs[c][1]:#x}}}" for c in rows]
    emit("canonical_pair", "canonical_pairs", decompositions)
    again = [i for i, c in enumerate(rows) if c not in excluded]
    emit("uint16_t", "composable", sorted(again, key=lambda i: pairs[rows[i]]))


main()
