/* The loop of a server: one thread steps the engine; others submit, wait for their answers, or give up.
 *
 *     cc server_loop.c -pthread -ldeepseek -o server_loop
 *     ./server_loop model.gguf "What is 37 + 85?" "What is 2 + 2?" ...
 *
 * Each question has a thread of its own, as a connection would have. The last of several gives up early. */
#include <deepseek.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
    pthread_t thread;
    const char *question;
    int gives_up; /* after the first words */
    char *text;
    size_t size;
    ds_finish finish; /* DS_FINISH_NONE until the request has ended */
};

static ds_model *model;
static ds_engine *engine;
static atomic_int stopping;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards text, size and finish of all clients */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void check(ds_status s, const ds_error *err) {
    if (s != DS_OK) fprintf(stderr, "%s: %s\n", ds_status_name(s), err->message), exit(1);
}

static void deliver(const ds_event *e) {
    struct client *c = e->user;
    c->text = realloc(c->text, c->size + e->text_size + 1);
    if (!c->text) perror("realloc"), exit(1);
    memcpy(c->text + c->size, e->text, e->text_size);
    c->text[c->size += e->text_size] = 0;
    if (e->type == DS_EVENT_DONE) c->finish = e->finish;
}

/* Only this thread steps. Its wait ends when a request is submitted or cancelled, or with ds_engine_wake. */
static void *loop(void *unused) {
    ds_error err;
    for (int work; !atomic_load(&stopping);) {
        const ds_event *const *events = NULL;
        size_t n = 0;
        check(ds_engine_wait(engine, 3600, &work, &err), &err);
        if (work) check(ds_engine_step(engine, &events, &n, &err), &err);
        pthread_mutex_lock(&mutex);
        for (size_t i = 0; i < n; ++i) deliver(events[i]);
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return unused;
}

static void *serve(void *client) {
    struct client *c = client;
    ds_error err;
    ds_request_id id;
    ds_token prompt[4096];
    const ds_message ask = {.role = "user", .content = c->question};
    ds_request r = {.struct_size = sizeof r, .prompt = prompt, .user = c, .timeout_seconds = 600};
    check(ds_chat_tokenize(model, &ask, 1, NULL, prompt, 4096, &r.prompt_count, &err), &err);
    check(ds_engine_submit(engine, &r, &id, &err), &err); /* to DS_ERR_BUSY a server says "try again later" */
    pthread_mutex_lock(&mutex);
    /* Cancelling twice is fine. The request needs this client until its last event, even then. */
    for (; c->finish == DS_FINISH_NONE; pthread_cond_wait(&changed, &mutex))
        if (c->gives_up && c->size > 0) ds_engine_cancel(engine, id, NULL);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

int main(int argc, char **argv) {
    ds_error err;
    pthread_t stepping;
    const int n = argc - 2;
    if (n < 1 || argv[1][0] == '-') return fprintf(stderr, "usage: %s model.gguf QUESTION...\n", argv[0]), 2;
    check(ds_model_load(argv[1], NULL, &model, &err), &err);
    check(ds_engine_new(model, NULL, &engine, &err), &err);
    struct client *clients = calloc((size_t)n, sizeof *clients);
    if (!clients) return perror("calloc"), 1;
    if (pthread_create(&stepping, NULL, loop, NULL) != 0) return fprintf(stderr, "no thread\n"), 1;
    for (struct client *c = clients; c < clients + n; ++c) {
        *c = (struct client){.question = argv[c - clients + 2], .gives_up = n > 1 && c == clients + n - 1};
        if (pthread_create(&c->thread, NULL, serve, c) != 0) return fprintf(stderr, "no thread\n"), 1;
    }
    for (struct client *c = clients; c < clients + n; ++c) {
        pthread_join(c->thread, NULL);
        printf("--- %s%s\n%s\n", c->question, c->finish == DS_FINISH_CANCELLED ? " (given up)" : "", c->text);
        free(c->text);
    }
    atomic_store(&stopping, 1), ds_engine_wake(engine, NULL);
    pthread_join(stepping, NULL);
    free(clients), ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
