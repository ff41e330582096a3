// kv_write on the CPU: positions are shared out. A key's elements are stored 64 apart, a value's side by
// side; in pages of i8 the other way round. Latent pages: floats side by side, both parts of i8 as keys are
// (layout: kv_layout).

#include "../variants.h"

namespace ds {

static bool fits(const cpu &, const node &n) {
    const format type = n.as<kv_layout>().type;
    return type == format::f16 || type == format::f32;
}

static void put_key(const cpu &c, const kv_layout &l, const float *k, size_t d, char *to) {
    uint16_t some[64];
    if (l.type == format::f32) {
        for (size_t i = 0; i < d; ++i) reinterpret_cast<float *>(to)[i * page_positions] = k[i];
        return;
    }
    for (size_t begin = 0; begin < d; begin += std::size(some)) {
        const size_t count = std::min(std::size(some), d - begin);
        c.vec->floats->encode_f16(k + begin, some, count);
        for (size_t i = 0; i < count; ++i)
            reinterpret_cast<uint16_t *>(to)[(begin + i) * page_positions] = some[i];
    }
}

static void put_row(const cpu &c, const kv_layout &l, const float *v, size_t d, char *to) {
    if (l.type == format::f32) std::memcpy(to, v, d * sizeof(float));
    else c.vec->floats->encode_f16(v, reinterpret_cast<uint16_t *>(to), d);
}

static void run(cpu &c, const node &n, char *) {
    const tensor &k = *n.src[0], &v = *n.src[1], &pages = *n.src[2], &slots = *n.src[3];
    const kv_layout &l = n.as<kv_layout>();
    const int64_t element = info(l.type).bytes;
    share_range(c, static_cast<size_t>(k.ne[0]), elements(k) * 2, [&](size_t begin, size_t end, unsigned) {
        for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
            const int32_t slot = *i32_at(slots, i);
            char *page = at(pages, slot / page_positions);
            const int64_t t = slot % page_positions;
            const size_t d = static_cast<size_t>(l.head_size);
            if (l.rope_size) {
                char *const row = page + l.k_offset + t * (l.head_size + l.rope_size) * element;
                put_row(c, l, f32_at(k, i), d, row);
                put_row(c, l, f32_at(v, i), static_cast<size_t>(l.rope_size), row + l.head_size * element);
                continue;
            }
            for (int64_t h = 0; h < l.kv_heads; ++h) {
                put_key(c, l, f32_at(k, i, h), d,
                        page + l.k_offset + (h * l.head_size * page_positions + t) * element);
                put_row(c, l, f32_at(v, i, h), d,
                        page + l.v_offset + (h * page_positions + t) * l.head_size * element);
            }
        }
    });
}

// ---- Pages of i8

constexpr size_t one_head(const kv_layout &l) {
    return align64(static_cast<size_t>(std::max(l.head_size, l.rope_size)) * sizeof(float));
}
static bool i8_fits(const cpu &, const node &n) { return n.as<kv_layout>().type == format::i8; }
static size_t i8_work(const cpu &c, const node &n) {
    return i8_fits(c, n) ? c.pool.size() * one_head(n.as<kv_layout>()) : 0;
}

// One position's heads; `transformed` holds one head.
static void put_i8(const cpu &c, const node &n, int64_t i, float *transformed) {
    const kv_layout &l = n.as<kv_layout>();
    const int64_t t = *i32_at(*n.src[3], i) % page_positions;
    const size_t d = static_cast<size_t>(l.head_size);
    char *page = at(*n.src[2], *i32_at(*n.src[3], i) / page_positions);
    int8_t *k = reinterpret_cast<int8_t *>(page + l.k_offset),
           *v = reinterpret_cast<int8_t *>(page + l.v_offset);
    float *k_scale = reinterpret_cast<float *>(k + l.elements()) + t,
          *v_scale = reinterpret_cast<float *>(v + l.elements()) + t;
    for (int64_t h = 0; h < l.kv_heads; ++h) {
        std::memcpy(transformed, f32_at(*n.src[0], i, h), d * sizeof(float));
        c.vec->i8->hadamard(transformed, d);
        k_scale[h * page_positions] =
            c.vec->i8->put(transformed, k + (h * page_positions + t) * l.head_size, 1, d);
        if (l.rope_size) continue;
        v_scale[h * page_positions] = c.vec->i8->put(
            f32_at(*n.src[1], i, h), v + h * l.head_size * page_positions + t, page_positions, d);
    }
}

// The rotated part of a latent page's keys.
static void put_i8_rope(const cpu &c, const node &n, int64_t i, float *transformed) {
    const kv_layout &l = n.as<kv_layout>();
    const int64_t t = *i32_at(*n.src[3], i) % page_positions;
    const size_t r = static_cast<size_t>(l.rope_size);
    int8_t *k =
        reinterpret_cast<int8_t *>(at(*n.src[2], *i32_at(*n.src[3], i) / page_positions) + l.v_offset);
    std::memcpy(transformed, f32_at(*n.src[1], i, 0), r * sizeof(float));
    c.vec->i8->hadamard(transformed, r);
    reinterpret_cast<float *>(k + l.rope_size * page_positions)[t] =
        c.vec->i8->put(transformed, k + t * l.rope_size, 1, r);
}

static void run_i8(cpu &c, const node &n, char *work) {
    const size_t bytes = one_head(n.as<kv_layout>());
    share_range(c, static_cast<size_t>(n.src[0]->ne[0]), elements(*n.src[0]) * 2,
                [&](size_t begin, size_t end, unsigned worker) {
                    float *transformed = reinterpret_cast<float *>(work + worker * bytes);
                    for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
                        put_i8(c, n, i, transformed);
                        if (n.as<kv_layout>().rope_size) put_i8_rope(c, n, i, transformed);
                    }
                });
}

static constexpr variant list[] = {
    {"positions", fits, nullptr, run}, {"integers", i8_fits, i8_work, run_i8}, reference_variant};
constexpr variants kv_write_variants = list;

}  // namespace ds
