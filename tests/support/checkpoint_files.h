// A checkpoint of tests/data in memory, to be changed and saved for the converter's tests.
#pragma once

#include "files.h"

#include <nlohmann/json.hpp>

namespace ds::test {

struct checkpoint_files {
    nlohmann::json config, tokenizer, tokenizer_config;
    raw_tensors tensors;

    explicit checkpoint_files(const std::string &name);
    void save(const std::string &directory, bool weights = true) const;
};

}  // namespace ds::test
