// The offsets of each layer's keys and values in a page of the cache.
#pragma once

#include "arch.h"

namespace ds {

struct page_layout {
    std::vector<kv_layout> layer;
    size_t page_bytes = 0;
};
page_layout make_page_layout(const arch &a, const hparams &h, format type);

}  // namespace ds
