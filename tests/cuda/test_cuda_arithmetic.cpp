// The arithmetic that CUDA kernels share with the host, and the sizes that kernels run with. Neither a device
// nor the emulation is needed.
#include "../../ggml-cuda/attn/config.h"
#include "../../ggml-cuda/gemm/blocks.cuh"
#include "../../ggml-cuda/gemm/config.h"
#include "../../ggml-cuda/moe/config.h"
#include "../../ggml-cuda/swizzle.h"
#include "../../tensor/blocks.h"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <random>
#include <set>

using namespace ds;

namespace {

constexpr cuda::device_facts h100 = {9, 0, 132, 232448, true}, a100 = {8, 0, 108, 166912, false},
                             ada = {8, 9, 128, 101376, false}, turing = {7, 5, 72, 65536, false};

template <format f> void compare_pieces() {
    using reader = cuda::packed_reader<f>;
    constexpr int n = packed<f>::block;
    static_assert(reader::block == n && (reader::header.m >= 0) == packed<f>::minima);
    std::mt19937 random(static_cast<uint32_t>(f));
    std::vector<uint8_t> bytes(info(f).bytes);
    CHECK(cuda::bytes_of<f>::a_block == static_cast<int>(info(f).bytes));
    for (int round = 0; round < 50; ++round) {
        for (uint8_t &b : bytes) b = static_cast<uint8_t>(random());
        levels<n> wanted;
        packed<f>::unpack(bytes.data(), wanted);
        for (int piece = 0; piece < n / 32; ++piece) {
            const cuda::packed_piece p = reader::read(bytes.data(), piece);
            for (int i = 0; i < 32; ++i) {
                const int e = piece * 32 + i;
                REQUIRE(static_cast<int8_t>(p.q[i / 4] >> i % 4 * 8) == wanted.q[e]);
                REQUIRE(p.scale[i / 16] == wanted.scale[e / 16]);
                if (packed<f>::minima) REQUIRE(p.min[i / 16] == wanted.min[e / 16]);
            }
        }
        const auto half = [&](int at) {
            return f16_to_f32(static_cast<uint16_t>(cuda::two_bytes(bytes.data() + at)));
        };
        CHECK(bits_of(half(reader::header.d)) == bits_of(wanted.d));
        if constexpr (packed<f>::minima)
            CHECK(bits_of(n == 256 ? -half(reader::header.m) : half(reader::header.m)) == bits_of(wanted.m));
    }
}

cuda::attention_launch_params attention(int32_t n, int32_t heads, int32_t kv_heads, int32_t size,
                                        int32_t rope, int32_t pages) {
    cuda::attention_launch_params a{};
    a.n = n, a.heads = heads, a.max_pages = pages;
    a.p.kv = {format::i8, kv_heads, size, 0, 0, rope};
    a.p.kv.v_offset = static_cast<int64_t>(a.p.kv.k_bytes());
    a.page_bytes = static_cast<int64_t>(a.p.kv.k_bytes() + a.p.kv.v_bytes());
    return a;
}

}  // namespace

TEST_CASE("CUDA: a piece of a packed block holds what the block's definition says") {
    int formats = 0;
    for (int f = 0; f < static_cast<int>(format::count); ++f)
        formats += with_packed(static_cast<format>(f), [](auto tag) { compare_pieces<tag.value>(); });
    CHECK(formats >= 12);
}

TEST_CASE("CUDA: swizzled rows lie apart, and eight rows' pieces of one number in different banks") {
    for (int pieces = 1; pieces <= 32; ++pieces) {
        std::set<int> taken;
        for (int row = 0; row < 16; ++row)
            for (int p = 0; p < pieces; ++p) {
                const int at = cuda::swizzled(row, p, pieces);
                CHECK(at / (16 * pieces) == row);
                CHECK(taken.insert(at).second);
            }
        for (int p = 0; p < pieces; ++p)
            for (int first = 0; first < 16; first += 8) {
                std::set<int> banks;  // of 16 bytes
                for (int row = first; row < first + 8; ++row)
                    banks.insert(cuda::swizzled(row, p, pieces) / 16 % 8);
                CHECK_MESSAGE(banks.size() == 8, pieces, " pieces");
            }
    }
}

TEST_CASE("CUDA: codes of scores are ordered as scores are, NaN above all") {
    const float inf = std::numeric_limits<float>::infinity();
    const std::vector<float> rising = {-inf, -3e38f, -1.0f, -1e-40f, -0.0f, 0.0f, 1e-40f, 1.0f, 3e38f, inf};
    for (size_t i = 0; i < rising.size(); ++i) {
        CHECK(bits_of(cuda::score_of(cuda::code_of(rising[i]))) == bits_of(rising[i]));
        CHECK(cuda::code_of(rising[i]) > 0);  // 0 stands for no score
        if (i) CHECK(cuda::code_of(rising[i - 1]) < cuda::code_of(rising[i]));
    }
    for (float nan : {std::nanf(""), -std::nanf("")}) {
        CHECK(cuda::code_of(nan) > cuda::code_of(inf));
        CHECK(std::isnan(cuda::score_of(cuda::code_of(nan))));
    }
}

TEST_CASE("CUDA: sizes of products' kernels") {
    for (int32_t k : {16, 256, 1536, 4096, 14336, 100000})
        for (int32_t blocks : {1, 16, 256, 8192}) {
            const int32_t warps = cuda::rows_warps(k, blocks, false, 132);
            CHECK((warps == 1 || warps == 2 || warps == 4 || warps == 8));
            CHECK((warps == 1 || warps * 256 <= k + 255));  // each warp has something to read
        }
    CHECK(cuda::rows_warps(4096, 256, false, 132) == 8);
    CHECK(cuda::rows_warps(4096, 9500, false, 132) == 4);
    CHECK(cuda::tile_rows_for(64, 100, 132) == 64);
    CHECK(cuda::tile_rows_for(4096, 32, 132) == 128);
    CHECK(cuda::tile_rows_for(128, 32, 132) == 64);  // large ones would leave most processors idle
    CHECK(cuda::wgmma_weights_for(4096, 14336, 132) == 256);
    CHECK(cuda::wgmma_weights_for(256, 4096, 132) == 128);
    CHECK(cuda::tile_bytes(128) <= 99 << 10);
    CHECK(cuda::wgmma_bytes(256) <= static_cast<size_t>(h100.shared_bytes));
    const cuda::matrix w[3] = {{nullptr, nullptr, nullptr, 130, 0},
                               {nullptr, nullptr, nullptr, 1, 0},
                               {nullptr, nullptr, nullptr, 128, 0}};
    CHECK(cuda::weights_across(w, 3, 128) == 4);
}

TEST_CASE("CUDA: how attention is cut") {
    const cuda::attention_cut one = cuda::cut_of(attention(1, 32, 8, 128, 0, 128), h100);
    CHECK_FALSE(one.prefill);
    CHECK(one.heads == 4);
    // 8 blocks without splits; up to two per processor are used
    CHECK(one.splits == 33);
    CHECK(one.keeps_scores);
    const cuda::attention_cut many = cuda::cut_of(attention(512, 28, 4, 128, 0, 128), h100);
    CHECK(many.prefill);
    CHECK(many.heads == 7);
    CHECK(many.rows == 9);
    CHECK(many.splits == 1);
    const cuda::attention_cut latent = cuda::cut_of(attention(512, 128, 1, 512, 64, 128), h100);
    CHECK_FALSE(latent.prefill);
    CHECK(latent.head_parts == 8);
    CHECK(latent.heads == 16);
    CHECK(latent.stages == 2);
    CHECK(fits(cuda::attention_way::integers, attention(1, 128, 1, 512, 64, 8), h100));
    CHECK(cuda::cut_of(attention(1, 128, 1, 512, 64, 8), ada).stages == 1);
    CHECK_FALSE(fits(cuda::attention_way::integers, attention(1, 4, 2, 100, 0, 8), h100));
    CHECK(fits(cuda::attention_way::plain, attention(1, 4, 2, 100, 0, 8), h100));
    CHECK_FALSE(fits(cuda::attention_way::integers, attention(1, 4, 2, 128, 0, 8), turing));
}

// A plan is made for the largest sizes, so smaller ones must not take more, though they may be cut in another
// way.
TEST_CASE("CUDA: scratch holds what is cut, and grows with every dimension") {
    for (const cuda::device_facts &d : {h100, a100})
        for (int32_t heads : {4, 28, 128})
            for (int32_t size : {64, 128, 512})
                for (int32_t n : {1, 7, 64, 65, 512})
                    for (int32_t pages : {1, 16, 512}) {
                        const auto a =
                            attention(n, heads, heads == 28 ? 4 : 1, size, size == 512 ? 64 : 0, pages);
                        const size_t bytes = cuda::attention_work_bytes(a, d);
                        CHECK(cuda::work_of(a, cuda::cut_of(a, d)).bytes <= bytes);
                        auto more = a;
                        ++more.n;
                        CHECK(cuda::attention_work_bytes(more, d) >= bytes);
                        more = a;
                        ++more.max_pages;
                        CHECK(cuda::attention_work_bytes(more, d) >= bytes);
                    }
    for (format f : {format::i8, format::q4_k, format::f16})
        for (int32_t used : {1, 6})
            for (int32_t n = 1; n < 200; n += 7) {
                cuda::experts_launch_params p{};
                p.gate.type = p.up.type = p.down.type = f;
                p.n = n, p.used = used, p.experts = 64, p.d = 512, p.ffn = 256;
                const size_t bytes = cuda::experts_work_bytes(p);
                const cuda::group_cut cut = cuda::cut_of(p);
                CHECK(cut.groups * int64_t{cut.group_rows} >= int64_t{n} * used);
                // the size that scratch is planned for
                CHECK(cut.groups <= cuda::group_bound(int64_t{n} * used, p.experts, 8));
                ++p.n;
                CHECK(cuda::experts_work_bytes(p) >= bytes);
            }
    for (format f : {format::i8, format::q4_k, format::f16})
        for (const bool by_rank : {false, true})
            for (int32_t n = 1; n < 200; n += 7) {
                cuda::routed_launch_params p{};
                p.w.type = f, p.by_rank = by_rank;
                p.n = n, p.used = 5, p.matrices = 8, p.m = 96, p.k = 256;
                const size_t bytes = cuda::routed_work_bytes(p);
                const cuda::group_cut cut = cuda::cut_of(p);
                CHECK(cut.groups * int64_t{cut.group_rows} >= int64_t{n} * p.used);
                CHECK(cut.groups <= cuda::group_bound(int64_t{n} * p.used, p.matrices, 8));
                ++p.n;
                CHECK(cuda::routed_work_bytes(p) >= bytes);
            }
}
