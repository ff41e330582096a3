// Speed of the vocabulary: loading it, and encoding ordinary and worst-case texts.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace bench {

struct vocabulary_speed {
    size_t tokens = 0;
    double load_seconds = 0;  // from opening the file to a usable vocabulary; the best of several tries
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
