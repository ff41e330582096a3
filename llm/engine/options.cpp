// Options of engines and requests: defaults, limits, memory, and construction from them.
// Invariant: an option is refused before any memory of its size is allocated.
#include "engine.h"

#include "../../tensor/numerics.h"

#include <algorithm>
#include <limits>

namespace ds {

static int64_t in_range(const char *field, int64_t v, int64_t min, int64_t max) {
    if (v < min || v > max)
        throw error(status::argument,
                    format_text("%s: is %lld, must be from %lld to %lld", field, static_cast<long long>(v),
                                static_cast<long long>(min), static_cast<long long>(max)));
    return v;
}

engine_options engine::resolve(const model &m, engine_options o) {
    if (!m.architecture)
        throw error(status::state,
                    m.file.name() + ": was loaded for its vocabulary only; no engine can be made of it");
    in_range("max_requests", o.max_requests, 1, 4096);
    in_range("max_queue", o.max_queue, 1, 1 << 20);
    if (!o.context) o.context = std::min<int64_t>(m.h.context, 4096);
    in_range("context_length", o.context, 1, m.h.context);
    if (o.kv_type == format::i8)
        in_range("context_length (with kv_type int8)", o.context, 1, i8_most_positions);
    if (!o.step_rows) o.step_rows = std::max<int64_t>(512, o.max_requests);
    in_range("step_tokens", o.step_rows, o.max_requests, 65536);
    if (!o.logit_rows) o.logit_rows = std::min(o.step_rows, std::max<int64_t>(32, o.max_requests));
    in_range("logit_rows", o.logit_rows, 1, o.step_rows);
    if (!o.kv_positions) o.kv_positions = o.max_requests * pages_for(o.context) * page_positions;
    in_range("kv_tokens", o.kv_positions, 1, int64_t{1} << 31);
    in_range("max_adapter_rank", o.adapter_rank, 0, lora_most_rank);
    if (o.adapter_rank && m.device && !m.device->fn->host_memory)
        throw error(status::unsupported,
                    "max_adapter_rank: adapters run on the host's processors only, and the "
                    "model is on a device");
    return o;
}

static step_sizes sizes_of(const engine_options &o) {
    const int64_t pool_pages = pages_for(o.kv_positions);
    return {o.step_rows,
            o.logit_rows,
            o.max_requests,
            std::min(pages_for(o.context), pool_pages),
            pool_pages,
            o.form,
            {},
            static_cast<int32_t>(o.adapter_rank)};
}

memory_plan engine::measure(const model &m, const engine_options &o, const backend &b) {
    const page_layout layout = make_page_layout(*m.architecture, m.h, o.kv_type);
    const step_sizes s = sizes_of(o);
    const size_t pages = pool_bytes(layout.page_bytes, s.pool_pages);
    const runner::bytes r = runner::measure(m, layout, s, b);
    return {m.device_bytes ? m.device_bytes : m.weight_bytes + m.made_bytes,
            pages,
            layout.page_bytes,
            r.activations,
            r.work,
            r.inputs + sampler::bytes(static_cast<size_t>(m.h.vocab)) + page_book::bytes(s.pool_pages)};
}

static size_t token_bytes_of(const tokenizer &v) {
    size_t longest = 0;
    for (size_t t = 0; t < v.size(); ++t)
        longest = std::max(longest, v.bytes(static_cast<token_id>(t), true).size());
    return 3 * (longest + 4);  // every byte, and up to 4 held back, may become U+FFFD, which has 3
}

engine::engine(std::shared_ptr<const ds::model> m, const engine_options &o, std::shared_ptr<backend> b)
    : model_(std::move(m)), options_(o),
      pool_(o.host, make_page_layout(*model_->architecture, model_->h, o.kv_type).page_bytes,
            pages_for(o.kv_positions), b),
      scheduler_({o.max_requests, o.max_queue, o.step_rows, o.logit_rows, pool_.pages()},
                 pool_.grows() ? page_source{this,
                                             [](void *e, int64_t pages) {
                                                 return static_cast<engine *>(e)->more_pages(pages);
                                             }}
                               : page_source{}),
      runner_(*model_, make_page_layout(*model_->architecture, model_->h, o.kv_type), sizes_of(o),
              std::move(b), o.host, pool_.data()),
      sampler_(static_cast<size_t>(model_->h.vocab)), tags_(find_think_tags(model_->vocabulary)),
      not_first_(model_->vocabulary.end_tokens()), token_bytes_(token_bytes_of(model_->vocabulary)) {
    if (tags_.open >= 0) not_first_.push_back(tags_.open);
    // Most live requests: waiting, running, and preempted ones in addition to max_queue.
    const size_t most = static_cast<size_t>(o.max_queue + 2 * o.max_requests);
    events_.reserve(max_events());
    top_.reserve(static_cast<size_t>(o.logit_rows) * max_top_logprobs);
    pieces_.reserve(8);
    outcomes_.reserve(static_cast<size_t>(o.max_requests));
    for (std::vector<request *> *list : {&done_, &dropped_, &incoming_, &cancelled_}) list->reserve(most);
    stats_.pages_total = static_cast<uint64_t>(pool_.pages());
    publish();
}

// One per row with logits; the last one of every request; for each running request the injected tokens, and
// text of the other channel. Reserved memory that is never used is never touched.
size_t engine::max_events() const {
    return static_cast<size_t>(options_.logit_rows + options_.max_queue + 2 * options_.max_requests) +
           static_cast<size_t>(options_.max_requests) * (max_ending + 6);
}

int64_t engine::max_positions(const request_options &o) const {
    const int64_t most = std::min(options_.context, pool_.pages() * page_positions);
    const auto prompt = static_cast<int64_t>(o.prompt.size());
    if (o.score) return prompt;
    const uint64_t wanted = o.max_new + o.injected_positions();
    return o.max_new == 0 || wanted > static_cast<uint64_t>(most - prompt)
               ? most
               : prompt + static_cast<int64_t>(wanted);
}

void engine::check_tokens(const char *field, std::span<const token_id> tokens) const {
    if (tokens.empty())
        throw error(status::argument, std::string(field) + ": is empty, must have at least one token");
    for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i] < 0 || tokens[i] >= model_->h.vocab)
            throw error(status::argument,
                        format_text("%s[%zu]: is %d, must be from 0 to %lld", field, i, tokens[i],
                                    static_cast<long long>(model_->h.vocab - 1)));
}

void engine::check(const request_options &o) const {
    check_tokens("prompt", o.prompt);
    for (const auto &[token, bias] : o.sampling.bias)
        if (token < 0 || token >= model_->h.vocab || !(bias < std::numeric_limits<float>::infinity()))
            throw error(status::argument, format_text("logit_bias: token %d is not in the vocabulary of "
                                                      "%lld, or its bias is infinity or not a number",
                                                      token, static_cast<long long>(model_->h.vocab)));
    check_adapter(o.adapter.get(), o.adapter_scale);
    check_room(o.prompt.size(), o.max_new ? o.max_new + o.injected_positions() : 0, o.score);
}

void engine::check_adapter(const ds::adapter *a, float scale) const {
    if (!a) return;
    if (&a->model() != model_.get())
        throw error(status::argument, "adapter: was loaded for another model than the engine's");
    if (a->rank() > options_.adapter_rank)
        throw error(status::argument,
                    format_text("adapter: has rank %lld, the engine's max_adapter_rank is %lld",
                                static_cast<long long>(a->rank()),
                                static_cast<long long>(options_.adapter_rank)));
    constexpr float most = 1e6f;
    if (!(scale >= -most && scale <= most))
        throw error(status::argument,
                    "adapter_scale: is " + shortest(scale) + ", must be from -10^6 to 10^6");
}

void engine::check_length(size_t prompt, bool score) const { check_room(prompt, 0, score); }

// Refuses a request that can never fit: its prompt and one token exceed the context, or all that it asks for
// exceeds the page pool.
void engine::check_room(size_t prompt, uint64_t max_new, bool score) const {
    const auto room = static_cast<size_t>(options_.context - (score ? 0 : 1));
    if (prompt > room)
        throw error(status::too_long, format_text("prompt: has %zu tokens, the context has room for %zu%s",
                                                  prompt, room, score ? "" : " and an answer"));
    const uint64_t answer =
        score ? 0 : std::clamp<uint64_t>(max_new, 1, static_cast<uint64_t>(options_.context) - prompt);
    const int64_t pages = pages_for(static_cast<int64_t>(prompt + answer));
    if (pages > pool_.pages())
        throw error(status::too_long,
                    format_text("prompt: its %zu tokens and %llu of an answer need %llu bytes in the page "
                                "pool, which has %llu",
                                prompt, static_cast<unsigned long long>(answer),
                                static_cast<unsigned long long>(pages) * pool_.page_bytes(),
                                static_cast<unsigned long long>(pool_.pages()) * pool_.page_bytes()));
}

engine::request_ptr engine::make_request(request_options o) const {
    check(o);
    const int64_t most = max_positions(o);
    const bool count = o.sampling.penalises();
    size_t step_bytes = 2 * token_bytes_;
    for (const token_id t : o.think_ending) step_bytes += 3 * model_->vocabulary.bytes(t, true).size();
    channel_cutter channels(tags_, think_state_after(model_->vocabulary, o.prompt));
    auto r = std::make_shared<request>(std::move(o), most, std::move(channels), token_bytes_, step_bytes);
    if (count) {
        r->counts.resize(static_cast<size_t>(model_->h.vocab));
        for (const token_id t : r->options.prompt) ++r->counts[static_cast<size_t>(t)];
    }
    r->submitted = os::seconds();
    if (r->options.timeout > 0) r->job.deadline = microseconds(r->submitted + r->options.timeout);
    scheduler::prepare(r->job);
    return r;
}

}  // namespace ds
