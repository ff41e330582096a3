// train eval: how well a model predicts the answers of rows.
#include "train.h"

#include <cmath>
#include <span>

namespace train {

namespace {
struct options {
    std::string model, rows;
    cli::engine_flags engine;
    rows::rules rules;
    bool quiet = false;
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

int run_eval(const command &c, int argc, char **argv) {
    options o;
    std::vector<cli::flag> f = {
        {"--context", "N", "most tokens of a row; default: the model's context",
         cli::number(o.engine.config.context_length, 0u, 1u << 30)},
    };
    add_row_flags(f, o.rules);
    o.engine.add_to(f);
    f.push_back(quiet_flag(o.quiet));
    const auto rest = parse(c, argc, argv, std::move(f));
    if (!rest) return 0;
    if (rest->size() != 2)
        throw cli::usage_error("eval: needs a model and a file of rows; see train eval --help");
    o.model = (*rest)[0], o.rows = (*rest)[1];
    return measure(std::move(o));
}

}  // namespace train
