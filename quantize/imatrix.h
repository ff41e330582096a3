// Importance files as llama.cpp's imatrix tool writes them: of each matrix, the mean square of what each of
// its columns is multiplied by.
#pragma once

#include "../tensor/os.h"

#include <map>
#include <string>
#include <vector>

namespace ds {

struct imatrix {
    std::string path;
    std::vector<std::string> datasets;  // what it was measured on, as the file says
    uint64_t chunks = 0;                // of text; 0: not told
    // by the matrix's name: its columns' mean squares, or those of each of several matrices (experts, heads)
    // in turn
    std::map<std::string, std::vector<float>> entries;
    std::vector<std::string> unread;  // tensors of the file that are none of these
};

// Both forms: GGUF (general.type "imatrix", tensors X.in_sum2 and X.counts), and the older .dat. Throws
// ds::error naming file, entry and value.
imatrix load_imatrix(const std::string &path);
imatrix parse_imatrix(os::mapping bytes, const std::string &name);

}  // namespace ds
