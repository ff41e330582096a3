// Importance files as llama.cpp's imatrix tool writes them: for each column of a matrix, the mean square of
// its input.
#pragma once

#include "../tensor/os.h"

#include <map>
#include <string>
#include <vector>

namespace ds {

struct imatrix {
    std::string path;
    std::vector<std::string> datasets;  // what it was measured on, as the file says
    uint64_t chunks = 0;                // of text; 0: unknown
    // by the matrix's name: mean squares, [columns], or [matrices, columns] for experts or heads
    std::map<std::string, std::vector<float>> entries;
    std::vector<std::string> unread;  // the file's other tensors
};

// Both forms: GGUF (general.type "imatrix", tensors X.in_sum2 and X.counts), and the older .dat. Throws
// ds::error naming file, entry and value.
imatrix load_imatrix(const std::string &path);
imatrix parse_imatrix(os::mapping bytes, const std::string &name);

}  // namespace ds
