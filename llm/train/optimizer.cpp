// The optimizer's memory and its two graphs: sums of squares, then a node of adamw a weight.
#include "optimizer.h"

#include <cmath>

namespace ds {

static constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }
static int64_t blocks_of(int64_t elements) { return (elements + state_block - 1) / state_block; }
static int64_t stretches_of(int64_t elements) {
    return (elements + square_sum_stretch - 1) / square_sum_stretch;
}

size_t optimizer::state_bytes(int64_t elements, bool bytes) {
    const auto n = static_cast<size_t>(elements), scales = static_cast<size_t>(blocks_of(elements));
    return 2 * align64(bytes ? n : n * sizeof(float)) + (bytes ? 2 * align64(scales * sizeof(float)) : 0);
}

optimizer::optimizer(std::span<const trained_weight> weights, const adamw_options &o,
                     std::shared_ptr<backend> b)
    : weights_(weights.begin(), weights.end()), options_(o), backend_(std::move(b)),
      graph_(weights.size() + 8) {
    size_t bytes = 0, most = 0;
    for (const trained_weight &w : weights_) {
        bytes += state_bytes(elements(*w.w), o.byte_states);
        most = std::max(most, static_cast<size_t>(stretches_of(elements(*w.w))));
    }
    memory_ = backend_memory(backend_, bytes);
    parts_ = backend_memory(backend_, align64(most * sizeof(float)));
    std::memset(memory_.data(), 0, bytes);
    char *at = static_cast<char *>(memory_.data());
    const auto take = [&](format type, int64_t n) {
        tensor &t = tensors_.emplace_back(make_tensor(type, {n}));
        t.data = at;
        states_.emplace_back(at, tensor_bytes(t));
        at += align64(tensor_bytes(t));
        return &t;
    };
    for (const trained_weight &w : weights_) {
        const int64_t n = elements(*w.w);
        const format type = o.byte_states ? format::i8 : format::f32;
        state s{take(type, n), take(type, n), nullptr, nullptr};
        if (o.byte_states)
            s.m_scale = take(format::f32, blocks_of(n)), s.v_scale = take(format::f32, blocks_of(n));
        state_.push_back(s);
    }
}

void optimizer::clear_sums() {
    for (const trained_weight &w : weights_) std::memset(w.sum->data, 0, tensor_bytes(*w.sum));
}

double optimizer::norm() {
    double sum = 0;
    for (const trained_weight &w : weights_) {
        graph_.reset();
        tensor *const y = square_sum(graph_, w.sum);
        y->data = parts_.data();
        backend_->fn->run(backend_.get(), graph_, nullptr, nullptr);
        for (int64_t i = 0; i < y->ne[0]; ++i) sum += static_cast<double>(*f32_at(*y, i));
    }
    return std::sqrt(sum);
}

void optimizer::step(int64_t number, double rate, double norm, double scale) {
    const double clip = options_.clip > 0 ? std::min(1.0, options_.clip / (norm + 1e-6)) : 1.0;
    // by repeated products: pow's last bit differs between libraries
    double power1 = 1, power2 = 1;
    for (int64_t i = 0; i < number && (power1 > 1e-18 || power2 > 1e-18); ++i)
        power1 *= static_cast<double>(options_.beta1), power2 *= static_cast<double>(options_.beta2);
    graph_.reset();
    for (size_t i = 0; i < weights_.size(); ++i) {
        const trained_weight &w = weights_[i];
        const state &s = state_[i];
        const adamw_params p{
            .clip = static_cast<float>(clip / scale),
            .rate = static_cast<float>(rate),
            .decay = w.decays ? static_cast<float>(rate * static_cast<double>(options_.decay)) : 0.0f,
            .beta1 = options_.beta1,
            .beta2 = options_.beta2,
            .rest1 = static_cast<float>(1 - static_cast<double>(options_.beta1)),
            .rest2 = static_cast<float>(1 - static_cast<double>(options_.beta2)),
            .bias1 = static_cast<float>(1 / (1 - power1)),
            .bias2 = static_cast<float>(1 / (1 - power2)),
            .epsilon = options_.epsilon};
        tensor *const y = adamw(graph_, {w.w, w.low, w.sum, s.m, s.v, s.m_scale, s.v_scale}, p);
        y->data = w.w->data;
    }
    backend_->fn->run(backend_.get(), graph_, nullptr, nullptr);
}

}  // namespace ds
