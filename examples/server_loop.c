/* The loop of a server: one thread steps the engine and sleeps when there is nothing to do; any number of others submit, wait for their answers, or give up.
 *
 *     cc server_loop.c -pthread -ldeepseek -o server_loop
 *     ./server_loop model.gguf "What is 37 + 85?" "What is 2 + 2?" ...
 * Each question has a thread of its own here, as a connection would have. The last one gives up after its first words. */
#include <deepseek.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_model *model;
static ds_engine *engine;
static atomic_int stopping;

/* A connection; events find it through the request's `user`. The mutex guards what they change. */
struct client {
    pthread_t thread;
    const char *question;
    int gives_up;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct {
        char *bytes;
        size_t size;
    } text;
    ds_finish finish; /* NONE until it has ended */
};

static void die(const ds_error *err) {
    fprintf(stderr, "%s: %s\n", ds_status_name(err->status), err->message), exit(1);
}

static void deliver(const ds_event *e) {
    struct client *c = e->user;
    pthread_mutex_lock(&c->mutex);
    if (e->text_size > 0) {
        c->text.bytes = realloc(c->text.bytes, c->text.size + e->text_size + 1);
        if (!c->text.bytes) fprintf(stderr, "no memory\n"), exit(1);
        memcpy(c->text.bytes + c->text.size, e->text, e->text_size);
        c->text.bytes[c->text.size += e->text_size] = 0;
    }
    if (e->type == DS_EVENT_DONE) c->finish = e->finish;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* The only thread that steps. ds_engine_wait sleeps until somebody submits or cancels, or ds_engine_wake is called. */
static void *loop(void *unused) {
    ds_error err;
    const ds_event *const *events;
    size_t n;
    for (int work; !atomic_load(&stopping);) {
        if (ds_engine_wait(engine, 3600, &work, &err) != DS_OK) die(&err);
        if (work && ds_engine_step(engine, &events, &n, &err) != DS_OK) die(&err);
        for (size_t i = 0; work && i < n; ++i) deliver(events[i]);
    }
    return unused;
}

static void *serve(void *connection) {
    struct client *c = connection;
    ds_error err;
    ds_request_id id;
    ds_token prompt[4096];
    size_t count;
    ds_message ask = {.role = "user", .content = c->question};
    if (ds_chat_tokenize(model, &ask, 1, NULL, prompt, 4096, &count, &err) != DS_OK) die(&err);
    ds_request request = {.struct_size = sizeof request,
                          .prompt = prompt,
                          .prompt_count = count,
                          .user = c,
                          .timeout_seconds = 600};
    if (ds_engine_submit(engine, &request, &id, &err) != DS_OK)
        die(&err); /* a server answers DS_ERR_BUSY with "try again later" */
    pthread_mutex_lock(&c->mutex);
    for (int cancelled = 0; c->finish == DS_FINISH_NONE; pthread_cond_wait(
             &c->changed, &c->mutex)) /* the request has a pointer to this client until its last event */
        if (c->gives_up && c->text.size > 0 && !cancelled++)
            ds_engine_cancel(engine, id, NULL); /* it may have ended already, which is fine */
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

int main(int argc, char **argv) {
    ds_error err;
    pthread_t stepping;
    const int n = argc - 2;
    if (n < 1 || argv[1][0] == '-') return fprintf(stderr, "usage: %s model.gguf QUESTION...\n", argv[0]), 2;
    struct client *clients = calloc((size_t)n, sizeof *clients);
    if (!clients) return fprintf(stderr, "no memory\n"), 1;
    if (ds_model_load(argv[1], NULL, &model, &err) != DS_OK ||
        ds_engine_new(model, NULL, &engine, &err) != DS_OK)
        die(&err);
    if (pthread_create(&stepping, NULL, loop, NULL) != 0) return fprintf(stderr, "no thread\n"), 1;
    for (int i = 0; i < n; ++i) {
        clients[i] = (struct client){.question = argv[i + 2], .gives_up = n > 1 && i == n - 1};
        pthread_mutex_init(&clients[i].mutex, NULL), pthread_cond_init(&clients[i].changed, NULL);
        if (pthread_create(&clients[i].thread, NULL, serve, &clients[i]) != 0)
            return fprintf(stderr, "no thread\n"), 1;
    }
    for (int i = 0; i < n; ++i) {
        pthread_join(clients[i].thread, NULL);
        printf("--- %s%s\n%s\n", clients[i].question,
               clients[i].finish == DS_FINISH_CANCELLED ? " (given up)" : "",
               clients[i].text.bytes ? clients[i].text.bytes : "");
        free(clients[i].text.bytes);
    }
    atomic_store(&stopping, 1), ds_engine_wake(engine, NULL);
    pthread_join(stepping, NULL);
    free(clients), ds_engine_free(engine), ds_model_free(model);
    return fflush(stdout) != 0 || ferror(stdout);
}
