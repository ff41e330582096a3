// Steps of AdamW on whole models against those that an independent float64 implementation made.
#include "golden_train.h"
#include "trained.h"

#include "../../llm/train/optimizer.h"

#include <cmath>

using namespace ds;
using namespace golden;

TEST_CASE("optimizer: three steps on every golden checkpoint") {
    for (const std::string name :
         {"llama", "r1", "qwen2", "qwen3", "deepseek-v2-lite", "deepseek-r1", "r1-zero"}) {
        CAPTURE(name);
        std::string path = data_dir("train/" + name + ".adamw.safetensors");
        if (!test::fs::exists(path)) path = test::reference_path("train/" + name + ".adamw.safetensors");
        if (!test::fs::exists(path)) {
            test::skip((name + ": its steps are not in the repository").c_str());
            continue;
        }
        test::raw_tensors batch, values;
        test::read_safetensors(data_dir("train/" + name + ".sft.safetensors"), batch);
        test::read_safetensors(path, values);
        const sft s(batch);
        const std::unique_ptr<gguf_file> wanted = arranged(name, values, "delta.");
        trained t(name);
        t.own();
        train_sizes sizes = s.sizes();
        if (name == "r1") sizes.balance = 0.01f;
        train_graph g(*t.m->architecture, t.m->h, t.weights, t.list, sizes, train_graph::again::none, {},
                      t.cpu(2), host{});
        optimizer o(t.optimized, {}, t.cpu(2));
        const std::vector<double> rates = doubles(values.at("rates")), losses = doubles(values.at("losses")),
                                  norms = doubles(values.at("grad_norms"));
        for (int64_t step = 1; step <= 3; ++step) {
            o.clear_sums();
            REQUIRE(g.run(s.batch()));
            g.finish();
            double ce = 0;
            for (const float l : g.log_probabilities()) ce -= l / static_cast<double>(s.rows.size());
            const auto at = static_cast<size_t>(step - 1);
            CHECK(ce == doctest::Approx(losses[3 * at]).epsilon(1e-5));
            const double norm = o.norm();
            CHECK(norm == doctest::Approx(norms[at]).epsilon(5e-5));
            o.step(step, rates[at], norm);
        }
        for (size_t i = 0; i < t.names.size(); ++i) {
            const gguf_tensor *const w = wanted->find_tensor(t.names[i]);
            REQUIRE_MESSAGE(w, t.names[i]);
            std::vector<float> moved(t.before[i].size());
            for (size_t e = 0; e < moved.size(); ++e) moved[e] = t.values[i][e] - t.before[i][e];
            const double off =
                relative_difference(moved.data(), reinterpret_cast<const float *>(w->data), moved.size());
            CHECK_MESSAGE(off <= 5e-3, t.names[i], ": ", off);
        }
    }
}
