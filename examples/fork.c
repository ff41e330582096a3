/* Several answers to one question: the prompt is computed once, and each fork samples with a seed of its own.
 *
 *     cc fork.c -ldeepseek -o fork
 *     ./fork model.gguf 4 "What is 37 + 85?" */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { max_answers = 64 };

struct answer {
    char *text;
    size_t size, capacity;
    unsigned long long tokens, shared;
};

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

/* Keeps the text NUL-terminated. Returns nonzero when out of memory. */
static int append(struct answer *a, const char *text, size_t n) {
    if (a->capacity - a->size <= n) {
        char *larger = realloc(a->text, a->capacity = 2 * (a->size + n) + 64);
        if (!larger) return 1;
        a->text = larger;
    }
    memcpy(a->text + a->size, text, n);
    a->text[a->size += n] = 0;
    return 0;
}

int main(int argc, char **argv) {
    static struct answer answers[max_answers];
    ds_error err;
    ds_model *model;
    ds_engine *engine;
    ds_request_id first, id;
    size_t count = 0;

    const int n = argc == 4 ? atoi(argv[2]) : 0;
    if (n < 1 || n > max_answers)
        return fprintf(stderr, "usage: %s model.gguf ANSWERS(1-%d) QUESTION\n", argv[0], max_answers), 2;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);
    const ds_engine_config config = {.struct_size = sizeof config, .max_requests = (uint32_t)n};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);

    /* First the number of tokens, then the tokens. */
    const ds_message ask = {.role = "user", .content = argv[3]};
    ds_status s = ds_chat_tokenize(model, &ask, 1, NULL, NULL, 0, &count, &err);
    if (s != DS_OK && s != DS_ERR_BUFFER) return fail(&err);
    ds_token *prompt = malloc((count + 1) * sizeof *prompt);
    if (!prompt) return perror("malloc"), 1;
    if (ds_chat_tokenize(model, &ask, 1, NULL, prompt, count, &count, &err) != DS_OK) return fail(&err);

    /* One request is submitted. The others fork it before its first step, and so share its prompt. */
    for (int i = 0; i < n; ++i) {
        const ds_sampling sampling = {
            .struct_size = sizeof sampling, .temperature = 0.6f, .top_p = 0.95f, .seed = (uint64_t)i + 1};
        const ds_request r = {.struct_size = sizeof r,
                              .prompt = prompt,
                              .prompt_count = count,
                              .sampling = &sampling,
                              .user = &answers[i]};
        s = i == 0 ? ds_engine_submit(engine, &r, &first, &err)
                   : ds_engine_fork(engine, first, &r, &id, &err);
        if (s != DS_OK) return fail(&err);
    }

    for (int left = n; left > 0;) {
        const ds_event *const *events;
        size_t k;
        if (ds_engine_step(engine, &events, &k, &err) != DS_OK) return fail(&err);
        for (size_t i = 0; i < k; ++i) {
            const ds_event *e = events[i];
            struct answer *a = e->user;
            if (append(a, e->text, e->text_size)) return perror("realloc"), 1;
            if (e->type != DS_EVENT_DONE) continue;
            if (e->status != DS_OK) return fprintf(stderr, "%s\n", ds_status_name(e->status)), 1;
            a->tokens = e->thinking_tokens + e->answer_tokens, a->shared = e->cached_tokens;
            --left;
        }
    }
    for (int i = 0; i < n; ++i) {
        printf("--- %d: %llu tokens, %llu of the prompt's %zu shared\n%s\n", i + 1, answers[i].tokens,
               answers[i].shared, count, answers[i].text);
        free(answers[i].text);
    }
    free(prompt), ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
