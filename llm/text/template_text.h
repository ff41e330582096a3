// The text of a Jinja template, compared by what it renders: two texts with one fingerprint have the same
// tags and the same text between them, once white space that Jinja drops (inside tags, beside "-" marks, and
// what trim_blocks and lstrip_blocks remove, which transformers sets) is dropped, comments are left out, and
// strings are unescaped. Nothing is executed.
#pragma once

#include <cstdint>
#include <string_view>

namespace ds {

uint64_t template_fingerprint(std::string_view jinja);  // FNV-1a of what remains

}  // namespace ds
