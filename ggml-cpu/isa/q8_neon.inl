// Q8_0 products. Integer sums are exact; the order of the float sums is q8_block_step's.

constexpr int q8_block = packed<format::q8_0>::block;
// the sums of three rows, integers and floats, fill the registers
constexpr size_t q8_w_block = 34, q8_columns = 16, q8_tile_x = 3;
// bytes per block of a tile (sixteen scales, then the steps), and a tile's width in blocks
constexpr size_t q8_tile_block = 64 + 8 * 64, q8_chunk = packed_tile_width / q8_block;

// A block of quantized activations.
struct q8_x {
    float scale;
    int8_t q[q8_block];
};

static void q8_quantize(const float *x, char *y, size_t blocks) {
    for (; blocks > 0; --blocks, x += q8_block, y += sizeof(q8_x)) {
        const v16 lo = load(x), hi = load(x + 16);
        float lane[16];
        store(lane, larger_magnitude(lo, hi));
        const float a = float_of(largest_bits(lane, 16));
        const bool usable = finite_f32(a) && !(a < 1e-30f);
        int32_t q[q8_block] = {};
        if (usable) {
            store_rounded(q, lo * v16(127.0f / a));
            store_rounded(q + 16, hi * v16(127.0f / a));
        }
        q8_x out;
        out.scale = !finite_f32(a) ? a : usable ? a / 127.0f : 0.0f;
        for (int i = 0; i < q8_block; ++i) out.q[i] = static_cast<int8_t>(q[i]);
        memcpy(y, &out, sizeof out);
    }
}

DS_INLINE float q8_x_scale(const char *x) {
    float scale;
    memcpy(&scale, x, sizeof scale);
    return scale;
}

// ---- Few rows of activations: four rows of weights at a time, as stored

// The scales of one block of four rows, as floats.
DS_INLINE float32x4_t scales4(const char *const *w, size_t offset) {
    half h[4];
    for (int r = 0; r < 4; ++r) memcpy(h + r, w[r] + offset, sizeof(half));
    return widen_f16(h);
}

template <size_t rows> static void q8_rows4(const packed_args &a, size_t w0, size_t x0) {
    const size_t valid = std::min<size_t>(4, a.weights - w0);
    const char *w[4], *x = a.x + x0 * a.x_stride;
    for (size_t r = 0; r < 4; ++r) w[r] = a.w + (w0 + std::min(r, valid - 1)) * a.w_stride;
    float32x4_t sum[rows];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) sum[j] = vdupq_n_f32(0.0f);
    for (size_t b = 0, at = 0; b < a.blocks; ++b, at += q8_w_block, x += sizeof(q8_x)) {
        const float32x4_t scale = scales4(w, at);
        int8x16_t lo[4], hi[4];
        DS_UNROLL for (size_t r = 0; r < 4; ++r) {
            lo[r] = bytes16(w[r] + at + 2);
            hi[r] = bytes16(w[r] + at + 18);
            __builtin_prefetch(w[r] + at + 4 * a.w_stride, 0, 2);
        }
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            const char *xb = x + j * a.x_stride;
            const int8x16_t x_lo = bytes16(xb + offsetof(q8_x, q)),
                            x_hi = bytes16(xb + offsetof(q8_x, q) + 16);
            int32x4_t p[4];
            DS_UNROLL for (size_t r = 0; r < 4; ++r) {
                p[r] = dot_bytes(dot_bytes(vdupq_n_s32(0), lo[r], x_lo), hi[r], x_hi);
            }
            sum[j] = vfmaq_f32(sum[j], vcvtq_f32_s32(sum_of_each(p)),
                               vmulq_f32(scale, vdupq_n_f32(q8_x_scale(xb))));
        }
    }
    for (size_t j = 0; j < rows; ++j) {
        float out[4], *y = a.y + (x0 + j) * a.y_stride + w0;
        vst1q_f32(out, sum[j]);
        for (size_t r = 0; r < valid; ++r) y[r] = a.bias ? out[r] + a.bias[w0 + r] : out[r];
    }
}

template <size_t rows> DS_INLINE void q8_rows4_of(const packed_args &a, size_t count, size_t w0, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return q8_rows4_of<rows - 1>(a, count, w0, x0);
    }
    q8_rows4<rows>(a, w0, x0);
}

static void q8_rows(const packed_args &a) {
    for (size_t w0 = 0; w0 < a.weights; w0 += 4)
        for (size_t x0 = 0; x0 < a.rows; x0 += 3) q8_rows4_of<3>(a, a.rows - x0, w0, x0);
}

// ---- Tiles: sixteen rows of weights side by side

static void q8_pack(const packed_args &a, size_t begin, size_t end, char *tile) {
    for (size_t g = 0; g < q8_columns; g += 4) {
        const char *w[4];
        for (size_t r = 0; r < 4; ++r) w[r] = a.w + std::min(g + r, a.weights - 1) * a.w_stride;
        for (size_t b = begin; b < end; ++b) {
            char *to = tile + (b - begin) * q8_tile_block;
            vst1q_f32(reinterpret_cast<float *>(to) + g, scales4(w, b * q8_w_block));
            for (size_t part = 0; part < 2; ++part) {
                int8x16_t v[4];
                for (size_t r = 0; r < 4; ++r) v[r] = bytes16(w[r] + b * q8_w_block + 2 + 16 * part);
                pack4(v, to + 64 + 256 * part, g);
            }
        }
    }
}

template <size_t rows>
static void q8_tile_rows(const packed_args &a, const char *tile, size_t begin, size_t end, size_t x0) {
    const size_t n = std::min(a.weights, q8_columns);
    const char *x[rows];
    float *y = a.y + x0 * a.y_stride;
    v16 sum[rows];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        x[j] = a.x + (x0 + j) * a.x_stride + begin * sizeof(q8_x);
        sum[j] = begin == 0 ? v16(0.0f) : load_columns(y + j * a.y_stride, n);
    }
    for (size_t b = 0; b < (end - begin) * sizeof(q8_x); b += sizeof(q8_x), tile += q8_tile_block) {
        int32x4_t product[rows][4];
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            DS_UNROLL for (size_t v = 0; v < 4; ++v) { product[j][v] = vdupq_n_s32(0); }
        }
        DS_UNROLL for (size_t part = 0; part < 2; ++part) {
            int8x16_t xs[rows];
            DS_UNROLL for (size_t j = 0; j < rows; ++j) {
                xs[j] = bytes16(x[j] + b + offsetof(q8_x, q) + 16 * part);
            }
            steps16<rows>(tile + 64 + 256 * part, xs, product);
        }
        const v16 scale = load(reinterpret_cast<const float *>(tile));
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            sum[j] = fma_f32(to_float(product[j]), scale * v16(q8_x_scale(x[j] + b)), sum[j]);
        }
    }
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        if (end == a.blocks && a.bias) sum[j] = sum[j] + load_columns(a.bias, n);
        store_columns(y + j * a.y_stride, sum[j], n);
    }
}

template <size_t rows> DS_INLINE void q8_tile_rows_of(const packed_args &a, const char *tile, size_t begin,
                                                      size_t end, size_t count, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return q8_tile_rows_of<rows - 1>(a, tile, begin, end, count, x0);
    }
    q8_tile_rows<rows>(a, tile, begin, end, x0);
}

static void q8_tile(const packed_args &a, char *tile) {
    for (size_t begin = 0; begin < a.blocks; begin += q8_chunk) {
        const size_t end = std::min(begin + q8_chunk, a.blocks);
        q8_pack(a, begin, end, tile);
        for (size_t x0 = 0; x0 < a.rows; x0 += q8_tile_x)
            q8_tile_rows_of<q8_tile_x>(a, tile, begin, end, a.rows - x0, x0);
    }
}

static constexpr packed_kernels q8 = {.x_bytes = sizeof(q8_x),
                                      .few_rows = 6,
                                      .tile_weights = q8_columns,
                                      .tile_bytes = q8_chunk * q8_tile_block,
                                      .group_rows = 1,
                                      .quantize = q8_quantize,
                                      .rows = q8_rows,
                                      .tile = q8_tile};
