/* A host program in C, built against the installed library. It asks the bundled model a question, and passes
 * if the answer is right. */
#include <deepseek.h>

#include <stdio.h>
#include <string.h>

static char answer[4096];

static int append(void *user, const char *text, size_t n) {
    (void)user;
    const size_t used = strlen(answer);
    if (n >= sizeof answer - used) return 1;
    memcpy(answer + used, text, n);
    return 0;
}

int main(int argc, char **argv) {
    ds_error err;
    ds_model *model;
    ds_engine *engine;
    ds_message question = {.role = "user", .content = "What is 37 + 85?"};
    if (argc != 2 || strcmp(ds_version(), DS_VERSION) || ds_abi_version() != DS_ABI_VERSION) return 2;
    if (ds_model_load(argv[1], NULL, &model, &err)) return puts(err.message), 1;
    if (ds_engine_new(model, NULL, &engine, &err)) return puts(err.message), 1;
    if (ds_engine_chat(engine, &question, 1, NULL, append, NULL, NULL, &err)) return puts(err.message), 1;
    ds_engine_free(engine);
    ds_model_free(model);
    if (!strstr(answer, "122")) return puts(answer), 1;
    return 0;
}
