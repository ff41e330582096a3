// Sessions in files: a sequence of tokens and its cached pages. A restored session is used by every prompt of
// its client that begins with these tokens; the client may differ from the one that saved it.
#pragma once

#include "../model/adapter.h"
#include "../model/fingerprint.h"
#include "../model/kv_layout.h"
#include "../model/model.h"
#include "page_pool.h"

namespace ds {

// The file: this header; the tokens, i32; then each page as stored in the pool, followed by a checksum of its
// bytes. Numbers are in the writer's byte order, which is checked. The meaning of a page's bytes depends on
// the header's sizes alone, not on the instruction set or the number of threads (kv_layout).
struct session_header {
    char magic[8];
    // Changes with the file's format, with the layout of pages, and whenever the same tokens get other bits.
    uint32_t version;
    uint32_t byte_order;  // 0x01020304
    uint64_t file_bytes;
    uint64_t model;  // fingerprint; with an adapter also of that and its scale
    uint64_t tokens, pages, page_bytes;
    uint32_t page_positions, kv_type;                             // kv_type: a GGUF type number
    uint32_t vocabulary, layers, kv_heads, head_size, rope_size;  // widths as kv_layout has them
    uint32_t adapted;                                             // 1: made with an adapter
    uint64_t token_sum;                                           // checksum of the tokens
    uint64_t header_sum;                                          // of all before it
};
static_assert(sizeof(session_header) == 104);

// Whose a session is: a client's, made with an adapter or without.
struct session_key {
    uint64_t client = 0;
    const ds::adapter *adapter = nullptr;
    float adapter_scale = 1;

    page_owner owner() const { return {client, adapter ? adapter->key(adapter_scale) : 0}; }
};

// The model and the pages that a session is saved from or restored to.
struct session_pages {
    const model &m;
    format kv_type;
    const ds::host &host;
    page_pool &pool;
    page_book &book;
};

// Both return a number of positions: of the file's pages, or of those restored. If the pool has no room for
// all, the beginning is restored. Restored pages are cached like any others. After a failure to save there is
// no new file, and an existing one is unchanged. After a failure to restore no page of the file is cached,
// though others may have been dropped for it.
int64_t save_session(const session_pages &p, const session_key &key, std::span<const token_id> tokens,
                     const std::string &path);
// `count` receives the number of the session's tokens, even if `tokens` is too small for them
// (status::buffer).
int64_t restore_session(const session_pages &p, const session_key &key, const std::string &path,
                        std::span<token_id> tokens, size_t &count);

}  // namespace ds
