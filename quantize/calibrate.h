// Statistics of the inputs of a model's matrix products: measured on texts, saved to a file, and loaded to
// choose SmoothQuant's scales or to weight the errors of formats of few bits.
#pragma once

#include "text.h"

namespace ds {

// The input of one product, or of several that share it (q, k and v).
struct linear_input {
    std::string name;                // of the first matrix that reads it
    std::vector<float> largest;      // |x|, by channel
    std::vector<float> mean_square;  // by channel: how much an error in its weights matters
    std::vector<float> samples;      // [rows, channels], of rows spread evenly over the texts

    size_t channels() const { return largest.size(); }
    size_t rows() const { return samples.size() / channels(); }
};

struct calibration {
    std::string path, model_name;  // of the file; general.name of the model that was measured
    std::string fingerprint;
    uint64_t tokens = 0;
    std::vector<linear_input> inputs;

    // throws status::format when it is missing or has another number of channels
    const linear_input &input_of(const std::string &matrix, int64_t channels) const;
};

// A hash of the norms and biases, which every file of a model holds as floats: the same for every number
// format, another for another model.
std::string fingerprint_of(const gguf_file &f);

struct calibrate_options {
    // tokens of a window; 0: 512, or the model's context if that is shorter
    int64_t window = 0;
    uint64_t tokens = 65536;  // at most; windows are dropped evenly
};

// Runs the model in the file `path` over the texts. Throws status::numeric when an activation is not finite.
calibration calibrate(const std::string &path, const std::vector<std::string> &texts,
                      const calibrate_options &o, const job &j);

// The file: GGUF with keys deepseek.calibration.* and for each input X the F32 tensors X.largest,
// X.mean_square and X.samples.
void save(const calibration &c, const std::string &path);
calibration load_calibration(const std::string &path);  // throws, naming file and field
calibration parse_calibration(os::mapping bytes, const std::string &path);
// throws status::argument when it was measured on another model
void check_fits(const calibration &c, const gguf_file &f);

}  // namespace ds
