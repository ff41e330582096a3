#include "lora.h"

#include <cmath>

namespace ds {

std::vector<tensor_row> lora_rows(const model &m, int64_t rank) {
    std::vector<tensor_row> out;
    for (const tensor_row &row : adaptable_rows(m)) {
        tensor_row a = row, b = row;
        a.name += ".lora_a", b.name += ".lora_b";
        a.ne = {rank, row.ne[1]}, b.ne = {row.ne[0], rank};
        out.push_back(std::move(a));
        out.push_back(std::move(b));
    }
    return out;
}

adaptation lora_adaptation(const model &m, const model_weights &w, std::span<const tensor *const> trained,
                           float scale) {
    adaptation out;
    const std::vector<tensor_row> rows = adaptable_rows(m);
    for (size_t i = 0; i < rows.size(); ++i)
        out.weights.emplace(
            slot_of(w, rows[i]),
            adaptation::of_weight{static_cast<int32_t>(i), trained[2 * i], trained[2 * i + 1], scale});
    return out;
}

void lora_start(tensor &t, size_t index) {
    auto *const x = static_cast<float *>(t.data);
    const bool is_a = index % 2 == 0;
    const float bound = is_a ? 1.0f / std::sqrt(static_cast<float>(t.ne[1])) : 0.0f;
    uint64_t state = index;  // splitmix64 (Steele, Lea, Flood 2014), a stream a matrix
    for (int i = 0; i < 2; ++i) state = (state + 1) * 0x9e3779b97f4a7c15ull;
    for (int64_t i = 0; i < elements(t); ++i) {
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        // 24 bits of it, of both signs, so that the product is rounded once
        x[i] = static_cast<float>(static_cast<int32_t>(z >> 40) - (1 << 23)) * 0x1p-23f * bound;
    }
}

}  // namespace ds
