/* Several answers to one question: the prompt is computed once, each fork draws with a seed of its own.
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
    size_t size, room;
    unsigned long long tokens, shared;
};

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

static int append(struct answer *a, const char *text, size_t n) {
    if (a->room - a->size <= n) {
        char *more = realloc(a->text, a->room = 2 * (a->size + n) + 64);
        if (!more) return 1;
        a->text = more;
    }
    memcpy(a->text + a->size, text, n);
    a->text[a->size += n] = 0;
    return 0;
}

int main(int argc, char **argv) {
    static struct answer answers[max_answers];
    ds_error err;
    ds_model *model = NULL;
    ds_engine *engine = NULL;
    ds_token *prompt = NULL;
    ds_request_id first, id;
    size_t count = 0;

    const int n = argc == 4 ? atoi(argv[2]) : 0;
    if (n < 1 || n > max_answers)
        return fprintf(stderr, "usage: %s model.gguf ANSWERS QUESTION (1 to %d answers)\n", argv[0],
                       max_answers),
               2;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);
    ds_engine_config config = {.struct_size = sizeof config, .max_requests = (uint32_t)n};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);

    ds_message ask = {.role = "user", .content = argv[3]};
    ds_status s = ds_chat_tokenize(model, &ask, 1, NULL, NULL, 0, &count, &err);
    if (s != DS_OK && s != DS_ERR_BUFFER) return fail(&err);
    if (!(prompt = malloc((count + 1) * sizeof *prompt))) return fprintf(stderr, "no memory\n"), 1;
    if (ds_chat_tokenize(model, &ask, 1, NULL, prompt, count, &count, &err) != DS_OK) return fail(&err);

    /* The first is submitted; the others fork it before the first step, so that none of them computes the prompt again. */
    for (int i = 0; i < n; ++i) {
        ds_sampling sampling = {
            .struct_size = sizeof sampling, .temperature = 0.6f, .top_p = 0.95f, .seed = (uint64_t)i + 1};
        ds_request r = {.struct_size = sizeof r,
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
            struct answer *a = e->user; /* as the request had it */
            if (e->text_size > 0 && append(a, e->text, e->text_size))
                return fprintf(stderr, "no memory\n"), 1;
            if (e->type != DS_EVENT_DONE) continue;
            if (e->status != DS_OK) return fprintf(stderr, "%s\n", ds_status_name(e->status)), 1;
            a->tokens = e->thinking_tokens + e->answer_tokens, a->shared = e->cached_tokens;
            --left;
        }
    }
    for (int i = 0; i < n; ++i) {
        printf("--- %d: %llu tokens, %llu of the prompt's %zu shared\n%s\n", i + 1, answers[i].tokens,
               answers[i].shared, count, answers[i].text ? answers[i].text : "");
        free(answers[i].text);
    }
    free(prompt);
    ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
