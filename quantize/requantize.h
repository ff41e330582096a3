// A GGUF file's tensors in another format, or in other files; the metadata stays.
#pragma once

#include "encode.h"

namespace ds {

// From any format that runs to `type`, one of target_formats(). Tensors that the architecture keeps in F32,
// or does not know, are copied as they are. Throws ds::error naming file and tensor; nothing is left under
// `out` then but what was there before. `in` and `out` may be the same path.
void requantize(const std::string &in, const std::string &out, format type, const job &j);

// The same, each column's errors counting as its input's mean square in the file `stats` of a calibration.
void requantize_weighted(const std::string &in, const std::string &out, format type, const std::string &stats,
                         const job &j);

// The same by the importances of llama.cpp's file `path` (imatrix.h); remarks name what it lacks and what of
// it is not used. Throws status::format where an entry does not fit its matrix, status::argument where none
// is of a matrix that is encoded.
void requantize_by_imatrix(const std::string &in, const std::string &out, format type,
                           const std::string &path, const job &j);

// The same tensors and keys, whatever the architecture: of a model in parts the one file that was split, and
// with j.split parts of it.
void copy_gguf(const std::string &in, const std::string &out, const job &j);

// A model's file as jobs that encode its tensors anew, in the file's order; scales of I8 belong to their
// tensors' jobs. `to` names the format of a tensor that the architecture knows and does not keep in F32. The
// jobs point into the file's bytes.
std::vector<encode_job> jobs_of(const gguf_file &f,
                                const std::function<format(const tensor_row &row, format from)> &to);

// Writes jobs of `f`, keys from `f` and then from `set_keys`; and how large that file would be.
using key_setter = std::function<void(gguf_writer &)>;
void write_jobs(const gguf_file &f, const std::vector<encode_job> &jobs, const std::string &out,
                const key_setter &set_keys, const job &j);
uint64_t size_of_jobs(const gguf_file &f, const std::vector<encode_job> &jobs, const key_setter &set_keys);

// What one should know who makes an int8 file without calibration.
extern const char *const uncalibrated_remark;

}  // namespace ds
