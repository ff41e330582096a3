// A loaded model: the file, its vocabulary, and its weights, in place in the file or in a device's memory.
// Immutable after loading.
#pragma once

#include "../../tensor/backend.h"
#include "../text/chat.h"
#include "arch.h"
#include "fingerprint.h"

#include <deque>
#include <functional>

namespace ds {

struct model_options {
    bool vocab_only = false;
    int64_t context = 0;  // 0: the file's
    bool override_rope = false;
    rope_scaling scaling = rope_scaling::none;  // with override_rope
    double rope_factor = 1;
    int64_t rope_original_context = 0;  // 0: the file's
    std::string chat_template;          // a name; empty: recognised from the file's text
    ds::host host;
    // Called with bytes of tensors bound, then of tensors copied to the device; may be empty.
    std::function<bool(uint64_t done, uint64_t total)> progress;
    std::shared_ptr<backend> device;  // the backend that will hold the weights; null: they stay in the file
};

struct model {
    model(gguf_file f, const model_options &o);
    model(const model &) = delete;

    gguf_file file;
    std::string_view name, architecture_name;  // from the file; empty if missing
    tokenizer vocabulary;
    const chat_template *chat = nullptr;  // null: not recognised
    const arch *architecture = nullptr;   // null: loaded for its vocabulary only
    hparams h;
    model_weights weights;
    std::shared_ptr<backend> device;            // the backend that holds the weights; null: the host
    uint64_t parameters = 0, weight_bytes = 0;  // of all the file's tensors
    // Bytes of the weights in the device's memory; 0: they are in the host's.
    uint64_t device_bytes = 0;
    // Bytes of the host's memory for tensors that are computed in another form than the file's.
    uint64_t made_bytes = 0;
    uint64_t fingerprint = 0;  // 0: loaded for its vocabulary only
    // Of weights that are trained: even, and another number whenever they were published (train/trainer.h);
    // odd while they may change.
    std::atomic<uint64_t> generation = 0;
    mutable std::atomic<uint32_t> adapters = 0;  // loaded so far (adapter.h)
    format main_format = format::f32;            // the format that holds the most bytes

private:
    // The key part of MLA's kv_b, transposed head by head from a file that holds kv_b whole.
    struct transposed {
        tensor *t;            // the result, [heads, rank, key rows]
        tensor all;           // [heads, key rows + value rows, rank]
        const tensor *scale;  // of all's rows, or null
        uint64_t to = 0;      // offset in the device's memory
    };
    void bind(const ds::host &host, const std::function<bool(uint64_t, uint64_t)> &progress);
    const tensor *bind_row(const tensor_row &row);
    const tensor *bind_part(const tensor_row &row, const gguf_tensor &whole);
    const tensor *bind_half(const tensor_row &row, const gguf_tensor &whole);
    const tensor *bind_rows(tensor t, const tensor *scale, int64_t first, int64_t rows);
    tensor bind_whole(const gguf_tensor &whole, std::initializer_list<int64_t> ne) const;
    const tensor *bind_scale(const std::string &weights_name, std::span<const int64_t> ne);
    void *take(size_t bytes);
    void transpose(const transposed &p, void *to) const;
    void check_rope_divisors() const;
    void check_router_biases() const;
    std::vector<tensor *> tensors_run();
    void move_to(const std::shared_ptr<backend> &to, const std::function<bool(uint64_t, uint64_t)> &progress);
    void override_rope(const model_options &o);
    std::deque<tensor> tensors_;
    ds::host host_;
    bool to_device_;  // the weights go to a device's memory
    // Norms and biases that the file holds in another format than f32, and transposed tensors.
    std::deque<block> made_;
    std::deque<transposed> transposed_;  // still to be made, while loading to a device
    backend_memory device_memory_;
};

// The architecture that the file names. Throws status::unsupported, listing the known ones.
const arch *arch_of(const gguf_file &f);

}  // namespace ds
