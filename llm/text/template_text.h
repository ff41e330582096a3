// Fingerprints of Jinja templates. Two texts with the same fingerprint have the same tags and the same text
// between them, after white space that Jinja drops has been dropped (inside tags, beside "-" marks, and what
// trim_blocks and lstrip_blocks remove, which transformers sets), comments removed, and strings unescaped.
// Nothing is executed.
#pragma once

#include <cstdint>
#include <string_view>

namespace ds {

uint64_t template_fingerprint(std::string_view jinja);  // FNV-1a of the normalised text

}  // namespace ds
