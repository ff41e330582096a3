// One tensor, from its stored format to the target format: decoded, reordered, checked and encoded by rows.
#pragma once

#include "fp8.h"
#include "policy.h"

#include "../llm/model/adapter.h"

namespace ds {

// Factors on a tensor's rows and columns; empty: none.
struct multipliers {
    std::vector<float> rows, columns;
};

struct encode_job {
    std::string name;     // in the output
    std::string where;    // source file and tensor, for messages
    const uint8_t *data;  // the stored rows, contiguous
    format from, to;
    std::vector<int64_t> ne;  // outermost first
    reorder order = reorder::none;
    int64_t heads = 1;                        // for `order`
    const float *scales = nullptr;            // from I8: of each stored row
    multipliers factors = {};                 // applied after decoding
    const float *importance = nullptr;        // of each column, for formats that minimise the error
    int64_t importances = 1;                  // the number of such sets, one a matrix
    std::vector<const uint8_t *> parts = {};  // instead of `data`: ne[0] matrices
    int64_t whole_rows = 0;                   // for the key or value part of kv_b: the rows of both
    // of `data`, or of each of `parts`: the stored rows are E4M3 codes with these scales, and `from` is
    // ignored
    std::vector<e4m3_scales> e4m3 = {};
    lora_matrix adapter = {};  // what an adapter adds to the decoded rows, unless its a is null
    bool verbatim = false;     // copy the stored bytes; `from` equals `to`

    bool has_scales() const { return to == format::i8 && (scales || !verbatim); }  // the result has them
};

// Passes the encoded bytes to `sink` in order, a few megabytes at a time, from this thread or another. The
// bytes do not depend on `threads`. To I8: returns the rows' scales. Throws status::numeric, naming the
// element, for a value that is not finite or too large for the format.
std::vector<float> encode_tensor(const encode_job &e, unsigned threads, const byte_sink &sink);

// Row `r` of the result as f32, unchecked.
void decode_job_row(const encode_job &e, int64_t r, float *out);

// Adds to the writer the tensors that write_tensors writes, in their order; one of I8 is followed by its
// rows' scales.
void add_tensors(gguf_writer &w, const std::vector<encode_job> &tensors);

// Writes the file. `w` has its keys and no tensors yet. `written(i)` is called when tensor i's source is no
// longer needed.
void write_tensors(const std::string &path, gguf_writer &w, const std::vector<encode_job> &tensors,
                   const job &j, const std::function<void(size_t i)> &written);

// The stored row that becomes row `r` of `rows` (see `reorder` in arch.h).
int64_t source_row(reorder order, int64_t heads, int64_t rows, int64_t r);

// Throws, naming the tensor, if rows of I8 would be too long for its sums.
void check_i8_columns(const std::string &where, int64_t columns);

// Splits [0, n) among threads; rethrows the exception of the lowest range, if any.
void parallel_ranges(int64_t n, unsigned threads,
                     const std::function<void(int64_t first, int64_t last)> &run);

}  // namespace ds
