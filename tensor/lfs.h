// A clone of a repository without Git LFS has a few lines in a large file's place, which name it (git-lfs's
// docs/spec.md). They are recognised wherever a file is read, so that the error says what the file is instead
// of what it is not.
#pragma once

#include "base.h"

#include <string_view>

namespace ds {

// Throws status::format where `bytes` are such lines.
void refuse_lfs_pointer(std::string_view bytes, const std::string &name);

}  // namespace ds
