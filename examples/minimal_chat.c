/* A chat in 80 lines of C: reads a line, streams the answer, remembers the conversation.
 *
 *     cc minimal_chat.c -ldeepseek -o minimal_chat
 *     ./minimal_chat model.gguf
 * Three calls do the work: ds_model_load, ds_engine_new, ds_engine_chat. The rest is keeping strings. */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { max_messages = 64 };

struct text {
    char *bytes;
    size_t size, room;
};

/* Of any length, and NUL-terminated. Not 0 when there is no memory. */
static int append(struct text *t, const char *bytes, size_t n) {
    if (t->room - t->size <= n) {
        char *more = realloc(t->bytes, t->room = 2 * (t->size + n) + 64);
        if (!more) return 1;
        t->bytes = more;
    }
    memcpy(t->bytes + t->size, bytes, n);
    t->bytes[t->size += n] = 0;
    return 0;
}

/* A line without its end. 0 after the last one. */
static int read_line(struct text *t) {
    int c;
    for (*t = (struct text){0}; (c = getchar()) != EOF && c != '\n';)
        if (append(t, &(char){(char)c}, 1)) return 0;
    while (t->size && t->bytes[t->size - 1] == '\r') t->bytes[--t->size] = 0;
    return c != EOF || t->size > 0;
}

/* Called for every piece of the answer, which is well-formed UTF-8 but not NUL-terminated. Returning anything but 0 ends the answer. */
static int on_text(void *user, const char *text, size_t n) {
    return append(user, text, n) || fwrite(text, 1, n, stdout) != n || fflush(stdout) != 0;
}

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

int main(int argc, char **argv) {
    ds_message messages[max_messages];
    size_t count = 0;
    struct text line;
    int failed = 0;
    ds_error err;
    ds_model *model = NULL;
    ds_engine *engine = NULL;

    if (argc != 2 || argv[1][0] == '-') return fprintf(stderr, "usage: %s model.gguf\n", argv[0]), 2;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err); /* NULL: all defaults */
    ds_engine_config config = {.struct_size = sizeof config,
                               .max_requests = 1}; /* begins with its size; what stays 0 has its default */
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);
    /* What DeepSeek recommends for the R1 family. The same seed gives the same answer. */
    ds_sampling sampling = {.struct_size = sizeof sampling, .temperature = 0.6f, .top_p = 0.95f, .seed = 1};
    ds_request how = {.struct_size = sizeof how, .sampling = &sampling};

    while (printf("> "), fflush(stdout) == 0 && read_line(&line)) {
        struct text reply = {0};
        const int nul = line.size > 0 && strlen(line.bytes) < line.size; /* a message cannot hold one */
        if (nul) failed = fprintf(stderr, "a question with a NUL byte is not asked\n") != 0;
        if (nul || line.size == 0) {
            free(line.bytes);
            continue;
        }
        if (count == max_messages) /* the oldest question and its answer are forgotten */
            for (int i = 0; i < 2; ++i)
                free((char *)messages[0].content),
                    memmove(messages, messages + 1, --count * sizeof *messages);
        messages[count++] = (ds_message){.role = "user", .content = line.bytes};
        if (ds_engine_chat(engine, messages, count, &how, on_text, &reply, NULL, &err) != DS_OK) {
            free((char *)messages[--count].content), free(reply.bytes);
            failed = fail(&err); /* too long for the context, say: the question is forgotten */
            continue;
        }
        printf("\n");
        messages[count++] = (ds_message){
            .role = "assistant",
            .content = reply.bytes ? reply.bytes : calloc(1, 1)}; /* the template leaves the thinking out */
    }
    while (count > 0) free((char *)messages[--count].content);
    ds_engine_free(engine), ds_model_free(model);
    return failed || ferror(stdout) || !feof(stdin);
}
