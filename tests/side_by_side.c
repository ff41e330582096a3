/* Two copies of the shared library in one process, and llama.cpp's libraries if DS_LLAMA_DIR names their
 * directory: each copy has its own code and state, and both give the same answer. The copy has another file
 * name, since the dynamic linker loads the same file only once. All are opened with RTLD_GLOBAL, the mode in
 * which a symbol of one could replace another's.
 * usage: side_by_side libdeepseek.so model.gguf scratch-directory */
#include "../deepseek.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct answer {
    char text[4096];
    size_t size;
};

static int fail(const char *what, const char *why) {
    printf("side_by_side: %s: %s\n", what, why ? why : "");
    return 0;
}

static int copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    char bytes[65536];
    size_t n = 0;
    int ok = in && out;
    while (ok && (n = fread(bytes, 1, sizeof bytes, in)) > 0) ok = fwrite(bytes, 1, n, out) == n;
    if (in) fclose(in);
    if (out) ok = fclose(out) == 0 && ok;
    return ok;
}

static int append(void *user, const char *text, size_t n) {
    struct answer *a = user;
    if (n > sizeof a->text - 1 - a->size) return 1;
    memcpy(a->text + a->size, text, n);
    a->size += n;
    return 0;
}

/* ISO C has no cast from an object pointer to a function pointer; POSIX guarantees that the bytes are the
 * same. */
#define TAKE(library, name)                                                                                  \
    __typeof__(&name) fn_##name;                                                                             \
    do {                                                                                                     \
        void *symbol = dlsym(library, #name);                                                                \
        if (!symbol) return fail(#name, dlerror());                                                          \
        memcpy(&fn_##name, &symbol, sizeof symbol);                                                          \
    } while (0)

static int ask(void *library, const char *path, struct answer *a) {
    TAKE(library, ds_model_load);
    TAKE(library, ds_model_free);
    TAKE(library, ds_engine_new);
    TAKE(library, ds_engine_free);
    TAKE(library, ds_engine_chat);
    ds_error err;
    ds_model *model = NULL;
    ds_engine *engine = NULL;
    ds_message question = {.role = "user", .content = "What is 37 + 85?"};
    const int ok = fn_ds_model_load(path, NULL, &model, &err) == DS_OK &&
                   fn_ds_engine_new(model, NULL, &engine, &err) == DS_OK &&
                   fn_ds_engine_chat(engine, &question, 1, NULL, append, a, NULL, &err) == DS_OK;
    fn_ds_engine_free(engine);
    fn_ds_model_free(model);
    return ok || fail(path, err.message);
}

/* llama.cpp's libraries, in order of dependency. Its own loader opens those for the processor. */
static int open_llama(const char *dir, void **llama) {
    static const char *const names[] = {"libggml-base", "libggml", "libllama"};
    void *library = NULL, *ggml = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
        char pattern[4096];
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/%s.*so", dir, names[i]);
        if (glob(pattern, 0, NULL, &found)) return fail(pattern, "no such file");
        library = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL);
        if (!library) return fail(found.gl_pathv[0], dlerror());
        globfree(&found);
        if (i == 1) ggml = library;
    }
    void (*load_all)(const char *);
    void *symbol = dlsym(ggml, "ggml_backend_load_all_from_path");
    if (!symbol) return fail("ggml_backend_load_all_from_path", dlerror());
    memcpy(&load_all, &symbol, sizeof symbol);
    load_all(dir);
    *llama = library;
    return 1;
}

static int llama_answers(void *llama) {
    const char *(*system_info)(void);
    void *symbol = dlsym(llama, "llama_print_system_info");
    if (!symbol) return fail("llama_print_system_info", dlerror());
    memcpy(&system_info, &symbol, sizeof symbol);
    return *system_info() || fail("llama_print_system_info", "says nothing");
}

static int run(const char *library, const char *model, const char *copy, const char *llama_dir) {
    void *llama = NULL;
    if (llama_dir && !open_llama(llama_dir, &llama)) return 0;
    void *one = dlopen(library, RTLD_NOW | RTLD_GLOBAL), *two = dlopen(copy, RTLD_NOW | RTLD_GLOBAL);
    if (!one || !two) return fail("dlopen", dlerror());
    if (dlsym(one, "ds_version") == dlsym(two, "ds_version"))
        return fail("dlopen", "both names gave the same library");
    struct answer a = {{0}, 0}, b = {{0}, 0};
    if (!ask(one, model, &a) || !ask(two, model, &b)) return 0;
    if (llama && !llama_answers(llama)) return 0;
    if (!strstr(a.text, "122")) return fail("the answer has no 122", a.text);
    if (strcmp(a.text, b.text)) return fail("the copies answer differently", b.text);
    return dlclose(one) == 0 && dlclose(two) == 0;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return fprintf(stderr, "usage: side_by_side libdeepseek.so model.gguf scratch-directory\n"), 2;
    const char *llama_dir = getenv("DS_LLAMA_DIR");
    if (!llama_dir)
        printf("side_by_side: without llama.cpp (DS_LLAMA_DIR names the directory of its libraries)\n");
    char copy[4096];
    snprintf(copy, sizeof copy, "%s/libdeepseek-copy.so", argv[3]);
    if (!copy_file(argv[1], copy)) return fail(copy, "cannot be written"), 1;
    const int ok = run(argv[1], argv[2], copy, llama_dir);
    remove(copy);
    return !ok;
}
