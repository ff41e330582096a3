// The page pool's memory, which grows in slabs and only as pages are used, and the offsets of a layer's keys
// and values.
#include "../../llm/engine/page_pool.h"
#include "../../llm/model/kv_layout.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

using namespace ds;

namespace {

struct counted {
    size_t calls = 0, bytes = 0;
};

host counting(counted &c) {
    host h;
    h.alloc_user = &c;
    h.alloc_fn = [](void *user, size_t bytes, size_t alignment) {
        auto *n = static_cast<counted *>(user);
        ++n->calls;
        n->bytes += bytes;
        return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    };
    h.free_fn = [](void *user, void *p, size_t bytes, size_t) {
        static_cast<counted *>(user)->bytes -= bytes;
        std::free(p);
    };
    return h;
}

status refusal(size_t page_bytes, int64_t pages) {
    try {
        const page_pool pool(host{}, page_bytes, pages);
    } catch (const error &e) {
        return e.code;
    }
    return status::ok;
}

}  // namespace

TEST_CASE("page pool: memory is committed in slabs as pages are used, and released on request") {
    constexpr size_t page = size_t{1} << 20;
    page_pool pool(host{}, page, 100);  // slabs of 32 pages
    CHECK((pool.committed() == 0 && pool.grows()));
    pool.commit(0);
    CHECK(pool.committed() == 0);
    pool.commit(1);
    CHECK(pool.committed() == 32);
    pool.commit(33);
    CHECK(pool.committed() == 64);
    pool.commit(64);
    CHECK(pool.committed() == 64);
    pool.commit(100);
    CHECK(pool.committed() == 100);  // never more than the pool's pages
    std::memset(pool.data(), 0x5a, 100 * page);
    pool.copy(99, 3);
    pool.uncommit(40);
    CHECK(pool.committed() == 40);
    CHECK(*pool.page(39) == 0x5a);
    pool.uncommit(80);
    CHECK(pool.committed() == 40);
    pool.commit(41);
    CHECK(pool.committed() == 64);
    CHECK(*pool.page(40) == 0);  // memory that was released reads as zeros
    CHECK(pool.page(1) - pool.page(0) == static_cast<ptrdiff_t>(page));
    pool.page(40)[17] = 7;
    pool.copy(40, 5);
    CHECK((pool.page(5)[17] == 7 && pool.page(5)[16] == 0 && pool.page(6)[0] == 0x5a));
}

TEST_CASE("page pool: a host's memory is allocated in one call, and kept") {
    counted count;
    {
        page_pool pool(counting(count), 4096, 100);
        CHECK((pool.committed() == 100 && !pool.grows()));
        pool.commit(100);
        pool.uncommit(1);
        CHECK(pool.committed() == 100);
        std::memset(pool.data(), 0x5a, 100 * 4096);
        CHECK(count.calls == 1);
        CHECK(count.bytes == 100u * 4096);
    }
    CHECK(count.bytes == 0);
}

TEST_CASE("page pool: a page may be larger than a slab; a pool too large to address is refused") {
    page_pool big(host{}, size_t{40} << 20, 3);
    big.commit(2);
    CHECK(big.committed() == 2);
    CHECK(refusal(size_t{1} << 41, int64_t{1} << 25) == status::memory);
    CHECK(refusal(SIZE_MAX, 2) == status::memory);
    CHECK(refusal(size_t{1} << 62, 2) == status::memory);
    CHECK(refusal(size_t{1} << 50, 1) == status::memory);  // more than the address space
}

TEST_CASE("page layout: keys and values of all layers, one after another, without gaps") {
    for (const arch *a : architectures())
        for (const format type : {format::f32, format::f16}) {
            if (a == arch_by_name("deepseek2") || a == arch_by_name("r1")) continue;  // below
            hparams h;
            h.layers = 3;
            h.heads = 8;
            h.kv_heads = 2;
            h.head_size = 48;
            const page_layout p = make_page_layout(*a, h, type);
            REQUIRE(p.layer.size() == 3);
            const int64_t one = 64 * 2 * 48 * (type == format::f32 ? 4 : 2);
            for (int64_t i = 0; i < 3; ++i) {
                const kv_layout &l = p.layer[static_cast<size_t>(i)];
                CHECK(l.type == type);
                CHECK((l.kv_heads == 2 && l.head_size == 48));
                CHECK(l.k_offset == 2 * i * one);
                CHECK(l.v_offset == (2 * i + 1) * one);
            }
            CHECK(p.page_bytes == static_cast<size_t>(6 * one));
        }
    for (const char *name : {"deepseek2", "r1"})
        for (const auto &[type, one] : {std::pair(format::f32, 64 * 80 * 4),
                                        {format::f16, 64 * 80 * 2},
                                        {format::i8, 64 * (80 + 2 * 4)}}) {
            hparams h;
            h.layers = 3, h.heads = 8, h.kv_rank = 64, h.rotated = 16;
            h.block_share_map = {0, 0, 1};  // pages are a layer's own
            const page_layout p = make_page_layout(*arch_by_name(name), h, type);
            // for all heads together, one latent and one rotated key
            CHECK(p.page_bytes == static_cast<size_t>(3 * one));
            for (int64_t i = 0; i < 3; ++i) {
                const kv_layout &l = p.layer[static_cast<size_t>(i)];
                CHECK((l.kv_heads == 1 && l.head_size == 64 && l.rope_size == 16));
                CHECK(l.k_offset == i * one);
                CHECK(l.v_offset == l.k_offset + (type == format::i8 ? 64 * (64 + 4) : one / 80 * 64));
            }
        }
    CHECK(pages_for(0) == 0);
    CHECK(pages_for(1) == 1);
    CHECK(pages_for(64) == 1);
    CHECK(pages_for(65) == 2);
}
