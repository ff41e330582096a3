// Sessions in files: a sequence of tokens, and those of its pages that are known. It is found again, under
// any client, by whoever submits a prompt that begins with it.
#pragma once

#include "../model/fingerprint.h"
#include "../model/kv_layout.h"
#include "../model/model.h"
#include "page_pool.h"

namespace ds {

// The file: this header; the tokens, i32; then each page, as it lies in the pool, and the checksum of its
// bytes. Numbers are in the writer's byte order, which is checked. What a page's bytes mean depends on the
// header's sizes and on nothing else: neither on the instruction set nor on the number of threads
// (kv_layout).
struct session_header {
    char magic[8];
    // changes with the file's form, with the layout of pages, and when the same tokens get other bits
    uint32_t version;
    uint32_t byte_order;  // 0x01020304
    uint64_t file_bytes;
    uint64_t model;  // its fingerprint
    uint64_t tokens, pages, page_bytes;
    uint32_t page_positions, kv_type;                                   // kv_type: a number of GGUF
    uint32_t vocabulary, layers, kv_heads, head_size, rope_size, zero;  // widths as kv_layout has them
    uint64_t token_sum;                                                 // checksum of the tokens
    uint64_t header_sum;                                                // of all before it
};
static_assert(sizeof(session_header) == 104);

// Whose pages.
struct session_pages {
    const model &m;
    format kv_type;
    const ds::host &host;
    page_pool &pool;
    page_book &book;
};

// Both give how many positions the file's pages hold, or the restored ones: in a pool with less room the
// beginning is restored. Restored pages are kept like others that nobody holds. A failure to save leaves no
// file (an earlier one stays), a failure to restore no page, though it may have displaced kept ones.
int64_t save_session(const session_pages &p, uint64_t client, std::span<const token_id> tokens,
                     const std::string &path);
// `count`: receives the tokens there are, also when `tokens` has no room for them, which is status::buffer.
int64_t restore_session(const session_pages &p, uint64_t client, const std::string &path,
                        std::span<token_id> tokens, size_t &count);

}  // namespace ds
