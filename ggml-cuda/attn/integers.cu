// Attention over pages of i8 on tensor cores. All sums are integers (numerics.h), so blocks may share a row's
// pages in any way: sums combine by atomic additions, maxima by atomic maxima.
// A query slot is one row of the batch and one query head; slots of one key head are the 16 rows of
// mma.m16n8k32, of queries against a page's keys, then of weights against its values, each in two planes of 8
// bits. Of the eight warps, `tiles` are stacked along the slots; across, warps divide a page's positions,
// then the head's elements.
// Prefill: one kernel reads all pages of its rows twice. Rows whose neighbours belong to other sequences, as
// decode rows beside a prompt do, would occupy a tile one by one, so they get blocks of their own.
// Decode: one kernel for the maxima, one for the values, and, where blocks share a row, one that divides.
#include "warp.cuh"

namespace ds::cuda {

namespace {

struct integer_args {
    attention_launch_params a;
    attention_cut cut;
    uint32_t *max_code, *largest;  // [n, heads]
    // [n, heads], [n, heads, head_size]. Null: one block sees a whole row
    unsigned long long *denominators, *totals;
    float *scores;  // [n, heads, max_pages * 64]. Null: computed again for the values
};

enum class pass { maxima, values, both };

template <int tiles, int wide, pass which> struct attend {
    static constexpr int slots = 16 * tiles, across = 8 / tiles, slot_threads = attention_threads / slots,
                         own = page_length / slot_threads, score_tiles = 8 / across;

    const integer_args &g;
    char *const memory;
    const kv_layout &l;
    const attention_memory m;
    const int size, rope;                // elements of a head
    const int warp, lane, down, beside;  // the warp's tile of slots, and its share across
    int32_t first_row, rows, head, heads, kv_head;
    const int32_t *table = nullptr;
    uint32_t code[2] = {0, 0}, largest[2] = {0, 0};
    int64_t share = 0, total[wide][4] = {};

    __device__ bool keeps() const { return g.scores != nullptr; }
    __device__ attend(const integer_args &args, char *shared)
        : g(args), memory(shared), l(args.a.p.kv),
          m(memory_of(slots, l.head_size, l.rope_size, which != pass::values || !args.scores,
                      which != pass::maxima, args.cut.stages)),
          size(l.head_size), rope(l.rope_size), warp(warp_number()), lane(lane_number()), down(warp % tiles),
          beside(warp / tiles) {
        const int32_t group = g.a.heads / l.kv_heads,
                      part = static_cast<int32_t>(blockIdx.y) % g.cut.head_parts;
        kv_head = static_cast<int32_t>(blockIdx.y) / g.cut.head_parts;
        head = kv_head * group + part * g.cut.heads;
        heads = group - part * g.cut.heads < g.cut.heads ? group - part * g.cut.heads : g.cut.heads;
        first_row = static_cast<int32_t>(which == pass::both ? blockIdx.x : blockIdx.z) * g.cut.rows;
        rows = g.a.n - first_row < g.cut.rows ? g.a.n - first_row : g.cut.rows;
    }

    __device__ slot_facts *facts() const { return reinterpret_cast<slot_facts *>(memory + m.rows); }
    __device__ bool is_used(int32_t r) const { return r < rows * heads; }
    __device__ int32_t row_of(int32_t r) const { return first_row + r / heads; }
    __device__ int64_t pair_of(int32_t r) const {
        return static_cast<int64_t>(row_of(r)) * g.a.heads + head + r % heads;
    }
    __device__ float *transformed() const {
        return reinterpret_cast<float *>(memory + m.stages) + warp * size;
    }

    // The planes of the queries, and the factors of each slot.
    __device__ void make_queries() {
        for (int32_t r = warp; r < slots; r += attention_threads / warp_lanes) {
            const bool there = is_used(r);
            const int64_t row = there ? row_of(r) : first_row, h = there ? head + r % heads : head;
            const auto planes = [&](int32_t high, int32_t low, int32_t n) {
                return [=, this](int32_t c, int32_t q) {
                    const int at = swizzled(r, c / 16, n / 16) + c % 16;
                    memory[high + at] = static_cast<char>(there ? plane_high(q) : 0);
                    memory[low + at] = static_cast<char>(there ? plane_low(q) : 0);
                };
            };
            const float factor =
                quantize_query(g.a.q + row * g.a.q_stride + h * g.a.q_head_stride, transformed(), size,
                               g.a.p.scale, planes(m.high, m.low, size));
            float rope_factor = 0.0f;
            if (rope)
                rope_factor =
                    quantize_query(g.a.q_rope + row * g.a.rope_stride + h * g.a.rope_head_stride,
                                   transformed(), rope, g.a.p.scale, planes(m.rope_high, m.rope_low, rope));
            if (lane == 0) {
                slot_facts f = {};
                f.factor = factor, f.rope_factor = rope_factor;
                facts()[r] = f;
            }
        }
        __syncthreads();
    }

    // Sets how many positions each slot sees: those of rows [begin, end), none for the others. Returns the
    // largest count.
    __device__ int32_t see(int32_t begin, int32_t end) {
        table = g.a.tables + static_cast<int64_t>(g.a.sequence[begin]) * g.a.table_stride;
        for (int32_t r = static_cast<int32_t>(threadIdx.x); r < slots; r += attention_threads) {
            const bool sees = is_used(r) && row_of(r) >= begin && row_of(r) < end;
            facts()[r].count = sees ? g.a.position[row_of(r)] + 1 : 0;
        }
        int32_t most = 0;
        for (int32_t i = begin; i < end; ++i) most = g.a.position[i] + 1 > most ? g.a.position[i] + 1 : most;
        __syncthreads();
        return most;
    }

    // ---- Copies of pages into shared memory

    __device__ void copy_rows(char *to, const char *from, int32_t n, int32_t pieces) const {
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n * pieces; i += attention_threads)
            copy_async(to + swizzled(i / pieces, i % pieces, pieces), from + i * 16, true);
    }
    // a single row is not swizzled
    __device__ void copy_scales(char *to, const char *from) const { copy_rows(to, from, 1, page_length / 4); }
    __device__ void copy_page(int32_t page, bool with_k, bool with_v) const {
        char *const stage = memory + m.stages + (page % g.cut.stages) * m.stage_bytes;
        const char *const at = g.a.pages + static_cast<int64_t>(table[page]) * g.a.page_bytes,
                          *const k = at + l.k_offset, *const v = at + l.v_offset;
        const int64_t elements = static_cast<int64_t>(l.kv_heads) * size * page_length,
                      part = static_cast<int64_t>(kv_head) * size * page_length;
        if (with_k || rope) {
            copy_rows(stage + m.k, k + part, page_length, size / 16);
            copy_scales(stage + m.k_scale, k + elements + kv_head * page_length * 4);
        }
        if (with_k && rope) {
            copy_rows(stage + m.rope, v, page_length, rope / 16);
            copy_scales(stage + m.rope_scale, v + rope * page_length);
        }
        if (rope) return;
        if (with_v) copy_rows(stage + m.v, v + part, size, page_length / 16);
        copy_scales(stage + m.v_scale, v + elements + kv_head * page_length * 4);
    }
    // Calls f(page, its stage) for pages [begin, end).
    template <class F>
    __device__ void over_pages(int32_t begin, int32_t end, bool with_k, bool with_v, const F &f) {
        if (begin >= end) return;
        copy_page(begin, with_k, with_v);
        close_copies();
        for (int32_t page = begin; page < end; ++page) {
            if (g.cut.stages > 1) {
                if (page + 1 < end) copy_page(page + 1, with_k, with_v);
                close_copies();
                wait_copies<1>();
            } else wait_copies<0>();
            __syncthreads();
            f(page, memory + m.stages + (page % g.cut.stages) * m.stage_bytes);
            __syncthreads();
            if (g.cut.stages == 1 && page + 1 < end) {
                copy_page(page + 1, with_k, with_v);
                close_copies();
            }
        }
    }

    // ---- Scores

    struct sums {
        int32_t high[score_tiles][4], low[score_tiles][4];
    };
    __device__ int32_t slot_of(int e) const { return down * 16 + lane / 4 + e / 2 * 8; }
    __device__ int32_t position_of(int j, int e) const {
        return beside * score_tiles * 8 + j * 8 + lane % 4 * 2 + e % 2;
    }

    __device__ void multiply(const char *high, const char *low, const char *keys, int32_t n, sums &s) const {
        const int pieces = n / 16, steps = n / 32;
        for (int step = 0; step < steps; step += 2) {
            uint32_t h[2][4], w[2][4];
            DS_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int at = swizzled(down * 16 + lane % 16,
                                        (step + i < steps ? step + i : step) * 2 + lane / 16, pieces);
                load_matrices(h[i], high + at);
                load_matrices(w[i], low + at);
            }
            DS_UNROLL
            for (int j = 0; j < score_tiles; ++j) {
                uint32_t b[4];
                const int piece = step * 2 + lane / 8;
                load_matrices(b, keys + swizzled((beside * score_tiles + j) * 8 + lane % 8,
                                                 piece < pieces ? piece : pieces - 1, pieces));
                DS_UNROLL
                for (int i = 0; i < 2; ++i)
                    if (step + i < steps) {
                        multiply_i8(s.high[j], h[i][0], h[i][1], h[i][2], h[i][3], b[2 * i], b[2 * i + 1]);
                        multiply_i8(s.low[j], w[i][0], w[i][1], w[i][2], w[i][3], b[2 * i], b[2 * i + 1]);
                    }
            }
        }
    }
    // Calls f(element, slot, position, score).
    template <class F> __device__ void scores(const char *stage, const F &f) const {
        sums s = {}, r = {};
        multiply(memory + m.high, memory + m.low, stage + m.k, size, s);
        if (rope) multiply(memory + m.rope_high, memory + m.rope_low, stage + m.rope, rope, r);
        const float *const k_scale = reinterpret_cast<const float *>(stage + m.k_scale),
                           *const rope_scale = reinterpret_cast<const float *>(stage + m.rope_scale);
        DS_UNROLL
        for (int j = 0; j < score_tiles; ++j) DS_UNROLL
        for (int e = 0; e < 4; ++e) {
            const int32_t slot = slot_of(e), position = position_of(j, e);
            float score = i8_score(128 * s.high[j][e] + s.low[j][e], k_scale[position], facts()[slot].factor);
            if (rope)
                score = score + i8_score(128 * r.high[j][e] + r.low[j][e], rope_scale[position],
                                         facts()[slot].rope_factor);
            f(e, slot, position, score);
        }
    }
    __device__ float *kept(int32_t r, int32_t page) const {
        return g.scores + (pair_of(r) * g.a.max_pages + page) * page_length;
    }

    __device__ void maxima_of_page(int32_t page, const char *stage) {
        const float *const v_scale = reinterpret_cast<const float *>(stage + m.v_scale);
        scores(stage, [&](int e, int32_t slot, int32_t position, float score) {
            if (page * page_length + position >= facts()[slot].count) return;
            const uint32_t c = code_of(score), s = bits_of(v_scale[position]) & 0x7fffffffu;
            code[e / 2] = c > code[e / 2] ? c : code[e / 2];
            largest[e / 2] = s > largest[e / 2] ? s : largest[e / 2];
            if (which == pass::maxima && keeps()) kept(slot, page)[position] = score;
        });
    }
    // Combines the lanes' maxima in the slots' facts.
    __device__ void join_maxima() {
        DS_UNROLL
        for (int i = 0; i < 2; ++i) {
            for (int s = 1; s < 4; s *= 2) {
                const uint32_t c = __shfl_xor_sync(all_lanes, code[i], s),
                               v = __shfl_xor_sync(all_lanes, largest[i], s);
                code[i] = c > code[i] ? c : code[i];
                largest[i] = v > largest[i] ? v : largest[i];
            }
            if (lane % 4 == 0) {
                atomicMax(&facts()[slot_of(2 * i)].max_code, code[i]);
                atomicMax(&facts()[slot_of(2 * i)].largest, largest[i]);
            }
            code[i] = largest[i] = 0;
        }
        __syncthreads();
    }
    __device__ void give_maxima() const {
        for (int32_t r = static_cast<int32_t>(threadIdx.x); r < slots; r += attention_threads)
            if (is_used(r) && facts()[r].max_code) {
                atomicMax(g.max_code + pair_of(r), facts()[r].max_code);
                atomicMax(g.largest + pair_of(r), facts()[r].largest);
            }
    }
    // From this block's maxima, or, when only values are computed, from those of all blocks.
    __device__ void settle_maxima() {
        for (int32_t r = static_cast<int32_t>(threadIdx.x); r < slots; r += attention_threads) {
            slot_facts &f = facts()[r];
            const bool others = which == pass::values && is_used(r);
            const row_maxima x = maxima_of(others ? g.max_code[pair_of(r)] : f.max_code,
                                           others ? g.largest[pair_of(r)] : f.largest);
            f.max = x.max, f.e0 = x.e0, f.finite = x.finite;
            f.max_code = f.largest = 0;
            f.denominator = 0;
        }
        __syncthreads();
    }

    // ---- Values

    // Each thread computes its own positions' weights of its slot as planes, and the slot's shift of the
    // page's sums.
    __device__ void weigh(int32_t page, const char *stage) {
        const int32_t r = static_cast<int32_t>(threadIdx.x) / slot_threads,
                      first = static_cast<int32_t>(threadIdx.x) % slot_threads * own;
        slot_facts &f = facts()[r];
        const int32_t seen = f.finite ? f.count - page * page_length : 0;
        const float *const v_scale = reinterpret_cast<const float *>(stage + m.v_scale);
        const float *const s = which == pass::values && keeps() && is_used(r)
                                   ? kept(r, page)
                                   : reinterpret_cast<const float *>(memory + m.scores) + r * score_stride;
        float w[own], most = 0.0f;
        DS_UNROLL
        for (int i = 0; i < own; ++i) {
            w[i] = 0.0f;
            if (first + i >= seen) continue;
            const float p = exp2_f32(s[first + i] - f.max);
            share += attention_share(p);
            w[i] = p * v_scale[first + i];
            most = w[i] > most ? w[i] : most;
        }
        for (int step = slot_threads / 2; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(all_lanes, most, step);
            most = other > most ? other : most;
        }
        const int32_t e = page_exponent(most);
        DS_UNROLL
        for (int i = 0; i < own; i += 4) {
            uint32_t high = 0, low = 0;
            DS_UNROLL
            for (int j = 0; j < 4; ++j) {
                const int32_t q = most == 0.0f ? 0 : page_weight(w[i + j], e);
                high |= static_cast<uint32_t>(plane_high(q)) << 8 * j;
                low |= static_cast<uint32_t>(plane_low(q)) << 8 * j;
            }
            const int at = swizzled(r, (first + i) / 16, page_length / 16) + (first + i) % 16;
            *reinterpret_cast<uint32_t *>(memory + m.weights_high + at) = high;
            *reinterpret_cast<uint32_t *>(memory + m.weights_low + at) = low;
        }
        if (threadIdx.x % slot_threads == 0) f.shift = most == 0.0f ? 0 : f.e0 - e;
    }
    // Transposes latents [64][size] to values [size][64], in tiles of four by four bytes.
    __device__ void transpose(const char *latents, char *values) const {
        for (int32_t b = static_cast<int32_t>(threadIdx.x); b < page_length / 4 * (size / 4);
             b += attention_threads) {
            const int t = b % 8 + b / 32 % 2 * 8, d = b / 8 % 4 + b / 64 * 4;
            uint32_t w[4];
            DS_UNROLL
            for (int i = 0; i < 4; ++i)
                w[i] = *reinterpret_cast<const uint32_t *>(latents + swizzled(4 * t + i, d / 4, size / 16) +
                                                           d % 4 * 4);
            const uint32_t a = __byte_perm(w[0], w[1], 0x5140), c = __byte_perm(w[2], w[3], 0x5140),
                           e = __byte_perm(w[0], w[1], 0x7362), f = __byte_perm(w[2], w[3], 0x7362);
            const uint32_t column[4] = {__byte_perm(a, c, 0x5410), __byte_perm(a, c, 0x7632),
                                        __byte_perm(e, f, 0x5410), __byte_perm(e, f, 0x7632)};
            DS_UNROLL
            for (int i = 0; i < 4; ++i)
                *reinterpret_cast<uint32_t *>(values + swizzled(4 * d + i, t / 4, page_length / 16) +
                                              t % 4 * 4) = column[i];
        }
    }
    __device__ void values_of_page(int32_t page, const char *stage) {
        if (which == pass::both || !keeps()) {
            float *const to = reinterpret_cast<float *>(memory + m.scores);
            scores(stage, [&](int, int32_t slot, int32_t position, float score) {
                to[slot * score_stride + position] = score;
            });
        }
        if (rope) transpose(stage + m.k, memory + m.values);
        __syncthreads();
        weigh(page, stage);
        __syncthreads();
        const char *const values = rope ? memory + m.values : stage + m.v;
        uint32_t high[2][4], low[2][4];
        DS_UNROLL
        for (int i = 0; i < 2; ++i) {
            const int at = swizzled(down * 16 + lane % 16, i * 2 + lane / 16, page_length / 16);
            load_matrices(high[i], memory + m.weights_high + at);
            load_matrices(low[i], memory + m.weights_low + at);
        }
        const int32_t shift[2] = {facts()[slot_of(0)].shift, facts()[slot_of(2)].shift};
        DS_UNROLL
        for (int i = 0; i < wide; ++i) {
            const int d = (beside + across * i) * 8;
            if (d >= size) break;
            uint32_t b[4];
            int32_t h[4] = {}, w[4] = {};
            load_matrices(b, values + swizzled(d + lane % 8, lane / 8, page_length / 16));
            DS_UNROLL
            for (int s = 0; s < 2; ++s) {
                multiply_i8(h, high[s][0], high[s][1], high[s][2], high[s][3], b[2 * s], b[2 * s + 1]);
                multiply_i8(w, low[s][0], low[s][1], low[s][2], low[s][3], b[2 * s], b[2 * s + 1]);
            }
            DS_UNROLL
            for (int e = 0; e < 4; ++e) total[i][e] += page_total(128 * h[e] + w[e], shift[e / 2]);
        }
    }
    __device__ void join_denominators() {
        for (int step = slot_threads / 2; step > 0; step /= 2)
            share += __shfl_xor_sync(all_lanes, share, step);
        if (threadIdx.x % slot_threads == 0) facts()[threadIdx.x / slot_threads].denominator = share;
        share = 0;
        __syncthreads();
    }
    // Calls f(slot, element of the head, total).
    template <class F> __device__ void over_totals(const F &f) {
        DS_UNROLL
        for (int i = 0; i < wide; ++i) DS_UNROLL
        for (int e = 0; e < 4; ++e) {
            const int d = (beside + across * i) * 8 + lane % 4 * 2 + e % 2;
            if (d < size && is_used(slot_of(e)) && facts()[slot_of(e)].count > 0)
                f(slot_of(e), d, total[i][e]);
            total[i][e] = 0;
        }
    }
    __device__ float *result(int32_t r) const {
        return g.a.y + static_cast<int64_t>(row_of(r)) * g.a.y_stride +
               static_cast<int64_t>(head + r % heads) * g.a.y_head_stride;
    }
    __device__ void store() {
        join_denominators();
        // [16][size] floats: exactly the bytes of the transposed values
        float *const latent = reinterpret_cast<float *>(memory + m.values);
        over_totals([&](int32_t r, int d, int64_t sum) {
            const slot_facts &f = facts()[r];
            const float y = output_of(sum, f.e0, f.denominator, f.finite);
            if (rope) latent[r * size + d] = y;
            else result(r)[d] = y;
        });
        __syncthreads();
        if (!rope) return;
        for (int32_t r = warp; r < rows * heads; r += attention_threads / warp_lanes)
            store_inverse_hadamard(latent + r * size, size, result(r));
        __syncthreads();
    }
    __device__ void add() {
        join_denominators();
        over_totals([&](int32_t r, int d, int64_t sum) {
            atomicAdd(g.totals + pair_of(r) * size + d, static_cast<unsigned long long>(sum));
        });
        for (int32_t r = static_cast<int32_t>(threadIdx.x); r < rows * heads; r += attention_threads)
            atomicAdd(g.denominators + pair_of(r), static_cast<unsigned long long>(facts()[r].denominator));
    }

    __device__ void maxima(int32_t begin, int32_t end) {
        over_pages(begin, end, true, false,
                   [&](int32_t page, const char *stage) { maxima_of_page(page, stage); });
        join_maxima();
    }
    __device__ void values(int32_t begin, int32_t end) {
        settle_maxima();
        over_pages(begin, end, which == pass::both || !keeps(), true,
                   [&](int32_t page, const char *stage) { values_of_page(page, stage); });
    }
};

__device__ int32_t pages_of(int32_t positions) { return (positions + page_length - 1) / page_length; }

// Whether no neighbouring row is of the same sequence.
__device__ bool is_lone(const attention_launch_params &a, int32_t row) {
    return (row == 0 || a.sequence[row - 1] != a.sequence[row]) &&
           (row + 1 == a.n || a.sequence[row + 1] != a.sequence[row]);
}

// Prefill: consecutive rows of one sequence at a time. The launch with one tile takes the lone rows, the
// other one skips them.
template <int tiles, int wide> __global__ void __launch_bounds__(attention_threads)
    attend_rows_kernel(integer_args g) {
    wait_for_prior_kernels();
    DS_SHARED(memory);
    attend<tiles, wide, pass::both> t(g, memory);
    if (tiles == 1 && !is_lone(g.a, t.first_row)) return;
    t.make_queries();
    const int32_t last = t.first_row + t.rows;
    for (int32_t begin = t.first_row, end; begin < last; begin = end) {
        for (end = begin + 1; end < last && g.a.sequence[end] == g.a.sequence[begin];) ++end;
        if (tiles > 1 && is_lone(g.a, begin)) continue;
        const int32_t pages = pages_of(t.see(begin, end));
        t.maxima(0, pages);
        t.values(0, pages);
        t.store();
    }
}

// Decode: one row, of whose pages this block takes its share.
template <int wide, pass which> __global__ void __launch_bounds__(attention_threads)
    attend_row_kernel(integer_args g) {
    wait_for_prior_kernels();
    DS_SHARED(memory);
    attend<1, wide, which> t(g, memory);
    if (which == pass::maxima || !t.keeps()) t.make_queries();
    else {
        for (int32_t r = static_cast<int32_t>(threadIdx.x); r < 16; r += attention_threads)
            t.facts()[r] = slot_facts{};
        __syncthreads();
    }
    const int32_t pages = pages_of(t.see(t.first_row, t.first_row + 1)),
                  split = static_cast<int32_t>(blockIdx.x), splits = g.cut.splits;
    const int32_t begin = static_cast<int32_t>(static_cast<int64_t>(pages) * split / splits),
                  end = static_cast<int32_t>(static_cast<int64_t>(pages) * (split + 1) / splits);
    if (which == pass::maxima) {
        t.maxima(begin, end);
        t.give_maxima();
    } else {
        t.values(begin, end);
        if (g.totals) t.add();
        else t.store();
    }
}

constexpr int finish_warps = 4;
__global__ void finish_kernel(integer_args g) {
    wait_for_prior_kernels();
    DS_SHARED(memory);
    const int32_t size = g.a.p.kv.head_size;
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * finish_warps + warp_number();
    if (pair >= static_cast<int64_t>(g.a.n) * g.a.heads) return;
    float *const y = g.a.y + pair / g.a.heads * g.a.y_stride + pair % g.a.heads * g.a.y_head_stride,
                 *const x = reinterpret_cast<float *>(memory) + warp_number() * size;
    const row_maxima at = maxima_of(g.max_code[pair], g.largest[pair]);
    const bool latent = g.a.p.kv.rope_size > 0;
    for (int32_t d = lane_number(); d < size; d += warp_lanes)
        (latent ? x : y)[d] = output_of(static_cast<int64_t>(g.totals[pair * size + d]), at.e0,
                                        static_cast<int64_t>(g.denominators[pair]), at.finite);
    __syncwarp();
    if (latent) store_inverse_hadamard(x, size, y);
}

template <int tiles, int wide> int launch_prefill(const integer_args &g, stream s) {
    const kv_layout &l = g.a.p.kv;
    const dim3 grid(static_cast<unsigned>((g.a.n + g.cut.rows - 1) / g.cut.rows),
                    static_cast<unsigned>(l.kv_heads * g.cut.head_parts));
    const auto kernel = attend_rows_kernel<tiles, wide>;
    return DS_LAUNCH(
        kernel, grid, dim3(attention_threads),
        static_cast<size_t>(memory_of(16 * tiles, l.head_size, 0, true, true, g.cut.stages).bytes), s, g);
}
template <int wide> int launch_decode(const integer_args &g, stream s) {
    const kv_layout &l = g.a.p.kv;
    const dim3 grid(static_cast<unsigned>(g.cut.splits), static_cast<unsigned>(l.kv_heads * g.cut.head_parts),
                    static_cast<unsigned>(g.a.n)),
        block(attention_threads);
    const auto bytes = [&](bool k, bool v) {
        return static_cast<size_t>(memory_of(16, l.head_size, l.rope_size, k, v, g.cut.stages).bytes);
    };
    const auto maxima = attend_row_kernel<wide, pass::maxima>, values = attend_row_kernel<wide, pass::values>;
    if (const int bad = DS_LAUNCH(maxima, grid, block, bytes(true, false), s, g)) return bad;
    if (const int bad = DS_LAUNCH(values, grid, block, bytes(!g.scores, true), s, g)) return bad;
    if (!g.totals) return 0;
    const int64_t pairs = static_cast<int64_t>(g.a.n) * g.a.heads;
    return DS_LAUNCH(finish_kernel, dim3(static_cast<unsigned>((pairs + finish_warps - 1) / finish_warps)),
                     dim3(finish_warps * warp_lanes),
                     static_cast<size_t>(finish_warps * l.head_size) * sizeof(float), s, g);
}

// Tiles of 8 elements per warp: for heads up to 128, and up to 512. In prefill, `medium` is for heads up to
// 128.
constexpr int narrow = 2, medium = 8;

}  // namespace

int launch_integers(const attention_launch_params &a, const attention_cut &cut, stream s) {
    const attention_work w = work_of(a, cut);
    char *const work = static_cast<char *>(a.work);
    const size_t pairs = static_cast<size_t>(a.n) * static_cast<size_t>(a.heads);
    integer_args g = {a,
                      cut,
                      reinterpret_cast<uint32_t *>(work),
                      reinterpret_cast<uint32_t *>(work) + pairs,
                      nullptr,
                      nullptr,
                      nullptr};
    if (cut.prefill) {
        if (const int bad = launch_prefill<4, medium>(g, s)) return bad;
        g.cut = one_row_of(cut, a.heads / a.p.kv.kv_heads);
        return launch_prefill<1, narrow>(g, s);
    }
    if (cut.splits > 1) {
        g.denominators = reinterpret_cast<unsigned long long *>(work + w.totals);
        g.totals = g.denominators + pairs;
    }
    if (cut.keeps_scores) g.scores = reinterpret_cast<float *>(work + w.scores);
    if (const int bad = static_cast<int>(cudaMemsetAsync(work, 0, w.scores, s))) return bad;
    return a.p.kv.head_size <= 128 ? launch_decode<narrow>(g, s) : launch_decode<medium>(g, s);
}

int prepare_integers(const device_facts &d) {
    int bad = 0;
    const auto allow = [&](const void *kernel) {
        if (!bad)
            bad = static_cast<int>(
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, d.shared_bytes));
    };
    allow(reinterpret_cast<const void *>(attend_rows_kernel<4, medium>));
    allow(reinterpret_cast<const void *>(attend_rows_kernel<1, narrow>));
    allow(reinterpret_cast<const void *>(attend_row_kernel<narrow, pass::maxima>));
    allow(reinterpret_cast<const void *>(attend_row_kernel<narrow, pass::values>));
    allow(reinterpret_cast<const void *>(attend_row_kernel<medium, pass::maxima>));
    allow(reinterpret_cast<const void *>(attend_row_kernel<medium, pass::values>));
    return bad;
}

}  // namespace ds::cuda
