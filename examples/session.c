/* A conversation that outlives its program: what was computed for it is saved to a file, and the next call goes on from there.
 *
 *     cc session.c -ldeepseek -o session
 *     ./session model.gguf talk.session "What is 37 + 85?"
 *     ./session model.gguf talk.session "And 12 more?"
 * The file holds the conversation's tokens, and keys and values of its full pages of 64. A prompt that begins with these tokens
 * need not compute those again, and its answer has the same bits as without the file. */
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
    ds_model *model = NULL;
    ds_engine *engine = NULL;
    ds_request_id id;
    size_t old = 0, asked = 0, positions = 0, saved = 0;

    if (argc != 4) return fprintf(stderr, "usage: %s model.gguf FILE QUESTION\n", argv[0]), 2;
    ds_token *tokens = malloc(capacity * sizeof *tokens);
    if (!tokens) return fprintf(stderr, "no memory\n"), 1;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);
    ds_engine_config config = {.struct_size = sizeof config, .max_requests = 1};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);

    /* The conversation so far. The file may not be there yet; one that is there and is no session of this model is refused. */
    FILE *there = fopen(argv[2], "rb");
    if (there) {
        fclose(there);
        if (ds_engine_restore_session(engine, argv[2], client, tokens, capacity, &old, &positions, &err) !=
            DS_OK)
            return fail(&err);
    }

    /* The new question follows as the template has it. Earlier thinking stays: to render the conversation anew without it would change tokens in the middle. */
    ds_message ask = {.role = "user", .content = argv[3]};
    if (ds_chat_tokenize(model, &ask, 1, NULL, tokens + old, capacity - old, &asked, &err) != DS_OK)
        return fail(&err);
    if (old > 0 && asked > 0 && tokens[old] == ds_token_special(model, DS_SPECIAL_BOS))
        memmove(tokens + old, tokens + old + 1, --asked * sizeof *tokens);
    size_t count = old + asked;

    ds_request request = {
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
            fprintf(stderr, "\n%llu of %llu prompt tokens were there already\n",
                    (unsigned long long)e->cached_tokens, (unsigned long long)e->prompt_tokens);
        }
    }
    printf("\n");

    /* Written beside the file and renamed over it: a failure leaves the old one. */
    if (ds_engine_save_session(engine, tokens, count, client, argv[2], &saved, &err) != DS_OK)
        return fail(&err);
    fprintf(stderr, "saved %zu tokens, %zu of them computed\n", count, saved);
    free(tokens);
    ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
