// GGUF: reading, values and writing of good files. Bad files are in test_gguf_hostile.cpp.
#include "../support/files.h"
#include "../support/gguf_bytes.h"
#include "../support/skip.h"

#include <cmath>
#include <filesystem>
#include <limits>

using namespace gguf_bytes;

TEST_CASE("gguf: a good file is read as written") {
    const spec s = tiny();
    for (const uint32_t version : {2u, 3u}) {
        spec v = s;
        v.version = version;
        const std::string bytes = v.bytes();
        const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny.gguf");
        CHECK(f.version() == version);
        CHECK(f.alignment() == 32);
        CHECK(f.data_offset() == bytes.size() - s.data.size());
        CHECK(f.file_bytes() == bytes.size());
        REQUIRE(f.key_count() == s.keys.size());
        for (size_t i = 0; i < s.keys.size(); ++i) CHECK(f.key(i) == s.keys[i].name);
        REQUIRE(f.tensors().size() == 3);
        const gguf_tensor &a = f.tensors()[0];
        CHECK(a.name == "a.weight");
        CHECK(a.type == format::f32);
        CHECK(a.rank == 3);
        CHECK(a.ne[0] == 2);  // outermost first here, innermost first in the file
        CHECK(a.ne[1] == 3);
        CHECK(a.ne[2] == 4);
        CHECK(a.ne[3] == 1);
        CHECK(a.bytes == 96);
        const gguf_tensor *b = f.find_tensor("b.weight");
        REQUIRE(b != nullptr);
        CHECK(b->type == format::q8_0);
        CHECK(b->rank == 1);
        CHECK(b->ne[0] == 64);
        CHECK(b->bytes == 68);
        CHECK(b->offset == f.data_offset() + 96);
        CHECK(b->data[0] == 96);
        CHECK(f.find_tensor("c.weight")->data[9] == 201);
        CHECK(f.find_tensor("d.weight") == nullptr);
        CHECK(f.find_tensor("b.weigh") == nullptr);
    }
}

TEST_CASE("gguf: views stay valid when the file object is moved") {
    const std::string bytes = tiny().bytes();
    gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny.gguf");
    gguf_file g = std::move(f);
    CHECK(g.get_string("general.architecture") == "llama");
    CHECK(g.find_tensor("b.weight")->data[0] == 96);
    CHECK(g.name() == "tiny.gguf");
}

TEST_CASE("gguf: typed reads") {
    const std::string bytes = tiny().bytes();
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny.gguf");
    CHECK(f.get_uint("t.u8", 255) == 200);
    CHECK(f.get_uint("t.u16", UINT64_MAX) == 50000);
    CHECK(f.get_uint("t.u32", UINT32_MAX) == 4000000000u);
    CHECK(f.get_uint("t.u64", UINT64_MAX) == UINT64_MAX);
    CHECK(f.get_uint("absent", 10, 77) == 77);
    CHECK(f.get_float("t.f32") == static_cast<double>(0.1f));
    CHECK(f.get_float("t.f64") == 1e300);
    CHECK(f.get_float("absent", 2.5) == 2.5);
    CHECK(f.get_bool("t.bool", false));
    CHECK(f.get_bool("absent", true));
    CHECK(f.get_string("general.architecture") == "llama");
    CHECK(f.get_string("absent", "x") == "x");
    CHECK(f.get_strings("t.strings") == std::vector<std::string_view>{"a", "", "\xe2\x80\xa6\"\\\n\xff"});
    CHECK(f.get_ints("t.ints") == std::vector<int32_t>{-1, 0, 7});
    CHECK(f.get_floats("t.floats") == std::vector<float>{0.5f, -1e-5f});
    CHECK(f.get_ints("t.none").empty());
    CHECK(f.has("t.u8"));
    CHECK(!f.has("t.u"));

    check_throws(status::format, "tiny.gguf: t.u8: 200 is not within 0 to 199",
                 [&] { f.get_uint("t.u8", 199); });
    check_throws(status::format, "t.i8: -100 is not within", [&] { f.get_uint("t.i8", 255); });
    check_throws(status::format, "t.i64: -9223372036854775808 is not within",
                 [&] { f.get_uint("t.i64", UINT64_MAX, 1); });
    check_throws(status::format, "tiny.gguf: absent: missing", [&] { f.get_uint("absent", 255); });
    check_throws(status::format, "absent: missing", [&] { f.get_float("absent"); });
    check_throws(status::format, "absent: missing", [&] { f.get_string("absent"); });
    check_throws(status::format, "absent: missing", [&] { f.get_strings("absent"); });
    check_throws(status::format, "absent: missing", [&] { f.get_ints("absent"); });
    check_throws(status::format, "absent: missing", [&] { f.get_floats("absent"); });
    check_throws(status::format, "t.f32: a value of type f32, not an integer",
                 [&] { f.get_uint("t.f32", 1, 1); });
    check_throws(status::format, "t.bool: a value of type bool, not an integer",
                 [&] { f.get_uint("t.bool", 1); });
    check_throws(status::format, "t.ints: an array of i16, not an integer", [&] { f.get_uint("t.ints", 1); });
    check_throws(status::format, "t.u8: a value of type u8, not f32", [&] { f.get_float("t.u8"); });
    check_throws(status::format, "t.u8: a value of type u8, not a bool", [&] { f.get_bool("t.u8", true); });
    check_throws(status::format, "t.strings: an array of string, not a string",
                 [&] { f.get_string("t.strings"); });
    check_throws(status::format, "general.architecture: a value of type string, not an array",
                 [&] { f.get_strings("general.architecture"); });
}

TEST_CASE("gguf: values as text") {
    const std::string bytes = tiny().bytes();
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny.gguf");
    const auto text = [&](const char *key, size_t n = 100) { return gguf_value_text(*f.find(key), n); };
    CHECK(text("general.architecture") == "llama");
    CHECK(text("t.u8") == "200");
    CHECK(text("t.i8") == "-100");
    CHECK(text("t.u64") == "18446744073709551615");
    CHECK(text("t.i64") == "-9223372036854775808");
    CHECK(text("t.f32") == "0.1");
    CHECK(text("t.f64") == "1e+300");
    CHECK(text("t.bool") == "true");
    CHECK(text("t.strings") == "[\"a\", \"\", \"\xe2\x80\xa6\\\"\\\\\\n\xef\xbf\xbd\"]");
    CHECK(text("t.ints") == "[-1, 0, 7]");
    CHECK(text("t.ints", 3) == "[-1, 0, 7]");
    CHECK(text("t.ints", 2) == "[-1, 0, …]");
    CHECK(text("t.ints", 0) == "[…]");
    CHECK(text("t.floats") == "[0.5, -1e-05]");
    CHECK(text("t.none") == "[]");
    CHECK(text("t.none", 0) == "[]");

    std::string every;  // every byte, alone and after a byte that can begin a sequence
    for (int i = 0; i < 256; ++i) every += static_cast<char>(i);
    for (int i = 0; i < 256; ++i)
        every += {static_cast<char>(0xe2), static_cast<char>(0x80), static_cast<char>(i), 'x'};
    const std::string long_ones =
        one_key(ARRAY,
                array_of(STRING, 2, le_string(every) + le_string(std::string(5000, 'a') + "\xe2\x80\xa6")))
            .bytes();
    const gguf_file h(os::mapping::borrow(long_ones.data(), long_ones.size()), "long.gguf");
    std::string joined;
    size_t longest = 0;
    gguf_value_text(h.value(0), 9, [&](std::string_view piece) {
        joined += piece, longest = std::max(longest, piece.size());
    });
    CHECK(joined == gguf_value_text(h.value(0), 9));
    CHECK(longest <= 1024);
    CHECK(joined.starts_with(
        R"(["\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u0008\u0009\n\u000b\u000c\u000d\u000e\u000f\u0010)"));
    CHECK(joined.find(R"(\u001f !\"#$)") != std::string::npos);
    CHECK(joined.find("~\x7f\xef\xbf\xbd\xef\xbf\xbd") != std::string::npos);
    CHECK(joined.ends_with("aaaa\xe2\x80\xa6\"]"));

    const std::string odd =
        one_key(ARRAY,
                array_of(F32, 3, le(INFINITY) + le(std::numeric_limits<float>::quiet_NaN()) + le(1.0f)))
            .bytes();
    const gguf_file g(os::mapping::borrow(odd.data(), odd.size()), "odd.gguf");
    CHECK(gguf_value_text(g.value(0), 9) == "[null, null, 1]");
}

TEST_CASE("gguf: the writer writes what the format says") {
    gguf_writer w;
    w.set_string("general.architecture", "llama");
    w.set_u32("a.u32", 7);
    w.set_i32("a.i32", -7);
    w.set_u64("a.u64", UINT64_MAX);
    w.set_f32("a.f32", 0.1f);
    w.set_bool("a.bool", true);
    w.set_bool("a.gone", true);
    const std::vector<std::string> words = {"x", "", "zz"};
    const std::vector<int32_t> ints = {-1, 2};
    const std::vector<float> floats = {1.5f};
    w.set_strings("a.strings", words);
    w.set_i32s("a.ints", ints);
    w.set_f32s("a.floats", floats);
    w.set_f32s("a.none", {});
    w.set_u32("a.u32", 8);  // replaced without changing the order
    w.erase("a.gone");
    w.erase("never there");
    w.set_u32("a.ints_too", 1);
    w.set_u32("general.alignment", 4096);  // ignored: the writer sets it
    CHECK(w.has("a.ints_too"));
    CHECK(!w.has("a.gone"));
    const int64_t shape_a[] = {2, 3, 5}, shape_b[] = {64}, shape_c[] = {3, 32};
    w.add_tensor("a.weight", format::f32, shape_a);
    w.add_tensor("b.weight", format::bf16, shape_b);
    w.add_tensor("c.weight", format::q8_0, shape_c);

    spec s;
    s.keys = {{"general.architecture", STRING, le_string("llama")},
              {"a.u32", U32, le<uint32_t>(8)},
              {"a.i32", I32, le<int32_t>(-7)},
              {"a.u64", U64, le(UINT64_MAX)},
              {"a.f32", F32, le(0.1f)},
              {"a.bool", BOOL, "\1"},
              {"a.strings", ARRAY, array_of(STRING, 3, le_string("x") + le_string("") + le_string("zz"))},
              {"a.ints", ARRAY, array_of(I32, 2, le<int32_t>(-1) + le<int32_t>(2))},
              {"a.floats", ARRAY, array_of(F32, 1, le(1.5f))},
              {"a.none", ARRAY, array_of(F32, 0, "")},
              {"a.ints_too", U32, le<uint32_t>(1)}};
    // 120 bytes and 8 of padding, 128 and none, 102 and 26
    s.tensors = {{"a.weight", {5, 3, 2}, 0, 0}, {"b.weight", {64}, 30, 128}, {"c.weight", {32, 3}, 8, 256}};
    CHECK(w.header() == s.bytes());
    REQUIRE(w.tensor_count() == 3);
    CHECK(w.tensor_bytes(0) == 120);
    CHECK(w.padding(0) == 8);
    CHECK(w.tensor_bytes(1) == 128);
    CHECK(w.padding(1) == 0);
    CHECK(w.tensor_bytes(2) == 102);
    CHECK(w.padding(2) == 26);
    CHECK(w.file_bytes() == s.bytes().size() + 384);

    const std::string file = w.header() + zeros(384);
    const gguf_file f(os::mapping::borrow(file.data(), file.size()), "written.gguf");
    CHECK(f.version() == 3);
    CHECK(f.find_tensor("a.weight")->ne[0] == 2);
    CHECK(f.find_tensor("a.weight")->ne[2] == 5);
    CHECK(f.find_tensor("c.weight")->ne[1] == 32);
}

TEST_CASE("gguf: metadata copied raw from another file") {
    const std::string bytes = tiny().bytes();
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny.gguf");
    gguf_writer w;
    for (size_t i = 0; i < f.key_count(); ++i) w.set_raw(f.key(i), f.value(i));
    spec s;
    s.keys = tiny().keys;
    s.keys.erase(s.keys.begin() + 1);  // general.alignment is not copied
    std::string expected = s.bytes();
    expected.resize((expected.size() + 31) / 32 * 32, '\0');
    CHECK(w.header() == expected);
}

TEST_CASE("gguf: the writer refuses what no reader would accept") {
    gguf_writer w;
    const int64_t row[] = {64}, odd[] = {33}, none[] = {4, 0}, negative[] = {-32}, five[] = {1, 1, 1, 1, 32};
    w.add_tensor("a", format::f32, row);
    check_throws(status::argument, "'a': already added", [&] { w.add_tensor("a", format::f16, row); });
    check_throws(status::argument, "64 bytes", [&] { w.add_tensor(std::string(64, 'x'), format::f32, row); });
    check_throws(status::argument, "0 bytes", [&] { w.add_tensor("", format::f32, row); });
    check_throws(status::argument, "rows of 33", [&] { w.add_tensor("b", format::q8_0, odd); });
    check_throws(status::argument, "a dimension is 0", [&] { w.add_tensor("b", format::f32, none); });
    check_throws(status::argument, "a dimension is -32", [&] { w.add_tensor("b", format::f32, negative); });
    check_throws(status::argument, "rank is 5", [&] { w.add_tensor("b", format::f32, five); });
    check_throws(status::argument, "rank is 0", [&] { w.add_tensor("b", format::f32, {}); });
    CHECK(w.tensor_count() == 1);
    check_throws(status::argument, "a key of 0 bytes", [&] { w.set_u32("", 1); });
    check_throws(status::argument, "a key of 65536 bytes", [&] { w.set_u32(std::string(65536, 'k'), 1); });
}

TEST_CASE("gguf: published vocabulary-only files load") {
    struct expected {
        const char *file;
        size_t tokens;
        const char *pre;
        uint64_t bos;
        const char *bos_text;
    };
    const expected files[] = {
        {"ggml-vocab-deepseek-llm.gguf", 102400, "deepseek-llm", 100000, "<｜begin▁of▁sentence｜>"},
        {"ggml-vocab-deepseek-coder.gguf", 32256, "deepseek-coder", 32013, "<｜begin▁of▁sentence｜>"}};
    for (const expected &e : files) {
        const std::string path = ds::test::reference_path(std::string("vocab/") + e.file);
        if (!std::filesystem::exists(path)) {
            ds::test::skip(path + " is not available");
            continue;
        }
        const gguf_file f(os::mapping::map_file(path), path);
        CHECK(f.version() == 3);
        CHECK(f.tensors().empty());
        CHECK(f.get_string("tokenizer.ggml.pre") == e.pre);
        const std::vector<std::string_view> tokens = f.get_strings("tokenizer.ggml.tokens");
        REQUIRE(tokens.size() == e.tokens);
        CHECK(f.get_ints("tokenizer.ggml.token_type").size() == e.tokens);
        const uint64_t bos = f.get_uint("tokenizer.ggml.bos_token_id", e.tokens - 1);
        CHECK(bos == e.bos);
        CHECK(tokens[bos] == e.bos_text);
        CHECK(!f.get_strings("tokenizer.ggml.merges").empty());
    }
}
