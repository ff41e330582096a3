// Sessions in files: save, restore, forget.
#include "boundary.h"

using namespace ds;

static std::span<const token_id> session_tokens(const ds_token *tokens, size_t count) {
    require(tokens || !count, "tokens: is NULL");
    require(count <= size_t{1} << 30, "count: must be at most 2^30");
    return {tokens, count};
}

ds_status ds_engine_save_session(ds_engine *engine, const ds_token *tokens, size_t count, uint64_t client_id,
                                 const char *path, size_t *positions, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(path);
        const ds::engine::turn turn(*engine->e);
        const int64_t saved = engine->e->save_session(turn, client_id, session_tokens(tokens, count), path);
        if (positions) *positions = static_cast<size_t>(saved);
    });
}

ds_status ds_engine_restore_session(ds_engine *engine, const char *path, uint64_t client_id, ds_token *tokens,
                                    size_t capacity, size_t *count, size_t *positions, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(count);
        require(tokens || !capacity, "tokens: is NULL");
        const ds::engine::turn turn(*engine->e);
        const int64_t restored =
            engine->e->restore_session(turn, client_id, path, {tokens, capacity}, *count);
        if (positions) *positions = static_cast<size_t>(restored);
    });
}

ds_status ds_engine_forget_session(ds_engine *engine, const ds_token *tokens, size_t count,
                                   uint64_t client_id, size_t *pages, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        const ds::engine::turn turn(*engine->e);
        const int64_t freed = engine->e->forget_session(turn, client_id, session_tokens(tokens, count));
        if (pages) *pages = static_cast<size_t>(freed);
    });
}
