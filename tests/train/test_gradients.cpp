// Gradients of whole models against those that an independent float64 implementation computed.
#include "golden_train.h"
#include "trained.h"

#include <cmath>

using namespace ds;
using namespace golden;

TEST_CASE("gradients: every tensor of every golden checkpoint") {
    for (const std::string name :
         {"llama", "qwen2", "qwen3", "deepseek-v2-lite", "deepseek-r1", "r1-zero", "r1"}) {
        CAPTURE(name);
        test::raw_tensors values;
        test::read_safetensors(data_dir("train/" + name + ".sft.safetensors"), values);
        const sft s(values);
        const std::unique_ptr<gguf_file> wanted = arranged(name, values, "grad.");
        trained t(name);
        train_sizes sizes = s.sizes();
        if (name == "r1") sizes.balance = 0.01f;
        train_graph g(*t.m->architecture, t.m->h, t.m->weights, t.list, sizes, train_graph::again::none, {},
                      trained::cpu(), host{});
        REQUIRE(g.run(s.batch()));
        g.finish();
        double ce = 0, norm = 0;
        for (const float l : g.log_probabilities()) ce -= l / static_cast<double>(s.rows.size());
        CHECK(ce == doctest::Approx(s.ce).epsilon(5e-6));
        double loss = ce;
        for (const float b : g.balances()) loss += 0.01 * b / static_cast<double>(g.balances().size());
        CHECK(loss == doctest::Approx(s.loss).epsilon(5e-6));
        size_t compared = 0;
        for (size_t i = 0; i < t.names.size(); ++i) {
            const gguf_tensor *const w = wanted->find_tensor(t.names[i]);
            REQUIRE_MESSAGE(w, t.names[i]);
            REQUIRE(w->bytes == t.memory[i].size() * sizeof(float));
            const double off = relative_difference(
                t.memory[i].data(), reinterpret_cast<const float *>(w->data), t.memory[i].size());
            CHECK_MESSAGE(off <= 5e-5, t.names[i], ": ", off);
            for (const float x : t.memory[i]) norm += double(x) * x;
            ++compared;
        }
        CHECK(compared == t.names.size());
        CHECK(std::sqrt(norm) == doctest::Approx(s.norm).epsilon(5e-6));
    }
}

TEST_CASE("gradients: in bf16 and f16 they are close to those of every golden checkpoint") {
    for (const std::string name : {"llama", "qwen2", "qwen3", "deepseek-v2-lite", "r1-zero"})
        for (const format type : {format::bf16, format::f16}) {
            CAPTURE(name);
            test::raw_tensors values;
            test::read_safetensors(data_dir("train/" + name + ".sft.safetensors"), values);
            const sft s(values);
            const std::unique_ptr<gguf_file> wanted = arranged(name, values, "grad.");
            trained t(name);
            t.round(type);
            train_graph g(*t.m->architecture, t.m->h, t.weights, t.list, s.sizes(), train_graph::again::cheap,
                          {type, format::f32}, trained::cpu(), host{});
            const float scale = type == format::f16 ? 1024 : 1;
            REQUIRE(g.run(s.batch(), scale));
            g.finish();
            double off = 0, size = 0;
            for (size_t i = 0; i < t.names.size(); ++i) {
                const auto *const w = reinterpret_cast<const float *>(wanted->find_tensor(t.names[i])->data);
                for (size_t k = 0; k < t.memory[i].size(); ++k) {
                    const double d = double(t.memory[i][k]) / scale - w[k];
                    off += d * d, size += double(w[k]) * w[k];
                }
            }
            INFO(info(type).text << ": " << std::sqrt(off / size));
            CHECK(std::sqrt(off / size) <= (type == format::bf16 ? 2e-2 : 3e-3));
        }
}

TEST_CASE("gradients: the same bytes with any threads, instruction set, checkpoints and cut of the batch") {
    for (const std::string name : {"llama", "qwen3", "deepseek-v2-lite", "r1"})
        for (const format type : {format::f32, format::bf16, format::f16}) {
            if (ds::test::sanitized && name != "llama") continue;
            if (type == format::f16 && name != "llama") continue;
            CAPTURE(name);
            CAPTURE(info(type).text);
            test::raw_tensors values;
            test::read_safetensors(data_dir("train/" + name + ".sft.safetensors"), values);
            const sft s(values);
            trained t(name);
            if (type != format::f32) t.round(type);
            using again = train_graph::again;
            const auto bytes_of = [&](again policy, std::shared_ptr<backend> b, bool by_sequence) {
                t.clear();
                train_graph g(*t.m->architecture, t.m->h, t.weights, t.list, s.sizes(), policy,
                              {type, format::f32}, std::move(b), host{});
                std::string all;
                const auto take = [&](const train_batch &batch) {
                    REQUIRE(g.run(batch));
                    all.append(reinterpret_cast<const char *>(g.log_probabilities().data()),
                               g.log_probabilities().size_bytes());
                };
                if (!by_sequence) take(s.batch());
                size_t row = 0, target = 0;
                for (size_t i = 0; by_sequence && i < s.lengths.size(); ++i) {
                    const auto length = static_cast<size_t>(s.lengths[i]);
                    std::vector<int32_t> rows;
                    const size_t first = target;
                    for (; target < s.rows.size() && s.rows[target] < static_cast<int32_t>(row + length);
                         ++target)
                        rows.push_back(s.rows[target] - static_cast<int32_t>(row));
                    const auto part = [&](const auto &v) { return std::span(v).subspan(first, rows.size()); };
                    take({std::span(s.ids).subspan(row, length), std::span(s.lengths).subspan(i, 1), rows,
                          part(s.targets), part(s.weights)});
                    row += length;
                }
                g.finish();
                for (const auto &v : t.memory)
                    all.append(reinterpret_cast<const char *>(v.data()), v.size() * sizeof(float));
                return all;
            };
            const std::string wanted = bytes_of(again::none, trained::cpu(1, "scalar"), false);
            for (const char *isa : cpu_isas()) {
                CAPTURE(std::string(isa));
                CHECK(bytes_of(again::none, trained::cpu(1, isa), false) == wanted);
            }
            for (const unsigned threads : {2u, 7u})
                CHECK(bytes_of(again::none, trained::cpu(threads), false) == wanted);
            CHECK(bytes_of(again::cheap, trained::cpu(2), false) == wanted);
            CHECK(bytes_of(again::gates, trained::cpu(2), false) == wanted);
            CHECK(bytes_of(again::blocks, trained::cpu(2), false) == wanted);
            if (name == "r1" || type == format::f16)
                continue;  // a shared block's gradients are added execution by execution
            CHECK(bytes_of(again::none, trained::cpu(2), true) == wanted);
            CHECK(bytes_of(again::blocks, trained::cpu(1), true) == wanted);
        }
}

TEST_CASE("gradients: computing again what is cheap, or whole blocks, takes less memory") {
    trained t("llama");
    const train_sizes sizes{512, 512, 2, 256};
    const auto bytes_of = [&](train_graph::again policy, format stored = format::f32) {
        const train_graph::bytes b =
            train_graph::measure(*t.m->architecture, t.m->h, t.weights, t.list, sizes, policy,
                                 {stored, format::f32}, *trained::cpu());
        return static_cast<double>(b.activations + b.pages);
    };
    const double all = bytes_of(train_graph::again::none);
    CHECK(bytes_of(train_graph::again::cheap) < 0.95 * all);
    CHECK(bytes_of(train_graph::again::gates) < 0.8 * all);
    CHECK(bytes_of(train_graph::again::blocks) < 0.6 * all);
    t.round(format::bf16);
    CHECK(bytes_of(train_graph::again::cheap, format::bf16) < 0.6 * all);
    CHECK(bytes_of(train_graph::again::gates, format::bf16) < 0.58 * all);
}
