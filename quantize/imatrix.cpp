// GGUF: X.in_sum2 holds sums of squares, X.counts how many rows were summed, for all of X's values or for
// each of several equal parts (experts). A part with a count of 0 has no importances: all its columns count
// alike, as in llama.cpp.
// .dat, little endian: int32 entries; for each int32 length, name, int32 calls, int32 values, float32 values
// (the mean square times calls); then, except from old writers, int32 chunks, int32 length, the data set's
// name. Every count is checked against the rest of the file before memory is allocated.

#include "imatrix.h"

#include "../tensor/gguf.h"
#include "../tensor/numerics.h"

#include <cmath>
#include <cstring>

namespace ds {

namespace {

constexpr std::string_view sums_suffix = ".in_sum2", counts_suffix = ".counts", type_key = "general.type",
                           type_text = "imatrix";

[[noreturn]] void refuse(const std::string &file, const std::string &where, const std::string &text) {
    throw error(status::format, file + ": " + where + ": " + text);
}

// ---- GGUF

std::vector<float> numbers(const gguf_file &f, const gguf_tensor &t) {
    if (t.type != format::f32) f.fail(t.name, std::string("is ") + info(t.type).text + ", must be f32");
    std::vector<float> out(t.bytes / sizeof(float));
    decode_row(format::f32, t.data, out.data(), out.size());
    for (size_t i = 0; i < out.size(); ++i)
        if (!finite_f32(out[i]) || out[i] < 0)
            f.fail(t.name, "value " + std::to_string(i) + " is " + shortest(out[i]));
    return out;
}

std::vector<float> means(const gguf_file &f, const gguf_tensor &sums, const gguf_tensor &of) {
    std::vector<float> out = numbers(f, sums);
    const std::vector<float> counts = numbers(f, of);
    if (out.size() % counts.size() != 0)
        f.fail(of.name, "has " + std::to_string(counts.size()) + " values, which do not divide the " +
                            std::to_string(out.size()) + " of the sums");
    const size_t part = out.size() / counts.size();
    for (size_t i = 0; i < out.size(); ++i) {
        const float count = counts[i / part];
        out[i] = count > 0 ? out[i] / count : 1.0f;
        if (!finite_f32(out[i]))
            f.fail(of.name, "value " + std::to_string(i / part) + " is " + shortest(count) +
                                ", by which value " + std::to_string(i) + " of the sums cannot be divided");
    }
    return out;
}

imatrix parse_gguf(const gguf_file &f) {
    imatrix out{f.name(), {}, f.get_uint("imatrix.chunk_count", UINT32_MAX, 0), {}, {}};
    if (const std::string_view type = f.get_string(type_key, ""); type != type_text)
        f.fail(type_key, (type.empty() ? "is missing" : "is " + quoted(type.data(), type.size())) +
                             ", must be \"" + std::string(type_text) + "\"");
    if (f.has("imatrix.datasets"))
        for (const std::string_view s : f.get_strings("imatrix.datasets")) out.datasets.emplace_back(s);
    for (const gguf_tensor &t : f.tensors()) {
        const bool sums = t.name.ends_with(sums_suffix), counts = t.name.ends_with(counts_suffix);
        const std::string name(t.name.substr(0, t.name.size() - (sums     ? sums_suffix
                                                                 : counts ? counts_suffix
                                                                          : "")
                                                                    .size()));
        const gguf_tensor *const other =
            f.find_tensor(name + std::string(sums ? counts_suffix : sums_suffix));
        if (!sums && !counts) out.unread.push_back(name);
        else if (!other)
            f.fail(name + std::string(sums ? counts_suffix : sums_suffix),
                   std::string("is missing, but there are ") + (sums ? "sums" : "counts"));
        else if (sums) out.entries.emplace(name, means(f, t, *other));
    }
    if (out.entries.empty()) throw error(status::format, f.name() + ": holds no entry");
    return out;
}

// ---- .dat

struct dat_reader {
    const os::mapping &bytes;
    const std::string &file;
    size_t at = 0;

    size_t left() const { return bytes.size() - at; }
    const uint8_t *take(uint64_t n, const std::string &where, const char *what) {
        if (n > left())
            refuse(file, where,
                   std::string(what) + " has " + std::to_string(n) + " bytes, but " + std::to_string(left()) +
                       " are left of the file");
        at += n;
        return bytes.data() + (at - n);
    }
    // An integer of at least `least`.
    int32_t number(const std::string &where, const char *what, int32_t least) {
        int32_t out;
        memcpy(&out, take(sizeof out, where, what), sizeof out);
        if (out < least) refuse(file, where, std::string(what) + " is " + std::to_string(out));
        return out;
    }
    std::string text(const std::string &where, const char *length, const char *what, int32_t least) {
        const auto n = static_cast<size_t>(number(where, length, least));
        return {reinterpret_cast<const char *>(take(n, where, what)), n};
    }
};

void read_entry(dat_reader &r, const std::string &entry, imatrix &out) {
    std::string name = r.text(entry, "length of its name", "its name", 1);
    const std::string where = entry + " " + quoted(name);
    const int32_t calls = r.number(where, "number of calls", 0), n = r.number(where, "number of values", 1);
    const uint8_t *const data = r.take(static_cast<uint64_t>(n) * sizeof(float), where, "its values");
    std::vector<float> values(static_cast<size_t>(n));
    decode_row(format::f32, data, values.data(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        if (!finite_f32(values[i]) || values[i] < 0)
            refuse(r.file, where, "value " + std::to_string(i) + " is " + shortest(values[i]));
        if (calls > 0) values[i] /= static_cast<float>(calls);
    }
    if (!out.entries.emplace(std::move(name), std::move(values)).second)
        refuse(r.file, where, "appears twice");
}

imatrix parse_dat(const os::mapping &bytes, const std::string &name) {
    imatrix out{name, {}, 0, {}, {}};
    dat_reader r{bytes, name};
    const int32_t n = r.number("header", "number of entries", 1);
    for (int32_t i = 0; i < n; ++i)
        read_entry(r, "entry " + std::to_string(i + 1) + " of " + std::to_string(n), out);
    if (r.left() > 0) out.chunks = static_cast<uint64_t>(r.number("end", "number of chunks", 0));
    if (r.left() > 0)
        out.datasets.push_back(r.text("end", "length of the dataset's name", "the dataset's name", 0));
    if (r.left() > 0) refuse(name, "end", std::to_string(r.left()) + " bytes too many");
    return out;
}

}  // namespace

imatrix parse_imatrix(os::mapping bytes, const std::string &name) {
    if (bytes.size() >= 4 && memcmp(bytes.data(), "GGUF", 4) == 0)
        return parse_gguf(gguf_file(std::move(bytes), name));
    return parse_dat(bytes, name);
}

imatrix load_imatrix(const std::string &path) { return parse_imatrix(os::mapping::map_file(path), path); }

}  // namespace ds
