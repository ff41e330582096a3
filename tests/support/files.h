// Directories and files made, changed and read for tests, and the errors that calls throw.
#pragma once

#include "../../tensor/base.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <unistd.h>

namespace ds::test {

namespace fs = std::filesystem;

struct temp_dir {
    std::string path = (fs::temp_directory_path() / "deepseek-test-XXXXXX").string();
    temp_dir() { REQUIRE(mkdtemp(path.data()) != nullptr); }
    temp_dir(const temp_dir &) = delete;
    ~temp_dir() { fs::remove_all(path); }
    std::string operator/(const std::string &name) const { return path + "/" + name; }
    size_t entries() const {
        return static_cast<size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
    }
};

inline std::string file_bytes(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE_MESSAGE(in, path);
    std::stringstream all;
    all << in.rdbuf();
    return std::move(all).str();
}
inline void write_bytes(const std::string &path, const std::string &bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string data_path(const std::string &name) { return DS_SOURCE_DIR "/tests/data/" + name; }

// Published tokenizers and vocabularies, which are too large for the repository. Tests that need them skip
// when they are missing.
inline std::string reference_path(const std::string &name) {
    return DS_SOURCE_DIR "/../shared/reference/" + name;
}

// What a call throws; fails the test when it throws nothing.
inline error failure_of(const std::function<void()> &call) {
    try {
        call();
    } catch (const error &e) {
        return e;
    }
    FAIL_CHECK("nothing was thrown");
    return error(status::ok, "");
}
inline bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

}  // namespace ds::test
