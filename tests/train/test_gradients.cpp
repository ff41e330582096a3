// Gradients of whole models against those that an independent float64 implementation computed.
#include "golden_train.h"

#include <cmath>

using namespace ds;
using namespace golden;

namespace {

// A model in F32, with sums for the gradients of all of its weights.
struct trained {
    std::shared_ptr<const ds::model> m;
    std::deque<std::vector<float>> memory;
    std::deque<tensor> sums;
    std::vector<gradient_sum> list;
    std::vector<std::string> names;

    explicit trained(const std::string &name) {
        const temp_file file;
        convert(data_dir("micro/" + name), file.path, {.type = format::f32, .vocab_only = false, .name = ""},
                {});
        m = std::make_shared<const ds::model>(gguf_file::open(file.path), model_options{});
        for (const tensor_row &row : m->architecture->tensors(m->h)) {
            if (row.layer >= m->h.layers || row.what == role::rope_divisors) continue;
            const tensor *const w = row.slot ? m->weights.layer[static_cast<size_t>(row.layer)].*row.slot
                                             : m->weights.*row.top;
            if (!w || row.name.find("exp_probs_b") != std::string::npos) continue;
            tensor &sum = sums.emplace_back(*w);
            sum.data = memory.emplace_back(static_cast<size_t>(elements(*w))).data();
            list.push_back({w, &sum});
            names.push_back(row.name);
        }
    }
    void clear() {
        for (auto &v : memory) std::fill(v.begin(), v.end(), 0.0f);
    }
};

double relative_difference(const float *got, const float *wanted, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; ++i) {
        off += (double(got[i]) - wanted[i]) * (double(got[i]) - wanted[i]);
        size += double(wanted[i]) * wanted[i];
    }
    return std::sqrt(off / size);
}

std::shared_ptr<backend> cpu(unsigned threads = 1, const char *isa = nullptr) {
    cpu_options o;
    o.threads = threads;
    o.isa = isa;
    return cpu_backend(o);
}

}  // namespace

TEST_CASE("gradients: every tensor of every golden checkpoint") {
    for (const std::string name : {"llama", "qwen2", "qwen3", "deepseek-v2-lite", "deepseek-r1", "r1-zero", "r1"}) {
        CAPTURE(name);
        test::raw_tensors values;
        test::read_safetensors(data_dir("train/" + name + ".sft.safetensors"), values);
        const sft s(values);
        const std::unique_ptr<gguf_file> wanted = arranged(name, values, "grad.");
        trained t(name);
        train_sizes sizes = s.sizes();
        if (name == "r1") sizes.balance = 0.01f;
        train_graph g(*t.m->architecture, t.m->h, t.m->weights, t.list, sizes, train_graph::again::none, cpu(),
                      host{});
        REQUIRE(g.run(s.batch()));
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
            const double off = relative_difference(t.memory[i].data(), reinterpret_cast<const float *>(w->data),
                                                   t.memory[i].size());
            CHECK_MESSAGE(off <= 5e-5, t.names[i], ": ", off);
            for (const float x : t.memory[i]) norm += double(x) * x;
            ++compared;
        }
        CHECK(compared == t.names.size());
        CHECK(std::sqrt(norm) == doctest::Approx(s.norm).epsilon(5e-6));
    }
}
