// GGUF against hostile files. The numbered cases are known ways in which other loaders have failed: counts
// multiplied by the size of a struct, lengths that wrap, shapes whose product wraps, data outside the file,
// and so on. Every bad file is made here, ends at an inaccessible page, and must be refused with a message
// that names the field.
#include "../support/gguf_bytes.h"

using namespace gguf_bytes;

namespace {

// Offsets of the 32- and 64-bit fields of the tiny file.
struct field {
    size_t at;
    size_t width;
};
std::vector<field> fields_of(const spec &s) {
    std::vector<field> out = {{4, 4}, {8, 8}, {16, 8}};
    size_t at = 24;
    for (const spec_key &k : s.keys) {
        out.push_back({at, 8});
        at += 8 + k.name.size();
        out.push_back({at, 4});
        at += 4;
        if (k.type == STRING) out.push_back({at, 8});
        if (k.type == ARRAY) {
            out.push_back({at, 4});
            out.push_back({at + 4, 8});
        }
        // a string's length, or a few elements
        if (k.type == ARRAY && k.payload.size() >= 20) out.push_back({at + 12, 8});
        if (k.name == "general.alignment") out.push_back({at, 4});
        at += k.payload.size();
    }
    for (const spec_tensor &t : s.tensors) {
        out.push_back({at, 8});
        at += 8 + t.name.size();
        out.push_back({at, 4});
        at += 4;
        for (size_t i = 0; i < t.dims.size(); ++i, at += 8) out.push_back({at, 8});
        out.push_back({at, 4});
        out.push_back({at + 4, 8});
        at += 12;
    }
    REQUIRE(at == s.header().size());
    return out;
}

// A mutated file may still be well formed. It must load and be readable to its last byte, or be refused with
// a status that says the file is bad.
bool well_behaved(const outcome &o) {
    if (o.code == status::ok) return true;
    return (o.code == status::format || o.code == status::unsupported) && o.text.size() > 12 &&
           o.text.compare(0, 10, "bad.gguf: ") == 0;
}

}  // namespace

TEST_CASE("gguf: files that are not GGUF, and unsupported versions") {
    check_bad(std::string(), status::format, {"magic", "empty"});
    check_bad(std::string("GGU"), status::format, {"magic", "'GGU'"});
    check_bad(std::string("GGUX") + zeros(100), status::format, {"magic", "'GGUX'"});
    check_bad(std::string("\x7f"
                          "ELF") +
                  zeros(100),
              status::format, {"magic", "\\x7fELF"});
    for (const uint32_t version : {0u, 1u, 4u, 255u, 0xffffffffu}) {
        spec s = tiny();
        s.version = version;
        check_bad(s, status::unsupported, {"version", std::to_string(version).c_str()});
    }
    for (const uint32_t version : {2u, 3u}) {
        spec s = tiny();
        s.version = __builtin_bswap32(version);
        check_bad(s, status::unsupported, {"version", std::to_string(version).c_str(), "big-endian"});
    }
}

TEST_CASE("gguf: split files are named and refused") {
    check_bad(one_key(U16, le<uint16_t>(2), "split.count"), status::unsupported, {"split.count", "2"});
    check_bad(one_key(U64, le(UINT64_MAX), "split.count"), status::unsupported, {"split.count"});
    check_bad(one_key(STRING, le_string("2"), "split.count"), status::format, {"split.count", "string"});
    check_good(one_key(U16, le<uint16_t>(1), "split.count"));
    check_good(one_key(U16, le<uint16_t>(0), "split.count"));
}

TEST_CASE("gguf: a bool is 0 or 1") {
    check_good(one_key(BOOL, le<uint8_t>(0)));
    check_bad(one_key(BOOL, le<uint8_t>(2)), status::format, {"test.key", "bool", "2"});
    check_bad(one_key(ARRAY, array_of(BOOL, 3, std::string("\0\1\xff", 3))), status::format,
              {"test.key", "bool", "255"});
}

TEST_CASE("gguf row 1: counts times the size of a struct") {
    const uint64_t sizes[] = {sizeof(gguf_tensor),
                              sizeof(gguf_value),
                              sizeof(std::string_view),
                              sizeof(std::pair<std::string_view, size_t>),
                              33,
                              14,
                              1};
    std::vector<uint64_t> counts = {UINT64_MAX, UINT64_MAX - 1, uint64_t(1) << 63, (uint64_t(1) << 63) - 1,
                                    uint64_t(1) << 60};
    for (const uint64_t size : sizes)
        for (const uint64_t delta : {-1, 0, 1}) counts.push_back(SIZE_MAX / size + delta);
    for (const uint64_t n : counts) {
        if (n == 0) continue;  // SIZE_MAX + 1
        std::string s = tiny().bytes();
        s.replace(8, 8, le(n));
        check_bad(s, status::format, {"tensor count", std::to_string(n).c_str()});
        s = tiny().bytes();
        s.replace(16, 8, le(n));
        check_bad(s, status::format, {"key count", std::to_string(n).c_str()});
    }
}

TEST_CASE("gguf row 2: a count that the rest of the file cannot hold") {
    check_bad(std::string("GGUF") + le<uint32_t>(3), status::format, {"tensor count"});
    check_bad(std::string("GGUF") + le<uint32_t>(3) + le(uint64_t(1) << 60) + le(uint64_t(0)), status::format,
              {"tensor count"});
    // The smallest possible entries are 14 bytes for a key and 33 bytes for a tensor. One more than fits must
    // fail as a count, before any entry is read.
    const std::string rest = zeros(33 * 14 * 10);
    check_bad("GGUF" + le<uint32_t>(3) + le<uint64_t>(0) + le<uint64_t>(331) + rest, status::format,
              {"key count", "331"});
    check_bad("GGUF" + le<uint32_t>(3) + le<uint64_t>(0) + le<uint64_t>(330) + rest, status::format,
              {"key 0"});
    check_bad("GGUF" + le<uint32_t>(3) + le<uint64_t>(141) + le<uint64_t>(0) + rest, status::format,
              {"tensor count", "141"});
    check_bad("GGUF" + le<uint32_t>(3) + le<uint64_t>(140) + le<uint64_t>(0) + rest, status::format,
              {"tensor 0"});
    // A tensor count that fits the file, but not what the keys leave of it.
    spec s = one_key(STRING, le_string(std::string(5000, 'x')));
    std::string bytes = s.bytes();
    bytes.replace(8, 8, le<uint64_t>(100));
    check_bad(bytes, status::format, {"tensor count", "100"});
    // Arrays.
    for (const uint32_t t : {U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, U64, I64, F64})
        check_bad(one_key(ARRAY, array_of(t, 1001, zeros(1000))), status::format, {"test.key", "1001"});
    // No file needs more than 65,536 keys. The limit bounds the table's memory for any length of file.
    bytes = "GGUF" + le<uint32_t>(3) + le<uint64_t>(0) + le<uint64_t>(65537) + zeros(65537 * 14);
    check_bad(bytes, status::unsupported, {"key count", "65537"});
}

TEST_CASE("gguf row 3: string lengths near 2^64 and near the rest of the file") {
    const auto lengths = [](uint64_t left) {
        return std::vector<uint64_t>{UINT64_MAX,        UINT64_MAX - 7, UINT64_MAX - 8,
                                     uint64_t(1) << 63, left,           left + 1};
    };
    for (const uint64_t n : lengths(100)) {
        const std::string junk = le(n) + zeros(100);
        const std::string head = "GGUF" + le<uint32_t>(3);
        check_bad(head + le<uint64_t>(0) + le<uint64_t>(1) + junk, status::format, {"key 0"});
        check_bad(head + le<uint64_t>(1) + le<uint64_t>(0) + junk, status::format, {"tensor 0 name"});
        if (n == 100) continue;  // correct as a value's length
        check_bad(one_key(STRING, junk), status::format, {"test.key", "value", std::to_string(n).c_str()});
        check_bad(one_key(ARRAY, array_of(STRING, 1, junk)), status::format,
                  {"test.key", "value", std::to_string(n).c_str()});
        check_bad(one_key(ARRAY, array_of(STRING, 2, le_string("first") + junk)), status::format,
                  {"test.key", "value"});
    }
    check_good(one_key(STRING, le<uint64_t>(100) + zeros(100)));
}

TEST_CASE("gguf row 4: the first fault ends the parse") {
    // An over-long string, then a key that would be refused under another name if the parser went on, at a
    // wrong offset or at the right one.
    spec s;
    s.keys = {{"first", STRING, le(uint64_t(1) << 40)}, {"second", 99, ""}};
    check_bad(s, status::format, {"key 0 'first' value", "1099511627776"});
    s.keys = {{"first", ARRAY, array_of(STRING, 2, le(UINT64_MAX) + le_string("in step"))}, {"", U8, "1"}};
    check_bad(s, status::format, {"key 0 'first'"});
}

TEST_CASE("gguf row 5: lengths that turn negative in 32 or 64 bits") {
    for (const uint64_t n : {uint64_t(1) << 31, (uint64_t(1) << 31) - 1, uint64_t(1) << 32,
                             (uint64_t(1) << 32) + 1, uint64_t(1) << 63}) {
        const std::string shown = std::to_string(n);
        const std::string head = "GGUF" + le<uint32_t>(3);
        const std::string blob = head + le<uint64_t>(0) + le<uint64_t>(1) + le(n) + zeros(17);
        REQUIRE(blob.size() == 49);
        check_bad(blob, status::format, {"key 0 name", shown.c_str()});
        check_bad(head + le<uint64_t>(1) + le<uint64_t>(0) + le(n) + zeros(100), status::format,
                  {"tensor 0 name", shown.c_str()});
        check_bad(one_key(STRING, le(n) + zeros(9)), status::format, {"test.key", shown.c_str()});
        for (const uint32_t t : {U8, I32, STRING, F64})
            check_bad(one_key(ARRAY, array_of(t, n, zeros(40))), status::format, {"test.key", shown.c_str()});
    }
}

TEST_CASE("gguf row 6: unknown value types, arrays of arrays, endless counts") {
    for (const uint32_t t : {13u, 99u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        check_bad(one_key(t, zeros(64)), status::format, {"test.key", "type", std::to_string(t).c_str()});
        check_bad(one_key(ARRAY, array_of(t, uint64_t(1) << 60, zeros(64))), status::format,
                  {"test.key", "element type", std::to_string(t).c_str()});
    }
    check_bad(one_key(ARRAY, array_of(ARRAY, 1, array_of(U8, 1, "x"))), status::unsupported,
              {"test.key", "arrays of arrays"});
    check_bad(one_key(ARRAY, array_of(ARRAY, uint64_t(1) << 60, zeros(64))), status::unsupported,
              {"test.key", "arrays of arrays"});
    for (const uint32_t t : {U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, U64, I64, F64})
        // times 2, 4 and 8 these wrap to small sizes
        for (const uint64_t n : {uint64_t(1) << 60, uint64_t(1) << 61, uint64_t(1) << 62, UINT64_MAX / 8 + 1})
            check_bad(one_key(ARRAY, array_of(t, n, zeros(64))), status::format,
                      {"test.key", "count", std::to_string(n).c_str()});
}

TEST_CASE("gguf row 7: an array read as another type") {
    for (const uint32_t t : {U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, U64, I64, F64}) {
        const size_t size = t == STRING || t >= U64           ? 8
                            : t == U8 || t == I8 || t == BOOL ? 1
                            : t == U16 || t == I16            ? 2
                                                              : 4;
        const guarded g(one_key(ARRAY, array_of(t, 3, zeros(3 * size))).bytes());
        const gguf_file f(g.view(), "array.gguf");
        const bool text = t == STRING, real = t == F32 || t == F64, integer = !text && !real && t != BOOL;
        const auto check = [&](bool fits, const std::function<size_t()> &read) {
            CAPTURE(t);
            if (fits) CHECK(read() == 3);
            else check_throws(status::format, "array.gguf: test.key: an array of ", [&] { read(); });
        };
        check(text, [&] { return f.get_strings("test.key").size(); });
        check(integer, [&] { return f.get_ints("test.key").size(); });
        check(real, [&] { return f.get_floats("test.key").size(); });
    }
    // Integers of any width are accepted if they fit, and named if they do not.
    const auto ints = [](uint32_t t, const std::string &payload, uint64_t n) {
        const std::string bytes = one_key(ARRAY, array_of(t, n, payload)).bytes();
        return gguf_file(os::mapping::borrow(bytes.data(), bytes.size()), "array.gguf").get_ints("test.key");
    };
    CHECK(ints(U64, le<uint64_t>(INT32_MAX), 1) == std::vector<int32_t>{INT32_MAX});
    CHECK(ints(I64, le<int64_t>(INT32_MIN), 1) == std::vector<int32_t>{INT32_MIN});
    CHECK(ints(U8, "\xff", 1) == std::vector<int32_t>{255});
    CHECK(ints(I8, "\xff", 1) == std::vector<int32_t>{-1});
    check_throws(status::format, "element 1 is 2147483648",
                 [&] { ints(U32, le<uint32_t>(1) + le<uint32_t>(0x80000000u), 2); });
    check_throws(status::format, "element 0 is -2147483649",
                 [&] { ints(I64, le<int64_t>(int64_t(INT32_MIN) - 1), 1); });
    check_throws(status::format, "element 0 is 18446744073709551615", [&] { ints(U64, le(UINT64_MAX), 1); });
}

TEST_CASE("gguf row 8: arrays end where their length says") {
    for (const uint64_t n : {0, 6, 7, 8}) {
        std::string words;
        for (int i = 0; i < 7; ++i) words += le_string("word");
        spec s;
        s.keys = {{"tokens", ARRAY, array_of(STRING, 7, words)},
                  {"scores", ARRAY, array_of(F32, n, zeros(4 * n))},
                  {"types", ARRAY, array_of(I32, n, zeros(4 * n))}};
        const guarded g(s.bytes());
        const gguf_file f(g.view(), "vocab.gguf");
        CHECK(f.get_strings("tokens").size() == 7);
        CHECK(f.get_floats("scores").size() == n);
        CHECK(f.get_ints("types").size() == n);
        CHECK(f.find("types")->count == n);
        CHECK(f.find("types")->bytes == 4 * n);
    }
}

TEST_CASE("gguf row 9: general.alignment") {
    for (const uint32_t a : {0u, 1u, 2u, 4u, 3u, 24u, 33u, 48u, 1u << 21, 0x80000000u, 0xffffffffu}) {
        spec s = tiny();
        s.keys[1].payload = le(a);
        check_bad(s, status::format, {"general.alignment", std::to_string(a).c_str()});
    }
    const std::pair<uint32_t, std::string> wrong[] = {{F32, le(32.0f)},
                                                      {F64, le(32.0)},
                                                      {STRING, le_string("32")},
                                                      {BOOL, le<uint8_t>(1)},
                                                      {ARRAY, array_of(U32, 1, le<uint32_t>(32))},
                                                      {I32, le<int32_t>(-32)},
                                                      {U64, le(uint64_t(1) << 63)}};
    for (const auto &[type, payload] : wrong) {
        spec s = tiny();
        s.keys[1] = {"general.alignment", type, payload};
        check_bad(s, status::format, {"general.alignment"});
    }
    for (const uint32_t a : {8u, 16u, 64u, 4096u, 1u << 20}) {
        spec s = one_key(U32, le(a), "general.alignment");
        s.tensors = {{"a", {2}, 0, 0}, {"b", {2}, 0, a}};
        s.alignment = a;
        s.data = std::string(a, 'a') + std::string(8, 'b');
        const guarded g(s.bytes());
        const gguf_file f(g.view(), "aligned.gguf");
        CHECK(f.alignment() == a);
        CHECK(f.find_tensor("a")->data[0] == 'a');
        CHECK(f.find_tensor("b")->data[0] == 'b');
    }
}

TEST_CASE("gguf row 10: duplicate and empty keys") {
    spec s;
    s.keys = {{"same", U8, "1"}, {"other", U8, "1"}, {"same", U32, le<uint32_t>(1)}};
    check_bad(s, status::format, {"key 2 'same'", "twice"});
    s.keys = {{"", U8, "1"}, {"other", U8, "1"}};
    check_bad(s, status::format, {"key 0 name", "empty"});
    check_good(one_key(U8, "1", std::string(65535, 'k')));
    check_bad(one_key(U8, "1", std::string(65536, 'k')), status::format, {"key 0 name", "65536"});
    // Names that differ only in a zero byte, or whose hashes are equal, are different names.
    s.keys = {
        {std::string("same"), U8, "1"}, {std::string("same\0", 5), U8, "1"}, {std::string("\0", 1), U8, "1"}};
    check_good(s);
}

TEST_CASE("gguf row 11: a vocabulary of 130,000 tokens") {
    constexpr uint64_t n = 130000;
    std::string words;
    for (uint64_t i = 0; i < n; ++i) words += le_string("token " + std::to_string(i));
    const std::string bytes = one_key(ARRAY, array_of(STRING, n, words), "tokenizer.ggml.tokens").bytes();
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "vocab.gguf");
    const std::vector<std::string_view> tokens = f.get_strings("tokenizer.ggml.tokens");
    REQUIRE(tokens.size() == n);
    CHECK(tokens[0] == "token 0");
    CHECK(tokens[77777] == "token 77777");
    CHECK(tokens[n - 1] == "token 129999");
    const auto *const header = reinterpret_cast<const char *>(f.value(0).data);
    CHECK(tokens[1].data() > header);  // views into the header's one copy
    CHECK(tokens[1].data() < header + f.value(0).bytes);
}

TEST_CASE("gguf row 12: ranks") {
    for (const uint32_t rank : {0u, 5u, 64u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        spec s = one_tensor({4, 3, 2, 1}, 0);
        std::string bytes = s.bytes();
        bytes.replace(24 + 8 + 11, 4, le(rank));
        check_bad(bytes, status::format, {"tensor 0 'test.weight' rank", std::to_string(rank).c_str()});
    }
    check_bad(one_tensor({}, 0), status::format, {"rank", "0"});
    check_bad(one_tensor({1, 1, 1, 1, 1}, 0), status::format, {"rank", "5"});
    for (size_t rank = 1; rank <= 4; ++rank) check_good(one_tensor(std::vector<uint64_t>(rank, 2), 0));
}

TEST_CASE("gguf row 13: a dimension of zero") {
    for (const uint32_t type : {0u, 8u, 12u})
        for (size_t rank = 1; rank <= 4; ++rank)
            for (size_t i = 0; i < rank; ++i) {
                std::vector<uint64_t> dims(rank, 256);
                dims[i] = 0;
                check_bad(one_tensor(dims, type), status::format,
                          {"tensor 0 'test.weight' dimension", "0 is not within"});
            }
}

TEST_CASE("gguf row 14: shapes whose product wraps") {
    constexpr uint64_t inverse_of_7 = 0x6DB6DB6DB6DB6DB7u;
    static_assert(7 * inverse_of_7 == 1 && 7 * ((8 * inverse_of_7) & INT64_MAX) % (uint64_t(1) << 63) == 8);
    constexpr uint64_t one = 1;
    const std::vector<uint64_t> shapes[] = {
        {one << 32, one << 32},
        {one << 62, 4},
        {one << 16, one << 16, one << 16, one << 16},  // to 0
        {7, inverse_of_7},
        {inverse_of_7, 7},  // to 1
        // to a negative number
        {one << 62, 2},
        {one << 32, one << 31},
        {(one << 63) - 1, 2},
        // to a small one
        {7, 8 * inverse_of_7 & INT64_MAX, 2},
        {(one << 32) + 1, (one << 32) - 1, 1, 3},
        {one << 63},
        {UINT64_MAX},
        {1, UINT64_MAX},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX},
        {256, (one << 42) + 1, (one << 42) + 1},
    };
    for (const std::vector<uint64_t> &dims : shapes)
        for (const uint32_t type : {0u, 1u, 24u, 28u})
            check_bad(one_tensor(dims, type), status::format, {"tensor 0 'test.weight' dimension"});
    // The number of elements fits 64 bits; the number of bytes does not, or barely.
    check_bad(one_tensor({one << 62}, 0), status::format, {"'test.weight' size"});
    check_bad(one_tensor({one << 62}, 28), status::format, {"'test.weight' size"});
    check_bad(one_tensor({one << 61}, 28), status::format, {"'test.weight' size"});
    check_bad(one_tensor({one << 62}, 1), status::format, {"'test.weight' data", "9223372036854775808"});
    check_bad(one_tensor({one << 62}, 8), status::format, {"'test.weight' data"});
    check_bad(one_tensor({32, one << 57}, 8), status::format, {"'test.weight' data"});
    check_bad(one_tensor({(one << 42) + 1, 256}, 0), status::format, {"'test.weight' data"});
}

TEST_CASE("gguf row 15: sizes whose sum wraps") {
    spec s;
    constexpr uint64_t big = 0x7FFFFFFFFFFFFFC0u;
    s.tensors = {{"a", {big}, 24, 0}, {"b", {big}, 24, big}, {"c", {1024}, 24, 2 * big}};
    s.data = zeros(4096);
    check_bad(s, status::format, {"tensor 0 'a' data", "9223372036854775744"});
    // Each of three sizes fits, and their sum wraps to a small value. Each tensor's end is checked.
    s.tensors = {{"c", {1024}, 24, 0}, {"a", {big}, 24, 1024}, {"b", {big}, 24, big + 1024}};
    check_bad(s, status::format, {"tensor 1 'a' data"});
}

TEST_CASE("gguf row 16: sizes and offsets that wrap when rounded up") {
    for (const uint64_t n : {uint64_t(INT64_MAX), uint64_t(INT64_MAX) - 31, uint64_t(INT64_MAX) - 62})
        check_bad(one_tensor({n}, 24), status::format, {"'test.weight' data"});
    check_bad(one_tensor({uint64_t(INT64_MAX)}, 1), status::format,
              {"'test.weight' data", "18446744073709551614"});
    check_bad(one_tensor({8}, 0, UINT64_MAX - 31), status::format,
              {"'test.weight' data", "18446744073709551584"});
    gguf_writer w;
    const int64_t huge[] = {INT64_MAX}, half[] = {INT64_MAX / 2 - 31};
    for (const format f : {format::i8, format::f16, format::f64})
        check_throws(status::argument, "too large", [&] { w.add_tensor("huge", f, huge); });
    w.add_tensor("first half", format::i8, half);
    w.add_tensor("second half", format::i8, half);
    check_throws(status::argument, "too large", [&] { w.add_tensor("third half", format::i8, half); });
    CHECK(w.tensor_count() == 2);
    CHECK(w.file_bytes() > uint64_t(INT64_MAX) - 256);
    // The allocator for large memory.
    const host h;
    for (const size_t n : {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 63, SIZE_MAX - 64, SIZE_MAX / 2})
        check_throws(status::memory, "no memory", [&] { block b(h, n); });
}

TEST_CASE("gguf row 17: data that ends outside the file") {
    const std::string bytes = tiny().bytes();
    // the last tensor ends with the file
    CHECK(load(bytes).code == status::ok);
    CHECK(load(bytes + "more").code == status::ok);  // bytes after it are ignored
    check_bad(bytes.substr(0, bytes.size() - 1), status::format, {"tensor 2 'c.weight' data"});
    const size_t data = bytes.size() - 202;
    check_bad(bytes.substr(0, data + 96 + 68 - 1), status::format, {"tensor 1 'b.weight' data"});
    check_bad(bytes.substr(0, data + 95), status::format, {"tensor 0 'a.weight' data"});
    check_bad(bytes.substr(0, data), status::format, {"tensor 0 'a.weight' data"});
    // the padding is missing too
    check_bad(bytes.substr(0, tiny().header().size()), status::format, {"tensor 0 'a.weight' data"});
    check_good(one_tensor({1024}, 0, 0, 4096));
    check_bad(one_tensor({1025}, 0, 0, 4096), status::format, {"'test.weight' data", "4100", "4096"});
    check_bad(one_tensor({1024}, 0, 32, 4096), status::format,
              {"'test.weight' data", "4096 bytes at offset 32"});
    check_good(one_tensor({8}, 0, 4064, 4096));
    check_bad(one_tensor({8}, 0, 4096, 4096), status::format, {"'test.weight' data"});
    for (const uint64_t offset :
         {uint64_t(1) << 63, (uint64_t(1) << 63) - 32, uint64_t(1) << 32, uint64_t(1) << 31, UINT64_MAX - 31})
        check_bad(one_tensor({8}, 0, offset), status::format,
                  {"'test.weight' data", std::to_string(offset).c_str()});
}

TEST_CASE("gguf row 18: number formats that are unknown or were withdrawn") {
    for (const uint32_t id :
         {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 40u, 97u, 133u, 0x7fffffffu, 0x80000000u, 0xffffffffu})
        check_bad(one_tensor({256}, id), status::unsupported,
                  {"tensor 0 'test.weight' type", (" " + std::to_string(id) + " ").c_str(), "f32, f16",
                   "q8_0", "mxfp4"});
    // Published values (ggml's docs/gguf.md and ggml.h): id, elements a block, bytes a block. Files with
    // formats that this build cannot compute are read too.
    const uint32_t published[][3] = {
        {0, 1, 4},      {1, 1, 2},      {2, 32, 18},   {3, 32, 20},    {6, 32, 22},    {7, 32, 24},
        {8, 32, 34},    {9, 32, 36},    {10, 256, 84}, {11, 256, 110}, {12, 256, 144}, {13, 256, 176},
        {14, 256, 210}, {15, 256, 292}, {20, 32, 18},  {23, 256, 136}, {24, 1, 1},     {25, 1, 2},
        {26, 1, 4},     {27, 1, 8},     {28, 1, 8},    {30, 1, 2},     {39, 32, 17}};
    for (const auto &[id, block, size] : published) {
        const guarded g(one_tensor({block * 2, 3}, id, 0, size * 6).bytes());
        const gguf_file f(g.view(), "formats.gguf");
        CHECK(f.tensors()[0].bytes == size * 6);
        CHECK(info(f.tensors()[0].type).gguf_id == id);
        check_bad(one_tensor({block * 2, 3}, id, 0, size * 6 - 1), status::format, {"'test.weight' data"});
    }
}

TEST_CASE("gguf row 19: rows that are not whole blocks") {
    for (const uint64_t n : {1, 31, 33, 63})
        check_bad(one_tensor({n, 32}, 8), status::format,
                  {"tensor 0 'test.weight'", std::to_string(n).c_str(), "32", "q8_0"});
    for (const uint32_t id : {10, 11, 12, 13, 14})  // blocks of 256
        for (const uint64_t n : {1, 32, 255, 257, 480})
            check_bad(one_tensor({n, 32}, id), status::format,
                      {"tensor 0 'test.weight'", std::to_string(n).c_str(), "256", "_k"});
    check_bad(one_tensor({(uint64_t(1) << 62) + 1}, 8), status::format, {"'test.weight'"});
}

TEST_CASE("gguf row 20: tensor names") {
    spec s;
    s.tensors = {{"same", {8}, 0, 0}, {"same", {8}, 0, 32}};
    s.data = zeros(64);
    check_bad(s, status::format, {"tensor 1 'same'", "twice"});
    s.tensors[1].type = 1;
    s.tensors[1].dims = {16};
    check_bad(s, status::format, {"tensor 1 'same'", "twice"});
    s.tensors = {{std::string(63, 'n'), {8}, 0, 0}};
    check_good(s);
    for (const size_t n : {64, 65, 127, 1000}) {
        s.tensors = {{std::string(n, 'n'), {8}, 0, 0}};
        check_bad(s, status::format, {"tensor 0 name", std::to_string(n).c_str()});
    }
    s.tensors = {{"", {8}, 0, 0}};
    check_bad(s, status::format, {"tensor 0 name", "empty"});
}

TEST_CASE("gguf row 21: overlapping, disordered and unaligned data") {
    spec s;
    s.data = std::string(64, 'x') + std::string(64, 'y');
    const auto place = [&](uint64_t a, uint64_t b) { s.tensors = {{"a", {16}, 0, a}, {"b", {16}, 0, b}}; };
    place(0, 32);
    check_bad(s, status::format, {"tensor 1 'b' data", "'a'"});
    place(32, 0);
    check_bad(s, status::format, {"tensor 0 'a' data", "'b'"});
    place(0, 0);
    check_bad(s, status::format, {"data", "begins inside"});
    s.tensors = {{"a", {32}, 0, 0}, {"b", {1}, 0, 32}};  // one inside the other
    check_bad(s, status::format, {"tensor 1 'b' data", "'a'"});
    s.tensors = {{"a", {17}, 0, 0}, {"b", {8}, 0, 64}};  // by four bytes
    check_bad(s, status::format, {"tensor 1 'b' data"});
    for (const uint64_t offset : {1, 4, 8, 16, 31, 33, 63})
        check_bad(one_tensor({8}, 0, offset), status::format,
                  {"'test.weight' offset", std::to_string(offset).c_str(), "32"});
    // Data out of order or with gaps is allowed: nothing is ambiguous.
    place(64, 0);
    const guarded g(s.bytes());
    const gguf_file f(g.view(), "order.gguf");
    CHECK(f.find_tensor("a")->data[0] == 'y');
    CHECK(f.find_tensor("b")->data[0] == 'x');
    s.tensors = {{"a", {8}, 0, 96}, {"b", {8}, 0, 0}};
    check_good(s);
}

TEST_CASE("gguf: every prefix of a file is refused") {
    const std::string bytes = tiny().bytes();
    size_t bad = 0;
    for (size_t n = 0; n < bytes.size(); ++n) {
        const outcome o = load(bytes.substr(0, n));
        if (o.code != status::format || !well_behaved(o)) {
            ++bad;
            MESSAGE("prefix of ", n, " bytes: ", o.text);
        }
    }
    CHECK(bad == 0);
    CHECK(load(bytes).code == status::ok);
}

TEST_CASE("gguf: each byte of the header replaced by every kind of value") {
    const std::string bytes = tiny().bytes();
    const size_t header = tiny().header().size();
    size_t bad = 0, refused = 0;
    for (size_t i = 0; i < header; ++i) {
        const auto was = static_cast<unsigned char>(bytes[i]);
        for (const int v : {0, 1, 2, 4, 8, 9, 12, 13, 0x1f, 0x20, 0x7f, 0x80, 0xc0, 0xfe, 0xff, was ^ 1,
                            was ^ 0x80, (was + 1) & 0xff, (was - 1) & 0xff}) {
            std::string s = bytes;
            s[i] = static_cast<char>(v);
            const outcome o = load(s);
            bad += !well_behaved(o);
            refused += o.code != status::ok;
        }
    }
    CHECK(bad == 0);
    CHECK(refused > header);  // the sweep reaches the checks
}

TEST_CASE("gguf: each integer field, and each pair of them, replaced by extreme values") {
    const std::string bytes = tiny().bytes();
    const std::vector<field> fields = fields_of(tiny());
    const auto with = [](std::string s, const field &f, uint64_t v) {
        return s.replace(f.at, f.width, le(v).substr(0, f.width));
    };
    size_t bad = 0, refused = 0;
    for (const field &f : fields) {
        const uint64_t left = bytes.size() - f.at - f.width;
        for (const uint64_t base : {uint64_t(0), uint64_t(1) << 31, uint64_t(1) << 32, uint64_t(1) << 63,
                                    left, left / 14, left / 33})
            for (const uint64_t delta : {-1, 0, 1, 2}) {
                const outcome o = load(with(bytes, f, base + delta));
                bad += !well_behaved(o);
                refused += o.code != status::ok;
            }
    }
    for (size_t i = 0; i < fields.size(); ++i)
        for (size_t j = 0; j < i; ++j)
            for (const uint64_t a : {uint64_t(0), uint64_t(1), uint64_t(32), UINT64_MAX, uint64_t(1) << 63})
                for (const uint64_t b : {uint64_t(0), uint64_t(64), UINT64_MAX, uint64_t(1) << 32})
                    bad += !well_behaved(load(with(with(bytes, fields[i], a), fields[j], b)));
    CHECK(bad == 0);
    CHECK(refused > fields.size() * 10);
}
