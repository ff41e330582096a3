// One tensor from the format it is stored in to the format it is to have: decoded, reordered, checked and
// encoded by rows.
#pragma once

#include "fp8.h"
#include "policy.h"

namespace ds {

// What a tensor's rows and columns are multiplied by; empty: nothing.
struct multipliers {
    std::vector<float> rows, columns;
};

struct encode_job {
    std::string name;     // in the file to be written
    std::string where;    // file and tensor it comes from, for messages
    const uint8_t *data;  // the stored rows, contiguous
    format from, to;
    std::vector<int64_t> ne;  // outermost first
    reorder order = reorder::none;
    int64_t heads = 1;                        // for `order`
    const float *scales = nullptr;            // from I8: what each stored row is multiplied by
    multipliers factors = {};                 // applied to what is decoded
    const float *importance = nullptr;        // of each column, for formats that look for the least error
    int64_t importances = 1;                  // so many sets of them, one for each of as many matrices
    std::vector<const uint8_t *> parts = {};  // instead of `data`: a matrix each for ne[0] matrices
    int64_t whole_rows = 0;                   // for the parts of kv_b: the rows of both
    // of `data`, or of each of `parts`: the stored rows are E4M3 codes with these scales, and `from` does not
    // count
    std::vector<e4m3_scales> e4m3 = {};
    bool verbatim = false;  // the stored bytes, whatever they are; `from` is `to`

    bool has_scales() const { return to == format::i8 && (scales || !verbatim); }  // as a result
};

// Gives the encoded bytes to `sink` in order, a few megabytes at a time, on one thread or another; memory is
// bounded by that. The bytes do not depend on `threads`. To I8: returns the rows' scales. Throws
// status::numeric, naming the element, for a value that is not finite or too large for the format.
std::vector<float> encode_tensor(const encode_job &e, unsigned threads, const byte_sink &sink);

// Row `r` of the result as f32, unchecked.
void decode_job_row(const encode_job &e, int64_t r, float *out);

// Describes to the writer what write_tensors is to write: the tensors in their order, one of I8 followed by
// its rows' scales, X.weight_scale.
void add_tensors(gguf_writer &w, const std::vector<encode_job> &tensors);

// Writes the file. `w` has its keys and no tensors yet. `written(i)` is called when tensor i's source is
// needed no more.
void write_tensors(const std::string &path, gguf_writer &w, const std::vector<encode_job> &tensors,
                   const job &j, const std::function<void(size_t i)> &written);

// The stored row that becomes row `r` of `rows` (see `reorder` in arch.h).
int64_t source_row(reorder order, int64_t heads, int64_t rows, int64_t r);

// Refuses i8 for rows that are too long for its sums, by the name of the tensor.
void check_i8_columns(const std::string &where, int64_t columns);

// Splits [0, n) among threads; the exception of the lowest part, if any, is thrown on.
void parallel_ranges(int64_t n, unsigned threads,
                     const std::function<void(int64_t first, int64_t last)> &run);

}  // namespace ds
