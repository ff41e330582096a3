/* Memory under the host's control: a model that is in memory already, an allocator of the host's own, and a
 * plan of what an engine will allocate.
 *
 *     cc embed_memory.c -ldeepseek -o embed_memory
 *     ./embed_memory model.gguf 512 "What is 37 + 85?"      at most 512 MiB */
#include <deepseek.h>

#include <stdio.h>
#include <stdlib.h>

struct account {
    uint64_t now, most, limit; /* bytes */
};

static int fail(const ds_error *err) {
    return fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), 1;
}

/* NULL above the limit: then the call fails with DS_ERR_MEMORY, and the model and engine stay usable. */
static void *allocate(void *user, size_t bytes, size_t alignment) {
    struct account *a = user;
    if (bytes > a->limit - a->now) return NULL;
    /* aligned_alloc wants a multiple of the alignment. */
    void *p = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (p && (a->now += bytes) > a->most) a->most = a->now;
    return p;
}

static void release(void *user, void *p, size_t bytes, size_t alignment) {
    (void)alignment;
    ((struct account *)user)->now -= bytes;
    free(p);
}

static int print(void *user, const char *text, size_t n) {
    return (void)user, fwrite(text, 1, n, stdout) != n;
}

/* The whole file, or NULL. It starts at a multiple of 64 bytes; ds_model_load_memory needs one of 32. */
static void *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    long n = -1;
    void *p = NULL;
    if (f && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) > 0 && fseek(f, 0, SEEK_SET) == 0)
        p = aligned_alloc(64, ((size_t)n + 63) / 64 * 64);
    if (p && fread(p, 1, *size = (size_t)n, f) != (size_t)n) free(p), p = NULL;
    if (f) fclose(f);
    return p;
}

int main(int argc, char **argv) {
    ds_error err;
    ds_model *model;
    ds_engine *engine;
    size_t size;
    const double mib = 1 << 20, limit = argc == 4 ? atof(argv[2]) : 0;
    if (!(limit >= 1 && limit <= 1e7))
        return fprintf(stderr, "usage: %s model.gguf MEBIBYTES QUESTION\n", argv[0]), 2;
    struct account memory = {.limit = (uint64_t)(limit * mib)};
    const ds_host host = {
        .struct_size = sizeof host, .alloc = allocate, .free = release, .alloc_user = &memory};

    /* The model uses the weights in place: the file's bytes must outlive it and the engine. */
    void *file = read_file(argv[1], &size);
    if (!file) return perror(argv[1]), 1;
    const ds_model_config how = {.struct_size = sizeof how, .host = &host};
    if (ds_model_load_memory(file, size, &how, &model, &err) != DS_OK) return fail(&err);

    const ds_engine_config config = {
        .struct_size = sizeof config, .threads = 1, .max_requests = 1, .host = &host};
    ds_memory_plan plan = {.struct_size = sizeof plan};
    if (ds_engine_plan(model, &config, &plan, &err) != DS_OK) return fail(&err);
    printf("weights %.1f, pages %.1f, activations %.1f, work %.1f, tables %.1f: %.1f MiB in all\n",
           (double)plan.weights / mib, (double)plan.pages / mib, (double)plan.activations / mib,
           (double)plan.work / mib, (double)plan.tables / mib, (double)plan.total / mib);
    if (plan.total > memory.limit) return fprintf(stderr, "that is more than %.1f MiB\n", limit), 1;

    if (ds_engine_new(model, &config, &engine, &err) != DS_OK) return fail(&err);
    const ds_message ask = {.role = "user", .content = argv[3]};
    if (ds_engine_chat(engine, &ask, 1, NULL, print, NULL, NULL, &err) != DS_OK) return fail(&err);
    printf("\nthe host allocated at most %.1f MiB\n", (double)memory.most / mib);
    ds_engine_free(engine), ds_model_free(model), free(file);
    if (memory.now != 0)
        return fprintf(stderr, "%llu bytes were not freed\n", (unsigned long long)memory.now), 1;
    return fflush(stdout) != 0 || ferror(stdout);
}
