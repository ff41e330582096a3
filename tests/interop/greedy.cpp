// Our side of the comparison with llama.cpp: the greedy continuation of given token ids, with the two best
// logits at each position. Keys and values are f32.
// usage: greedy MODEL.gguf NEW ID,ID,… [ADAPTER.gguf SCALE]   with an adapter; without:
//        greedy MODEL.gguf NEW ID,ID,…       a line for each new token: token, best and second best logit
//        greedy MODEL.gguf nll ID,ID,…       writes the ids' mean negative log-likelihood
//        greedy MODEL.gguf margins ID,ID,…   writes a line for each id: the smallest margin, over all layers,
//                                            between scores of chosen and other experts ("inf" without
//                                            experts)
#include "../../deepseek.h"
#include "../../quantize/forward.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <vector>

static void check(ds_status s, const ds_error &err) {
    if (s == DS_OK) return;
    std::fprintf(stderr, "greedy: %s\n", err.message);
    std::exit(1);
}

static void print(ds_token token, const float *logits, uint32_t n) {
    float best = -__builtin_inff(), second = best;
    for (uint32_t i = 0; i < n; ++i)
        if (logits[i] > best) second = best, best = logits[i];
        else if (logits[i] > second) second = logits[i];
    std::printf("%d %.9g %.9g\n", token, best, second);
}

// ---- Margins, in double: a group's score is that of its best expert (arXiv 2405.04434), or the sum of its
// two best (arXiv 2412.19437)

static double sum_of_best(std::vector<double> x, size_t n) {
    std::sort(x.begin(), x.end(), std::greater<>());
    double sum = 0;
    for (size_t i = 0; i < std::min(n, x.size()); ++i) sum += x[i];
    return sum;
}
// The difference between the last chosen score and the first not chosen.
static double gap(std::vector<double> x, size_t chosen) {
    std::sort(x.begin(), x.end(), std::greater<>());
    return chosen < x.size() ? x[chosen - 1] - x[chosen] : INFINITY;
}

static double margin(std::vector<double> rank, const ds::hparams &h) {
    const auto groups = static_cast<size_t>(h.expert_groups),
               groups_used = static_cast<size_t>(h.expert_groups_used), size = rank.size() / groups;
    std::vector<double> worth;
    for (size_t g = 0; g < groups; ++g)
        worth.push_back(sum_of_best(
            {rank.begin() + static_cast<long>(g * size), rank.begin() + static_cast<long>((g + 1) * size)},
            h.expert_sigmoid ? 2 : 1));
    const double between_groups = gap(worth, groups_used);
    std::vector<double> sorted = worth;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (size_t i = 0; i < rank.size(); ++i)
        if (worth[i / size] < sorted[groups_used - 1]) rank[i] = -INFINITY;
    return std::min(between_groups, gap(rank, static_cast<size_t>(h.experts_used)));
}

static std::vector<double> rank_of(const float *x, const ds::layer_weights &w, const ds::hparams &h) {
    std::vector<double> rank;
    for (int64_t e = 0; e < h.experts; ++e) {
        double logit = 0;
        for (int64_t c = 0; c < h.hidden; ++c)
            logit += static_cast<double>(x[c]) * static_cast<double>(*ds::f32_at(*w.router, e, c));
        rank.push_back(h.expert_sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit));
    }
    double sum = 0;
    for (const double r : rank) sum += r;
    for (size_t e = 0; e < rank.size(); ++e) {
        if (!h.expert_sigmoid) rank[e] /= sum;
        if (w.router_bias)
            rank[e] += static_cast<double>(*ds::f32_at(*w.router_bias, 0, static_cast<int64_t>(e)));
    }
    return rank;
}

static int print_margins(const char *path, const std::vector<ds_token> &ids) {
    const ds::model m(ds::gguf_file::open(path), {});
    ds::forward pass(m, m.weights, {.window = static_cast<int64_t>(ids.size()), .keep_inputs = true});
    pass.run(ids, [&](const ds::graph &g, const ds::tensor &logits, int64_t) {
        std::vector<double> least(static_cast<size_t>(logits.ne[0]), INFINITY);
        for (const ds::node &n : g.nodes())
            for (const ds::layer_weights &w : m.weights.layer)
                if (n.kind == ds::op::matmul && w.router && n.src[1] == w.router)
                    for (size_t i = 0; i < least.size(); ++i)
                        least[i] = std::min(
                            least[i],
                            margin(rank_of(ds::f32_at(*n.src[0], static_cast<int64_t>(i)), w, m.h), m.h));
        for (const double l : least) std::printf("%g\n", l);
    });
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6)
        return std::fprintf(stderr, "usage: greedy MODEL.gguf NEW|nll|margins ID,ID,...\n"), 2;
    std::vector<ds_token> prompt;
    for (char *p = argv[3]; *p; p += *p == ',')
        prompt.push_back(static_cast<ds_token>(std::strtol(p, &p, 10)));
    if (std::strcmp(argv[2], "margins") == 0) return print_margins(argv[1], prompt);

    ds_error err;
    ds_model *model = nullptr;
    ds_engine *engine = nullptr;
    check(ds_model_load(argv[1], nullptr, &model, &err), err);
    ds_engine_config config{};
    config.struct_size = sizeof config;
    config.kv_type = DS_KV_F32;
    ds_adapter *adapter = nullptr;
    if (argc == 6) {
        check(ds_adapter_load(model, argv[4], nullptr, &adapter, &err), err);
        config.max_adapter_rank = 1024;
    }
    check(ds_engine_new(model, &config, &engine, &err), err);
    ds_model_info info{};
    info.struct_size = sizeof info;
    check(ds_model_get_info(model, &info, &err), err);

    ds_request r{};
    r.struct_size = sizeof r;
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    r.adapter = adapter;
    if (adapter) r.adapter_scale = std::strtof(argv[5], nullptr);
    const bool scored = std::strcmp(argv[2], "nll") == 0;
    double sum = 0;
    r.flags = scored ? DS_REQUEST_SCORE : DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
    if (!scored) r.max_new_tokens = static_cast<uint32_t>(std::atoi(argv[2]));
    ds_request_id id;
    check(ds_engine_submit(engine, &r, &id, &err), err);
    for (bool done = false; !done;) {
        const ds_event *const *events = nullptr;
        size_t count = 0;
        check(ds_engine_step(engine, &events, &count, &err), err);
        for (const ds_event *e : std::span(events, count)) {
            if (e->type == DS_EVENT_SCORE) sum -= static_cast<double>(e->logprob);
            if (e->type == DS_EVENT_TOKEN) print(e->token, e->logits, info.vocabulary);
            done |= e->type == DS_EVENT_DONE;
        }
    }
    if (scored) std::printf("%.9g\n", sum / static_cast<double>(prompt.size() - 1));
    ds_engine_free(engine);
    ds_adapter_free(adapter);
    ds_model_free(model);
}
