/* A chat in 80 lines of C: reads a line, streams the answer, remembers the conversation.
 *
 *     cc minimal_chat.c -ldeepseek -o minimal_chat
 *     ./minimal_chat model.gguf
 *
 * Three calls do the work: ds_model_load, ds_engine_new and ds_engine_chat. The rest is keeping strings. */
#define _POSIX_C_SOURCE 200809L /* getline, open_memstream */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { max_messages = 64 };

/* Receives each piece of the answer: whole UTF-8 characters, not NUL-terminated. Nonzero ends the answer. */
static int on_text(void *reply, const char *text, size_t n) {
    return fwrite(text, 1, n, reply) != n || fwrite(text, 1, n, stdout) != n || fflush(stdout) != 0;
}

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

int main(int argc, char **argv) {
    ds_message messages[max_messages];
    size_t count = 0, capacity = 0, size;
    ssize_t length;
    char *line = NULL;
    int failed = 0;
    ds_error err;
    ds_model *model;
    ds_engine *engine;

    if (argc != 2 || argv[1][0] == '-') return fprintf(stderr, "usage: %s model.gguf\n", argv[0]), 2;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK) return fail(&err);
    /* A structure begins with its size. A field that stays 0 has its default. */
    const ds_engine_config config = {.struct_size = sizeof config, .max_requests = 1};
    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);
    /* As DeepSeek recommends for the R1 family. The same seed gives the same answer. */
    const ds_sampling r1 = {.struct_size = sizeof r1, .temperature = 0.6f, .top_p = 0.95f, .seed = 1};
    const ds_request how = {.struct_size = sizeof how, .sampling = &r1};

    while (printf("> "), fflush(stdout) == 0 && (length = getline(&line, &capacity, stdin)) >= 0) {
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) line[--length] = 0;
        if (length == 0) continue;
        if (strlen(line) < (size_t)length) {
            failed = 1, fprintf(stderr, "a question with a NUL byte is not asked\n");
            continue;
        }
        if (count == max_messages) { /* forget the oldest question and its answer */
            free((char *)messages[0].content), free((char *)messages[1].content);
            memmove(messages, messages + 2, (count -= 2) * sizeof *messages);
        }
        messages[count++] = (ds_message){.role = "user", .content = line};
        line = NULL, capacity = 0; /* getline allocates the next one */

        char *answer = NULL;
        FILE *reply = open_memstream(&answer, &size);
        if (!reply) return perror("open_memstream"), 1;
        const ds_status status = ds_engine_chat(engine, messages, count, &how, on_text, reply, NULL, &err);
        if (fclose(reply) != 0) return perror("open_memstream"), 1;
        if (status == DS_OK) { /* the chat template drops the thinking from earlier answers */
            messages[count++] = (ds_message){.role = "assistant", .content = answer};
            printf("\n");
        } else { /* too long for the context, for example: forget the question */
            failed = fail(&err);
            free((char *)messages[--count].content), free(answer);
        }
    }
    while (count > 0) free((char *)messages[--count].content);
    free(line), ds_engine_free(engine), ds_model_free(model);
    return failed || ferror(stdout) || !feof(stdin);
}
