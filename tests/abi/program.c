/* A program of ABI 1, compiled against the header of that version (deepseek-1.h) and linked against the
 * current library. It calls every function, with structures of that version's size, and with some shorter and
 * some longer.
 * usage: program model.gguf scratch-file. Passes if it prints nothing and returns 0. */
#include "deepseek-1.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        if ((call) != DS_OK) return printf("%s:%d: %s\n", __FILE__, __LINE__, err.message), 1;               \
    } while (0)
#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x)) return printf("%s:%d: %s\n", __FILE__, __LINE__, #x), 1;                                   \
    } while (0)

struct text {
    char bytes[8192];
    size_t size;
};
static int append(void *user, const char *bytes, size_t n) {
    struct text *t = user;
    if (n > sizeof t->bytes - t->size) return 1;
    memcpy(t->bytes + t->size, bytes, n);
    t->size += n;
    return 0;
}
static int contains(const struct text *t, const char *what) {
    const size_t n = strlen(what);
    for (size_t i = 0; i + n <= t->size; ++i)
        if (memcmp(t->bytes + i, what, n) == 0) return 1;
    return 0;
}

static size_t lines, traces, blocks;
static void on_log(void *user, ds_log_level level, const char *line) {
    (void)user, (void)level, lines += line != NULL;
}
static void on_trace(void *user, const ds_step_trace *t) {
    (void)user, traces += t->struct_size >= sizeof *t && t->step > 0 && t->seconds >= t->compute_seconds;
}
static void *get(void *user, size_t bytes, size_t alignment) {
    return (void)user, ++blocks, aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
static void put(void *user, void *p, size_t bytes, size_t alignment) {
    (void)user, (void)bytes, (void)alignment, --blocks, free(p);
}

/* Every structure at the size of ABI 1. The library must not read beyond struct_size. */
static int use(const char *path, const char *scratch) {
    ds_error err;
    ds_model *model = NULL;
    ds_engine *engine = NULL;
    ds_host host = {.struct_size = sizeof host, .log = on_log, .alloc = get, .free = put};
    ds_model_config mc = {.struct_size = sizeof mc, .flags = DS_LOAD_READ, .host = &host};
    ds_model_info info = {.struct_size = sizeof info};
    ds_engine_config ec = {.struct_size = sizeof ec,
                           .threads = 1,
                           .max_requests = 2,
                           .context_length = 256,
                           .kv_type = DS_KV_F16,
                           .isa = "scalar",
                           .host = &host,
                           .trace = on_trace};
    ds_memory_plan plan = {.struct_size = sizeof plan};
    ds_engine_stats stats = {.struct_size = sizeof stats};
    ds_request_status status = {.struct_size = sizeof status};
    ds_chat_result result = {.struct_size = sizeof result};
    ds_chat_config cc = {.struct_size = sizeof cc, .thinking = DS_THINKING_ON};
    ds_message ask[] = {{.role = "system", .content = "Be brief."},
                        {.role = "user", .content = "What is 37 + 85?"}};
    static struct text whole, again;

    CHECK(ds_abi_version() == DS_ABI_VERSION && ds_version()[0]);
    CHECK(strcmp(ds_status_name(DS_ERR_IO), "DS_ERR_IO") == 0);
    MUST(ds_model_load(path, &mc, &model, &err));
    MUST(ds_model_get_info(model, &info, &err));
    CHECK(info.struct_size == sizeof info && info.vocabulary > 256 && info.layers > 0 &&
          info.hidden_size % info.heads == 0 && info.file_bytes > info.weight_bytes && info.weight_bytes > 0);
    CHECK(strlen(info.architecture) > 0 && strlen(info.name) < sizeof info.name &&
          strstr(ds_chat_templates(), info.chat_template));
    CHECK(ds_model_metadata_count(model) > 10 && ds_model_metadata_key(model, 0) &&
          !ds_model_metadata_key(model, 1u << 30));
    size_t n = 0;
    char text[512];
    MUST(ds_model_metadata(model, "general.architecture", text, sizeof text, &n, &err));
    CHECK(n == strlen(info.architecture) && memcmp(text, info.architecture, n) == 0);

    ds_token prompt[256];
    size_t count = 0;
    MUST(ds_chat_tokenize(model, ask, 2, &cc, prompt, 256, &count, &err));
    MUST(ds_chat_render(model, ask, 2, &cc, text, sizeof text, &n, &err));
    CHECK(count > 4 && n > 20);
    ds_token plain[64];
    size_t tokens = 0;
    const char *piece = NULL;
    size_t size = 0;
    MUST(ds_tokenize(model, "37 + 85", 7, DS_TOKENIZE_BOS | DS_TOKENIZE_SPECIAL, plain, 64, &tokens, &err));
    MUST(ds_detokenize(model, plain, tokens, 0, text, sizeof text, &n, &err));
    CHECK(n == 7 && memcmp(text, "37 + 85", 7) == 0);
    MUST(ds_token_bytes(model, plain[tokens - 1], DS_DETOKENIZE_SPECIAL, &piece, &size, &err));
    CHECK(size > 0 && size <= 7);
    CHECK(ds_token_special(model, DS_SPECIAL_EOS) < 0 ||
          ds_token_is_end(model, ds_token_special(model, DS_SPECIAL_EOS)));
    ds_decoder *decoder = NULL;
    MUST(ds_decoder_new(model, DS_DETOKENIZE_SPECIAL, &decoder, &err));
    MUST(ds_decoder_push(decoder, plain[tokens - 1], &piece, &size, &err));
    MUST(ds_decoder_finish(decoder, &piece, &size, &err));
    ds_decoder_free(decoder);

    MUST(ds_engine_plan(model, &ec, &plan, &err));
    CHECK(plan.total == plan.weights + plan.pages + plan.activations + plan.work + plan.tables &&
          plan.page_bytes > 0);
    MUST(ds_engine_new(model, &ec, &engine, &err));
    CHECK(blocks > 1);
    MUST(ds_engine_chat(engine, ask + 1, 1, NULL, append, &whole, &result, &err));
    CHECK(contains(&whole, "122") && result.finish == DS_FINISH_STOP && result.answer_tokens > 0 &&
          result.prompt_tokens > 0 && result.answer_seconds > 0 && traces > 0);

    ds_logit_bias bias = {plain[0], -INFINITY};
    const char *stop[] = {"never said"};
    ds_sampling sampling = {.struct_size = sizeof sampling,
                            .temperature = 0.5f,
                            .top_k = 40,
                            .top_p = 0.95f,
                            .min_p = 0.01f,
                            .repetition_penalty = 1.01f,
                            .presence_penalty = 0.01f,
                            .frequency_penalty = 0.01f,
                            .seed = 5,
                            .logit_bias = &bias,
                            .logit_bias_count = 1};
    ds_thinking thinking = {.struct_size = sizeof thinking,
                            .mode = DS_THINKING_ON,
                            .flags = DS_THINKING_BUDGET,
                            .max_tokens = 8,
                            .end_text = "\nSo.\n"};
    ds_request r = {.struct_size = sizeof r,
                    .prompt = prompt,
                    .prompt_count = count,
                    .flags = DS_REQUEST_LOGITS | DS_REQUEST_LOGPROBS,
                    .max_new_tokens = 24,
                    .sampling = &sampling,
                    .thinking = &thinking,
                    .stop = stop,
                    .stop_count = 1,
                    .user = &whole,
                    .client_id = 3,
                    .timeout_seconds = 1000,
                    .priority = 1,
                    .top_logprobs = 4};
    ds_request_id id = 0, fork = 0, late = 0;
    int work = 0;
    MUST(ds_engine_submit(engine, &r, &id, &err));
    MUST(ds_engine_fork(engine, id, &r, &fork, &err));
    MUST(ds_engine_submit(engine, &r, &late, &err));
    MUST(ds_engine_cancel(engine, late, &err));
    MUST(ds_engine_wait(engine, INFINITY, &work, &err));
    CHECK(work == 1);
    MUST(ds_engine_request_status(engine, id, &status, &err));
    CHECK(status.state == DS_STATE_QUEUED && status.prompt_tokens == count);
    size_t done = 0, injected = 0, said[2] = {0, 0};
    while (done < 3) {
        const ds_event *const *events = NULL;
        MUST(ds_engine_step(engine, &events, &n, &err));
        for (size_t i = 0; i < n; ++i) {
            const ds_event *e = events[i];
            CHECK(e->struct_size >= sizeof *e && e->user == &whole && e->text);
            if (e->type == DS_EVENT_TOKEN) {
                CHECK(e->token >= 0 && e->position >= count);
                CHECK(e->injected ? !e->logits
                                  : e->logits && e->logprob <= 0 && e->top_count == 4 &&
                                        e->top[0].logprob >= e->top[3].logprob);
                injected += e->injected != 0;
                said[e->request == fork] += 1;
            }
            if (e->type != DS_EVENT_DONE) continue;
            ++done;
            CHECK(e->request == late ? e->finish == DS_FINISH_CANCELLED
                                     : e->finish == DS_FINISH_LENGTH || e->finish == DS_FINISH_STOP);
            CHECK(e->status == DS_OK && e->queue_seconds >= 0 && e->preemptions == 0);
        }
    }
    CHECK(injected > 0 && said[0] > 0 && said[0] == said[1]);
    ds_request score = {
        .struct_size = sizeof score, .prompt = prompt, .prompt_count = count, .flags = DS_REQUEST_SCORE};
    MUST(ds_engine_submit(engine, &score, &id, &err));
    for (size_t scored = 0, over = 0; !over;) {
        const ds_event *const *events = NULL;
        MUST(ds_engine_step(engine, &events, &n, &err));
        for (size_t i = 0; i < n; ++i) {
            scored += events[i]->type == DS_EVENT_SCORE;
            over += events[i]->type == DS_EVENT_DONE;
            if (over) CHECK(scored == count && events[i]->finish == DS_FINISH_SCORED);
        }
    }
    MUST(ds_engine_get_stats(engine, &stats, &err));
    CHECK(stats.running == 0 && stats.pages_free == stats.pages_total && stats.threads == 1 &&
          strcmp(stats.isa, "scalar") == 0 && stats.new_tokens > 20);
    size_t positions = 0, pages = 0;
    MUST(ds_engine_save_session(engine, prompt, count, 3, scratch, &positions, &err));
    MUST(ds_engine_forget_session(engine, prompt, count, 3, &pages, &err));
    ds_token back[256];
    MUST(ds_engine_restore_session(engine, scratch, 4, back, 256, &n, &positions, &err));
    CHECK(n == count && memcmp(back, prompt, n * sizeof *back) == 0);
    MUST(ds_engine_trim(engine, 0, &err));
    MUST(ds_engine_wake(engine, &err));
    MUST(ds_engine_wait(engine, 100, &work, &err));
    CHECK(work == 0);
    MUST(ds_engine_chat(engine, ask + 1, 1, NULL, append, &again, NULL, &err));
    CHECK(again.size == whole.size && memcmp(again.bytes, whole.bytes, again.size) == 0);
    ds_engine_free(engine);
    ds_model_free(model);
    CHECK(blocks == 0);
    return 0;
}

/* Shorter structures, as of a program of an earlier version; longer ones, as of a later version, whose new
 * fields are zero. */
static int resize(const char *path) {
    ds_error err;
    ds_model *model = NULL;
    ds_engine *engine = NULL;
    struct {
        ds_model_config c;
        uint64_t more[4];
    } mc = {.c = {.struct_size = sizeof mc}};
    struct {
        ds_engine_config c;
        uint64_t more[4];
    } ec = {.c = {.struct_size = sizeof ec, .threads = 1}};
    struct {
        ds_engine_stats s;
        uint64_t more[4];
    } stats;
    MUST(ds_model_load(path, &mc.c, &model, &err));
    MUST(ds_engine_new(model, &ec.c, &engine, &err));
    memset(&stats, 0x55, sizeof stats);
    stats.s.struct_size = sizeof stats;
    MUST(ds_engine_get_stats(engine, &stats.s, &err));
    CHECK(stats.s.struct_size == sizeof stats && stats.s.pages_free > 0 && stats.more[0] == 0 &&
          stats.more[3] == 0);
    memset(&stats, 0x55, sizeof stats);
    stats.s.struct_size = offsetof(ds_engine_stats, pages_total);
    MUST(ds_engine_get_stats(engine, &stats.s, &err));
    CHECK(stats.s.struct_size == offsetof(ds_engine_stats, pages_total) && stats.s.running == 0 &&
          stats.s.pages_total == 0x5555555555555555u);
    ec.more[2] = 1; /* a field that this library does not know */
    ds_engine *other = NULL;
    CHECK(ds_engine_new(model, &ec.c, &other, &err) == DS_ERR_ARGUMENT && !other);

    ds_message ask = {.role = "user", .content = "What is 37 + 85?"};
    static struct text text;
    struct {
        ds_sampling s;
        uint64_t more[4];
    } sampling = {.s = {.struct_size = sizeof sampling, .temperature = 100, .seed = 3}};
    struct {
        ds_request r;
        uint64_t more[4];
    } r = {.r = {.struct_size = sizeof r, .sampling = &sampling.s, .priority = 77, .top_logprobs = 1000}};
    ds_chat_result result = {.struct_size = sizeof result};
    r.r.struct_size = offsetof(ds_request, priority); /* not read beyond: 1000 is out of range */
    sampling.s.struct_size = offsetof(ds_sampling, temperature);
    MUST(ds_engine_chat(engine, &ask, 1, &r.r, append, &text, &result, &err));
    CHECK(contains(&text, "122") && result.finish == DS_FINISH_STOP); /* temperature 0 */
    r.r.struct_size = sizeof r;
    CHECK(ds_engine_chat(engine, &ask, 1, &r.r, append, &text, &result, &err) == DS_ERR_ARGUMENT);
    r.r.struct_size = sizeof(size_t);
    text.size = 0;
    MUST(ds_engine_chat(engine, &ask, 1, &r.r, append, &text, &result, &err));
    CHECK(contains(&text, "122"));
    ds_engine_free(engine);
    ds_model_free(model);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    return use(argv[1], argv[2]) || resize(argv[1]);
}
