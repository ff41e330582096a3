// Shapes and strides. A contiguous tensor's strides follow from its shape; nothing here reads data.
#include "tensor.h"

#include <cassert>

namespace ds {

tensor make_tensor(format type, std::span<const int64_t> ne) {
    assert(!ne.empty() && ne.size() <= max_rank);
    tensor t;
    t.type = type;
    t.rank = static_cast<int>(ne.size());
    int64_t step = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
        t.ne[i] = ne[i];
        t.stride[i] = step;
        step *= ne[i];
    }
    return t;
}

int64_t elements(const tensor &t) { return t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]; }

size_t tensor_bytes(const tensor &t) { return row_bytes(t.type, static_cast<uint64_t>(elements(t))); }

bool contiguous(const tensor &t) {
    int64_t step = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
        if (t.ne[i] != 1 && t.stride[i] != step) return false;
        step *= t.ne[i];
    }
    return true;
}

bool same_shape(const tensor &a, const tensor &b) {
    for (int i = 0; i < max_rank; ++i)
        if (a.ne[i] != b.ne[i]) return false;
    return a.rank == b.rank;
}

std::string shape_text(const tensor &t) {
    std::string s = std::string(info(t.type).text) + "[";
    for (int i = 0; i < t.rank; ++i) s += (i ? ", " : "") + std::to_string(t.ne[i]);
    return s + "]";
}

}  // namespace ds
