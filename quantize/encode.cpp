// Encodes tensors by rows, in the memory of two chunks of encoded rows and one decoded row a thread. A value
// that the target cannot hold is an error here, since encode_row does not check. I8 keeps its scales apart
// from its rows: they are an input of the job, and a result.

#include "encode.h"

#include "../tensor/numerics.h"

#include <cassert>
#include <cmath>
#include <future>
#include <thread>

namespace ds {

namespace {

constexpr uint64_t chunk_bytes = 8u << 20;

[[noreturn]] void refuse(const encode_job &e, int64_t row, int64_t column, float x) {
    std::string index;
    int64_t rest = row * e.ne.back() + column;
    if (e.order != reorder::none && e.ne.size() == 1) rest = row;
    for (size_t d = e.ne.size(); d-- > 0; rest /= e.ne[d])
        index = std::to_string(rest % e.ne[d]) + (index.empty() ? "" : ", ") + index;
    if (!e.e4m3.empty() && e.order == reorder::none) {
        const e4m3_scales &scales = e.e4m3[e.parts.empty() ? 0 : static_cast<size_t>(row / e.ne[1])];
        const int64_t stored = e.parts.empty() ? row : row % e.ne[1];
        if (const float s = scales.at(stored, column); !std::isfinite(s))
            throw error(status::numeric,
                        scales.location(stored, column) + ": " + shortest(s) + " is not a finite number");
    }
    const std::string text = e.where + "[" + index + "]: " + shortest(x);
    if (!std::isfinite(x)) throw error(status::numeric, text + " is not a finite number");
    throw error(status::numeric, text + " is too large for " + info(e.to).text + "; convert to bf16 instead");
}

// A tensor as rows that are encoded one by one. A vector whose elements are reordered has rows of one
// element.
struct row_view {
    int64_t rows, cols;
};
row_view rows_of(const encode_job &e) {
    if (e.ne.size() == 1 && e.order != reorder::none) return {e.ne[0], 1};
    int64_t rows = 1;
    for (size_t d = 0; d + 1 < e.ne.size(); ++d) rows *= e.ne[d];
    return {rows, e.ne.back()};
}

// Elements [c, c + n) of stored row `r`, which has `cols`.
void decode_stored(const encode_job &e, int64_t r, uint64_t cols, size_t c, float *out, size_t n) {
    const int64_t rows = e.parts.empty() ? r + 1 : e.ne[1], row = r % rows;
    const auto part = static_cast<size_t>(r / rows);
    const uint8_t *const data = e.parts.empty() ? e.data : e.parts[part];
    if (e.e4m3.empty())
        decode_row(e.from, data + static_cast<uint64_t>(row) * row_bytes(e.from, cols) + row_bytes(e.from, c),
                   out, n);
    else e.e4m3[part].decode_row(data + static_cast<uint64_t>(row) * cols, row, c, out, n);
}

// Row `r` of the transposed key part: a column of its head's key rows in kv_b.
void decode_key_column(const encode_job &e, int64_t r, float *out) {
    const int64_t rank = e.ne[1], first = r / rank * (e.whole_rows / e.heads);
    for (int64_t k = 0; k < e.ne[2]; ++k)
        decode_stored(e, first + k, static_cast<uint64_t>(rank), static_cast<size_t>(r % rank), out + k, 1);
}

void decode(const encode_job &e, const row_view &v, int64_t r, float *out) {
    if (e.order == reorder::key_part) return decode_key_column(e, r, out);
    const int64_t values = e.order == reorder::value_part ? e.ne[1] : 0,
                  both = values ? e.whole_rows / e.heads : 0;
    const int64_t from =
        values ? r / values * both + both - values + r % values : source_row(e.order, e.heads, v.rows, r);
    const auto n = static_cast<size_t>(v.cols);
    decode_stored(e, from, n, 0, out, n);
    const float row = (e.scales ? e.scales[from] : 1.0f) *
                      (e.factors.rows.empty() ? 1.0f : e.factors.rows[static_cast<size_t>(r)]);
    if (row != 1.0f)
        for (size_t c = 0; c < n; ++c) out[c] *= row;
    if (!e.factors.columns.empty())
        for (size_t c = 0; c < n; ++c) out[c] *= e.factors.columns[c];
    if (e.adapter.a) add_lora_row(e.adapter, 1, r, out, n);
}

// `scales`: of the rows from `first` on, for I8.
void encode_range(const encode_job &e, const row_view &v, int64_t first, int64_t last, uint8_t *out,
                  float *scales) {
    const float limit = magnitude_limit(e.to);
    const uint64_t encoded = row_bytes(e.to, static_cast<uint64_t>(v.cols));
    std::vector<float> row(static_cast<size_t>(v.cols));
    for (int64_t r = first; r < last; ++r, out += encoded) {
        decode(e, v, r, row.data());
        bool fits = true;
        for (const float x : row) fits &= std::fabs(x) < limit;
        for (size_t c = 0; !fits && c < row.size(); ++c)
            if (!(std::fabs(row[c]) < limit))
                refuse(e, source_row(e.order, e.heads, v.rows, r), static_cast<int64_t>(c), row[c]);
        if (e.to == format::i8)
            *scales++ = encode_row_i8(row.data(), reinterpret_cast<int8_t *>(out), row.size());
        else
            encode_row(e.to, row.data(), out, row.size(),
                       e.importance ? e.importance + r / (v.rows / e.importances) * v.cols : nullptr);
    }
}

}  // namespace

int64_t source_row(reorder order, int64_t heads, int64_t rows, int64_t r) {
    if (order != reorder::adjacent_pairs) return r;
    const int64_t size = rows / heads, head = r / size, within = r % size;
    return head * size + within % 2 * (size / 2) + within / 2;
}

void check_i8_columns(const std::string &where, int64_t columns) {
    if (columns > i8_most_columns)
        throw error(status::unsupported, where + ": rows of " + std::to_string(columns) +
                                             " are too long for int8, which can be computed with up to " +
                                             std::to_string(i8_most_columns));
}

void decode_job_row(const encode_job &e, int64_t r, float *out) { decode(e, rows_of(e), r, out); }

std::vector<float> encode_tensor(const encode_job &e, unsigned threads, const byte_sink &sink) {
    if (e.has_scales()) check_i8_columns(e.where, e.ne.back());
    const row_view v = rows_of(e);
    const uint64_t encoded = row_bytes(e.to, static_cast<uint64_t>(v.cols));
    std::vector<float> scales(e.has_scales() ? static_cast<size_t>(v.rows) : 0);
    if (e.verbatim) {
        assert(e.from == e.to);
        sink(e.data, static_cast<uint64_t>(v.rows) * encoded);
        std::copy_n(e.scales, scales.size(), scales.begin());
        return scales;
    }
    const auto rows_a_chunk =
        std::max<int64_t>(1, static_cast<int64_t>(chunk_bytes / std::max<uint64_t>(encoded, 1)));
    std::vector<uint8_t> out[2];  // one is encoded while the other is written
    std::future<void> written;
    for (int64_t first = 0, chunk = 0; first < v.rows; first += rows_a_chunk, ++chunk) {
        const int64_t n = std::min(rows_a_chunk, v.rows - first);
        std::vector<uint8_t> &bytes = out[chunk % 2];
        bytes.resize(static_cast<uint64_t>(n) * encoded);
        parallel_ranges(n, threads, [&](int64_t a, int64_t b) {
            encode_range(e, v, first + a, first + b, bytes.data() + static_cast<uint64_t>(a) * encoded,
                         scales.data() + (scales.empty() ? 0 : first + a));
        });
        if (written.valid()) written.get();
        const auto write = [&sink, &bytes] { sink(bytes.data(), bytes.size()); };
        if (first + n == v.rows) write();
        else written = std::async(std::launch::async, write);
    }
    return scales;
}

void add_tensors(gguf_writer &w, const std::vector<encode_job> &tensors) {
    for (const encode_job &e : tensors) {
        if (e.has_scales()) check_i8_columns(e.where, e.ne.back());  // before anything is written
        w.add_tensor(e.name, e.to, e.ne);
        if (e.has_scales())
            w.add_tensor(scale_name(e.name), format::f32, std::span(e.ne).first(e.ne.size() - 1));
    }
}

void write_tensors(const std::string &path, gguf_writer &w, const std::vector<encode_job> &tensors,
                   const job &j, const std::function<void(size_t i)> &written) {
    add_tensors(w, tensors);
    std::vector<size_t> job_of;  // by tensor of the file; an I8 tensor's scales have the same job
    for (size_t i = 0; i < tensors.size(); ++i)
        job_of.insert(job_of.end(), tensors[i].has_scales() ? 2 : 1, i);
    std::vector<float> scales;
    write_gguf(path, w, j, [&](size_t t, const byte_sink &sink) {
        if (t > 0 && job_of[t - 1] == job_of[t]) return sink(scales.data(), scales.size() * sizeof(float));
        scales = encode_tensor(tensors[job_of[t]], j.threads, sink);
        written(job_of[t]);
    });
}

void parallel_ranges(int64_t n, unsigned threads,
                     const std::function<void(int64_t first, int64_t last)> &run) {
    constexpr int64_t worthwhile = 16;  // rows; with fewer a thread costs more than it saves
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, n / worthwhile));
    std::vector<std::exception_ptr> failed(static_cast<size_t>(parts));
    const auto part = [&](int64_t p) {
        try {
            run(n * p / parts, n * (p + 1) / parts);
        } catch (...) {
            failed[static_cast<size_t>(p)] = std::current_exception();
        }
    };
    std::vector<std::jthread> others;
    for (int64_t p = 1; p < parts; ++p) others.emplace_back(part, p);
    part(0);
    others.clear();
    for (const std::exception_ptr &f : failed)
        if (f) std::rethrow_exception(f);
}

}  // namespace ds
