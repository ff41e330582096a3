/* A conversation that outlives its program: the session is saved to a file, and the next run continues it.
 *
 *     cc session.c -ldeepseek -o session
 *     ./session model.gguf talk.session "What is 37 + 85?"
 *     ./session model.gguf talk.session "And 12 more?"
 *
 * The file holds the conversation's tokens, and the keys and values of its full pages of 64 tokens. These are
 * not computed again for a prompt that begins with them, and the answer has the same bits either way. */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { client = 1, capacity = 1 << 20 };

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

int main(int argc, char **argv) {
    ds_error err;
    ds_model *model;
    ds_engine *engine;
    ds_request_id id;
    size_t old = 0, asked = 0, positions = 0, saved = 0;

    if (argc != 4) return fprintf(stderr, "usage: %s model.gguf FILE QUESTION\n", argv[0]), 2;
    ds_token *tokens = malloc(capacity * sizeof *tokens);
    if (!tokens) return perror("malloc"), 1;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);
    const ds_engine_config config = {.struct_size = sizeof config, .max_requests = 1};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);

    /* The conversation so far, if there is a file yet. A file that is no session of this model is refused. */
    FILE *file = fopen(argv[2], "rb");
    if (file) {
        fclose(file);
        if (ds_engine_restore_session(engine, argv[2], client, tokens, capacity, &old, &positions, &err) !=
            DS_OK)
            return fail(&err);
    }

    /* The new question is appended in the chat template's form, without a second BOS. Earlier thinking stays:
     * rendering the conversation anew would drop it, and change tokens that are computed already. */
    const ds_message ask = {.role = "user", .content = argv[3]};
    if (ds_chat_tokenize(model, &ask, 1, NULL, tokens + old, capacity - old, &asked, &err) != DS_OK)
        return fail(&err);
    if (old > 0 && asked > 0 && tokens[old] == ds_token_special(model, DS_SPECIAL_BOS))
        memmove(tokens + old, tokens + old + 1, --asked * sizeof *tokens);
    size_t count = old + asked;

    const ds_request request = {
        .struct_size = sizeof request, .prompt = tokens, .prompt_count = count, .client_id = client};
    if (ds_engine_submit(engine, &request, &id, &err) != DS_OK) return fail(&err);
    for (int done = 0; !done;) {
        const ds_event *const *events;
        size_t n;
        if (ds_engine_step(engine, &events, &n, &err) != DS_OK) return fail(&err);
        for (size_t i = 0; i < n; ++i) {
            const ds_event *e = events[i];
            if (e->text_size > 0) fwrite(e->text, 1, e->text_size, stdout), fflush(stdout);
            if (e->type == DS_EVENT_TOKEN && count < capacity) tokens[count++] = e->token;
            if (e->type != DS_EVENT_DONE) continue;
            done = 1;
            if (e->status != DS_OK) return fprintf(stderr, "%s\n", ds_status_name(e->status)), 1;
            fprintf(stderr, "\n%llu of %llu prompt tokens were cached\n",
                    (unsigned long long)e->cached_tokens, (unsigned long long)e->prompt_tokens);
        }
    }
    printf("\n");

    /* Written to a temporary file and renamed: a failure leaves the old session. */
    if (ds_engine_save_session(engine, tokens, count, client, argv[2], &saved, &err) != DS_OK)
        return fail(&err);
    fprintf(stderr, "saved %zu tokens, %zu of them computed\n", count, saved);
    free(tokens), ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
