// A page holds 64 positions of every layer: layer after layer, keys before values.
#include "kv_layout.h"

namespace ds {

page_layout make_page_layout(const arch &a, const hparams &h, format type) {
    page_layout p;
    const kv_widths w = a.kv(h);
    for (int64_t i = 0; i < h.layers; ++i) {
        kv_layout l{type,
                    static_cast<int32_t>(w.kv_heads),
                    static_cast<int32_t>(w.head_size),
                    static_cast<int64_t>(p.page_bytes),
                    0,
                    static_cast<int32_t>(w.rope_size)};
        l.v_offset = l.k_offset + static_cast<int64_t>(l.k_bytes());
        p.layer.push_back(l);
        p.page_bytes += l.k_bytes() + l.v_bytes();
    }
    return p;
}

}  // namespace ds
