// Speed of the vocabulary: loading it, and turning texts into tokens, ordinary ones and the worst.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace bench {

struct vocabulary_speed {
    size_t tokens = 0;
    double load_seconds = 0;  // file opened to vocabulary ready; the best of some
    struct line {
        std::string name;
        size_t bytes, tokens;
        double seconds;  // the best of some
    };
    std::vector<line> encode, decode;
};

// Throws ds::error.
vocabulary_speed measure_vocabulary(const std::string &path);

}  // namespace bench
