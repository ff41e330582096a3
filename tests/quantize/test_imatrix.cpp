// llama.cpp's importance files: both formats made here byte by byte, their effect on formats of few bits, and
// bad files.
#include "../support/files.h"
#include "../support/gguf_bytes.h"
#include "../support/golden.h"

#include "../../quantize/convert.h"
#include "../../quantize/imatrix.h"
#include "../../quantize/requantize.h"
#include "../../quantize/synth.h"

#include <cmath>
#include <limits>

using namespace ds;
using namespace ds::test;
using gguf_bytes::le;
using gguf_bytes::le_string;

namespace {

struct entry {
    std::vector<float> sums;    // sums of squares
    std::vector<float> counts;  // one for each matrix, or one for all
};
using entries = std::map<std::string, entry>;

std::string floats(const std::vector<float> &v) {
    return {reinterpret_cast<const char *>(v.data()), 4 * v.size()};
}

std::string as_gguf(const entries &of, const std::string &type = "imatrix") {
    using namespace gguf_bytes;
    spec s;
    s.keys = {{"general.type", STRING, le_string(type)},
              {"imatrix.datasets", ARRAY, array_of(STRING, 2, le_string("a.txt") + le_string("b.txt"))},
              {"imatrix.chunk_count", U32, le<uint32_t>(7)},
              {"imatrix.chunk_size", U32, le<uint32_t>(512)}};
    const auto add = [&](const std::string &name, const std::vector<float> &v, size_t matrices) {
        s.data.resize((s.data.size() + 31) / 32 * 32);
        s.tensors.push_back({name, {v.size() / matrices, matrices}, 0, s.data.size()});
        s.data += floats(v);
    };
    for (const auto &[name, e] : of) {
        add(name + ".in_sum2", e.sums, e.counts.size());
        add(name + ".counts", e.counts, e.counts.size());
    }
    return s.bytes();
}

// As llama.cpp writes it: means times the number of calls, and 1 for columns without a count.
std::string as_dat(const entries &of, int32_t calls = 4) {
    std::string out = le(static_cast<int32_t>(of.size()));
    for (const auto &[name, e] : of) {
        out += le(static_cast<int32_t>(name.size())) + name + le(calls) +
               le(static_cast<int32_t>(e.sums.size()));
        for (size_t i = 0; i < e.sums.size(); ++i) {
            const float count = e.counts[i * e.counts.size() / e.sums.size()];
            out += le((count > 0 ? e.sums[i] / count : 1.0f) * static_cast<float>(calls));
        }
    }
    return out + le<int32_t>(7) + le<int32_t>(5) + "a.txt";
}

error refusal(const std::string &bytes) {
    return failure_of([&] { parse_imatrix(os::mapping::borrow(bytes.data(), bytes.size()), "the file"); });
}
void refused(const std::string &bytes, std::initializer_list<const char *> parts) {
    const error e = refusal(bytes);
    CAPTURE(e.text);
    CHECK(e.code == status::format);
    CHECK(e.text.starts_with("the file: "));
    for (const char *const part : parts) CHECK(contains(e.text, part));
}

gguf_file open(const std::string &path) { return gguf_file(os::mapping::map_file(path), path); }

// An entry for each matrix of the file, with every eighth column important. Counts are powers of two, so that
// both formats hold the same means.
entries for_model(const gguf_file &f) {
    entries out;
    for (const gguf_tensor &t : f.tensors()) {
        if (t.rank < 2 || t.name == "token_embd.weight") continue;
        const size_t matrices = t.rank > 2 ? static_cast<size_t>(t.ne[0]) : 1,
                     columns = static_cast<size_t>(t.ne[t.rank - 1]);
        entry &e = out[std::string(t.name)];
        for (size_t m = 0; m < matrices; ++m)
            e.counts.push_back(m % 4 == 3 ? 0.0f : std::ldexp(1.0f, static_cast<int>(m % 3)));
        for (size_t i = 0; i < matrices * columns; ++i)
            e.sums.push_back(e.counts[i / columns] * ((i + i / columns) % 8 ? 0.01f : 1.0f));
    }
    return out;
}

std::string tensor_bytes(const gguf_file &f) {
    std::string out;
    for (const gguf_tensor &t : f.tensors())
        out += std::string(t.name) + std::string(reinterpret_cast<const char *>(t.data), t.bytes);
    return out;
}

// The sum of squared errors over the important columns of matrix `m`, every eighth.
double error_of(const gguf_file &in, const gguf_file &out, const std::string &name, size_t m) {
    const gguf_tensor &t = *in.find_tensor(name), &u = *out.find_tensor(name);
    const size_t columns = static_cast<size_t>(t.ne[t.rank - 1]),
                 rows = static_cast<size_t>(t.ne[t.rank - 2]), n = t.bytes / 4;
    std::vector<float> x(n), y(n);
    memcpy(x.data(), t.data, t.bytes);
    decode_row(u.type, u.data, y.data(), n);
    double sum = 0;
    for (size_t r = m * rows; r < (m + 1) * rows; ++r)
        for (size_t c = 0; c < columns; ++c)
            if ((m * columns + c + m) % 8 == 0)
                sum += std::pow(static_cast<double>(x[r * columns + c]) - y[r * columns + c], 2);
    return sum;
}

}  // namespace

TEST_CASE("imatrix: both formats are read alike") {
    const entries of = {{"blk.0.attn_q.weight", {{4, 0, 1, 0.5f}, {2}}},
                        {"blk.1.ffn_up_exps.weight", {{4, 8, 1, 2, 0, 0}, {4, 1, 0}}},
                        {"x", {{3}, {0}}}};
    for (const std::string &bytes : {as_gguf(of), as_dat(of)}) {
        const imatrix m = parse_imatrix(os::mapping::borrow(bytes.data(), bytes.size()), "the file");
        CHECK(m.datasets[0] == "a.txt");
        CHECK(m.chunks == 7);
        CHECK(m.entries.size() == 3);
        CHECK(m.entries.at("blk.0.attn_q.weight") == std::vector<float>{2, 0, 0.5f, 0.25f});
        CHECK(m.entries.at("blk.1.ffn_up_exps.weight") == std::vector<float>{1, 2, 1, 2, 1, 1});
        CHECK(m.entries.at("x") == std::vector<float>{1});
        CHECK(m.unread.empty());
    }
    // Old writers end the file after the entries, or after the number of chunks. The number of calls does not
    // matter; with no calls the values are used unchanged.
    const std::string dat = as_dat(of);
    for (const size_t less : {size_t(13), size_t(9)}) {
        const std::string old = dat.substr(0, dat.size() - less);
        CHECK(parse_imatrix(os::mapping::borrow(old.data(), old.size()), "old").entries.size() == 3);
    }
    const std::string none = as_dat({{"x", {{3}, {1}}}}, 0);
    CHECK(parse_imatrix(os::mapping::borrow(none.data(), none.size()), "none").entries.at("x") ==
          std::vector<float>{0});
    // One count for all experts, as in a .dat that llama.cpp has converted to GGUF.
    gguf_bytes::spec s{.keys = {{"general.type", gguf_bytes::STRING, le_string("imatrix")}}};
    s.tensors = {{"x.counts", {1}, 0, 0}, {"x.in_sum2", {2, 3}, 0, 32}, {"x.in_sum", {2, 3}, 0, 64}};
    s.data = le(2.0f) + gguf_bytes::zeros(28) + floats({2, 4, 6, 8, 10, 12}) + gguf_bytes::zeros(32);
    const std::string bytes = s.bytes();
    const imatrix m = parse_imatrix(os::mapping::borrow(bytes.data(), bytes.size()), "one count");
    CHECK(m.entries.at("x") == std::vector<float>{1, 2, 3, 4, 5, 6});
    CHECK(m.unread == std::vector<std::string>{"x.in_sum"});
    CHECK(m.chunks == 0);
}

TEST_CASE(
    "imatrix: the same bytes from both formats, and less error in important columns, expert by expert") {
    const temp_dir dir;
    synthesize(dir / "dense.gguf", {"small-llama", format::f32, 1}, {});
    convert(data_path("micro/deepseek-v2"), dir / "experts.gguf", {.type = format::f32}, {});
    for (const std::string model : {"dense.gguf", "experts.gguf"})
        for (const format type : {format::q4_k, format::q5_0, format::iq4_nl}) {
            if (golden::sanitized && type != format::q5_0) continue;  // the others take too long
            CAPTURE(model);
            CAPTURE(info(type).text);
            const gguf_file in = open(dir / model);
            const entries of = for_model(in);
            write_bytes(dir / "m.gguf", as_gguf(of));
            write_bytes(dir / "m.dat", as_dat(of));
            std::vector<std::string> remarks;
            const job j{.note = [&](const std::string &text) { remarks.push_back(text); }, .threads = 2};
            requantize_by_imatrix(dir / model, dir / "a.gguf", type, dir / "m.gguf", j);
            requantize_by_imatrix(dir / model, dir / "b.gguf", type, dir / "m.dat", j);
            requantize(dir / model, dir / "plain.gguf", type, {});
            const gguf_file a = open(dir / "a.gguf"), b = open(dir / "b.gguf"),
                            plain = open(dir / "plain.gguf");
            CHECK(tensor_bytes(a) == tensor_bytes(b));
            CHECK(a.get_string("quantize.imatrix.file") == dir / "m.gguf");
            CHECK(a.get_string("quantize.imatrix.dataset") == "a.txt");
            CHECK(a.get_uint("quantize.imatrix.entries_count", 1000) == of.size());
            CHECK(a.get_uint("quantize.imatrix.chunks_count", 1000) == 7);
            CHECK(!plain.has("quantize.imatrix.file"));
            size_t weighed = 0;
            for (const auto &entry : of) {
                const std::string &name = entry.first;
                const auto &e = entry.second;
                const gguf_tensor &t = *a.find_tensor(name);
                if (t.type != type || t.ne[t.rank - 1] < 32) continue;
                for (size_t m = 0; m < e.counts.size(); ++m, ++weighed) {
                    CAPTURE(name);
                    CAPTURE(m);
                    const double with = error_of(in, a, name, m), without = error_of(in, plain, name, m);
                    if (e.counts[m] > 0) CHECK(with < without);
                    // all columns have the same importance
                    else CHECK(with == doctest::Approx(without).epsilon(0.2));
                }
            }
            if (type != format::q4_k || model == "dense.gguf") CHECK(weighed > 4);
            // Requantizing drops the keys about the importance of the source.
            requantize(dir / "a.gguf", dir / "again.gguf", format::q8_0, {});
            CHECK(!open(dir / "again.gguf").has("quantize.imatrix.file"));
        }
}

TEST_CASE("imatrix: missing and unused entries are remarks") {
    const temp_dir dir;
    synthesize(dir / "in.gguf", {"small-llama", format::f32, 1}, {});
    const gguf_file in = open(dir / "in.gguf");
    entries of = for_model(in);
    const auto with = [&](const entries &e) {
        std::vector<std::string> remarks;
        write_bytes(dir / "m", as_gguf(e));
        requantize_by_imatrix(dir / "in.gguf", dir / "out.gguf", format::q4_0, dir / "m",
                              {.note = [&](const std::string &text) { remarks.push_back(text); }});
        return remarks;
    };
    CHECK(with(of).empty());
    const std::string all = tensor_bytes(open(dir / "out.gguf"));
    of["blk.77.attn_q.weight"] = {{1, 2, 3}, {1}};
    of["token_embd.weight"] = {{1, 2, 3}, {1}};  // rows are looked up, so it is in no product
    of["blk.0.attn_norm.weight"] = {{1, 2, 3}, {1}};
    std::vector<std::string> remarks = with(of);
    REQUIRE(remarks.size() == 1);
    CHECK(contains(remarks[0],
                   "not used: 3 ('blk.0.attn_norm.weight', 'blk.77.attn_q.weight', 'token_embd.weight')"));
    CHECK(tensor_bytes(open(dir / "out.gguf")) == all);
    of = for_model(in);
    of.erase("output.weight");
    of.erase("blk.1.ffn_down.weight");
    remarks = with(of);
    REQUIRE(remarks.size() == 1);
    CHECK(contains(remarks[0], "lacks"));
    CHECK(contains(remarks[0], "2 ('"));
    CHECK(contains(remarks[0], "output.weight"));
    CHECK(contains(remarks[0], "blk.1.ffn_down.weight"));
}

TEST_CASE("imatrix: files that do not fit the model") {
    const temp_dir dir;
    synthesize(dir / "in.gguf", {"small-llama", format::f32, 1}, {});
    convert(data_path("micro/deepseek-v2"), dir / "experts.gguf", {.type = format::f32}, {});
    write_bytes(dir / "out.gguf", "an old file");
    const auto failure = [&](const std::string &model, const entries &e) {
        write_bytes(dir / "m", as_gguf(e));
        return failure_of(
            [&] { requantize_by_imatrix(dir / model, dir / "out.gguf", format::q4_0, dir / "m", {}); });
    };
    const error none = failure("in.gguf", {{"blk.77.attn_q.weight", {{1}, {1}}}});
    CHECK(none.code == status::argument);
    CHECK(contains(none.text, "'blk.77.attn_q.weight'"));
    entries of = for_model(open(dir / "in.gguf"));
    of["blk.1.attn_k.weight"].sums.push_back(1);
    const error longer = failure("in.gguf", of);
    CHECK(longer.code == status::format);
    for (const char *const part : {"/m: ", "'blk.1.attn_k.weight'", "257 values", "1 x 256"})
        CHECK(contains(longer.text, part));
    of = for_model(open(dir / "experts.gguf"));
    const auto expert =
        std::find_if(of.begin(), of.end(), [](const auto &e) { return contains(e.first, "_exps"); });
    REQUIRE(expert != of.end());
    expert->second.sums.resize(expert->second.sums.size() / 2);
    expert->second.counts.resize(expert->second.counts.size() / 2);
    const error fewer = failure("experts.gguf", of);
    CHECK(fewer.code == status::format);
    CHECK(contains(fewer.text, expert->first));
    CHECK(file_bytes(dir / "out.gguf") == "an old file");
    CHECK(failure_of([&] {
              requantize_by_imatrix(dir / "in.gguf", dir / "out.gguf", format::q4_0, dir / "nowhere", {});
          }).code == status::io);
}

TEST_CASE("imatrix: bad GGUF files") {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    refused(as_gguf({{"a", {{1, -2}, {1}}}}), {"a.in_sum2", "value 1", "-2"});
    refused(as_gguf({{"a", {{nan, 2}, {1}}}}), {"a.in_sum2", "value 0", "nan"});
    refused(as_gguf({{"a", {{inf, 2}, {1}}}}), {"a.in_sum2", "inf"});
    refused(as_gguf({{"a", {{1, 2, 3, 4}, {1, -1}}}}), {"a.counts", "value 1", "-1"});
    refused(as_gguf({{"a", {{1, 2}, {nan}}}}), {"a.counts", "nan"});
    refused(as_gguf({{"a", {{1, 3e38f}, {1e-3f}}}}), {"a.counts", "0.001", "value 1"});
    refused(as_gguf({{"a", {{1, 2}, {1}}}}, "model"), {"general.type", "'model'", "imatrix"});
    refused(as_gguf({}), {"no entry"});
    using namespace gguf_bytes;
    spec s{.keys = {{"general.type", STRING, le_string("imatrix")}}, .data = zeros(256)};
    s.tensors = {{"a.in_sum2", {2}, 0, 0}};
    refused(s.bytes(), {"a.counts", "is missing"});
    s.tensors = {{"a.counts", {2}, 0, 0}};
    refused(s.bytes(), {"a.in_sum2", "is missing"});
    s.tensors = {{"a.in_sum2", {3}, 0, 0}, {"a.counts", {2}, 0, 32}};
    refused(s.bytes(), {"a.counts", "2", "3"});
    s.tensors = {{"a.in_sum2", {3}, 1, 0}, {"a.counts", {1}, 0, 32}};
    refused(s.bytes(), {"a.in_sum2", "f16", "f32"});
    s.tensors = {{"a.in_sum2", {2}, 0, 0}, {"a.counts", {1}, 0, 32}, {"a.in_sum2", {2}, 0, 64}};
    refused(s.bytes(), {"a.in_sum2"});
    s.keys = {};
    s.tensors = {{"a.in_sum2", {2}, 0, 0}, {"a.counts", {1}, 0, 32}};
    refused(s.bytes(), {"general.type", "missing"});
    s.keys = {{"general.type", STRING, le_string("imatrix")},
              {"imatrix.chunk_count", STRING, le_string("many")}};
    refused(s.bytes(), {"imatrix.chunk_count"});
    const std::string good = as_gguf({{"a", {{1, 2}, {1}}}});
    for (size_t n = 0; n < good.size(); ++n) CHECK(refusal(good.substr(0, n)).code == status::format);
}

TEST_CASE("imatrix: bad .dat files") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const auto entry_of = [](const std::string &name, int32_t calls, int32_t n, const std::string &values) {
        return le(static_cast<int32_t>(name.size())) + name + le(calls) + le(n) + values;
    };
    const std::string one = entry_of("one", 1, 1, le(1.0f));
    refused("", {"number of entries", "0 are left"});
    refused(le<int32_t>(0), {"number of entries", "0"});
    refused(le<int32_t>(-5), {"number of entries", "-5"});
    refused(le<int32_t>(INT32_MAX) + one, {"entry 2 of 2147483647", "0 are left"});
    refused(le<int32_t>(2) + one + one, {"entry 2 of 2 'one'", "twice"});
    refused(le<int32_t>(1) + entry_of("", 1, 1, le(1.0f)), {"entry 1 of 1", "length of its name", "0"});
    refused(le<int32_t>(1) + le<int32_t>(-1) + "x", {"entry 1 of 1", "length of its name", "-1"});
    refused(le<int32_t>(1) + le<int32_t>(INT32_MAX) + "x", {"its name", "2147483647", "1 are left"});
    refused(le<int32_t>(1) + entry_of("x", -1, 1, le(1.0f)), {"'x'", "calls", "-1"});
    refused(le<int32_t>(1) + entry_of("x", 1, 0, ""), {"'x'", "number of values", "0"});
    refused(le<int32_t>(1) + entry_of("x", 1, INT32_MAX, le(1.0f)),
            {"'x'", "values", "8589934588", "4 are left"});
    refused(le<int32_t>(1) + entry_of("x", 1, 2, le(1.0f) + le(-1.0f)), {"'x'", "value 1", "-1"});
    refused(le<int32_t>(1) + entry_of("x", 1, 1, le(nan)), {"'x'", "value 0", "nan"});
    refused(le<int32_t>(1) + one + "x", {"end", "1 are left"});
    refused(le<int32_t>(1) + one + le<int32_t>(-3), {"end", "chunks", "-3"});
    refused(le<int32_t>(1) + one + le<int32_t>(3) + le<int32_t>(100) + "x", {"end", "dataset", "100"});
    refused(le<int32_t>(1) + one + le<int32_t>(3) + le<int32_t>(1) + "xyz", {"end", "2 bytes too many"});
    refused(le<int32_t>(1) + entry_of("\x1b[2J", 1, 1, le(nan)), {"\\x1b"});
    const std::string good = as_dat({{"a", {{1, 2}, {1}}}, {"b", {{1}, {1}}}});
    for (size_t n = 0; n < good.size(); ++n)
        if (n != good.size() - 9 && n != good.size() - 13)
            CHECK(refusal(good.substr(0, n)).code == status::format);
}
