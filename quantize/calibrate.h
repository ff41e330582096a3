// What goes into a model's products when it reads texts: measured, kept in a file, and read back to choose
// SmoothQuant's scales.
#pragma once

#include "text.h"

namespace ds {

// The input of one or several products (q, k and v share one).
struct linear_input {
    std::string name;                // of the first matrix that it goes into
    std::vector<float> largest;      // |x| of each channel
    std::vector<float> mean_square;  // of each channel: how much an error in its weights matters
    std::vector<float> samples;      // [rows, channels], of rows spread evenly over the texts

    size_t channels() const { return largest.size(); }
    size_t rows() const { return samples.size() / channels(); }
};

struct calibration {
    std::string path, model_name;  // where it was read; general.name of the model it was measured on
    std::string fingerprint;
    uint64_t tokens = 0;
    std::vector<linear_input> inputs;

    // throws status::format when it is not there or has other channels
    const linear_input &input_of(const std::string &matrix, int64_t channels) const;
};

// Of what every float file of a model holds alike, its norms and biases: the same for every number format,
// another for another model.
std::string fingerprint_of(const gguf_file &f);

struct calibrate_options {
    // tokens that are read together; 0: 512, or the model's context where that is shorter
    int64_t window = 0;
    uint64_t tokens = 65536;  // at most; windows are left out evenly
};

// Runs the model in the file `path` over the texts. Throws status::numeric when it gives what is not a
// number.
calibration calibrate(const std::string &path, const std::vector<std::string> &texts,
                      const calibrate_options &o, const job &j);

// The file: GGUF with keys deepseek.calibration.* and for each input X the F32 tensors X.largest,
// X.mean_square and X.samples.
void save(const calibration &c, const std::string &path);
calibration load_calibration(const std::string &path);  // throws naming file and field
calibration parse_calibration(os::mapping bytes, const std::string &path);
// throws status::argument when it was measured on another model
void check_fits(const calibration &c, const gguf_file &f);

}  // namespace ds
