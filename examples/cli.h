// What the C++ examples share: handles that free themselves, statuses as exceptions, and flags from one
// table, from which the help text is printed too. Only deepseek.h and the C++ standard library are needed, so
// that `make chat` needs no package. jsonl.h adds what batch needs.
#pragma once

#include <deepseek.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace cli {

// ---- The library's objects

struct deleter {
    void operator()(ds_model *m) const { ds_model_free(m); }
    void operator()(ds_engine *e) const { ds_engine_free(e); }
    void operator()(ds_adapter *a) const { ds_adapter_free(a); }
};
using model_ptr = std::unique_ptr<ds_model, deleter>;
using engine_ptr = std::unique_ptr<ds_engine, deleter>;
using adapter_ptr = std::unique_ptr<ds_adapter, deleter>;

struct failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};  // exit status 1
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};  // exit status 2

inline void check(ds_status s, const ds_error &e) {
    if (s != DS_OK) throw failure(std::string(e.message) + " (" + ds_status_name(s) + ")");
}

// A zeroed structure with its size.
template <class T> T make() {
    T t{};
    t.struct_size = sizeof t;
    return t;
}

inline model_ptr load(const std::string &path, const ds_model_config &config) {
    ds_error err;
    ds_model *m = nullptr;
    check(ds_model_load(path.c_str(), &config, &m, &err), err);
    return model_ptr(m);
}

inline engine_ptr start(const model_ptr &m, const ds_engine_config &config) {
    ds_error err;
    ds_engine *e = nullptr;
    check(ds_engine_new(m.get(), &config, &e, &err), err);
    return engine_ptr(e);
}

inline ds_model_info info(const model_ptr &m) {
    auto out = make<ds_model_info>();
    ds_error err;
    check(ds_model_get_info(m.get(), &out, &err), err);
    return out;
}

inline ds_engine_stats stats(const engine_ptr &e) {
    auto out = make<ds_engine_stats>();
    ds_error err;
    check(ds_engine_get_stats(e.get(), &out, &err), err);
    return out;
}

// Calls `fill(buffer, capacity, &size)`, which returns an array, once for the size and once for the content.
template <class T, class F> std::vector<T> collect(F &&fill) {
    ds_error err;
    size_t n = 0;
    const ds_status s = fill(static_cast<T *>(nullptr), size_t{0}, &n, &err);
    if (s != DS_ERR_BUFFER) check(s, err);
    std::vector<T> out(n);
    check(fill(out.data(), n, &n, &err), err);
    return out;
}

// A value of the file's metadata, "" if it has none.
inline std::string metadata(const model_ptr &m, const std::string &key) {
    size_t n = 0;
    if (ds_model_metadata(m.get(), key.c_str(), nullptr, 0, &n, nullptr) == DS_ERR_ARGUMENT) return "";
    const auto text = collect<char>([&](char *buffer, size_t capacity, size_t *size, ds_error *err) {
        return ds_model_metadata(m.get(), key.c_str(), buffer, capacity, size, err);
    });
    return std::string(text.begin(), text.end());
}

// ---- Flags

struct flag {
    const char *name;   // "-t, --threads"; "": a heading of the help text
    const char *value;  // its name in the help; "": the flag is a switch
    std::string help;
    std::function<void(const std::string &)> set;
};

// A number in [min, max], the whole word, independent of the locale.
template <class T>
std::function<void(const std::string &)> number(T &to, T min, T max = std::numeric_limits<T>::max()) {
    return [&to, min, max](const std::string &text) {
        T v{};
        const char *const end = text.data() + text.size();
        const auto [p, ec] = std::from_chars(text.data(), end, v);
        if (ec == std::errc() && p == end && v >= min && v <= max) return void(to = v);
        char range[100];
        if constexpr (std::is_integral_v<T>)
            std::snprintf(range, sizeof range, "%llu to %llu", static_cast<unsigned long long>(min),
                          static_cast<unsigned long long>(max));
        else
            std::snprintf(range, sizeof range, "%g to %g", static_cast<double>(min),
                          static_cast<double>(max));
        double any = 0;  // whether it is a number at all
        const auto [q, bad] = std::from_chars(text.data(), end, any);
        const bool is_number =
            bad == std::errc() && q == end &&
            !(std::is_integral_v<T> && text.find_first_not_of("-0123456789") != std::string::npos);
        throw usage_error("is " + text + ", must be " +
                          (is_number               ? ""
                           : std::is_integral_v<T> ? "an integer "
                                                   : "a number ") +
                          "from " + range);
    };
}
inline std::function<void(const std::string &)> text(std::string &to) {
    return [&to](const std::string &v) { to = v; };
}
inline std::function<void(const std::string &)> on(bool &to) {
    return [&to](const std::string &) { to = true; };
}

inline std::string lower_case(std::string s) {
    for (char &c : s)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return s;
}

// One of a few words, in upper or lower case, each standing for a value.
template <class T>
std::function<void(const std::string &)> choice(T &to, std::vector<std::pair<const char *, T>> words) {
    return [&to, words](const std::string &v) {
        std::string known;
        for (const auto &[word, value] : words) {
            if (lower_case(v) == word) return void(to = value);
            known += (known.empty() ? "" : ", ") + std::string(word);
        }
        throw usage_error("is " + v + ", must be one of " + known);
    };
}

// True when `word` is among the comma-separated names.
inline bool named(const char *names, const std::string &word) {
    const char *p = std::strstr(names, word.c_str());
    for (; p; p = std::strstr(p + 1, word.c_str())) {
        const char after = p[word.size()];
        if ((p == names || p[-1] == ' ') && (after == ',' || after == 0)) return true;
    }
    return false;
}

// "-t 4", "--threads 4" and "--threads=4". Returns the other words in order. "-" is no flag, and there are
// none after "--".
inline std::vector<std::string> parse(int argc, char **argv, const std::vector<flag> &flags) {
    std::vector<std::string> rest;
    for (int i = 1; i < argc; ++i) {
        std::string word = argv[i], value;
        if (word == "--") return rest.insert(rest.end(), argv + i + 1, argv + argc), rest;
        if (word.size() < 2 || word[0] != '-') {
            rest.push_back(word);
            continue;
        }
        const size_t equals = word.rfind("--", 0) == 0 ? word.find('=') : std::string::npos;
        if (equals != std::string::npos) value = word.substr(equals + 1), word.resize(equals);
        const flag *found = nullptr;
        for (const flag &f : flags)
            if (named(f.name, word)) found = &f;
        if (!found) throw usage_error(word + ": no such flag; see --help");
        if (!*found->value && equals != std::string::npos) throw usage_error(word + ": takes no value");
        if (*found->value && equals == std::string::npos) {
            if (++i == argc) throw usage_error(word + ": needs a value, " + found->value);
            value = argv[i];
        }
        try {
            found->set(value);
        } catch (const usage_error &e) {
            throw usage_error(word + ": " + e.what());
        }
    }
    return rest;
}

inline void print_help(const std::vector<flag> &flags) {
    for (const flag &f : flags)
        if (!*f.name) std::printf("\n%s\n", f.help.c_str());
        else
            std::printf("  %-24s  %s\n", (std::string(f.name) + (*f.value ? " " : "") + f.value).c_str(),
                        f.help.c_str());
}

// The flags of every program that makes an engine.
struct engine_flags {
    ds_engine_config config = make<ds_engine_config>();  // without isa
    std::string isa;

    ds_engine_config get() const {
        ds_engine_config c = config;
        if (!isa.empty()) c.isa = isa.c_str();
        return c;
    }

    void add_to(std::vector<flag> &flags) {
        flags.push_back(
            {"-t, --threads", "N", "threads; default: one a processor", number(config.threads, 0u, 1024u)});
        flags.push_back({"--kv", "TYPE", "number format of keys and values: f16 (default), f32",
                         choice<ds_kv_type>(config.kv_type, {{"f16", DS_KV_F16}, {"f32", DS_KV_F32}})});
        flags.push_back({"--isa", "NAME",
                         "scalar, avx2, avx512, avx512_vnni, avx512_bf16 (no AMX), amx, neon; default: the "
                         "best of this machine",
                         [this](const std::string &v) { isa = lower_case(v); }});
    }
};

// An adapter for all answers.
struct adapter_flags {
    std::string file;
    float scale = 1;

    void add_to(std::vector<flag> &flags) {
        flags.push_back({"--lora", "FILE[=SCALE]",
                         "a LoRA adapter of the model, GGUF, and a factor of its own scale",
                         [this](const std::string &v) {
                             const size_t equals = v.rfind('=');
                             file = v.substr(0, equals);
                             if (equals == std::string::npos) return;
                             number(scale, -1e6f, 1e6f)(v.substr(equals + 1));
                             if (scale == 0) throw usage_error("is 0, which is no adapter at all");
                         }});
    }
    // Before the engine is made: it needs to know the rank. Null: none is asked for.
    adapter_ptr load(const model_ptr &m, ds_engine_config &engine) const {
        if (file.empty()) return nullptr;
        ds_error err;
        ds_adapter *a = nullptr;
        check(ds_adapter_load(m.get(), file.c_str(), nullptr, &a, &err), err);
        adapter_ptr loaded(a);
        auto i = make<ds_adapter_info>();
        check(ds_adapter_get_info(a, &i, &err), err);
        engine.max_adapter_rank = i.rank;
        return loaded;
    }
    void set(ds_request &r, const adapter_ptr &a) const { r.adapter = a.get(), r.adapter_scale = scale; }
};

// RoPE scaling in place of the file's. --context applies to the model as well: it may exceed the file's
// context.
struct rope_flags {
    ds_rope_scaling scaling = DS_ROPE_FROM_FILE;
    double factor = 0;
    uint32_t original = 0;

    void add_to(std::vector<flag> &flags) {
        flags.push_back(
            {"--rope-scaling", "KIND", "for a longer context: none, linear, yarn; default: as the file says",
             choice<ds_rope_scaling>(
                 scaling, {{"none", DS_ROPE_NONE}, {"linear", DS_ROPE_LINEAR}, {"yarn", DS_ROPE_YARN}})});
        flags.push_back(
            {"--rope-factor", "X", "how much longer, for linear and yarn", number(factor, 1.0, 1e6)});
        flags.push_back({"--rope-original", "N", "positions before scaling, for yarn; default: the file's",
                         number(original, 1u, 1u << 30)});
    }

    void set(ds_model_config &c, uint32_t context) const {
        const bool scaled = scaling == DS_ROPE_LINEAR || scaling == DS_ROPE_YARN;
        if (factor != 0 && !scaled) throw usage_error("--rope-factor: is for --rope-scaling linear and yarn");
        if (factor == 0 && scaled) throw usage_error("--rope-scaling: linear and yarn need --rope-factor");
        if (original != 0 && scaling != DS_ROPE_YARN)
            throw usage_error("--rope-original: is for --rope-scaling yarn");
        c.context_length = context;
        c.rope_scaling = scaling;
        c.rope_factor = factor;
        c.rope_original_context = original;
    }

    // A model does badly beyond its training context, and nothing else would report it.
    void remark(const char *program, const model_ptr &m, uint32_t context) const {
        if (!context || scaling != DS_ROPE_FROM_FILE) return;
        const std::string trained = metadata(m, metadata(m, "general.architecture") + ".context_length");
        uint32_t positions = 0;
        std::from_chars(trained.data(), trained.data() + trained.size(), positions);
        if (context > positions)
            std::fprintf(stderr,
                         "%s: note: --context is longer than the model's context in the file, %u positions; "
                         "--rope-scaling yarn may help beyond it\n",
                         program, positions);
    }
};

// The parameters of an answer.
struct answer_options {
    ds_request request = make<ds_request>();  // without what get() sets
    ds_sampling sampling = make<ds_sampling>();
    ds_thinking thinking = make<ds_thinking>();

    ds_request get() const {  // points into this object
        ds_request r = request;
        r.sampling = &sampling;
        r.thinking = &thinking;
        return r;
    }
};

// DeepSeek's recommendation for R1 and its distilled models.
inline answer_options recommended() {
    answer_options o;
    o.sampling.temperature = 0.6f;
    o.sampling.top_p = 0.95f;
    o.sampling.seed = 1;
    return o;
}

// "off", or a number of tokens, which may be 0.
inline void set_think_budget(ds_thinking &how, const std::string &word) {
    uint32_t budget = 0;
    if (word != "off") number(budget, 0u)(word);
    how.max_tokens = budget;
    how.flags = word == "off" ? 0 : DS_THINKING_BUDGET;
}

// The flags of every program that generates answers. Their defaults are those of recommended().
inline void add_answer_flags(std::vector<flag> &flags, answer_options &how) {
    flags.insert(
        flags.end(),
        {
            {"", "", "The choice of each token:", {}},
            {"--temp", "X", "temperature; 0 always takes the most likely token; default 0.6",
             number(how.sampling.temperature, 0.0f, 100.0f)},
            {"--top-p", "X", "of the most likely tokens whose probabilities reach X; default 0.95; 0: off",
             number(how.sampling.top_p, 0.0f, 1.0f)},
            {"--top-k", "N", "of the N most likely tokens; default: off", number(how.sampling.top_k, 0u)},
            {"--min-p", "X", "of tokens at least X times as likely as the most likely; default: off",
             number(how.sampling.min_p, 0.0f, 1.0f)},
            {"--seed", "N", "the same seed gives the same answer; default 1",
             number(how.sampling.seed, uint64_t{0})},
            {"", "", "The answer:", {}},
            {"--think", "on|off",
             "let the model think before it answers; default: as the model's template does",
             choice<ds_thinking_mode>(how.thinking.mode, {{"on", DS_THINKING_ON}, {"off", DS_THINKING_OFF}})},
            {"--think-budget", "N",
             "most tokens of thinking, after which the thought is closed; 0: an empty thought; off (the "
             "default): no limit",
             [&how](const std::string &v) { set_think_budget(how.thinking, v); }},
            {"--max-new", "N",
             "most tokens of an answer, thinking included; default: as many as the context holds",
             number(how.request.max_new_tokens, 0u)},
        });
}

// A JSON string. Bytes that are not UTF-8, as a file name may have, are copied.
inline std::string json_string(const std::string &s) {
    std::string out = "\"";
    for (const char c : s) {
        char escaped[8];
        if (c == '"' || c == '\\') out += '\\', out += c;
        else if (static_cast<unsigned char>(c) < 0x20)
            std::snprintf(escaped, sizeof escaped, "\\u%04x", c), out += escaped;
        else out += c;
    }
    return out + '"';
}

// Output that was lost, on a full disk for example, is an error. (A closed pipe ends the program by its
// signal.)
struct output_failure : std::runtime_error {
    output_failure() : std::runtime_error("standard output: could not be written") {}
};
inline void flush_output() {
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) throw output_failure();
}

// Runs main's body: an exception becomes a line on standard error and an exit status.
template <class F> int run(const char *program, F &&body) {
    try {
        const int status = body();
        flush_output();
        return status;
    } catch (const usage_error &e) {
        std::fprintf(stderr, "%s: %s\n", program, e.what());
        return 2;
    } catch (const std::bad_alloc &) {
        std::fprintf(stderr, "%s: out of memory\n", program);
        return 1;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "%s: %s\n", program, e.what());
        return 1;
    }
}

}  // namespace cli
