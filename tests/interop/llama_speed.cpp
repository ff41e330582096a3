// llama.cpp's speed through its own C interface, from its shared libraries, so that only the library is
// timed. Prompt and answer go through llama_decode in batches of at most 512 tokens; the best token of each
// row of logits is the next. For each line of input it writes one line of JSON with tokens a second.
// usage: llama_speed DIRECTORY LIBGGML LIBLLAMA MODEL.gguf THREADS PROMPT NEW SEQUENCES
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <iostream>
#include <string>
#include <vector>

namespace {

// The used part of llama.h. Parameters come from the library's defaults. Of a context's only the first fields
// are declared, and their values are checked.
struct model_params {
    char bytes[512];
};
struct context_params {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max;
    char bytes[496];
};
struct batch {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos, *n_seq_id, **seq_id;
    int8_t *logits;
};

template <class F> F *found(void *library, const char *name) {
    if (void *const f = dlsym(library, name)) return reinterpret_cast<F *>(f);
    std::fprintf(stderr, "llama_speed: %s\n", dlerror());
    std::exit(1);
}
void *opened(const std::string &path) {
    if (void *const library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    std::fprintf(stderr, "llama_speed: %s\n", dlerror());
    std::exit(1);
}
[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "llama_speed: %s\n", what);
    std::exit(1);
}

constexpr int32_t most_tokens = 512;  // of a batch

class peer {
public:
    peer(const std::string &directory, const char *ggml, const char *llama, const char *path, int32_t threads,
         int32_t context, int32_t sequences) {
        opened(directory + "/libggml-base.so");
        void *const backends = opened(directory + "/" + ggml), *const library =
                                                                   opened(directory + "/" + llama);
        found<void(void (*)(int, const char *, void *), void *)>(library, "llama_log_set")(
            [](int, const char *, void *) {}, nullptr);
        found<void(const char *)>(backends, "ggml_backend_load_all_from_path")(directory.c_str());
        found<void()>(library, "llama_backend_init")();
        decode_ = found<int32_t(void *, batch)>(library, "llama_decode");
        synchronize_ = found<void(void *)>(library, "llama_synchronize");
        logits_ = found<float *(void *, int32_t)>(library, "llama_get_logits_ith");
        forget_ = found<void(void *, bool)>(library, "llama_memory_clear");

        void *const model = found<void *(const char *, model_params)>(library, "llama_model_load_from_file")(
            path, found<model_params()>(library, "llama_model_default_params")());
        if (!model) fail("llama.cpp does not load the model");
        context_params p = found<context_params()>(library, "llama_context_default_params")();
        p.n_ctx = static_cast<uint32_t>(context * sequences);
        p.n_batch = p.n_ubatch = most_tokens;
        p.n_seq_max = static_cast<uint32_t>(sequences);
        context_ = found<void *(void *, context_params)>(library, "llama_init_from_model")(model, p);
        if (!context_) fail("llama.cpp makes no context");
        const auto number = [&](const char *name) {
            return found<uint32_t(const void *)>(library, name)(context_);
        };
        if (number("llama_n_ctx") < p.n_ctx || number("llama_n_batch") != std::min(p.n_batch, p.n_ctx) ||
            number("llama_n_seq_max") != p.n_seq_max)
            fail("llama.cpp's parameters have another layout");
        found<void(void *, int32_t, int32_t)>(library, "llama_set_n_threads")(context_, threads, threads);
        memory_ = found<void *(const void *)>(library, "llama_get_memory")(context_);
        const void *const vocabulary =
            found<const void *(const void *)>(library, "llama_model_get_vocab")(model);
        vocabulary_ = found<int32_t(const void *)>(library, "llama_vocab_n_tokens")(vocabulary);
        system_ = found<const char *()>(library, "llama_print_system_info")();
    }
    const char *system() const { return system_; }

    void forget() {
        forget_(memory_, true), token_.clear(), pos_.clear(), sequence_.clear(), wanted_.clear();
    }
    void add(int32_t token, int32_t position, int32_t sequence, bool wanted) {
        token_.push_back(token), pos_.push_back(position), sequence_.push_back(sequence),
            wanted_.push_back(wanted);
        if (token_.size() == most_tokens) run();
    }
    // Decodes the batch. Then best[sequence] is the best token of each row that has logits.
    void run() {
        const size_t n = token_.size();
        if (n == 0) return;
        ones_.assign(n, 1);
        sequences_.clear();
        for (int32_t &s : sequence_) sequences_.push_back(&s);
        if (decode_(context_, {static_cast<int32_t>(n), token_.data(), nullptr, pos_.data(), ones_.data(),
                               sequences_.data(), wanted_.data()}))
            fail("llama_decode failed");
        synchronize_(context_);
        for (size_t i = 0; i < n; ++i) {
            if (!wanted_[i]) continue;
            const float *const row = logits_(context_, static_cast<int32_t>(i));
            best.resize(std::max<size_t>(best.size(), static_cast<size_t>(sequence_[i]) + 1));
            best[static_cast<size_t>(sequence_[i])] =
                static_cast<int32_t>(std::max_element(row, row + vocabulary_) - row);
        }
        token_.clear(), pos_.clear(), sequence_.clear(), wanted_.clear();
    }
    std::vector<int32_t> best;

private:
    int32_t (*decode_)(void *, batch);
    void (*synchronize_)(void *), (*forget_)(void *, bool);
    float *(*logits_)(void *, int32_t);
    void *context_, *memory_;
    int32_t vocabulary_;
    const char *system_;
    std::vector<int32_t> token_, pos_, sequence_, ones_;
    std::vector<int32_t *> sequences_;
    std::vector<int8_t> wanted_;
};

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void add_prompt(peer &p, int32_t tokens, int32_t sequence) {
    for (int32_t i = 0; i < tokens; ++i) p.add(i * 7919 % 256 + 3, i, sequence, i + 1 == tokens);
}
void answer(peer &p, int32_t first, int32_t tokens, int32_t sequences) {
    for (int32_t i = 0; i < tokens; ++i) {
        for (int32_t s = 0; s < sequences; ++s) p.add(p.best[static_cast<size_t>(s)], first + i, s, true);
        p.run();
    }
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 9) fail("DIRECTORY LIBGGML LIBLLAMA MODEL.gguf THREADS PROMPT NEW SEQUENCES");
    const int32_t prompt = std::atoi(argv[6]), tokens = std::atoi(argv[7]), sequences = std::atoi(argv[8]);
    peer p(argv[1], argv[2], argv[3], argv[4], std::atoi(argv[5]), (prompt + tokens + 8 + 255) / 256 * 256,
           sequences);
    std::printf("%s\n", p.system());
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
        p.forget();
        double begin = seconds();
        if (sequences > 1) {
            for (int32_t s = 0; s < sequences; ++s) add_prompt(p, prompt, s);
            p.run();
            answer(p, prompt, tokens - 1, sequences);  // the first came with the prompt
            std::printf("{\"all\": %.4f}\n", sequences * (prompt + tokens) / (seconds() - begin));
        } else {
            add_prompt(p, prompt, 0);
            p.run();
            const double read = seconds() - begin;
            p.forget();
            add_prompt(p, 1, 0);
            p.run();
            begin = seconds();
            answer(p, 1, tokens, 1);
            std::printf("{\"prompt\": %.4f, \"decode\": %.4f}\n", prompt / read,
                        tokens / (seconds() - begin));
        }
        std::fflush(stdout);
    }
}
