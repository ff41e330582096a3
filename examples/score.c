/* How likely a text is to a model: the log-probability of each token after those before it.
 *
 *     cc score.c -ldeepseek -o score
 *     ./score model.gguf "37 + 85 = 122"
 *
 * A request with DS_REQUEST_SCORE has no answer. Its events report the prompt's own tokens. */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

/* A token's bytes, quoted and on one line. They need not be whole characters. */
static void print_bytes(const char *bytes, size_t n) {
    putchar('"');
    for (size_t i = 0; i < n; ++i)
        if ((unsigned char)bytes[i] < ' ' || bytes[i] == '"' || bytes[i] == '\\' || bytes[i] == 127)
            printf("\\x%02x", (unsigned char)bytes[i]);
        else putchar(bytes[i]);
    printf("\"\n");
}

int main(int argc, char **argv) {
    ds_error err;
    ds_model *model;
    ds_engine *engine;
    ds_request_id id;
    size_t count = 0, scored = 0;
    double sum = 0;

    if (argc != 3 || argv[1][0] == '-') return fprintf(stderr, "usage: %s model.gguf TEXT\n", argv[0]), 2;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);

    /* First the number of tokens, then the tokens. */
    ds_status s = ds_tokenize(model, argv[2], strlen(argv[2]), DS_TOKENIZE_BOS, NULL, 0, &count, &err);
    if (s != DS_OK && s != DS_ERR_BUFFER) return fail(&err);
    ds_token *tokens = malloc((count + 1) * sizeof *tokens);
    if (!tokens) return perror("malloc"), 1;
    if (ds_tokenize(model, argv[2], strlen(argv[2]), DS_TOKENIZE_BOS, tokens, count, &count, &err) != DS_OK)
        return fail(&err);

    const ds_engine_config config = {.struct_size = sizeof config, .max_requests = 1};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);
    const ds_request request = {
        .struct_size = sizeof request, .prompt = tokens, .prompt_count = count, .flags = DS_REQUEST_SCORE};
    if (ds_engine_submit(engine, &request, &id, &err) != DS_OK) return fail(&err);

    for (int done = 0; !done;) {
        const ds_event *const *events;
        size_t n;
        if (ds_engine_step(engine, &events, &n, &err) != DS_OK) return fail(&err);
        for (size_t i = 0; i < n; ++i) {
            const ds_event *e = events[i];
            if (e->type == DS_EVENT_DONE) {
                done = 1;
                if (e->status != DS_OK) return fprintf(stderr, "%s\n", ds_status_name(e->status)), 1;
            }
            if (e->type != DS_EVENT_SCORE) continue;
            const char *bytes;
            size_t size;
            if (ds_token_bytes(model, e->token, DS_DETOKENIZE_SPECIAL, &bytes, &size, &err) != DS_OK)
                return fail(&err);
            /* The first token has none before it, and so no probability. */
            if (e->position == 0) printf("%9s  ", "");
            else printf("%9.4f  ", e->logprob), sum += e->logprob, ++scored;
            print_bytes(bytes, size);
        }
    }
    printf("%9.4f  in all, %zu tokens after the first", sum, scored);
    if (scored > 0) printf(", %.4f each", sum / (double)scored);
    printf("\n");
    free(tokens), ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
