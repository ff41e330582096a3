#!/usr/bin/env python3
"""Writes the cases of tests/data/tokenizer/splits.json again: how each pre-tokenizer's patterns, which the
file contains, split random texts, and the normalization form C of other texts. The expected values come from
Python's `regex` module (package python3-regex) and from unicodedata, which share no code with the library.

    python3 tests/text/make_splits.py tests/data/tokenizer/splits.json

`regex` may know a later Unicode than our tables (15.0) and unicodedata an earlier one, so the texts contain
only characters that unicodedata knows.
"""
import json
import random
import sys
import unicodedata

import regex

# White_Space, spelled out.
SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
TRICKY = list("aZsSdDmMtTlLrRvVeE''''  \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u202f\u3000!\"#$+<^`|~_-."
              ",:;?)(]¿«×÷±€¨°09²½Ⅷ٣１一龥鿀㐀ꀀ가힣あ\u3099゛゠ー・ヿ"
              "\u0301\u0903\u20dd\u200b\u200d\ufeff\xad\x01\x1c\x7f🚀👩🏽\ud7ff\u0378éßſKΩµªƻǅʰאبकไЖω՜"
              "。、！～／：‘’‟†ﬁﬃａＡ𐐀𞤀𞥃\U000e0100\U000f0000")
PLAIN = ["Hello", " world", "we've", "I'LL", "'s", "don't", "1234567", "3.14", " ", "  ", "\n", "\r\n", "\t",
         "你好，世界！", "日本語カタカナ", "한국어", "Привет", "naïve", "deep\u0301", "🚀", "👩\u200d👩\u200d👧", "e=mc²",
         "</b>", "a->b", "!!!", "...", "C:\\dir", "٣٤", "１２３", "שלום", "नमस्ते"]


def compiled(pattern):
    pattern = pattern.replace(r"\S", "[^" + SPACE[1:]).replace(r"[^\s", "[^" + SPACE[1:-1])
    pattern = pattern.replace(r"\s", SPACE)
    return regex.compile(pattern.replace("$", r"\Z") if pattern.endswith("$") else pattern, regex.V0)


def split(text, patterns):
    pieces = [text]
    for p in patterns:
        out = []
        for piece in pieces:
            end = 0
            for m in p.finditer(piece):
                out += [piece[end:m.start()], m.group()]
                end = m.end()
            out.append(piece[end:])
        pieces = [x for x in out if x]
    return pieces


def known(rng):
    while True:
        c = chr(rng.choice([rng.randrange(1, 0x3100), rng.randrange(1, 0xd800),
                            rng.randrange(0xe000, 0x20000)]))
        if unicodedata.category(c) != "Cn":
            yield c


def texts(rng, n):
    for i in range(n):
        if i % 4 == 0:
            yield "".join(rng.choice(PLAIN) for _ in range(rng.randint(1, 12)))
        elif i % 4 == 1:
            yield "".join(c for c, _ in zip(known(rng), range(rng.randint(1, 8))))
        else:
            some = rng.sample(TRICKY, rng.randint(1, 6)) if i % 4 == 2 else TRICKY
            yield "".join(rng.choice(some) for _ in range(rng.randint(1, 14)))


def composites(rng, n):
    bases = [chr(c) for c in range(0x10000) if unicodedata.decomposition(chr(c))[:1] not in ("", "<")]
    bases += list("aeiouAEIOUсΑα\u1100\u1161\u11a8\uac00\u09c7\u0b47")
    marks = [chr(c) for c in range(0x300, 0x345)]
    marks += list("\u0323\u0327\u0345\u093c\u09be\u0b3e\u3099\u1161\u11a8\u05b0\u0651")
    for _ in range(n):
        text = "".join(rng.choice(bases) + "".join(rng.choice(marks) for _ in range(rng.randint(0, 4)))
                       for _ in range(rng.randint(1, 3)))
        yield unicodedata.normalize("NFD", text) if rng.random() < 0.3 else text


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        data = json.load(f)
    rng = random.Random(15)
    for s in data["splits"]:
        patterns = [compiled(p) for p in s["patterns"]]
        s["cases"] = [[t, [len(x.encode()) for x in split(t, patterns)]] for t in texts(rng, 240)]
    data["nfc"] = [[t, unicodedata.normalize("NFC", t)] for t in composites(rng, 400)]
    rows = lambda cases: "[\n" + ",\n".join(json.dumps(c) for c in cases) + "]"
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write('{"splits": [\n' + ",\n".join(
            f'{{"name": {json.dumps(s["name"])}, "patterns": {json.dumps(s["patterns"])}, '
            f'"cases": {rows(s["cases"])}}}' for s in data["splits"]) +
            '],\n"nfc": ' + rows(data["nfc"]) + "}\n")


main()
