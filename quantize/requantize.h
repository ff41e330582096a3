// A GGUF file's tensors in another format, or in other files; the metadata stays.
#pragma once

#include "encode.h"

namespace ds {

// From any format that runs to `type`, one of target_formats(). Tensors that the architecture keeps in F32 or
// does not have are copied. Throws ds::error naming file and tensor; a file at `out` is then unchanged.
// `in` and `out` may be the same path.
void requantize(const std::string &in, const std::string &out, format type, const job &j);

// The same, with each column's errors weighted by its input's mean square in the calibration file `stats`.
void requantize_weighted(const std::string &in, const std::string &out, format type, const std::string &stats,
                         const job &j);

// The same, weighted by the importances of llama.cpp's file `path` (imatrix.h). Remarks name matrices without
// an entry, and unused entries. Throws status::format where an entry does not fit its matrix, and
// status::argument if none fits a matrix that is encoded.
void requantize_by_imatrix(const std::string &in, const std::string &out, format type,
                           const std::string &path, const job &j);

// Adds an adapter (adapter.h), `scale` times, to the model's matrices. Those it changes stay in their
// formats, or become `type`, as do all others then. Throws status::unsupported where such a format cannot be
// written.
void apply_adapter(const std::string &in, const std::string &adapter_path, float scale,
                   const std::optional<format> &type, const std::string &out, const job &j);

// Copies tensors and keys, of any architecture. A model in parts becomes one file, or with j.split other
// parts.
void copy_gguf(const std::string &in, const std::string &out, const job &j);

// A model file's tensors as encoding jobs, in the file's order; the scales of I8 are part of their tensors'
// jobs. `to` returns the format for a tensor that the architecture has and does not keep in F32. The jobs
// point into the file's bytes.
std::vector<encode_job> jobs_of(const gguf_file &f,
                                const std::function<format(const tensor_row &row, format from)> &to);

// Writes jobs of `f`, with the keys of `f` and then those of `set_keys`; size_of_jobs returns that file's
// size.
using key_setter = std::function<void(gguf_writer &)>;
void write_jobs(const gguf_file &f, const std::vector<encode_job> &jobs, const std::string &out,
                const key_setter &set_keys, const job &j);
uint64_t size_of_jobs(const gguf_file &f, const std::vector<encode_job> &jobs, const key_setter &set_keys);

// The remark on an int8 file without calibration.
extern const char *const uncalibrated_remark;

}  // namespace ds
