// Sessions in files: save, restore, forget.
#include "boundary.h"

using namespace ds;

static std::span<const token_id> session_tokens(const ds_token *tokens, size_t count) {
    require(tokens || !count, "tokens: is NULL");
    require(count <= size_t{1} << 30, "count: must be at most 2^30");
    return {tokens, count};
}

static session_key key_of(const ds_session_key *key) {
    const ds_session_key k = read_config(key, "key");
    check_reserved(k.reserved, "key");
    return {k.client_id, k.adapter ? k.adapter->a.get() : nullptr,
            k.adapter_scale == 0 ? 1 : k.adapter_scale};
}

// `key` makes the session's key, inside the guard.
template <class Key> static ds_status save(ds_engine *engine, const Key &key, const ds_token *tokens,
                                           size_t count, const char *path, size_t *positions, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(path);
        const ds::engine::turn turn(*engine->e);
        const int64_t saved = engine->e->save_session(turn, key(), session_tokens(tokens, count), path);
        if (positions) *positions = static_cast<size_t>(saved);
    });
}
template <class Key> static ds_status restore(ds_engine *engine, const Key &key, const char *path,
                                              ds_token *tokens, size_t capacity, size_t *count,
                                              size_t *positions, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(count);
        require(tokens || !capacity, "tokens: is NULL");
        const ds::engine::turn turn(*engine->e);
        const int64_t restored = engine->e->restore_session(turn, key(), path, {tokens, capacity}, *count);
        if (positions) *positions = static_cast<size_t>(restored);
    });
}
template <class Key> static ds_status forget(ds_engine *engine, const Key &key, const ds_token *tokens,
                                             size_t count, size_t *pages, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        const ds::engine::turn turn(*engine->e);
        const int64_t freed = engine->e->forget_session(turn, key(), session_tokens(tokens, count));
        if (pages) *pages = static_cast<size_t>(freed);
    });
}

ds_status ds_engine_save_session(ds_engine *engine, const ds_token *tokens, size_t count, uint64_t client_id,
                                 const char *path, size_t *positions, ds_error *err) {
    return save(
        engine, [&] { return session_key{client_id}; }, tokens, count, path, positions, err);
}

ds_status ds_engine_restore_session(ds_engine *engine, const char *path, uint64_t client_id, ds_token *tokens,
                                    size_t capacity, size_t *count, size_t *positions, ds_error *err) {
    return restore(
        engine, [&] { return session_key{client_id}; }, path, tokens, capacity, count, positions, err);
}

ds_status ds_engine_forget_session(ds_engine *engine, const ds_token *tokens, size_t count,
                                   uint64_t client_id, size_t *pages, ds_error *err) {
    return forget(
        engine, [&] { return session_key{client_id}; }, tokens, count, pages, err);
}

ds_status ds_engine_save_session_of(ds_engine *engine, const ds_session_key *key, const ds_token *tokens,
                                    size_t count, const char *path, size_t *positions, ds_error *err) {
    return save(
        engine, [&] { return key_of(key); }, tokens, count, path, positions, err);
}

ds_status ds_engine_restore_session_of(ds_engine *engine, const ds_session_key *key, const char *path,
                                       ds_token *tokens, size_t capacity, size_t *count, size_t *positions,
                                       ds_error *err) {
    return restore(
        engine, [&] { return key_of(key); }, path, tokens, capacity, count, positions, err);
}

ds_status ds_engine_forget_session_of(ds_engine *engine, const ds_session_key *key, const ds_token *tokens,
                                      size_t count, size_t *pages, ds_error *err) {
    return forget(
        engine, [&] { return key_of(key); }, tokens, count, pages, err);
}
