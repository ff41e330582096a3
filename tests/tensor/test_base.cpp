// Messages and memory: quoting, allocators that fail or misbehave, log lines.
#include "../../tensor/base.h"
#include "../../tensor/utf8.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

using namespace ds;

TEST_CASE("base: format_text") {
    CHECK(format_text("%s has %d of %zu", "x", -3, size_t(9)) == "x has -3 of 9");
    CHECK(format_text("%s", "") == "");
    const std::string longer(100000, 'y');
    CHECK(format_text("<%s>", longer.c_str()) == "<" + longer + ">");
}

TEST_CASE("base: quoted shows at most 64 bytes and no control sequences") {
    CHECK(quoted("plain") == "'plain'");
    CHECK(quoted("") == "''");
    CHECK(quoted("caf\xc3\xa9 \xe6\xb7\xb1 \xf0\x9f\x90\x8b") ==
          "'caf\xc3\xa9 \xe6\xb7\xb1 \xf0\x9f\x90\x8b'");
    CHECK(quoted(std::string("a\0b", 3)) == "'a\\x00b'");
    CHECK(quoted("\x1b[2J\n\x7f") == "'\\x1b[2J\\x0a\\x7f'");
    // U+009B, the one-character form of ESC [
    CHECK(quoted("\xc2\x9b") == "'\\xc2\\x9b'");
    // invalid, truncated, and truncated at the end
    CHECK(quoted("\xff\xc3(\xe6\xb7") == "'\\xff\\xc3(\\xe6\\xb7'");
    CHECK(quoted(std::string(64, 'a')) == "'" + std::string(64, 'a') + "'");
    CHECK(quoted(std::string(65, 'a')) == "'" + std::string(64, 'a') + "…'");
    // never part of a character
    CHECK(quoted(std::string(63, 'a') + "\xc3\xa9") == "'" + std::string(63, 'a') + "…'");
    CHECK(quoted(std::string(1000, '\xff')).size() == 2 + 64 * 4 + 3);
}

TEST_CASE("base: utf8_sequence accepts exactly the well-formed sequences of Unicode") {
    // Every code point, encoded here by the definition, is one whole sequence. Surrogates are not well
    // formed.
    int wrong = 0;
    for (uint32_t c = 0; c < 0x110000; ++c) {
        char s[4];
        const uint32_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (uint32_t i = 0, rest = c; i < n; ++i, rest >>= 6)
            s[n - 1 - i] = static_cast<char>(0x80 | (rest & 0x3f));
        if (n == 1) s[0] = static_cast<char>(c);
        else s[0] = static_cast<char>((0xf00u >> n & 0xffu) | (c >> (6 * (n - 1))));
        uint32_t good = 0;
        const bool surrogate = c >= 0xd800 && c < 0xe000;
        wrong += utf8_sequence(s, s + n, &good) != (surrogate ? 0 : n) || good != (surrogate ? 1 : n);
        for (uint32_t cut = 1; cut < n; ++cut)
            wrong += utf8_sequence(s, s + cut, &good) != 0 || good != (surrogate ? 1 : cut);
    }
    CHECK(wrong == 0);
    const std::string bad[] = {"\x80",
                               "\xbf",
                               "\xc0\x80",
                               "\xc1\xbf",
                               "\xe0\x9f\xbf",
                               "\xf0\x8f\xbf\xbf",
                               "\xf4\x90\x80\x80",
                               "\xf5\x80\x80\x80",
                               "\xff",
                               "\xc3(",
                               "\xe6\xb7(",
                               "\xf0\x9f\x90("};
    // Unicode's table 3-8: the longest prefix of a well-formed sequence
    const uint32_t parts[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3};
    for (size_t i = 0; i < std::size(bad); ++i) {
        uint32_t good = 0;
        CHECK(utf8_sequence(bad[i].data(), bad[i].data() + bad[i].size(), &good) == 0);
        CHECK(good == parts[i]);
    }
}

TEST_CASE("base: checked arithmetic") {
    uint64_t r = 0;
    CHECK(mul_ok(uint64_t(1) << 32, (uint64_t(1) << 32) - 1, &r));
    CHECK(r == 0xffffffff00000000u);
    CHECK(!mul_ok(uint64_t(1) << 32, uint64_t(1) << 32, &r));
    CHECK(add_ok(UINT64_MAX, 0, &r));
    CHECK(!add_ok(UINT64_MAX, 1, &r));
}

namespace {

struct lender {  // an allocator that counts its blocks, and on demand fails or returns unaligned memory
    size_t lent = 0, calls = 0, fail_at = SIZE_MAX, shift = 0, last_alignment = 0;
    std::vector<std::string> lines;

    static void take_line(void *user, int level, const char *line) {
        static_cast<lender *>(user)->lines.push_back(std::to_string(level) + line);
    }
    host make() {
        host h;
        h.alloc_user = h.log_user = this;
        h.alloc_fn = [](void *user, size_t bytes, size_t alignment) -> void * {
            auto &l = *static_cast<lender *>(user);
            l.last_alignment = alignment;
            if (l.calls++ == l.fail_at) return nullptr;
            l.lent += bytes;
            return static_cast<char *>(
                       std::aligned_alloc(alignment, (bytes + 2 * alignment - 1) / alignment * alignment)) +
                   l.shift;
        };
        h.free_fn = [](void *user, void *p, size_t bytes, size_t alignment) {
            auto &l = *static_cast<lender *>(user);
            l.lent -= bytes;
            CHECK(alignment == l.last_alignment);
            std::free(static_cast<char *>(p) - l.shift);
        };
        h.log_fn = reinterpret_cast<void (*)()>(&lender::take_line);
        h.log_call = [](void (*fn)(), void *user, log_level level, const char *line) {
            reinterpret_cast<decltype(&lender::take_line)>(fn)(user, static_cast<int>(level), line);
        };
        return h;
    }
};

status thrown_by(const auto &f) {
    try {
        f();
    } catch (const error &e) {
        return e.code;
    }
    return status::ok;
}

}  // namespace

TEST_CASE("base: memory from the default allocator and from a host's") {
    for (const bool lent : {false, true}) {
        lender l;
        const host h = lent ? l.make() : host();
        {
            block a(h, 1000), none(h, 0);
            CHECK(a.size() == 1000);
            CHECK(reinterpret_cast<uintptr_t>(a.data()) % block::alignment == 0);
            CHECK(none.data() == nullptr);
            static_cast<char *>(a.data())[999] = 1;
            if (lent) CHECK(l.lent == 1000);
            block b = std::move(a), c;
            CHECK(a.data() == nullptr);
            CHECK(static_cast<char *>(b.data())[999] == 1);
            c = std::move(b);
            CHECK(c.size() == 1000);
            c = block(h, 8);
            if (lent) CHECK(l.lent == 8);
        }
        CHECK(l.lent == 0);
        for (const size_t n : {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2})
            CHECK(thrown_by([&] { block b(h, n); }) == status::memory);
    }
}

TEST_CASE("base: an allocator that fails, or returns unaligned memory") {
    lender l;
    l.fail_at = 1;
    const host h = l.make();
    const block first(h, 10);
    CHECK(thrown_by([&] { block b(h, 10); }) == status::memory);
    CHECK(thrown_by([&] { block b(h, 10); }) == status::ok);
    l.shift = 8;
    CHECK(thrown_by([&] { block b(h, 10); }) == status::argument);
    l.shift = 0;
    CHECK(l.lent == 10);  // the unaligned block was freed
}

TEST_CASE("base: an arena need not free") {
    alignas(64) static char arena[4096];
    host h;
    h.alloc_fn = [](void *, size_t, size_t) -> void * { return arena; };
    {
        const block b(h, 100);
        CHECK(b.data() == arena);
    }
}

TEST_CASE("base: log lines go to the host's callback or nowhere") {
    lender l;
    const host h = l.make();
    h.log(log_level::warning, "%d of %s", 3, "four");
    host().log(log_level::error, "to %s", "nobody");
    REQUIRE(l.lines.size() == 1);
    CHECK(l.lines[0] == "23 of four");
}
