// train eval: how well a model predicts the answers of rows, or how many problems it solves.
#include "problems.h"
#include "train.h"

#include <cmath>
#include <map>
#include <span>

namespace train {

namespace {
struct options {
    std::string model, rows;
    cli::engine_flags engine;
    rows::rules rules;
    bool quiet = false;
    // --solve
    bool solve = false, json = false;
    cli::answer_options how;
};
}  // namespace

// By an engine, which runs the model in its own number formats.
static int measure(options o) {
    const cli::model_ptr model = cli::load(o.model, cli::make<ds_model_config>());
    const ds_model_info info = cli::info(model);
    ds_engine_config c = o.engine.get();
    if (!c.context_length) c.context_length = info.context_length;
    o.rules.most_tokens = c.context_length;
    o.rules.limit = "the context";
    const rows::data data = rows::read_data(o.rows, rows::reader(model, o.rules));
    size_t longest = 2;
    for (const rows::sequence &s : data.sequences) longest = std::max(longest, s.tokens.size());
    c.context_length = static_cast<uint32_t>(longest);
    c.max_requests = 8;
    // scoring needs the logits of all rows of a step
    c.logit_rows = std::clamp(uint32_t{64 << 20} / (4 * info.vocabulary), 32u, 512u);
    const cli::engine_ptr e = cli::start(model, c);

    double sum = 0;
    ds_error err;
    size_t begun = 0, ended = 0;
    const bool show = !o.quiet && isatty(STDERR_FILENO);
    while (ended < data.sequences.size()) {
        for (; begun < data.sequences.size() && begun - ended < c.max_requests; ++begun) {
            const rows::sequence &s = data.sequences[begun];
            auto r = cli::make<ds_request>();
            r.flags = DS_REQUEST_SCORE;
            r.prompt = s.tokens.data();
            r.prompt_count = s.tokens.size();
            r.user = const_cast<rows::sequence *>(&s);
            ds_request_id id = 0;
            cli::check(ds_engine_submit(e.get(), &r, &id, &err), err);
        }
        const ds_event *const *events = nullptr;
        size_t count = 0;
        cli::check(ds_engine_step(e.get(), &events, &count, &err), err);
        for (const ds_event *v : std::span(events, count)) {
            const auto *const s = static_cast<const rows::sequence *>(v->user);
            if (v->type == DS_EVENT_SCORE && v->position > 0 && s->weights[v->position] > 0)
                sum -= static_cast<double>(v->logprob);
            if (v->type != DS_EVENT_DONE) continue;
            ++ended;
            if (v->finish != DS_FINISH_SCORED)
                throw cli::failure(std::string("a row could not be scored: ") + ds_status_name(v->status));
        }
        if (show) std::fprintf(stderr, "\r%zu of %zu rows\033[K", ended, data.sequences.size());
    }
    if (show) std::fputs("\r\033[K", stderr);
    const double loss = sum / static_cast<double>(data.targets);
    std::printf("rows        %zu, %llu tokens, %llu of them scored\n", data.sequences.size(),
                static_cast<unsigned long long>(data.tokens), static_cast<unsigned long long>(data.targets));
    std::printf("loss        %.6f\nperplexity  %.6f\n", loss, std::exp(loss));
    return 0;
}

// ---- Problems

namespace {
struct score {
    uint64_t problems = 0, solved = 0, ended = 0, thinking = 0, tokens = 0;
    void add(const score &s) {
        problems += s.problems, solved += s.solved, ended += s.ended, thinking += s.thinking;
        tokens += s.tokens;
    }
};
struct task {
    std::string prompt;
    problems::asked q;
    std::vector<ds_token> tokens;
    std::string thinking, answer;
};
}  // namespace

static std::vector<task> read_tasks(const std::string &path, const cli::model_ptr &model) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!in) throw cli::failure(path + ": " + std::strerror(errno));
    std::vector<task> out;
    jsonl::each_line(in.get(), path, [&](size_t line, const std::string &text, uint64_t) {
        if (text.find_first_not_of(" \t\r\n") == std::string::npos) return;
        try {
            const json row = jsonl::parse_line(text);
            if (!row.is_object() || !row.contains("prompt")) throw cli::failure("has no prompt");
            task t;
            t.prompt = jsonl::text_of(row["prompt"]);
            t.q = problems::asked_in(t.prompt);
            if (t.q.kind.empty()) throw cli::failure("is no problem of train data");
            ds_message m{};
            m.role = "user", m.content = t.prompt.c_str();
            const auto config = cli::make<ds_chat_config>();
            t.tokens = cli::collect<ds_token>([&](ds_token *to, size_t capacity, size_t *n, ds_error *err) {
                return ds_chat_tokenize(model.get(), &m, 1, &config, to, capacity, n, err);
            });
            out.push_back(std::move(t));
        } catch (const cli::failure &e) {
            throw cli::failure(jsonl::location(path, line) + ": " + e.what());
        }
    });
    if (out.empty()) throw cli::failure(path + ": has no rows");
    return out;
}

static json json_of(const score &s) {
    return {{"problems", s.problems},
            {"solved", s.solved},
            {"ended", s.ended},
            {"thinking_tokens", s.thinking},
            {"tokens", s.tokens}};
}

// The same answers whatever the number of threads: each depends on its own prompt and the seed.
static int solve(const options &o) {
    const cli::model_ptr model = cli::load(o.model, cli::make<ds_model_config>());
    std::vector<task> tasks = read_tasks(o.rows, model);
    ds_engine_config c = o.engine.get();
    c.max_requests = 32;
    c.max_queue = 32;
    const cli::engine_ptr e = cli::start(model, c);
    const bool show = !o.quiet && isatty(STDERR_FILENO);
    std::map<std::pair<std::string, size_t>, score> by_kind;
    size_t begun = 0, ended = 0;
    ds_error err;
    while (ended < tasks.size()) {
        for (; begun < tasks.size() && begun - ended < c.max_requests; ++begun) {
            ds_request r = o.how.get();
            r.prompt = tasks[begun].tokens.data();
            r.prompt_count = tasks[begun].tokens.size();
            r.user = &tasks[begun];
            ds_request_id id = 0;
            cli::check(ds_engine_submit(e.get(), &r, &id, &err), err);
        }
        const ds_event *const *events = nullptr;
        size_t count = 0;
        cli::check(ds_engine_step(e.get(), &events, &count, &err), err);
        for (const ds_event *v : std::span(events, count)) {
            task &t = *static_cast<task *>(v->user);
            (v->channel == DS_CHANNEL_THINKING ? t.thinking : t.answer).append(v->text, v->text_size);
            if (v->type != DS_EVENT_DONE) continue;
            ++ended;
            score &s = by_kind[{t.q.kind, t.q.size}];
            s.add({1, problems::solves(t.q, t.answer), v->finish == DS_FINISH_STOP, v->thinking_tokens,
                   v->thinking_tokens + v->answer_tokens});
        }
        if (show) std::fprintf(stderr, "\r%zu of %zu problems\033[K", ended, tasks.size());
    }
    if (show) std::fputs("\r\033[K", stderr);
    score all;
    json kinds = json::array();
    if (!o.json)
        std::printf("%-12s %5s %9s %8s %8s %9s\n", "kind", "size", "problems", "solved", "ended", "thinking");
    const auto line = [&](const std::string &kind, const std::string &size, const score &s) {
        const auto n = static_cast<double>(s.problems);
        std::printf("%-12s %5s %9llu %7.1f%% %7.1f%% %9.1f\n", kind.c_str(), size.c_str(),
                    static_cast<unsigned long long>(s.problems), 100 * static_cast<double>(s.solved) / n,
                    100 * static_cast<double>(s.ended) / n, static_cast<double>(s.thinking) / n);
    };
    for (const auto &[kind, s] : by_kind) {
        all.add(s);
        json k = json_of(s);
        k["kind"] = kind.first, k["size"] = kind.second;
        kinds.push_back(k);
        if (!o.json) line(kind.first, std::to_string(kind.second), s);
    }
    if (!o.json) return line("all", "", all), 0;
    json out = json_of(all);
    out["kinds"] = kinds;
    for (const task &t : tasks)
        out["answers"].push_back({{"prompt", t.prompt},
                                  {"thinking", t.thinking},
                                  {"answer", t.answer},
                                  {"solved", problems::solves(t.q, t.answer)}});
    const std::string text = jsonl::text_line(out);
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw cli::output_failure();
    return 0;
}

int run_eval(const command &c, int argc, char **argv) {
    options o;
    std::vector<cli::flag> f = {
        {"--context", "N", "most tokens of a row; default: the model's context",
         cli::number(o.engine.config.context_length, 0u, 1u << 30)},
    };
    add_row_flags(f, o.rules);
    cli::answer_options &how = o.how;
    f.insert(
        f.end(),
        {
            {"", "", "Answers:", {}},
            {"--solve", "", "let the model answer the rows' problems, which are train data's, and check them",
             cli::on(o.solve)},
            {"--temp", "X", "temperature; default 0: the most likely token always",
             cli::number(how.sampling.temperature, 0.0f, 100.0f)},
            {"--seed", "N", "of the choice; default 1", cli::number(how.sampling.seed, uint64_t{0})},
            {"--budget", "N", "most tokens of thinking, after which the thought is closed; off (default)",
             [&how](const std::string &v) { cli::set_think_budget(how.thinking, v); }},
            {"--max-new", "N", "most tokens of an answer, thinking included; default: the context",
             cli::number(how.request.max_new_tokens, 0u)},
            {"--json", "", "the scores and every answer as JSON", cli::on(o.json)},
            {"", "", "The engine:", {}},
        });
    how.sampling.seed = 1;
    o.engine.add_to(f);
    f.push_back(quiet_flag(o.quiet));
    const auto rest = parse(c, argc, argv, std::move(f));
    if (!rest) return 0;
    if (rest->size() != 2)
        throw cli::usage_error("eval: needs a model and a file of rows; see train eval --help");
    o.model = (*rest)[0], o.rows = (*rest)[1];
    if (o.json && !o.solve) throw cli::usage_error("--json: is for --solve");
    return o.solve ? solve(o) : measure(std::move(o));
}

}  // namespace train
