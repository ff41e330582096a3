// ds_engine_chat: a whole answer in one call.
#include "boundary.h"

using namespace ds;

static ds_chat_result chat_result_of(const event &e) {
    ds_chat_result r{};
    r.finish = static_cast<ds_finish>(e.finish);
    r.prompt_tokens = e.prompt_tokens;
    r.thinking_tokens = e.thinking_tokens;
    r.answer_tokens = e.answer_tokens;
    r.injected_tokens = e.injected_tokens;
    r.cached_tokens = e.cached_tokens;
    r.preemptions = e.preemptions;
    r.queue_seconds = e.queue_seconds;
    r.prompt_seconds = e.prompt_seconds;
    r.answer_seconds = e.answer_seconds;
    return r;
}

ds_status ds_engine_chat(ds_engine *engine, const ds_message *messages, size_t count,
                         const ds_request *parameters, ds_text_fn text, void *user, ds_chat_result *result,
                         ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(text);
        if (result) check_struct_size(result->struct_size, "result");
        const model &m = engine->e->loaded();
        ds::engine::claim chat(*engine->e);
        const ds_request r = read_config(parameters, "parameters");
        request_options o = request_options_of(r, m);
        o.score = false;
        ds_chat_config c{};
        c.thinking = thinking_of(r).mode;
        chat_encode(m.vocabulary, render(m, messages, count, c), o.prompt);
        std::string opening = opened_thought(m.vocabulary, o.prompt);  // emitted before the first piece
        const uint64_t id = chat.submit(std::move(o));
        bool stopped = false;
        const auto emit = [&](std::string_view piece) {
            if (stopped || text(user, piece.data(), piece.size()) == 0) return;
            stopped = true;
            if (engine->e->progress(id).state != request_state::done) engine->e->cancel(id);
        };
        for (bool ended = false; !ended;)
            for (const event &e : engine->e->step(chat.turn())) {
                if (e.request != id) continue;
                ended = e.type == event_type::done;
                if (e.status != status::ok) throw error(e.status, "the model's logits are not finite");
                if (!e.text.empty() && !opening.empty()) emit(std::exchange(opening, {}));
                if (!e.text.empty()) emit(e.text);
                if (ended && result) write_info(result, chat_result_of(e), "result");
            }
    });
}
