/* A chat in 80 lines of C: reads a line, streams the answer, remembers the conversation.
 *
 *     cc minimal_chat.c -ldeepseek -o minimal_chat
 *     ./minimal_chat model.gguf
 *
 * Three calls do the work: ds_model_load, ds_engine_new, ds_engine_chat. The rest is keeping strings. */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { max_messages = 64 };

/* The answer so far: the library hands it out in pieces, the conversation needs it whole. */
struct reply {
    char text[65536];
    size_t size;
};

/* Called for every piece of text, which is well-formed UTF-8 but not NUL-terminated. Returning anything but 0 ends the answer. */
static int on_text(void *user, const char *text, size_t n) {
    struct reply *r = user;
    if (n >= sizeof r->text - r->size) return 1;
    memcpy(r->text + r->size, text, n);
    r->size += n;
    r->text[r->size] = 0;
    fwrite(text, 1, n, stdout);
    return fflush(stdout);
}

/* A copy for the conversation. Out of memory it is NULL, which the library refuses with a status. */
static const char *keep(const char *text) {
    char *copy = malloc(strlen(text) + 1);
    return copy ? strcpy(copy, text) : NULL;
}

static int fail(const ds_error *err) {
    fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message);
    return 1;
}

int main(int argc, char **argv) {
    static struct reply reply;
    ds_message messages[max_messages];
    size_t count = 0;
    char line[4096];
    ds_error err;
    ds_model *model = NULL;
    ds_engine *engine = NULL;

    if (argc != 2) return fprintf(stderr, "usage: %s model.gguf\n", argv[0]), 2;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);   /* NULL: all defaults */

    /* Every configuration begins with its size; what stays 0 has its default. */
    ds_engine_config config = {.struct_size = sizeof config, .max_requests = 1};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);

    /* What DeepSeek recommends for the R1 family. The same seed gives the same answer. */
    ds_request how = {.struct_size = sizeof how, .temperature = 0.6f, .top_p = 0.95f, .seed = 1};

    while (printf("> "), fflush(stdout), count + 2 <= max_messages && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!line[0]) continue;
        messages[count++] = (ds_message){"user", keep(line)};
        reply.size = reply.text[0] = 0;
        if (ds_engine_chat(engine, messages, count, &how, on_text, &reply, &err) != DS_OK) {
            fail(&err);                                   /* too long for the context, say: forget the question, stay usable */
            free((char *)messages[--count].content);
            continue;
        }
        printf("\n");
        messages[count++] = (ds_message){"assistant", keep(reply.text)};   /* the template leaves the thinking out */
    }

    while (count > 0) free((char *)messages[--count].content);
    ds_engine_free(engine);
    ds_model_free(model);
    return 0;
}
