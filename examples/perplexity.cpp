// perplexity: how well a model predicts a text: the mean negative log-likelihood of a token, and its
// exponential. The text is cut into overlapping windows. Each token is scored once, in the first window that
// holds it, so all but the first window's have at least context - stride tokens before them. Each window
// begins with BOS, which is not scored, if the model's texts do.
#include "cli.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <span>
#include <unistd.h>

namespace {

struct options {
    std::string model, text;
    cli::engine_flags engine;
    cli::rope_flags rope;
    uint32_t stride = 0;
    bool json = false, quiet = false, help = false;
};

// Tokens [begin, end) of the text, of which those from `scored` on are scored.
struct window {
    size_t begin, end, scored;
};

struct sums {
    uint64_t n = 0;
    double sum = 0, squares = 0;

    void add(double nll) { ++n, sum += nll, squares += nll * nll; }
    double mean() const { return n ? sum / static_cast<double>(n) : 0; }
    // Of the mean, as if tokens were independent.
    double standard_error() const {
        if (n < 2) return 0;
        const double count = static_cast<double>(n), variance = (squares - sum * sum / count) / (count - 1);
        return std::sqrt(std::max(variance, 0.0) / count);
    }
};

std::string read_text(const std::string &path) {
    FILE *const in = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
    if (!in) throw cli::failure(path + ": " + std::strerror(errno));
    std::string out;
    char buffer[65536];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, in)) > 0;) out.append(buffer, n);
    const bool bad = std::ferror(in);
    if (in != stdin) std::fclose(in);
    if (bad) throw cli::failure(path + ": could not be read");
    return out;
}

std::vector<ds_token> tokenize(const cli::model_ptr &m, const std::string &text, uint32_t flags) {
    return cli::collect<ds_token>([&](ds_token *tokens, size_t capacity, size_t *count, ds_error *err) {
        return ds_tokenize(m.get(), text.data(), text.size(), flags, tokens, capacity, count, err);
    });
}

// Windows of `length` tokens, one every `stride`. Without BOS a window's first token has none before it and
// cannot be scored there.
std::vector<window> windows_of(size_t tokens, size_t length, size_t stride, bool bos) {
    std::vector<window> out;
    for (size_t begin = 0, scored = 0; scored < tokens; begin += stride) {
        const size_t end = std::min(begin + length, tokens);
        out.push_back({begin, end, bos ? scored : std::max(scored, begin + 1)});
        scored = end;
    }
    return out;
}

void score(const cli::engine_ptr &e, const std::vector<ds_token> &prompt, size_t first_scored, sums &to) {
    auto r = cli::make<ds_request>();
    r.flags = DS_REQUEST_SCORE;
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    ds_request_id id = 0;
    ds_error err;
    cli::check(ds_engine_submit(e.get(), &r, &id, &err), err);
    for (;;) {
        const ds_event *const *events = nullptr;
        size_t count = 0;
        cli::check(ds_engine_step(e.get(), &events, &count, &err), err);
        for (const ds_event *v : std::span(events, count)) {
            if (v->type == DS_EVENT_SCORE && v->position >= first_scored)
                to.add(-static_cast<double>(v->logprob));
            if (v->type != DS_EVENT_DONE) continue;
            if (v->finish != DS_FINISH_SCORED)
                throw cli::failure(std::string("a window could not be scored: ") + ds_status_name(v->status));
            return;
        }
    }
}

struct result {
    uint64_t tokens, windows;
    uint32_t context, stride;
    sums nll;
    double seconds;
};

// Scoring needs the logits of all rows of a step, so their memory bounds a step: 64 MiB, and from 32 to 512
// rows.
uint32_t logit_rows(const ds_model_info &i) {
    return std::clamp(uint32_t{64 << 20} / (4 * i.vocabulary), 32u, 512u);
}

result measure(options &o) {
    auto config = cli::make<ds_model_config>();
    o.rope.set(config, o.engine.config.context_length);
    const cli::model_ptr m = cli::load(o.model, config);
    if (!o.quiet) o.rope.remark("perplexity", m, config.context_length);
    const ds_model_info info = cli::info(m);
    const std::string text = read_text(o.text);
    const std::vector<ds_token> tokens = tokenize(m, text, 0);
    const bool bos = tokenize(m, "", DS_TOKENIZE_BOS).size() == 1;

    ds_engine_config c = o.engine.get();
    if (!c.context_length) c.context_length = std::min(info.context_length, 2048u);
    c.max_requests = 1;
    c.logit_rows = logit_rows(info);
    if (c.context_length < 2u + bos) throw cli::usage_error("--context: is too short");
    const uint32_t length = c.context_length - bos;
    if (!o.stride) o.stride = (length + 1) / 2;
    if (o.stride > length)
        throw cli::usage_error("--stride: is longer than a window, which has " + std::to_string(length) +
                               " tokens: some would not be scored");
    const cli::engine_ptr e = cli::start(m, c);

    const std::vector<window> windows = windows_of(tokens.size(), length, o.stride, bos);
    if (tokens.size() + bos < 2)
        throw cli::failure(o.text + ": has too few tokens, " + std::to_string(tokens.size()));
    result r{tokens.size(), windows.size(), c.context_length, o.stride, {}, 0};
    const auto begin = std::chrono::steady_clock::now();
    const bool progress = !o.quiet && isatty(STDERR_FILENO);
    std::vector<ds_token> prompt;
    for (const window &w : windows) {
        prompt.assign(bos, ds_token_special(m.get(), DS_SPECIAL_BOS));
        prompt.insert(prompt.end(), tokens.begin() + static_cast<ptrdiff_t>(w.begin),
                      tokens.begin() + static_cast<ptrdiff_t>(w.end));
        score(e, prompt, w.scored - w.begin + bos, r.nll);
        r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        if (!progress) continue;
        const double done = static_cast<double>(w.end) / static_cast<double>(tokens.size());
        std::fprintf(stderr, "\r%3.0f %%  nll %.4f  perplexity %.4f  %.0f s left   ", 100 * done,
                     r.nll.mean(), std::exp(r.nll.mean()), r.seconds / done - r.seconds);
    }
    if (progress) std::fputs("\r\033[K", stderr);
    return r;
}

void print(const options &o, const result &r) {
    const double nll = r.nll.mean(), error = r.nll.standard_error();
    const auto n = [](uint64_t v) { return static_cast<unsigned long long>(v); };
    if (o.json) {
        std::printf("{\"model\": %s, \"text\": %s, \"tokens\": %llu, \"scored\": %llu, \"windows\": %llu, "
                    "\"context\": %u, \"stride\": %u, \"nll\": %.9g, "
                    "\"nll_standard_error\": %.6g, \"perplexity\": %.9g, \"seconds\": %.6g}\n",
                    cli::json_string(o.model).c_str(), cli::json_string(o.text).c_str(), n(r.tokens),
                    n(r.nll.n), n(r.windows), r.context, r.stride, nll, error, std::exp(nll), r.seconds);
        return;
    }
    std::printf("tokens      %llu, %llu of them scored, in %llu windows of %u, one every %u\n", n(r.tokens),
                n(r.nll.n), n(r.windows), r.context, r.stride);
    std::printf("nll         %.6f +- %.6f\n", nll, error);
    std::printf("perplexity  %.6f +- %.6f\n", std::exp(nll), std::exp(nll) * error);
    std::printf("time        %.2f s, %.0f tokens scored a second\n", r.seconds,
                static_cast<double>(r.nll.n) / r.seconds);
}

std::vector<cli::flag> flags_of(options &o) {
    std::vector<cli::flag> f = {
        {"", "", "Windows:", {}},
        {"-c, --context", "N",
         "tokens of a window, BOS included; default: the model's, at most 2048; more than it has: see "
         "--rope-scaling",
         cli::number(o.engine.config.context_length, 0u, 1u << 30)},
        {"-s, --stride", "N",
         "tokens from one window to the next; default: half a window. With a whole window it is\n"
         "                            fastest, but each window starts without context",
         cli::number(o.stride, 0u)},
        {"", "", "The engine:", {}},
    };
    o.rope.add_to(f);
    o.engine.add_to(f);
    f.push_back({"", "", "Output:", {}});
    f.push_back({"--json", "", "one line of JSON", cli::on(o.json)});
    f.push_back({"-q, --quiet", "", "no progress line (it shows on a terminal only)", cli::on(o.quiet)});
    f.push_back({"-h, --help", "", "this text", cli::on(o.help)});
    return f;
}

void print_usage(const std::vector<cli::flag> &flags) {
    std::printf(
        "Measures how well a model predicts a text.\n"
        "usage: perplexity [flags] MODEL.gguf TEXT\n\n"
        "TEXT is a file, or - for standard input. It is plain text: control tokens are not recognised in "
        "it.\n"
        "The results are the mean negative log-likelihood of its tokens, natural logarithm, and its\n"
        "exponential, each with its standard error over the tokens. Compare models only on the same text,\n"
        "with the same tokenizer and windows.\n");
    cli::print_help(flags);
    std::printf(
        "\nExample:\n  perplexity --context 512 --stride 256 model.gguf book.txt\n\n"
        "Exit status: 0 done; 1 something failed, and a line on standard error says what; 2 wrong usage.\n");
}

}  // namespace

int main(int argc, char **argv) {
    return cli::run("perplexity", [&] {
        options o;
        const std::vector<cli::flag> flags = flags_of(o);
        const std::vector<std::string> rest = cli::parse(argc, argv, flags);
        if (o.help) return print_usage(flags), 0;
        if (rest.size() != 2) throw cli::usage_error("needs a model file and a text file; see --help");
        o.model = rest[0];
        o.text = rest[1];
        print(o, measure(o));
        return 0;
    });
}
