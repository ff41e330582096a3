// Forward and backward of a llama of some 24 million random weights, on the library's own interface: tokens a
// second, and the products' operations beside what the same threads do on registers.
// usage: train_speed [threads [sequences [length [recompute 0..2 [f32|bf16|f16]]]]]
#include "../../ggml-cpu/cpu.h"
#include "../../ggml-cpu/variants.h"
#include "../../llm/train/train_graph.h"
#include "../../tensor/op.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>

using namespace ds;

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What the threads reach with the kernel of outer products on data that stays in the first-level cache.
static double peak(cpu &c, format operands) {
    constexpr size_t rows = 96, columns = 128, steps = 256, times = 400;
    double best = 0;
    for (int pass = 0; pass < 5; ++pass) {
        const double begun = now();
        c.pool.run(c.pool.size(), [&](size_t, unsigned) {
            std::vector<float> a(rows * steps, 0.5f), b(steps * columns, 0.25f), y(rows * columns),
                scratch(outer_scratch);
            for (size_t i = 0; i < times; ++i)
                c.vec->floats->outer({.a = a.data(),
                                      .a_row = steps,
                                      .a_step = 1,
                                      .b = reinterpret_cast<const char *>(b.data()),
                                      .b_stride = columns,
                                      .y = y.data(),
                                      .y_stride = columns,
                                      .rows = rows,
                                      .columns = columns,
                                      .steps = steps,
                                      .operands = operands},
                                     scratch.data());
        });
        best = std::max(best, 2.0 * rows * columns * steps * times * c.pool.size() / (now() - begun));
    }
    return best;
}

int main(int argc, char **argv) {
    const auto number = [&](int i, int absent) { return argc > i ? std::atoi(argv[i]) : absent; };
    const int64_t sequences = number(2, 8), length = number(3, 512);
    format type = format::f32;
    if (argc > 5 && (!format_from_text(argv[5], &type) || !is_float(type)))
        return std::fputs("train_speed: formats are f32, bf16, f16\n", stderr), 2;
    hparams h;
    h.layers = 12, h.hidden = 384, h.heads = h.kv_heads = 6, h.head_size = h.rotated = 64, h.ffn = 1024;
    h.vocab = 4096, h.context = length, h.norm_eps = 1e-5f;
    const arch *const a = arch_by_name("llama");
    std::deque<tensor> tensors;
    std::deque<std::vector<float>> memory;
    std::vector<gradient_sum> sums;
    model_weights w;
    w.layer.resize(static_cast<size_t>(h.layers));
    uint32_t state = 1;
    int64_t parameters = 0;
    for (const tensor_row &row : a->tensors(h)) {
        if (row.optional && row.name != "output.weight") continue;
        const auto n = static_cast<size_t>(elements(make_tensor(format::f32, row.ne)));
        tensor &sum = tensors.emplace_back(make_tensor(format::f32, row.ne)),
               &t = tensors.emplace_back(make_tensor(row.stays_f32() ? format::f32 : type, row.ne));
        t.data = memory.emplace_back(n).data();
        for (float &x : memory.back()) {
            state = state * 1664525u + 1013904223u;
            x = (row.what == role::norm ? 1.0f : 0.0f) +
                static_cast<float>(static_cast<int32_t>(state)) * 0x1p-36f;
        }
        if (t.type != format::f32) {
            const std::vector<float> values = memory.back();
            encode_row(t.type, values.data(), t.data, n);
        }
        sum.data = memory.emplace_back(n).data();
        slot_of(w, row) = &t;
        sums.push_back({&t, &sum});
        parameters += row.what == role::embedding ? 0 : static_cast<int64_t>(n);
    }
    cpu_options o;
    o.threads = static_cast<unsigned>(number(1, 2));
    const std::shared_ptr<backend> b = cpu_backend(o);
    const train_sizes s{sequences * length, sequences * length, sequences, length};
    train_graph g(*a, h, w, sums, s, static_cast<train_graph::again>(number(4, 0)),
                  {operand_format(type), format::f32}, b, host{});
    std::vector<int32_t> ids, targets, rows,
        lengths(static_cast<size_t>(sequences), static_cast<int32_t>(length));
    for (int64_t i = 0; i < s.rows; ++i) {
        ids.push_back(static_cast<int32_t>(i * 7919 % h.vocab));
        targets.push_back(static_cast<int32_t>(i * 104729 % h.vocab));
        rows.push_back(static_cast<int32_t>(i));
    }
    const std::vector<float> weights(rows.size(), 1.0f / static_cast<float>(rows.size()));
    double best = 1e9;
    for (int i = 0; i < 4; ++i) {
        const double begun = now();
        g.run({ids, lengths, rows, targets, weights});
        g.finish();
        best = std::min(best, now() - begun);
    }
    const auto tokens = static_cast<double>(s.rows);
    const double attention = 6.0 * 2 * static_cast<double>(h.layers * h.hidden) * static_cast<double>(length),
                 operations = tokens * (6.0 * static_cast<double>(parameters) + attention / 2),
                 limit = peak(*static_cast<cpu *>(b.get()), format::f32),
                 limit16 = type == format::f32 ? limit : peak(*static_cast<cpu *>(b.get()), type);
    const train_graph::bytes bytes =
        train_graph::measure(*a, h, w, sums, s, static_cast<train_graph::again>(number(4, 0)),
                             {operand_format(type), format::f32}, *b);
    std::printf("%s: activations %.1f MiB, work %.1f, pages %.1f; outer products of it reach %.1f GFLOP/s\n",
                info(type).text, static_cast<double>(bytes.activations) / 1048576,
                static_cast<double>(bytes.work) / 1048576, static_cast<double>(bytes.pages) / 1048576,
                limit16 / 1e9);
    std::printf("ours: %.0f tokens/s, %.1f of %.1f GFLOP/s (%.0f %%), %s\n", tokens / best,
                operations / best / 1e9, limit / 1e9, 100 * operations / best / limit, cpu_isa(*b));
}
