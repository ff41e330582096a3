// The indices of a sequence's pages do not matter: in random order among foreign bytes, and moved between two
// steps, they give the same bits of logits. Steps are run directly, since an engine chooses its own pages.
#include "../support/golden.h"

#include "../../ggml-cpu/cpu.h"
#include "../../llm/engine/page_pool.h"
#include "../../llm/model/kv_layout.h"
#include "../../llm/engine/runner.h"

#include <random>

using namespace ds;

namespace {

struct paged {
    static constexpr int64_t pool = 23, rows = 64;
    const model &m;
    page_layout layout;
    std::vector<char> pages;
    runner steps;
    std::vector<int32_t> table;  // the pages of the one sequence, in order

    paged(const model &of, const char *isa, std::vector<int32_t> pages_in_order)
        : m(of), layout(make_page_layout(*m.architecture, m.h, format::i8)),
          pages(layout.page_bytes * pool, '\x7f'),
          steps(m, layout,
                {.rows = rows,
                 .logits = rows,
                 .sequences = 1,
                 .sequence_pages = static_cast<int64_t>(pages_in_order.size()),
                 .pool_pages = pool},
                cpu_backend({.threads = 2, .isa = isa}), {}, pages.data()),
          table(std::move(pages_in_order)) {}

    // Runs positions first to first + n and appends their logits.
    void step(const std::vector<ds_token> &ids, int64_t first, int64_t n, std::vector<float> &logits) {
        for (int64_t i = 0; i < n; ++i) {
            const auto row = static_cast<size_t>(i);
            const int64_t position = first + i;
            steps.ids()[row] = ids[static_cast<size_t>(position)];
            steps.positions()[row] = static_cast<int32_t>(position);
            steps.sequence()[row] = 0;
            steps.slots()[row] =
                static_cast<int32_t>(table[static_cast<size_t>(position / page_positions)] * page_positions +
                                     position % page_positions);
            steps.outputs()[row] = static_cast<int32_t>(i);
        }
        std::copy(table.begin(), table.end(), steps.table(0));
        REQUIRE(steps.run(n, n));
        const float *const out = steps.logits(0, n);
        logits.insert(logits.end(), out, out + n * m.h.vocab);
    }

    // Moves the sequence's page i to index `to` and swaps the bytes.
    void move(size_t i, int32_t to) {
        char *const a = pages.data() + static_cast<size_t>(table[i]) * layout.page_bytes,
                    *const b = pages.data() + static_cast<size_t>(to) * layout.page_bytes;
        std::swap_ranges(a, a + layout.page_bytes, b);
        const auto other = std::find(table.begin(), table.end(), to);
        if (other != table.end()) *other = table[i];
        table[i] = to;
    }
};

}  // namespace

TEST_CASE("pages: in random order and moved between steps, they give the same bits") {
    std::mt19937 random(7);
    for (const char *name : {"micro/llama", "micro/qwen2", "micro/qwen3", "micro/r1", "tiny-r1"}) {
        CAPTURE(name);
        const golden::data d = golden::load(name);
        const golden::temp_file file;
        convert(golden::data_dir(name), file.path, {.type = format::i8, .vocab_only = false, .name = ""}, {});
        const model m(gguf_file(os::mapping::map_file(file.path), file.path), {});
        const auto n = static_cast<int64_t>(d.ids.size());
        REQUIRE(n > 3 * page_positions);
        for (const char *isa : cpu_isas()) {
            CAPTURE(isa);
            std::vector<float> in_order, scattered, moved;
            paged a(m, isa, {0, 1, 2, 3});
            for (int64_t first = 0; first < n; first += paged::rows)
                a.step(d.ids, first, std::min(paged::rows, n - first), in_order);
            std::vector<int32_t> order(paged::pool);
            for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
            std::shuffle(order.begin(), order.end(), random);
            paged b(m, isa, {order[0], order[1], order[2], order[3]});
            for (int64_t first = 0; first < n; first += paged::rows)
                b.step(d.ids, first, std::min(paged::rows, n - first), scattered);
            CHECK(golden::same_bits(scattered, in_order));
            paged c(m, isa, {3, 2, 1, 0});
            for (int64_t first = 0; first < n; first += 20) {
                c.step(d.ids, first, std::min<int64_t>(20, n - first), moved);
                c.move(static_cast<size_t>(random() % 4), static_cast<int32_t>(random() % paged::pool));
            }
            CHECK(golden::same_bits(moved, in_order));
        }
    }
}
