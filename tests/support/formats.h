// Formats and checkpoints that tests mean by "all of them", from the library's tables and the folders of
// tests/data.
#pragma once

#include "../../tensor/blocks.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace ds::test {

// Formats that a conversion can give to every matrix of a model. The other packed ones become mixes
// (quantize/policy.h), or need rows that the micro checkpoints do not have.
inline std::vector<format> uniform_formats() {
    std::vector<format> out;
    for (int i = 0; i < static_cast<int>(format::count); ++i) {
        const auto f = static_cast<format>(i);
        if (info(f).runs && info(f).writes && (!is_packed(f) || f == format::q8_0)) out.push_back(f);
    }
    return out;
}

// The folders of tests/data/micro as "micro/llama", in alphabetical order.
inline std::vector<std::string> micro_checkpoints() {
    std::vector<std::string> out;
    for (const auto &entry : std::filesystem::directory_iterator(DS_SOURCE_DIR "/tests/data/micro"))
        out.push_back("micro/" + entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
}

}  // namespace ds::test
