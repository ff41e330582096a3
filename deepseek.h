/* deepseek.h - run the DeepSeek-R1 family inside your program. Version 0.2.
 *
 * One C header, one library that depends on nothing but the C++ standard library. It loads a GGUF file, turns text into token ids
 * and back, writes chat prompts, and answers many requests at once from one paged cache of keys and values.
 *
 * A complete program:
 *
 *     #include <deepseek.h>
 *     #include <stdio.h>
 *
 *     static int print(void *user, const char *text, size_t n) { (void)user; return fwrite(text, 1, n, stdout) != n; }
 *
 *     int main(void) {
 *         ds_error err;
 *         ds_model *model;
 *         ds_engine *engine;
 *         ds_message ask = {.role = "user", .content = "What is 37 + 85?"};
 *         if (ds_model_load("models/tiny-r1.gguf", NULL, &model, &err)) return puts(err.message), 1;
 *         if (ds_engine_new(model, NULL, &engine, &err)) return puts(err.message), 1;
 *         if (ds_engine_chat(engine, &ask, 1, NULL, print, NULL, NULL, &err)) return puts(err.message), 1;
 *         ds_engine_free(engine);
 *         ds_model_free(model);
 *     }
 *
 * The contract, once for every function below:
 *
 *  Errors     A function that can fail returns a ds_status, DS_OK being 0. The last parameter, `err`, is the caller's and may be NULL; on failure it
 *             receives the status and a sentence that names the file, field and value. On failure outputs are as they were, unless said otherwise, and
 *             objects stay usable. The library never aborts, exits, prints, reads the environment or installs a signal handler.
 *             Every function checks its pointers: NULL where it is not allowed is DS_ERR_ARGUMENT, and so is a struct_size that no structure can have.
 *             Every function may return DS_ERR_MEMORY and DS_ERR_INTERNAL (a mistake of the library); these are not repeated.
 *  Ownership  What ds_x_new or ds_x_load hands out is freed with ds_x_free, once; ds_x_free(NULL) does nothing. Engines and decoders keep their model alive:
 *             freeing the model first is fine. Strings and arrays passed in are copied before the call returns, unless said otherwise. Pointers handed out say
 *             how long they live.
 *  Threads    A ds_model is immutable: any number of threads may use it at once. An engine's step belongs to one thread at a time (a second one
 *             gets DS_ERR_STATE), and so do trim, sessions and ds_engine_chat; submit, fork, cancel, wait, wake, request_status and get_stats may be called from any
 *             thread at any time. A ds_decoder belongs to one thread at a time. Threads of the library's own sleep while no step runs.
 *             Callbacks may call what any thread may call at any time; nothing else on the object that calls them.
 *  Signals    In a signal handler only ds_version, ds_abi_version and ds_status_name may be called: the others take locks and memory. Set a flag there, and look at
 *             it between two steps, or let another thread cancel and wake. The library's own threads block all signals.
 *  fork(2)    Objects stay with the process that made them. A child may use none of its parent's, not even to free them (their threads do not exist in it; its
 *             exit frees them). It may load models and make engines of its own, as far as POSIX lets a child of a process with several threads do anything before exec.
 *  Text       UTF-8, with explicit lengths in bytes; not NUL-terminated where a length is given. Input may hold any bytes unless said otherwise. Output is
 *             always well-formed, but for what comes from the file as it is: metadata, and the bytes of a token.
 *  Bytes      All sizes are in bytes as size_t or uint64_t. All shapes are written outermost first; logits are float[vocabulary].
 *  Config     Structures that begin with struct_size: fill with zeros, set struct_size to sizeof the structure, then what you need.
 *             0 in a field means its default, and reserved fields stay 0. NULL in place of a configuration means all defaults. A shorter structure, of an earlier
 *             version of this header, is fine: what it lacks is 0. So is a longer one, of a later version, as long as what this version does not know is 0. Of
 *             structures that the library fills, struct_size stays as the caller set it: the fields that both sides know are filled, the rest becomes 0.
 *  Results    A request's tokens and logits depend on the model, its prompt, its parameters and the number formats alone: not on the number of threads, the
 *             instruction set, what else runs in the engine, how the prompt was cut into steps, what of it was cached, or whether it was preempted on the
 *             way. The bits are the same. (A model with latent attention in other formats than I8 needs DS_MLA_ABSORBED for that;
 *             see ds_mla_form.)
 *  ABI        A program compiled with this header runs with every later library of the same ABI number, which is part of the shared object's name. Structures
 *             grow at their end only, never into padding (there is none: what would be is a reserved field), and those that do not begin with struct_size never grow.
 *             Structures in structures are pointers, and events are reached one by one by pointers, so that each may grow. Enumerations are ints and may get
 *             new values: a program skips events of a type that it does not know.
 */
#ifndef DEEPSEEK_H
#define DEEPSEEK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DS_API __attribute__((visibility("default")))
#else
#define DS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ------------------------------------------------------------------------------------------------------------------------------ */

#define DS_VERSION "0.2.0"
#define DS_ABI_VERSION 1

/* The library's version, "0.2.0"; static storage. */
DS_API const char *ds_version(void);

/* The library's ABI number; a program compiled with this header needs DS_ABI_VERSION. */
DS_API uint32_t ds_abi_version(void);

/* ---- Status and error --------------------------------------------------------------------------------------------------------------------- */

typedef enum ds_status {
    DS_OK = 0,
    DS_ERR_ARGUMENT = 1,      /* a parameter outside its documented range */
    DS_ERR_IO = 2,            /* the operating system refused */
    DS_ERR_FORMAT = 3,        /* the file is damaged, or not what it claims to be */
    DS_ERR_UNSUPPORTED = 4,   /* well-formed, but not among what this library can do; the message lists what is */
    DS_ERR_MEMORY = 5,        /* memory could not be had */
    DS_ERR_CANCELLED = 6,     /* a callback asked to stop */
    DS_ERR_BUFFER = 7,        /* the caller's buffer is too small; the size needed was stored */
    DS_ERR_TOO_LONG = 8,      /* a text or request that can never fit */
    DS_ERR_NUMERIC = 9,       /* the model's logits are not finite */
    DS_ERR_STATE = 10,        /* not legal now */
    DS_ERR_BUSY = 11,         /* the queue is full: step, then try again */
    DS_ERR_DEVICE = 12,       /* the device failed or is lost: objects on it give this from then on, and can only be freed */
    DS_ERR_INTERNAL = 13,     /* a mistake of the library */
    DS_ERR_NO_DEVICE = 14     /* there is no such device, or what it needs is missing: the message says which driver or library */
} ds_status;

typedef struct ds_error {
    ds_status status;
    char message[508];        /* NUL-terminated UTF-8, cut at a character when longer */
} ds_error;

/* The status's name, "DS_ERR_IO"; "unknown" for another number. Static storage. */
DS_API const char *ds_status_name(ds_status status);

/* ---- What the host lends ------------------------------------------------------------------------------------------------------------------ */

typedef enum ds_log_level { DS_LOG_DEBUG = 0, DS_LOG_INFO = 1, DS_LOG_WARNING = 2, DS_LOG_ERROR = 3 } ds_log_level;

/* A line, NUL-terminated, without line feed, valid during the call. May be called from any thread that uses the object. */
typedef void (*ds_log_fn)(void *user, ds_log_level level, const char *line);

/* Returns `bytes` bytes at a multiple of `alignment` (a power of two up to 4096), or NULL. */
typedef void *(*ds_alloc_fn)(void *user, size_t bytes, size_t alignment);
typedef void (*ds_free_fn)(void *user, void *p, size_t bytes, size_t alignment);

/* Called with bytes done and in all; a return value other than 0 stops the work, which then returns DS_ERR_CANCELLED. */
typedef int (*ds_progress_fn)(void *user, uint64_t done, uint64_t total);

/* Callbacks of one model or engine, copied when it is made; all may be NULL (then: silence, and the C++ allocator). The bulk memory comes through alloc: weights read into
 * memory, pages, activations. Bookkeeping (vocabulary index, queues) comes from operator new. */
typedef struct ds_host {
    size_t struct_size;
    ds_log_fn log;
    void *log_user;
    ds_alloc_fn alloc;        /* alloc and free: both or neither */
    ds_free_fn free;
    void *alloc_user;
} ds_host;

/* ---- Devices ------------------------------------------------------------------------------------------------------------------------------ */

/* Devices are numbered from 1; 0 is the host's own processors, which need no entry. What is needed for them is in a shared object of its own,
 * libdeepseek-cuda.so, which is looked for beside this library (or the program that holds it), in ../lib from there, and where the system looks, when one of these
 * functions or a model for a device asks for it: a program that never does so needs none of CUDA. It stays in the process from then on. */

/* How many devices there are.
 *   count   receives the number, at least 1; 0 on failure
 * Status: DS_ERR_NO_DEVICE (there is none, or the shared object, the driver or a library of CUDA is missing: the message says which). */
DS_API ds_status ds_device_count(uint32_t *count, ds_error *err);

typedef struct ds_device_info {
    size_t struct_size;
    char name[256];
    uint64_t memory_total, memory_free;                      /* bytes; free at the moment, for all processes */
    uint32_t capability_major, capability_minor;             /* of CUDA: 9 and 0 */
    uint32_t processors;                                     /* streaming multiprocessors */
    uint32_t reserved;
} ds_device_info;

/* Fills `info`, whose struct_size the caller has set.
 *   device   from 1 to the count
 * Status: DS_ERR_ARGUMENT, DS_ERR_NO_DEVICE (also when there is no such device), DS_ERR_DEVICE. */
DS_API ds_status ds_device_get_info(uint32_t device, ds_device_info *info, ds_error *err);

/* ---- Models ------------------------------------------------------------------------------------------------------------------------------- */

typedef int32_t ds_token;
typedef struct ds_model ds_model;

#define DS_LOAD_READ       1u   /* read the file into memory instead of mapping it: needed where the file may be cut short while in use */
#define DS_LOAD_VOCAB_ONLY 2u   /* tokens, templates and metadata only; no engine can be made of it */

typedef enum ds_rope_scaling {
    DS_ROPE_FROM_FILE = 0,
    DS_ROPE_NONE = 1,
    DS_ROPE_LINEAR = 2,       /* positions divided by rope_factor */
    DS_ROPE_YARN = 3          /* arXiv 2309.00071 */
} ds_rope_scaling;

typedef struct ds_model_config {
    size_t struct_size;
    uint32_t flags;                    /* DS_LOAD_… */
    uint32_t context_length;           /* positions, up to 2^30; 0: as the file says */
    ds_rope_scaling rope_scaling;      /* overrides the file's */
    uint32_t rope_original_context;    /* positions before scaling, for YaRN, up to 2^30; 0: the file's */
    double rope_factor;                /* from 1 to 10^6; needed with DS_ROPE_LINEAR and DS_ROPE_YARN, else ignored */
    const char *chat_template;         /* a name of ds_chat_templates; NULL: recognised from the file */
    ds_progress_fn progress;           /* of reading (DS_LOAD_READ; file by file), then of checking tensors, then, for a device, of moving them there; may be NULL */
    void *progress_user;
    const ds_host *host;               /* NULL: nothing is lent */
    uint32_t device;                   /* where the weights go and engines compute: 0: the host's processors; else a device, from 1 on, see ds_device_count. Ignored with DS_LOAD_VOCAB_ONLY */
    uint32_t reserved;
} ds_model_config;

/* Loads a GGUF file (version 2 or 3), or a model in several files by the first of them, PREFIX-00001-of-00003.gguf: the others are found beside it.
 *   path    UTF-8, NUL-terminated. The file is mapped (unless DS_LOAD_READ) and must not be truncated while the model lives. Its header, all but the tensors' data, is
 *           copied to the host's memory, here and from descriptors and memory: what changes there afterwards changes nothing
 *   config  NULL for defaults
 *   out     receives the model
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_FORMAT (names the field), DS_ERR_UNSUPPORTED (architecture, number format, tokenizer), DS_ERR_CANCELLED; for a device
 * DS_ERR_NO_DEVICE and DS_ERR_DEVICE, and DS_ERR_MEMORY when it has no room. */
DS_API ds_status ds_model_load(const char *path, const ds_model_config *config, ds_model **out, ds_error *err);

/* The same from an open descriptor of a regular file, which stays the caller's and may be closed afterwards. One file only: a part of a model in several
 * is DS_ERR_UNSUPPORTED, here and from memory. */
DS_API ds_status ds_model_load_fd(int fd, const ds_model_config *config, ds_model **out, ds_error *err);

/* The same from memory: `data`, at a multiple of 32, is used in place and must outlive the model and its engines. */
DS_API ds_status ds_model_load_memory(const void *data, size_t size, const ds_model_config *config, ds_model **out, ds_error *err);

DS_API void ds_model_free(ds_model *model);

typedef struct ds_model_info {
    size_t struct_size;
    char architecture[32];
    char name[128];
    char chat_template[32];            /* "" when not recognised */
    char weights[32];                  /* the number format that holds most bytes, "q8_0" */
    uint32_t context_length, vocabulary, layers, hidden_size, heads, kv_heads, head_size, feed_forward_size;   /* 0 but for the vocabulary with DS_LOAD_VOCAB_ONLY */
    uint64_t parameters;               /* elements of all tensors */
    uint64_t weight_bytes;             /* of all tensors */
    uint64_t file_bytes;
} ds_model_info;

/* Fills `info`, whose struct_size the caller has set. Strings that are too long are cut. */
DS_API ds_status ds_model_get_info(const ds_model *model, ds_model_info *info, ds_error *err);

/* The file's metadata, in its order. The key is NUL-terminated and lives as long as the model; NULL when the index is out of range. */
DS_API size_t ds_model_metadata_count(const ds_model *model);
DS_API const char *ds_model_metadata_key(const ds_model *model, size_t index);

/* A value as text: strings as they are, whatever their bytes, numbers shortest, arrays as JSON, cut after 64 elements.
 *   buffer, capacity   the caller's; may be NULL and 0. No NUL is added
 *   size               receives the text's length; not NULL
 * Status: DS_ERR_ARGUMENT (no such key), DS_ERR_BUFFER (nothing written, size stored). */
DS_API ds_status ds_model_metadata(const ds_model *model, const char *key, char *buffer, size_t capacity, size_t *size, ds_error *err);

/* ---- Tokens ------------------------------------------------------------------------------------------------------------------------------- */

#define DS_TOKENIZE_BOS     1u   /* begin with the beginning-of-sequence token, where the model's texts do */
#define DS_TOKENIZE_SPECIAL 2u   /* texts of control tokens in the input become those tokens; never set this for text that a user wrote */

/* Token ids of a text.
 *   text, size          any bytes, up to 2^29 of them
 *   tokens, capacity    the caller's, capacity in tokens; may be NULL and 0
 *   count               receives the number of tokens; not NULL
 * Status: DS_ERR_BUFFER (nothing written, count stored), DS_ERR_ARGUMENT (or a byte that the vocabulary cannot spell), DS_ERR_TOO_LONG. */
DS_API ds_status ds_tokenize(const ds_model *model, const char *text, size_t size, uint32_t flags, ds_token *tokens, size_t capacity, size_t *count, ds_error *err);

#define DS_DETOKENIZE_SPECIAL 1u   /* control tokens give their text; else nothing, but for the marks around calls of tools, which are part of an answer */

/* The text of tokens, as well-formed UTF-8 (U+FFFD for what is not). Status: DS_ERR_ARGUMENT (a token out of range), DS_ERR_BUFFER (size stored). */
DS_API ds_status ds_detokenize(const ds_model *model, const ds_token *tokens, size_t count, uint32_t flags, char *text, size_t capacity, size_t *size, ds_error *err);

/* The bytes of one token, which need not be whole characters; flags as for ds_detokenize; they live as long as the model. Status: DS_ERR_ARGUMENT (out of range). */
DS_API ds_status ds_token_bytes(const ds_model *model, ds_token token, uint32_t flags, const char **bytes, size_t *size, ds_error *err);

typedef enum ds_special { DS_SPECIAL_BOS = 0, DS_SPECIAL_EOS = 1, DS_SPECIAL_PAD = 2, DS_SPECIAL_UNKNOWN = 3 } ds_special;

/* The token with this duty, or -1 when the model has none. */
DS_API ds_token ds_token_special(const ds_model *model, ds_special which);

/* Not 0 when the token ends an answer (a model may have several such tokens). */
DS_API int ds_token_is_end(const ds_model *model, ds_token token);

/* Tokens to text one at a time: a character whose bytes are spread over tokens comes out whole. */
typedef struct ds_decoder ds_decoder;
/* flags as for ds_detokenize. Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_decoder_new(const ds_model *model, uint32_t flags, ds_decoder **out, ds_error *err);
/* The text that became complete with this token; it lives until the next call with this decoder. Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_decoder_push(ds_decoder *decoder, ds_token token, const char **text, size_t *size, ds_error *err);
/* What was held back, as U+FFFD; the decoder may then begin a new text. Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_decoder_finish(ds_decoder *decoder, const char **text, size_t *size, ds_error *err);
DS_API void ds_decoder_free(ds_decoder *decoder);

/* ---- Chat prompts ------------------------------------------------------------------------------------------------------------------------- */

typedef struct ds_message {
    const char *role;      /* "system", "user" or "assistant"; "tool" (what a tool gave back) with the templates of DeepSeek since V2.5 and of Qwen */
    const char *content;   /* NUL-terminated UTF-8. An assistant's earlier thinking is dropped where the family's template does so. Calls of tools are part
                            * of an assistant's content, between marks like <｜tool▁calls▁begin｜>, as the model writes them: they are text in its answer */
    const void *reserved[6];   /* NULL: an array of messages cannot say how large each is, so what is to come has its place already */
} ds_message;

typedef enum ds_thinking_mode { DS_THINKING_DEFAULT = 0, DS_THINKING_ON = 1, DS_THINKING_OFF = 2 } ds_thinking_mode;

#define DS_CHAT_NO_GENERATION_PROMPT 1u   /* do not end with the tokens that make the model answer */

typedef struct ds_chat_config {
    size_t struct_size;
    uint32_t flags;                /* DS_CHAT_… */
    ds_thinking_mode thinking;     /* on: the prompt opens a thought; off: it closes an empty one; both where the family thinks */
    const char *chat_template;     /* a name; NULL: the model's */
} ds_chat_config;

/* The names of the built-in templates, separated by ", "; static storage. A file's own template text is recognised and never executed. */
DS_API const char *ds_chat_templates(void);

/* A conversation as the model's prompt, as text (for show) or as tokens (for use: texts of control tokens inside messages stay text there).
 *   messages, count   at least one
 *   buffers           as ds_detokenize and ds_tokenize have them
 * Status: DS_ERR_ARGUMENT (no messages, unknown role), DS_ERR_UNSUPPORTED (template unknown; the known names are listed), DS_ERR_BUFFER; of
 * ds_chat_tokenize what ds_tokenize can return, too. */
DS_API ds_status ds_chat_render(const ds_model *model, const ds_message *messages, size_t count, const ds_chat_config *config,
                                char *text, size_t capacity, size_t *size, ds_error *err);
DS_API ds_status ds_chat_tokenize(const ds_model *model, const ds_message *messages, size_t count, const ds_chat_config *config,
                                  ds_token *tokens, size_t capacity, size_t *token_count, ds_error *err);

/* ---- Engines ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct ds_engine ds_engine;

/* What a step did, for a trace. Lives during the call. */
typedef struct ds_step_trace {
    size_t struct_size;
    uint64_t step;                                           /* its number, from 1 */
    uint64_t rows, prompt_rows, answer_rows;                 /* positions computed: of prompts for the first time; all others. 0 when the step was stopped */
    uint64_t started, preempted, ended;                      /* requests */
    uint64_t cached_tokens;                                  /* of prompts, found in the prefix cache by those that started */
    uint64_t copied_pages;
    uint64_t running, queued;                                /* requests, after it */
    uint64_t pages_used, pages_cached, pages_unused;         /* held by requests; held by none and kept for what they contain; neither */
    double seconds, compute_seconds;                         /* of the whole step; of the model alone */
} ds_step_trace;

/* Called by the thread that steps, at the end of a step that computed something. */
typedef void (*ds_trace_fn)(void *user, const ds_step_trace *trace);

typedef enum ds_kv_type { DS_KV_DEFAULT = 0, DS_KV_F32 = 1, DS_KV_F16 = 2, DS_KV_INT8 = 3 } ds_kv_type;   /* default: INT8 for I8 models, else F16 */

/* How a model with latent attention (deepseek2) reads a prompt. Auto: a step's rows of one request, where they are so many that it is faster, make keys and values of the
 * latents (the expanded form); all others attend to the latents themselves (the absorbed form). The two differ in rounding, so the last bits of logits then depend on how the prompt was
 * cut into steps, and on what of it was in the prefix cache; still not on threads. Absorbed: that form throughout, and the same bits however the work was cut. It is always that
 * with integers (I8 models, INT8 keys and values), and on a device. */
typedef enum ds_mla_form { DS_MLA_AUTO = 0, DS_MLA_ABSORBED = 1 } ds_mla_form;

typedef struct ds_engine_config {
    size_t struct_size;
    uint32_t threads;          /* that compute, the caller of step among them; 1: only that one; 0: one a processor; at most 1024. Ignored on a device */
    uint32_t max_requests;     /* that run at once; default 8, at most 4096 */
    uint32_t max_queue;        /* that wait; default 1024, at most 2^20 */
    uint32_t context_length;   /* positions a request may have; default: the model's, at most 4096; at most the model's */
    uint32_t step_tokens;      /* rows of a step, over all requests; default 512 (or max_requests if larger), at least max_requests, at most 65536 */
    uint32_t logit_rows;       /* rows of a step that may ask for logits; default: max_requests or 32, what is larger, but at most step_tokens, as always */
    uint64_t kv_tokens;        /* positions that the page pool holds, in pages of 64; default: max_requests * context_length; at most 2^31 */
    ds_kv_type kv_type;
    ds_mla_form mla_form;
    const char *isa;           /* "scalar", "avx2", "avx512", "avx512_vnni", "amx", "neon"; NULL: the best that the machine has. With NULL or "amx", where there is
                                  AMX, the system is asked to let this process use its tile registers (Linux: ARCH_REQ_XCOMP_PERM; from then on
                                  alternate signal stacks need room for them, and where one is too small it refuses). "avx512_vnni" is the best
                                  without AMX, and asks for nothing. Results are the same with each. Ignored on a device */
    const ds_host *host;       /* NULL: nothing is lent */
    ds_trace_fn trace;         /* may be NULL */
    void *trace_user;
} ds_engine_config;

/* Bytes, before anything is allocated. Of a model on a device all are of the device's memory but for the tables, which are mostly the host's; what the driver takes for
 * itself is not among them. */
typedef struct ds_memory_plan {
    size_t struct_size;
    uint64_t weights;          /* the model's tensors, and copies of those that are computed with in another form; shared by all its engines */
    uint64_t pages;            /* the page pool when full; it grows as it is used, but on a device, where it is taken at once */
    uint64_t page_bytes;       /* one page: 64 positions of all layers */
    uint64_t activations;      /* results of a step, logits among them */
    uint64_t work;             /* scratch of the kernels */
    uint64_t tables;           /* inputs of a step, samplers */
    uint64_t total;            /* the sum, without page_bytes */
} ds_memory_plan;

/* What an engine of this configuration would take. Fills `plan`, whose struct_size the caller has set. Status: as ds_engine_new. */
DS_API ds_status ds_engine_plan(const ds_model *model, const ds_engine_config *config, ds_memory_plan *plan, ds_error *err);

/* Makes an engine. Status: DS_ERR_ARGUMENT (a field out of range, an isa that is unknown or that the machine does not have), DS_ERR_STATE (a
 * vocabulary-only model), DS_ERR_IO (the system starts no thread). On a device: DS_ERR_UNSUPPORTED (an operation or number format that does not run there, by
 * name), DS_ERR_NO_DEVICE, DS_ERR_DEVICE. */
DS_API ds_status ds_engine_new(const ds_model *model, const ds_engine_config *config, ds_engine **out, ds_error *err);

/* Unfinished requests end without an event. Not while another thread is inside a call with this engine. */
DS_API void ds_engine_free(ds_engine *engine);

/* ---- Requests ----------------------------------------------------------------------------------------------------------------------------- */

typedef uint64_t ds_request_id;   /* never 0, never used twice in an engine */

typedef struct ds_logit_bias { ds_token token; float bias; } ds_logit_bias;   /* added to the logit; -INFINITY forbids the token, +INFINITY is none */

#define DS_REQUEST_SCORE       1u   /* no answer: the log-probabilities of the prompt's own tokens, as events of type DS_EVENT_SCORE */
#define DS_REQUEST_LOGITS      2u   /* events carry the raw logits */
#define DS_REQUEST_LOGPROBS    4u   /* events carry the chosen token's log-probability */
#define DS_REQUEST_IGNORE_END  8u   /* end tokens do not end the answer (for measurements) */
#define DS_REQUEST_SPECIAL    16u   /* control tokens in the answer give their text */
#define DS_REQUEST_NO_CACHE   32u   /* finds nothing in the prefix cache and leaves nothing there (for measurements, and for secrets) */

/* How each token is chosen. Parameters apply in this order: logit bias, penalties (over prompt and answer), temperature, top_k, top_p, min_p, draw. */
typedef struct ds_sampling {
    size_t struct_size;
    float temperature;             /* 0: always the most likely token; up to 100 */
    uint32_t top_k;                /* of the k most likely; 0: off */
    float top_p;                   /* of the most likely whose probabilities reach p, in (0, 1]; 0: off */
    float min_p;                   /* of those at least min_p times as likely as the most likely, in [0, 1]; 0: off */
    float repetition_penalty;      /* positive logits of tokens already seen are divided by it, negative ones multiplied; > 0, up to 1000; 0: off */
    float presence_penalty;        /* subtracted from the logit of a token already seen; -1000 to 1000 */
    float frequency_penalty;       /* subtracted for each time that it was seen; -1000 to 1000 */
    uint32_t reserved;
    uint64_t seed;                 /* a draw depends on it and on the position, on nothing else */
    const ds_logit_bias *logit_bias;
    size_t logit_bias_count;       /* at most the vocabulary */
} ds_sampling;

#define DS_THINKING_BUDGET 1u      /* max_tokens holds even where it is 0: no token of thinking */

/* How much the model thinks before it answers; see below. */
typedef struct ds_thinking {
    size_t struct_size;
    ds_thinking_mode mode;         /* of the prompt that ds_engine_chat renders; elsewhere the prompt has it already */
    uint32_t flags;                /* DS_THINKING_BUDGET */
    uint32_t max_tokens;           /* of the model's own thinking; 0: no limit, unless DS_THINKING_BUDGET is among the flags */
    uint32_t reserved;
    const char *end_text;          /* "\n\nTime is up.\n": said in the model's name before its thinking is closed; without tags, well-formed, NUL-terminated,
                                    * up to 1024 bytes; NULL: nothing */
} ds_thinking;

typedef struct ds_request {
    size_t struct_size;
    const ds_token *prompt;        /* at least one token; ignored by ds_engine_chat */
    size_t prompt_count;
    uint32_t flags;                /* DS_REQUEST_… */
    uint32_t max_new_tokens;       /* of the model's choice, thinking included; 0: until the context is full */
    const ds_sampling *sampling;   /* NULL: always the most likely token */
    const ds_thinking *thinking;   /* NULL: as the template has it, and no limit */
    const char *const *stop;       /* texts that end the answer and are not part of it; well-formed, NUL-terminated, not empty, up to 1024 bytes each */
    size_t stop_count;             /* at most 64 */
    void *user;                    /* comes back in every event */
    uint64_t client_id;            /* whom it is for, any number: clients get equal service, and find only their own in the prefix cache */
    double timeout_seconds;        /* from now, at most 10^9: not done by then, it ends with DS_FINISH_DEADLINE; 0: never */
    int32_t priority;              /* higher ones start first, and are preempted last */
    uint32_t top_logprobs;         /* events carry the n most likely tokens; at most 64 */
} ds_request;

/* Thinking. A thought lies between <think> and </think>, and an answer has one at most: the prompt has opened it (an opening tag first or last, white space aside,
 * in what follows the prompt's last control token), or the answer begins with the tag. A tag that is a token of the vocabulary is that token alone; else it is
 * found in the text, in however many tokens it is spelled (the token that completes an opening tag is then the thought's first). Any other tag is text like any other.
 * ds_thinking.max_tokens is exact: when the model has chosen so many tokens of thought, tags that it wrote itself included, and the thought is open, the closing is injected at
 * once: end_text, </think> and the empty line that the templates have there. Injected tokens come as events, are seen by the model, by penalties and by stop texts,
 * and count as nothing but injected_tokens: neither in max_new_tokens nor in the budget, and have positions of their own. Then the model goes on, with a first token that is no end token: the answer
 * is not empty unless max_new_tokens, a stop text or the context ends it there. A model that opens its thought itself against a budget of 0 gets an empty one, its opening
 * tag counted as injected. (To have no thought at all, let the template close it: DS_THINKING_OFF.) */

/* Queues a request; everything it points to is copied. The next to start is that of the highest priority; then one that was preempted; then that of the
 * earliest deadline; then that of the client that was served least (virtual token counters, arXiv 2401.00588; of clients without requests the 1024 that were served
 * most are remembered); then the oldest. It starts as soon as there are
 * pages for its prompt and some more; nobody overtakes it. Pages are taken as an answer grows. When there are none left, a request of the lowest priority
 * is preempted, never the oldest: it waits, first in the queue, until there are pages for all of it, computes again what is not cached any more, and
 * goes on where it was, without an event being told twice.
 *   Prefix cache: full pages of 64 positions, and the last one of what has ended, are kept until others need the room. A prompt that begins with the same
 * tokens is not computed again as far as they go, but for its last token; a scored one is computed as a whole, and feeds the cache.
 * Status: DS_ERR_ARGUMENT, DS_ERR_TOO_LONG (the prompt, and one token unless it is scored, do not fit the context; or they, and max_new_tokens as far as the
 * context goes, do not fit the page pool: the message has the bytes), DS_ERR_BUSY (queue full; nothing was queued), DS_ERR_STATE (ds_engine_chat has the engine for itself). */
DS_API ds_status ds_engine_submit(ds_engine *engine, const ds_request *request, ds_request_id *id, ds_error *err);

/* Queues a request that goes on from where another one stands: its prompt is the other's prompt and the tokens that it has by now, and text that the other
 * holds back comes out in both. They share their pages; only the one that both would write is copied. Several answers to one prompt: submit it, and fork it
 * as often as needed, each with a seed of its own, before the first step: the prompt is computed once. Its limits and counters begin anew; a thought stays open.
 *   id           of a request that waits or runs, and is not scored
 *   parameters   of the new one; NULL: all defaults. Its prompt, SCORE and NO_CACHE flags and client_id are ignored: prompt, client and cache are the other's
 *   fork         receives the new request's id
 * Status: as ds_engine_submit; DS_ERR_ARGUMENT (no such request, or it has ended, or it is scored). */
DS_API ds_status ds_engine_fork(ds_engine *engine, ds_request_id id, const ds_request *parameters, ds_request_id *fork, ds_error *err);

/* Ends a request at the next step, whatever its state, with an event of type DS_EVENT_DONE and finish DS_FINISH_CANCELLED. Cancelling twice is fine. A step
 * that is under way stops between two operations when everything in it was cancelled (on a device one of more than 128 rows, within about a layer), and hands out the events itself.
 * Status: DS_ERR_ARGUMENT (no such request, or it has ended). */
DS_API ds_status ds_engine_cancel(ds_engine *engine, ds_request_id id, ds_error *err);

typedef enum ds_request_state { DS_STATE_QUEUED = 0, DS_STATE_PROMPT = 1, DS_STATE_ANSWER = 2, DS_STATE_DONE = 3 } ds_request_state;   /* done, or never submitted */

typedef struct ds_request_status {
    size_t struct_size;
    ds_request_state state;
    uint32_t reserved;
    uint64_t prompt_tokens, prompt_tokens_done, new_tokens;   /* new: chosen by the model */
} ds_request_status;

/* Where a request stands. Fills `status`, whose struct_size the caller has set; zeros after its last event was handed out, or for an id never given.
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_request_status(ds_engine *engine, ds_request_id id, ds_request_status *status, ds_error *err);

typedef enum ds_event_type {
    DS_EVENT_TOKEN = 0,   /* a token of the answer, thinking included */
    DS_EVENT_SCORE = 1,   /* a position of a prompt that is being scored */
    DS_EVENT_DONE = 2,    /* the request's last event */
    DS_EVENT_TEXT = 3     /* no token: text of one channel that became complete with a token or end of the other, whose event is beside it */
} ds_event_type;

typedef enum ds_channel { DS_CHANNEL_ANSWER = 0, DS_CHANNEL_THINKING = 1 } ds_channel;   /* thinking: the tags, and what is between them */

typedef enum ds_finish {
    DS_FINISH_NONE = 0,
    DS_FINISH_STOP = 1,         /* an end token or a stop text */
    DS_FINISH_LENGTH = 2,       /* max_new_tokens */
    DS_FINISH_CONTEXT = 3,      /* the context is full, or all of the page pool */
    DS_FINISH_CANCELLED = 4,
    DS_FINISH_ERROR = 5,        /* event.status says why: DS_ERR_NUMERIC */
    DS_FINISH_SCORED = 6,       /* all of the prompt was scored */
    DS_FINISH_DEADLINE = 7      /* timeout_seconds have passed, while it waited or ran */
} ds_finish;

typedef struct ds_token_logprob { ds_token token; float logprob; } ds_token_logprob;

/* Pointers live until the next call of ds_engine_step or ds_engine_free. */
typedef struct ds_event {
    size_t struct_size;         /* of the library's ds_event: what lies beyond it is not there */
    ds_request_id request;
    void *user;
    ds_event_type type;
    ds_channel channel;         /* of all of the text, and of the token: a token any part of which is thinking is a token of thinking */
    ds_token token;             /* TOKEN: the token. SCORE: the prompt's token at `position`. DONE, TEXT: -1 */
    float logprob;              /* natural logarithm, of the model's own distribution; SCORE: of the token after those before it (0 for the first) */
    uint64_t position;          /* of the token in the sequence, the prompt's first being 0; DONE: the sequence's tokens */
    const char *text;           /* what became complete with this event; the possible beginning of a stop text or a tag is held back */
    size_t text_size;
    const ds_token_logprob *top;   /* most likely first */
    size_t top_count;
    const float *logits;        /* [vocabulary], raw: what `token` was chosen from (TOKEN); what follows `position` (SCORE). NULL unless asked for */
    ds_finish finish;           /* DONE */
    ds_status status;           /* DONE */
    uint64_t prompt_tokens, thinking_tokens, answer_tokens;   /* so far; chosen by the model; the end token is none of them */
    uint64_t injected_tokens;   /* so far */
    uint64_t cached_tokens;     /* of the prompt, found in the prefix cache or shared with a fork's other */
    uint64_t preemptions;       /* of this request */
    double queue_seconds, prompt_seconds, answer_seconds;     /* DONE: waiting; to the first token; from there */
    int injected;               /* TOKEN: not 0 when it was injected to close the thinking; it then has no logprob, top and logits */
    uint32_t reserved;
} ds_event;

/* Does one step of work for all requests that run: pieces of prompts, one token each for answers.
 *   events, count   receive an array of pointers to the step's events, each request's in their order; may be none
 * Status: DS_ERR_STATE (another thread is in step), DS_ERR_MEMORY (no memory for a waiting request's pages: nothing is lost, step again or cancel
 * it). With nothing to do it returns at once, without events. */
DS_API ds_status ds_engine_step(ds_engine *engine, const ds_event *const **events, size_t *count, ds_error *err);

/* Blocks until a step has something to do: a request waits, runs, or was cancelled. A host whose requests come from other threads steps while there is work and waits
 * here when there is none; no polling is needed. While ds_engine_chat has the engine for itself nothing is there for others.
 *   timeout_seconds   at most so long; from 0 (only looks) to INFINITY
 *   work              receives 1 when there is something to do; 0 when the time was over or ds_engine_wake was called; not NULL
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_wait(ds_engine *engine, double timeout_seconds, int *work, ds_error *err);

/* Ends the waiting of all threads that are in ds_engine_wait, or, when there is none, the next call of it. Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_wake(ds_engine *engine, ds_error *err);

typedef struct ds_engine_stats {
    size_t struct_size;
    uint64_t running, queued;
    uint64_t pages_total, pages_free, pages_committed;
    uint64_t steps, prompt_tokens, new_tokens;      /* since the engine was made */
    uint32_t threads;
    uint32_t reserved;
    char isa[32];                                   /* on a device, its kind: "sm_90" */
    uint64_t pages_cached;                          /* of pages_free, those kept for what they contain */
    uint64_t preemptions;                           /* since the engine was made */
    uint64_t lookup_tokens, cached_tokens;          /* of prompts that have started; of these, cached or shared by forks: the hit rate */
    double prompt_tokens_per_second, new_tokens_per_second;   /* over the last 10 seconds, 128 steps at most */
} ds_engine_stats;

/* Fills `stats`, whose struct_size the caller has set. Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_get_stats(ds_engine *engine, ds_engine_stats *stats, ds_error *err);

/* Forgets what the prefix cache has, and gives free memory at the end of the page pool back to the system (none where the host's allocator gave it: that stays).
 *   keep_tokens   what the cache may keep, the last used, in whole pages; 0: nothing
 * Status: DS_ERR_STATE (another thread is in step). */
DS_API ds_status ds_engine_trim(ds_engine *engine, uint64_t keep_tokens, ds_error *err);

/* ---- Sessions ----------------------------------------------------------------------------------------------------------------------------- */

/* A session is a sequence of tokens of a client: the prompt and answer of a conversation so far. What was computed for it lies in the prefix cache in full pages of
 * 64 positions, as long as nobody else needs the room. It can be written to a file, and read into an engine of the same model and kv_type, of any other
 * configuration, in this process or another: who then submits a prompt that begins with these tokens for that client goes on with the same bits, without
 * computing those positions again. Save, then forget: an idle session has been spilled to the file, and its pages are for others; restore: it is back.
 * These calls read and write the file before they return; no step can run meanwhile. */

/* Writes the tokens, and those of their pages that are known from the first on, to a file, which is written beside `path` and renamed over it: on failure what was
 * there before is still there.
 *   tokens, count   from 1 to 2^30
 *   path            UTF-8, NUL-terminated; a regular file, or none yet
 *   positions       receives how many positions the file's pages hold; may be NULL. The others are computed again after restoring
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_STATE (another thread is in step). */
DS_API ds_status ds_engine_save_session(ds_engine *engine, const ds_token *tokens, size_t count, uint64_t client_id, const char *path, size_t *positions, ds_error *err);

/* Reads what ds_engine_save_session has written. The pages join the prefix cache of `client_id`, which need not be the one that they had; those that are there already
 * stay. When the pool has no room for all, the beginning is restored. All of the file is checked, by its checksums too, before anything of it is used; but
 * checksums tell damage, not intent: who can forge a file can make the model say things.
 *   tokens, capacity   receive the session's tokens; may be NULL and 0
 *   count              receives their number; not NULL
 *   positions          receives how many positions are in the cache now; may be NULL
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_FORMAT (damaged, names the field), DS_ERR_UNSUPPORTED (of another version of the file's form, byte order, model
 * or kv_type), DS_ERR_BUFFER (nothing restored, count stored), DS_ERR_STATE (another thread is in step). After a failure nothing of the file is in the
 * cache, which may have lost older pages to make room. */
DS_API ds_status ds_engine_restore_session(ds_engine *engine, const char *path, uint64_t client_id, ds_token *tokens, size_t capacity, size_t *count, size_t *positions, ds_error *err);

/* Frees the pages that the prefix cache has of a session, but for those that a request holds or that another known sequence goes on from. (The memory goes back to
 * the system with ds_engine_trim.)
 *   tokens, count   from 1 to 2^30
 *   pages           receives how many were freed; may be NULL
 * Status: DS_ERR_ARGUMENT, DS_ERR_STATE (another thread is in step). */
DS_API ds_status ds_engine_forget_session(ds_engine *engine, const ds_token *tokens, size_t count, uint64_t client_id, size_t *pages, ds_error *err);

/* ---- The short way ------------------------------------------------------------------------------------------------------------------------ */

/* A piece of text; a return value other than 0 ends the answer (which is then no error). */
typedef int (*ds_text_fn)(void *user, const char *text, size_t size);

/* How an answer ended; the fields are those of ds_event. */
typedef struct ds_chat_result {
    size_t struct_size;
    ds_finish finish;              /* CANCELLED: `text` asked for it */
    uint32_t reserved;
    uint64_t prompt_tokens, thinking_tokens, answer_tokens, injected_tokens, cached_tokens, preemptions;
    double queue_seconds, prompt_seconds, answer_seconds;
} ds_chat_result;

/* Conversation in, text out: renders the messages with the model's template, answers, calls `text` for every piece, tags of thinking included. Where the prompt
 * itself opens the thought, the text begins with that opening tag.
 * The engine must have no other requests; until it returns, submissions of other threads are refused with DS_ERR_STATE. However it returns, its own request is gone.
 *   parameters   of the answer; NULL: all defaults. Its prompt, SCORE flag and user are ignored
 *   result       receives why and after what the answer ended, its struct_size set by the caller; may be NULL
 * Status: as ds_chat_tokenize, ds_engine_submit and ds_engine_step; DS_ERR_STATE when the engine has other requests; DS_ERR_NUMERIC. */
DS_API ds_status ds_engine_chat(ds_engine *engine, const ds_message *messages, size_t count, const ds_request *parameters, ds_text_fn text, void *user, ds_chat_result *result, ds_error *err);

#ifdef __cplusplus
}
#endif
#endif
