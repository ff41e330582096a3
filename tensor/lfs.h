// Git LFS pointers: in a clone made without Git LFS, a few lines that name a large file stand in for it
// (git-lfs's docs/spec.md). They are recognised wherever a file is read, so that the error says what the file
// is rather than what it is not.
#pragma once

#include "base.h"

#include <string_view>

namespace ds {

// Throws status::format if `bytes` are a pointer.
void refuse_lfs_pointer(std::string_view bytes, const std::string &name);

}  // namespace ds
