/* deepseek.h - run models of the DeepSeek-R1 family inside your program. Version 0.2.
 *
 * One C header and one library, which depends on nothing but the C++ standard library. The library loads a
 * GGUF file, converts text to token ids and back, writes chat prompts, and answers many requests concurrently
 * from one paged cache of keys and values. It also trains: see the last section.
 *
 * A complete program:
 *
 *     #include <deepseek.h>
 *     #include <stdio.h>
 *
 *     static int print(void *u, const char *s, size_t n) { (void)u; return fwrite(s, 1, n, stdout) != n; }
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
 * The contract, stated once for every function below:
 *
 *  Errors     A function that can fail returns a ds_status; DS_OK is 0. The last parameter, `err`, belongs to
 *             the caller and may be NULL. On failure it receives the status and a sentence that names the
 *             file, the field and the value; on success, DS_OK and an empty message. After a failure, outputs
 *             are unchanged unless stated otherwise, and objects remain usable. The library never aborts,
 *             exits, prints, reads the environment or installs a signal handler. Every function checks its
 *             pointers: NULL where it is not allowed is DS_ERR_ARGUMENT, and so is a struct_size that no
 *             version of the structure can have. Every function may return DS_ERR_MEMORY and DS_ERR_INTERNAL
 *             (a bug in the library); the lists of statuses below do not repeat these two.
 *  Ownership  What ds_x_new or ds_x_load returns is freed with ds_x_free, once; ds_x_free(NULL) does nothing.
 *             Engines, decoders and trainers keep their model alive, so the model may be freed first. Strings
 *             and arrays passed in are copied before the call returns, unless stated otherwise. Each function
 *             that returns a pointer states how long the pointer is valid.
 *  Threads    A ds_model is immutable: any number of threads may use it concurrently. ds_engine_step,
 *             ds_engine_trim, ds_engine_chat and the session functions may run in one thread at a time per
 *             engine; a second thread gets DS_ERR_STATE. submit, fork, cancel, wait, wake, request_status and
 *             get_stats may be called from any thread at any time. A ds_decoder may be used by one thread at
 *             a time. The library's own threads sleep while no step runs. A callback may call those functions
 *             that any thread may call at any time, and no others on the object that invoked it.
 *  Signals    A signal handler may call only ds_version, ds_abi_version, ds_status_name and
 *             ds_trainer_cancel: the other functions take locks and allocate memory. Set a flag in the
 *             handler and check it between two steps, or let another thread call cancel and wake. The
 *             library's own threads block all signals.
 *  fork(2)    Objects belong to the process that created them. A child process must not use its parent's
 *             objects, not even to free them: their threads do not exist in the child, and its exit releases
 *             the memory. The child may load models and create engines of its own, as far as POSIX lets the
 *             child of a multi-threaded process do anything before exec.
 *  Text       UTF-8 with explicit lengths in bytes, not NUL-terminated where a length is given. Input may
 *             contain any bytes unless stated otherwise. Output is always well-formed UTF-8, with two
 *             exceptions that are passed on as the file has them: metadata, and the bytes of a single token.
 *  Bytes      All sizes are bytes, as size_t or uint64_t. All shapes are written outermost first; logits are
 *             float[vocabulary].
 *  Config     Structures that begin with struct_size: fill with zeros, set struct_size to sizeof the
 *             structure, then set the fields you need. 0 in a field means its default, and reserved fields
 *             must be 0. NULL in place of a configuration means all defaults. A shorter structure, from an
 *             earlier version of this header, is accepted: the fields it lacks are 0. A longer structure,
 *             from a later version, is accepted if all bytes that this version does not know are 0. In a
 *             structure that the library fills, struct_size stays as the caller set it; the fields known to
 *             both sides are filled, and the rest becomes 0.
 *  Results    A request's tokens and logits depend on the model, the prompt, the request's parameters and the
 *             number formats alone. They do not depend on the number of threads, the instruction set, other
 *             requests, how the prompt was divided into steps, what part of it was cached, or whether the
 *             request was preempted: the bits are the same. (For a model with latent attention in formats
 *             other than I8, this requires DS_MLA_ABSORBED; see ds_mla_form.)
 *  ABI        A program compiled with this header runs with every later library of the same ABI number, which
 *             is part of the shared object's name. Structures grow only at their end, never into padding
 *             (there is none; a reserved field fills each gap), and structures that do not begin with
 *             struct_size never grow. Structures refer to other structures by pointer, and events are passed
 *             as an array of pointers, so that each structure can grow. Enumerations are ints and may get new
 *             values: a program must skip events of a type that it does not know.
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

/* ---- Version */

#define DS_VERSION "0.2.0"
#define DS_ABI_VERSION 1

/* Returns the library's version, "0.2.0", in static storage. */
DS_API const char *ds_version(void);

/* Returns the library's ABI number. A program compiled with this header needs DS_ABI_VERSION. */
DS_API uint32_t ds_abi_version(void);

/* ---- Status and error */

typedef enum ds_status {
    DS_OK = 0,
    DS_ERR_ARGUMENT = 1,    /* a parameter is outside its documented range */
    DS_ERR_IO = 2,          /* the operating system reported an error */
    DS_ERR_FORMAT = 3,      /* the file is damaged, or is not what it claims to be */
    DS_ERR_UNSUPPORTED = 4, /* well-formed, but not supported by this library; the message lists what is */
    DS_ERR_MEMORY = 5,      /* memory could not be allocated */
    DS_ERR_CANCELLED = 6,   /* a callback asked to stop */
    DS_ERR_BUFFER = 7,      /* the caller's buffer is too small; the size needed was stored */
    DS_ERR_TOO_LONG = 8,    /* the text or request can never fit */
    DS_ERR_NUMERIC = 9,     /* the model's logits are not finite */
    DS_ERR_STATE = 10,      /* not allowed in the object's current state */
    DS_ERR_BUSY = 11,       /* the queue is full: step, then try again */
    DS_ERR_DEVICE = 12,     /* device lost: objects on it return this from now on, and can only be freed */
    DS_ERR_INTERNAL = 13,   /* a bug in the library */
    DS_ERR_NO_DEVICE = 14   /* no such device, or a driver or library is missing; the message says which */
} ds_status;

typedef struct ds_error {
    ds_status status;
    char message[508]; /* NUL-terminated UTF-8, cut at a character boundary if longer */
} ds_error;

/* Returns the status's name, "DS_ERR_IO", or "unknown" for any other number. Static storage. */
DS_API const char *ds_status_name(ds_status status);

/* ---- Callbacks: log, allocator, progress */

typedef enum ds_log_level {
    DS_LOG_DEBUG = 0,
    DS_LOG_INFO = 1,
    DS_LOG_WARNING = 2,
    DS_LOG_ERROR = 3
} ds_log_level;

/* Receives a log line: NUL-terminated, without a line feed, valid during the call. May be called from any
 * thread that uses the object. */
typedef void (*ds_log_fn)(void *user, ds_log_level level, const char *line);

/* Returns `bytes` bytes at a multiple of `alignment` (a power of two up to 4096), or NULL. */
typedef void *(*ds_alloc_fn)(void *user, size_t bytes, size_t alignment);
typedef void (*ds_free_fn)(void *user, void *p, size_t bytes, size_t alignment);

/* Receives the bytes done so far and the total. A nonzero return value stops the work, which then fails with
 * DS_ERR_CANCELLED. */
typedef int (*ds_progress_fn)(void *user, uint64_t done, uint64_t total);

/* Callbacks of one model or engine, copied when it is created. All may be NULL: then nothing is logged, and
 * the C++ allocator is used. Bulk memory comes from alloc: weights read into memory, pages, activations.
 * Bookkeeping (vocabulary index, queues) comes from operator new. */
typedef struct ds_host {
    size_t struct_size;
    ds_log_fn log;
    void *log_user;
    ds_alloc_fn alloc; /* alloc and free: both or neither */
    ds_free_fn free;
    void *alloc_user;
} ds_host;

/* ---- Devices */

/* Devices are numbered from 1; 0 is the host's own processors, which need none of the functions here. Device
 * support is a separate shared object, libdeepseek-cuda.so. It is opened when one of these functions is
 * called or a model is loaded for a device, so a program that does neither needs nothing of CUDA. It is
 * searched for beside this library (or the program that contains it), in ../lib from there, and then in the
 * system's library path. Once opened, it stays in the process. */

/* Counts the devices.
 *   count   receives the number of devices, at least 1; 0 on failure
 * Status: DS_ERR_NO_DEVICE (no device is present, or the shared object, the driver or a CUDA library is
 * missing; the message says which). */
DS_API ds_status ds_device_count(uint32_t *count, ds_error *err);

typedef struct ds_device_info {
    size_t struct_size;
    char name[256];
    uint64_t memory_total, memory_free;          /* bytes; free at this moment, over all processes */
    uint32_t capability_major, capability_minor; /* CUDA compute capability: 9 and 0 */
    uint32_t processors;                         /* streaming multiprocessors */
    uint32_t reserved;
} ds_device_info;

/* Describes a device.
 *   device   from 1 to the count
 *   info     filled; the caller sets its struct_size
 * Status: DS_ERR_ARGUMENT, DS_ERR_NO_DEVICE (also for a number above the count), DS_ERR_DEVICE. */
DS_API ds_status ds_device_get_info(uint32_t device, ds_device_info *info, ds_error *err);

/* ---- Models */

typedef int32_t ds_token;
typedef struct ds_model ds_model;

/* Read the file into memory instead of mapping it: needed if the file may be truncated while in use. */
#define DS_LOAD_READ 1u
/* Load only tokens, templates and metadata; no engine can be created from such a model. */
#define DS_LOAD_VOCAB_ONLY 2u

typedef enum ds_rope_scaling {
    DS_ROPE_FROM_FILE = 0,
    DS_ROPE_NONE = 1,
    DS_ROPE_LINEAR = 2, /* positions are divided by rope_factor */
    DS_ROPE_YARN = 3    /* arXiv 2309.00071 */
} ds_rope_scaling;

typedef struct ds_model_config {
    size_t struct_size;
    uint32_t flags;                 /* DS_LOAD_... */
    uint32_t context_length;        /* positions, up to 2^30; 0: the file's value */
    ds_rope_scaling rope_scaling;   /* overrides the file's */
    uint32_t rope_original_context; /* positions before scaling, for YaRN, up to 2^30; 0: the file's value */
    double rope_factor;        /* 1 to 10^6; required for DS_ROPE_LINEAR and DS_ROPE_YARN, else ignored */
    const char *chat_template; /* one of ds_chat_templates; NULL: recognised from the file */
    /* May be NULL. Reports on reading each file (with DS_LOAD_READ), then on checking the tensors, then, for
     * a device, on copying them there. */
    ds_progress_fn progress;
    void *progress_user;
    const ds_host *host; /* NULL: no callbacks */
    /* Holds the weights and computes. 0: the host's processors; else a device, from 1 (see ds_device_count).
     * Ignored with DS_LOAD_VOCAB_ONLY. */
    uint32_t device;
    uint32_t reserved;
} ds_model_config;

/* Loads a GGUF file (version 2 or 3). A model in several files is loaded by the name of its first file,
 * PREFIX-00001-of-00003.gguf; the other files must be in the same directory.
 *   path     UTF-8, NUL-terminated. The file is mapped (unless DS_LOAD_READ is set) and must not be truncated
 *            while the model exists. Its header, everything except the tensors' data, is copied to the host's
 *            memory, so later changes to it have no effect; this also holds for ds_model_load_fd and
 *            ds_model_load_memory
 *   config   NULL: all defaults
 *   out      receives the model; free with ds_model_free
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_FORMAT (the message names the field), DS_ERR_UNSUPPORTED
 * (architecture, number format, tokenizer), DS_ERR_CANCELLED; for a device also DS_ERR_NO_DEVICE,
 * DS_ERR_DEVICE, and DS_ERR_MEMORY if the device's memory is too small. */
DS_API ds_status ds_model_load(const char *path, const ds_model_config *config, ds_model **out,
                               ds_error *err);

/* Loads a model from an open descriptor.
 *   fd   of a regular file; stays the caller's and may be closed after the call
 * Status: as ds_model_load. One file only: a part of a model in several files is DS_ERR_UNSUPPORTED. */
DS_API ds_status ds_model_load_fd(int fd, const ds_model_config *config, ds_model **out, ds_error *err);

/* Loads a model from memory.
 *   data   at a multiple of 32; used in place, so it must outlive the model and its engines
 *   size   bytes
 * Status: as ds_model_load_fd. */
DS_API ds_status ds_model_load_memory(const void *data, size_t size, const ds_model_config *config,
                                      ds_model **out, ds_error *err);

/* Frees a model; engines and decoders created from it stay valid. NULL allowed. */
DS_API void ds_model_free(ds_model *model);

typedef struct ds_model_info {
    size_t struct_size;
    char architecture[32];
    char name[128];
    char chat_template[32]; /* "" if not recognised */
    char weights[32];       /* the number format that holds the most bytes, "q8_0" */
    /* With DS_LOAD_VOCAB_ONLY all of these except vocabulary are 0. */
    uint32_t context_length, vocabulary, layers, hidden_size, heads, kv_heads, head_size, feed_forward_size;
    uint64_t parameters;   /* elements of all tensors */
    uint64_t weight_bytes; /* of all tensors */
    uint64_t file_bytes;
} ds_model_info;

/* Describes a model.
 *   info   filled; the caller sets its struct_size. Strings that do not fit are cut
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_model_get_info(const ds_model *model, ds_model_info *info, ds_error *err);

/* Returns the number of the file's metadata entries; 0 for NULL. */
DS_API size_t ds_model_metadata_count(const ds_model *model);

/* Returns the key at `index`, in the file's order: NUL-terminated, valid as long as the model. NULL if the
 * index is out of range. */
DS_API const char *ds_model_metadata_key(const ds_model *model, size_t index);

/* Writes a metadata value as text: strings unchanged, whatever their bytes; numbers in their shortest form;
 * arrays as JSON, cut after 64 elements.
 *   key                NUL-terminated
 *   buffer, capacity   the caller's; may be NULL and 0. No NUL is appended
 *   size               receives the text's length; not NULL
 * Status: DS_ERR_ARGUMENT (also for an unknown key), DS_ERR_BUFFER (nothing written, size stored). */
DS_API ds_status ds_model_metadata(const ds_model *model, const char *key, char *buffer, size_t capacity,
                                   size_t *size, ds_error *err);

/* ---- Tokens */

/* Begin with the beginning-of-sequence token if the model's texts begin with it. */
#define DS_TOKENIZE_BOS 1u
/* Convert the spellings of control tokens in the input to those tokens. Never set this for text that a user
 * wrote. */
#define DS_TOKENIZE_SPECIAL 2u

/* Converts text to token ids.
 *   text, size         any bytes, up to 2^29 of them
 *   flags              DS_TOKENIZE_...
 *   tokens, capacity   the caller's, capacity in tokens; may be NULL and 0
 *   count              receives the number of tokens; not NULL
 * Status: DS_ERR_ARGUMENT (also for a byte that the vocabulary cannot represent), DS_ERR_TOO_LONG,
 * DS_ERR_BUFFER (nothing written, count stored). */
DS_API ds_status ds_tokenize(const ds_model *model, const char *text, size_t size, uint32_t flags,
                             ds_token *tokens, size_t capacity, size_t *count, ds_error *err);

/* Control tokens yield their spelling. Without this flag they yield nothing, except the marks around tool
 * calls, which are part of an answer. */
#define DS_DETOKENIZE_SPECIAL 1u

/* Converts tokens to text, well-formed UTF-8 with U+FFFD for ill-formed bytes.
 *   tokens, count    may be NULL and 0
 *   flags            DS_DETOKENIZE_SPECIAL or 0
 *   text, capacity   the caller's; may be NULL and 0. No NUL is appended
 *   size             receives the text's length; not NULL
 * Status: DS_ERR_ARGUMENT (also for a token out of range), DS_ERR_BUFFER (nothing written, size stored). */
DS_API ds_status ds_detokenize(const ds_model *model, const ds_token *tokens, size_t count, uint32_t flags,
                               char *text, size_t capacity, size_t *size, ds_error *err);

/* Returns the bytes of one token, which need not be whole characters.
 *   flags         as for ds_detokenize
 *   bytes, size   receive the bytes, not NUL-terminated, valid as long as the model
 * Status: DS_ERR_ARGUMENT (also for a token out of range). */
DS_API ds_status ds_token_bytes(const ds_model *model, ds_token token, uint32_t flags, const char **bytes,
                                size_t *size, ds_error *err);

typedef enum ds_special {
    DS_SPECIAL_BOS = 0,
    DS_SPECIAL_EOS = 1,
    DS_SPECIAL_PAD = 2,
    DS_SPECIAL_UNKNOWN = 3
} ds_special;

/* Returns the special token of this kind, or -1 if the model has none. */
DS_API ds_token ds_token_special(const ds_model *model, ds_special which);

/* Returns nonzero if the token ends an answer. A model may have several such tokens. */
DS_API int ds_token_is_end(const ds_model *model, ds_token token);

/* Converts tokens to text one at a time. A character whose bytes are spread over several tokens is output
 * whole. */
typedef struct ds_decoder ds_decoder;

/* Creates a decoder.
 *   flags   as for ds_detokenize
 *   out     receives the decoder; free with ds_decoder_free
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_decoder_new(const ds_model *model, uint32_t flags, ds_decoder **out, ds_error *err);

/* Adds a token.
 *   text, size   receive the text that this token completes, valid until the next call with this decoder
 * Status: DS_ERR_ARGUMENT (also for a token out of range). */
DS_API ds_status ds_decoder_push(ds_decoder *decoder, ds_token token, const char **text, size_t *size,
                                 ds_error *err);

/* Ends the text; the decoder can then begin a new one.
 *   text, size   receive U+FFFD for an incomplete character, else nothing; valid until the next call with
 *                this decoder
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_decoder_finish(ds_decoder *decoder, const char **text, size_t *size, ds_error *err);

/* Frees a decoder. NULL allowed. */
DS_API void ds_decoder_free(ds_decoder *decoder);

/* ---- Chat prompts */

typedef struct ds_message {
    /* "system", "user" or "assistant"; also "tool" (a tool's output) with the templates of DeepSeek since
     * V2.5 and of Qwen. */
    const char *role;
    /* NUL-terminated UTF-8. Thoughts in an assistant's earlier messages are dropped where the family's
     * template does so. Tool calls are part of an assistant's content, between marks like
     * <｜tool▁calls▁begin｜>, as the model writes them; in its answer they appear as text. */
    const char *content;
    const void *reserved[6]; /* NULL. Room for growth: elements of an array cannot carry a struct_size each */
} ds_message;

typedef enum ds_thinking_mode {
    DS_THINKING_DEFAULT = 0,
    DS_THINKING_ON = 1,
    DS_THINKING_OFF = 2
} ds_thinking_mode;

/* Omit the tokens at the end that make the model answer. */
#define DS_CHAT_NO_GENERATION_PROMPT 1u

typedef struct ds_chat_config {
    size_t struct_size;
    uint32_t flags; /* DS_CHAT_... */
    /* ON: the prompt opens a thought. OFF: it closes an empty one. Both only in families that think. */
    ds_thinking_mode thinking;
    const char *chat_template; /* one of ds_chat_templates; NULL: the model's */
} ds_chat_config;

/* Returns the names of the built-in templates, separated by ", ", in static storage. A file's own template
 * text is recognised and never executed. */
DS_API const char *ds_chat_templates(void);

/* Renders a conversation as the model's prompt, in text form, for display.
 *   messages, count   at least one
 *   config            NULL: all defaults
 *   text, capacity    the caller's; may be NULL and 0. No NUL is appended
 *   size              receives the text's length; not NULL
 * Status: DS_ERR_ARGUMENT (also for no messages, or a role that the template does not have),
 * DS_ERR_UNSUPPORTED (unknown template; the message lists the known ones), DS_ERR_BUFFER (nothing written,
 * size stored). */
DS_API ds_status ds_chat_render(const ds_model *model, const ds_message *messages, size_t count,
                                const ds_chat_config *config, char *text, size_t capacity, size_t *size,
                                ds_error *err);

/* Renders a conversation as the model's prompt, in tokens, for a request. Spellings of control tokens inside
 * messages stay text.
 *   messages, count    at least one
 *   config             NULL: all defaults
 *   tokens, capacity   the caller's, capacity in tokens; may be NULL and 0
 *   token_count        receives the number of tokens; not NULL
 * Status: as ds_chat_render and ds_tokenize. */
DS_API ds_status ds_chat_tokenize(const ds_model *model, const ds_message *messages, size_t count,
                                  const ds_chat_config *config, ds_token *tokens, size_t capacity,
                                  size_t *token_count, ds_error *err);

/* ---- Engines */

typedef struct ds_engine ds_engine;

/* What one step did. Valid during the call. */
typedef struct ds_step_trace {
    size_t struct_size;
    uint64_t step; /* its number, from 1 */
    /* Positions computed: all; prompt positions computed for the first time; all others. 0 if the step was
     * stopped. */
    uint64_t rows, prompt_rows, answer_rows;
    uint64_t started, preempted, ended; /* requests */
    uint64_t cached_tokens; /* of the prompts of requests that first started: cached, or shared by forks */
    uint64_t copied_pages;
    uint64_t running, queued; /* requests after the step */
    /* Pages held by requests; held by none but cached; neither. */
    uint64_t pages_used, pages_cached, pages_unused;
    double seconds, compute_seconds; /* of the whole step; of the model alone */
} ds_step_trace;

/* Called by the stepping thread at the end of a step that computed something or was stopped. */
typedef void (*ds_trace_fn)(void *user, const ds_step_trace *trace);

/* Number format of the cached keys and values. DEFAULT: INT8 if most of the model's bytes are I8, else
 * F16. */
typedef enum ds_kv_type { DS_KV_DEFAULT = 0, DS_KV_F32 = 1, DS_KV_F16 = 2, DS_KV_INT8 = 3 } ds_kv_type;

/* How a model with latent attention (deepseek2) reads a prompt.
 * AUTO: a request's rows in a step, if they are so many that it is faster, expand the latents to keys and
 * values (the expanded form); all other rows attend to the latents directly (the absorbed form). The two
 * forms round differently, so the last bits of the logits depend on how the prompt was divided into steps and
 * on what part of it was in the prefix cache, though never on threads.
 * ABSORBED: always the absorbed form, with the same bits however the work was divided. Integer arithmetic (I8
 * models, INT8 keys and values) and devices always use this form. */
typedef enum ds_mla_form { DS_MLA_AUTO = 0, DS_MLA_ABSORBED = 1 } ds_mla_form;

typedef struct ds_engine_config {
    size_t struct_size;
    /* Threads that compute, the caller of ds_engine_step included: 1 is that thread alone, 0 is one per
     * available processor; at most 1024. Ignored on a device. */
    uint32_t threads;
    uint32_t max_requests; /* running at the same time; default 8, at most 4096 */
    uint32_t max_queue;    /* waiting; default 1024, at most 2^20 */
    /* Positions per request; default: the model's context length, but at most 4096. At most the model's, and
     * with INT8 keys and values at most 2^22. */
    uint32_t context_length;
    /* Rows per step, over all requests; default: 512, or max_requests if larger. From max_requests to
     * 65536. */
    uint32_t step_tokens;
    /* Rows per step that may need logits; default: the larger of max_requests and 32. At most step_tokens, as
     * is the default. */
    uint32_t logit_rows;
    /* Positions in the page pool, in pages of 64; default: enough for max_requests requests of context_length
     * positions. At most 2^31. */
    uint64_t kv_tokens;
    ds_kv_type kv_type;
    ds_mla_form mla_form;
    /* "scalar", "avx2", "avx512", "avx512_vnni", "amx" or "neon"; NULL: the best that the machine supports.
     * Results are the same with each. With NULL or "amx" on a machine with AMX, the system is asked to let
     * this process use the tile registers (Linux: ARCH_REQ_XCOMP_PERM). From then on alternate signal stacks
     * need room for them, and the system refuses if an existing one is too small. "avx512_vnni" is the best
     * without AMX, and asks for nothing. Ignored on a device. */
    const char *isa;
    const ds_host *host; /* NULL: no callbacks */
    ds_trace_fn trace;   /* may be NULL */
    void *trace_user;
} ds_engine_config;

/* Memory in bytes, known before any is allocated. For a model on a device, everything is device memory except
 * the tables, which are mostly host memory; the driver's own use is not counted. */
typedef struct ds_memory_plan {
    size_t struct_size;
    /* The model's tensors, and copies of those that are computed in another form; shared by all its
     * engines. */
    uint64_t weights;
    /* The full page pool. It grows as it is used, except on a device or with a host's allocator, where all of
     * it is allocated with the engine. */
    uint64_t pages;
    uint64_t page_bytes;  /* one page: 64 positions of all layers */
    uint64_t activations; /* results within a step, logits included */
    uint64_t work;        /* scratch memory of the kernels */
    uint64_t tables;      /* inputs of a step, sampler, records of the pages */
    uint64_t total;       /* the sum, without page_bytes */
} ds_memory_plan;

/* Computes how much memory an engine of this configuration would use, without creating it.
 *   config   NULL: all defaults
 *   plan     filled; the caller sets its struct_size
 * Status: as ds_engine_new. */
DS_API ds_status ds_engine_plan(const ds_model *model, const ds_engine_config *config, ds_memory_plan *plan,
                                ds_error *err);

/* Creates an engine.
 *   config   NULL: all defaults
 *   out      receives the engine; free with ds_engine_free
 * Status: DS_ERR_ARGUMENT (a field out of range, an isa that is unknown or that the machine lacks),
 * DS_ERR_STATE (the model was loaded for its vocabulary only), DS_ERR_IO (the system cannot start a thread);
 * on a device also DS_ERR_UNSUPPORTED (the message names the operation and formats that do not run there),
 * DS_ERR_NO_DEVICE and DS_ERR_DEVICE. */
DS_API ds_status ds_engine_new(const ds_model *model, const ds_engine_config *config, ds_engine **out,
                               ds_error *err);

/* Frees an engine; unfinished requests end without an event. No other thread may be inside a call with this
 * engine. NULL allowed. */
DS_API void ds_engine_free(ds_engine *engine);

/* ---- Requests */

typedef uint64_t ds_request_id; /* never 0, never reused within an engine */

/* Added to the token's logit. -INFINITY forbids the token; +INFINITY and NaN are DS_ERR_ARGUMENT. */
typedef struct ds_logit_bias {
    ds_token token;
    float bias;
} ds_logit_bias;

/* No answer: score the prompt's own tokens, as events of type DS_EVENT_SCORE. */
#define DS_REQUEST_SCORE 1u
/* Events carry the raw logits. */
#define DS_REQUEST_LOGITS 2u
/* Events carry the chosen token's log-probability. */
#define DS_REQUEST_LOGPROBS 4u
/* End tokens do not end the answer (for measurements). */
#define DS_REQUEST_IGNORE_END 8u
/* Control tokens in the answer yield their spelling. */
#define DS_REQUEST_SPECIAL 16u
/* Neither use nor feed the prefix cache (for measurements, and for secrets). */
#define DS_REQUEST_NO_CACHE 32u

/* How each token is chosen. Parameters apply in this order: logit bias, penalties (over prompt and answer),
 * temperature, top_k, top_p, min_p, draw. */
typedef struct ds_sampling {
    size_t struct_size;
    float temperature; /* 0 to 100; 0: always the most likely token */
    uint32_t top_k;    /* draw among the k most likely tokens; 0: off */
    float top_p;       /* among the most likely tokens whose probabilities add up to p, in (0, 1]; 0: off */
    float min_p;       /* among tokens at least min_p times as likely as the most likely, in (0, 1]; 0: off */
    /* Divides positive logits of tokens that occurred before, and multiplies negative ones; in (0, 1000]; 0:
     * off. */
    float repetition_penalty;
    float presence_penalty;  /* subtracted from the logit of a token that occurred before; -1000 to 1000 */
    float frequency_penalty; /* subtracted once per earlier occurrence; -1000 to 1000 */
    uint32_t reserved;
    uint64_t seed; /* the random number of a draw depends on the seed and the position alone */
    const ds_logit_bias *logit_bias;
    size_t logit_bias_count; /* at most the vocabulary size */
} ds_sampling;

/* max_tokens applies even if it is 0: no token of thinking. */
#define DS_THINKING_BUDGET 1u

/* How long the model may think before it answers; see below. */
typedef struct ds_thinking {
    size_t struct_size;
    /* Of the prompt that ds_engine_chat renders; a submitted prompt already has its mode. */
    ds_thinking_mode mode;
    uint32_t flags;      /* DS_THINKING_BUDGET */
    uint32_t max_tokens; /* of the model's own thinking; 0: no limit, unless DS_THINKING_BUDGET is set */
    uint32_t reserved;
    /* Injected into the thought before it is closed: "\n\nTime is up.\n". NUL-terminated, well-formed UTF-8
     * without thinking tags, up to 1024 bytes; NULL: nothing. */
    const char *end_text;
} ds_thinking;

typedef struct ds_request {
    size_t struct_size;
    const ds_token *prompt; /* at least one token; ignored by ds_engine_chat and ds_engine_fork */
    size_t prompt_count;
    uint32_t flags;              /* DS_REQUEST_... */
    uint32_t max_new_tokens;     /* chosen by the model, thinking included; 0: until the context is full */
    const ds_sampling *sampling; /* NULL: always the most likely token */
    const ds_thinking *thinking; /* NULL: the template's mode, and no limit */
    /* Texts that end the answer and are not part of it: NUL-terminated, well-formed UTF-8, 1 to 1024 bytes
     * each. */
    const char *const *stop;
    size_t stop_count; /* at most 64 */
    void *user;        /* returned in every event */
    /* Any number. Clients get equal service, and a client's requests use only its own entries in the prefix
     * cache. */
    uint64_t client_id;
    /* From submission, at most 10^9. A request that is not done by then ends with DS_FINISH_DEADLINE. 0:
     * never. */
    double timeout_seconds;
    int32_t priority;      /* higher ones start first and are preempted last */
    uint32_t top_logprobs; /* events carry this many of the most likely tokens; at most 64 */
} ds_request;

/* Thinking. A thought is the text between <think> and </think>. An answer has at most one thought: either the
 * prompt opened it, or the answer begins with the opening tag, white space aside. The prompt has opened a
 * thought if the text after its last control token begins or ends with an opening tag, white space aside, and
 * does not close it. If a tag is a token of the vocabulary, only that token counts. Otherwise the tag is
 * recognised in the text, whatever tokens spell it; the token that completes an opening tag is then the first
 * token of the thought. All other tags are ordinary text.
 *
 * ds_thinking.max_tokens is exact. When the model has chosen that many tokens of thought, tags that it wrote
 * itself included, and the thought is still open, its closing is injected before the next choice: end_text,
 * </think> and the empty line that the templates have there. Injected tokens appear as events, and the model,
 * penalties and stop texts see them. They have positions of their own and count only in injected_tokens,
 * neither in max_new_tokens nor in the budget. The model then continues with a first token that is neither an
 * end token nor an opening tag, so the answer is not empty unless max_new_tokens, a stop text or the context
 * ends it there. If the model itself opens a thought against a budget of 0, it gets an empty one, whose
 * opening tag counts as injected. (To have no thought at all, let the template close it: DS_THINKING_OFF.) */

/* Queues a request. Everything that it points to is copied.
 *   id   receives the request's id
 *
 * Order: requests start by highest priority; then those that were preempted; then by earliest deadline; then
 * by the client that was served least (virtual token counters, arXiv 2401.00588; of clients without requests,
 * the 1024 that were served most are remembered); then by age. A request starts as soon as there are pages
 * for its prompt plus headroom, and none behind it in this order overtakes it for lack of pages. More pages
 * are taken as an answer grows. When none is left, a request of the lowest priority is preempted, but never
 * the oldest. It waits, first among its priority, until there are pages for all of it, recomputes what is no
 * longer cached, and continues where it was. No event is repeated.
 *
 * Prefix cache: full pages of 64 positions, and the last, partial page of finished requests, stay cached
 * until their memory is needed. Where a prompt begins with the same tokens as cached ones of its client, it
 * is not computed again, except for its last token. A scored prompt is always computed in full, but does feed
 * the cache.
 *
 * Status: DS_ERR_ARGUMENT; DS_ERR_TOO_LONG (the prompt, plus one token unless it is scored, exceeds the
 * context; or, with max_new_tokens as far as the context allows, exceeds the page pool: the message has the
 * bytes); DS_ERR_BUSY (the queue is full; nothing was queued); DS_ERR_STATE (ds_engine_chat is using the
 * engine). */
DS_API ds_status ds_engine_submit(ds_engine *engine, const ds_request *request, ds_request_id *id,
                                  ds_error *err);

/* Queues a request that continues from the current end of another one. Its prompt is the other's prompt and
 * the tokens generated so far; text that the other holds back is output by both. The two share their pages,
 * and only the page that both would write is copied. To get several answers to one prompt, submit it and fork
 * it as often as needed, each with its own seed, before the first step: the prompt is computed once. The
 * fork's limits and counters start anew; an open thought stays open.
 *   id           a request that waits or runs and is not scored
 *   parameters   of the new request; NULL: all defaults. Its prompt, SCORE and NO_CACHE flags and client_id
 *                are ignored: prompt, client and use of the cache are the other's
 *   fork         receives the new request's id
 * Status: as ds_engine_submit; DS_ERR_ARGUMENT also if `id` is unknown, has ended, or is scored. */
DS_API ds_status ds_engine_fork(ds_engine *engine, ds_request_id id, const ds_request *parameters,
                                ds_request_id *fork, ds_error *err);

/* Ends a request at the next step, whatever its state, with an event of type DS_EVENT_DONE and finish
 * DS_FINISH_CANCELLED. Cancelling twice is allowed. If every request in a running step is cancelled, the step
 * stops between two operations and returns these events itself. (On a device, only steps of more than 128
 * rows stop, within about one layer.)
 * Status: DS_ERR_ARGUMENT (also if `id` is unknown or has ended). */
DS_API ds_status ds_engine_cancel(ds_engine *engine, ds_request_id id, ds_error *err);

/* DONE: finished, or never submitted. */
typedef enum ds_request_state {
    DS_STATE_QUEUED = 0,
    DS_STATE_PROMPT = 1,
    DS_STATE_ANSWER = 2,
    DS_STATE_DONE = 3
} ds_request_state;

typedef struct ds_request_status {
    size_t struct_size;
    ds_request_state state;
    uint32_t reserved;
    uint64_t prompt_tokens, prompt_tokens_done, new_tokens; /* new: chosen by the model */
} ds_request_status;

/* Reports a request's progress. For an unknown id, and from the step after the one that returned its last
 * event, the state is DS_STATE_DONE and the counts are 0.
 *   status   filled; the caller sets its struct_size
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_request_status(ds_engine *engine, ds_request_id id, ds_request_status *status,
                                          ds_error *err);

typedef enum ds_event_type {
    DS_EVENT_TOKEN = 0, /* a token of the answer, thinking included */
    DS_EVENT_SCORE = 1, /* a position of a prompt that is being scored */
    DS_EVENT_DONE = 2,  /* the request's last event */
    /* No token: text of one channel that a token or end of the other channel completed. It comes right before
     * or after the event of that token or end. */
    DS_EVENT_TEXT = 3
} ds_event_type;

/* THINKING: the tags and everything between them. */
typedef enum ds_channel { DS_CHANNEL_ANSWER = 0, DS_CHANNEL_THINKING = 1 } ds_channel;

typedef enum ds_finish {
    DS_FINISH_NONE = 0,
    DS_FINISH_STOP = 1,    /* an end token or a stop text */
    DS_FINISH_LENGTH = 2,  /* max_new_tokens */
    DS_FINISH_CONTEXT = 3, /* the context, or the whole page pool, is full */
    DS_FINISH_CANCELLED = 4,
    DS_FINISH_ERROR = 5,   /* event.status has the reason: DS_ERR_NUMERIC */
    DS_FINISH_SCORED = 6,  /* all of the prompt was scored */
    DS_FINISH_DEADLINE = 7 /* timeout_seconds passed while it waited or ran */
} ds_finish;

typedef struct ds_token_logprob {
    ds_token token;
    float logprob;
} ds_token_logprob;

/* An event and its pointers are valid until the next call of ds_engine_step, ds_engine_chat or
 * ds_engine_free. */
typedef struct ds_event {
    size_t struct_size; /* of the library's ds_event: fields beyond it do not exist */
    ds_request_id request;
    void *user;
    ds_event_type type;
    /* Of all the text, and of the token: a token that is thinking in any part counts as thinking. */
    ds_channel channel;
    ds_token token; /* TOKEN: the token. SCORE: the prompt's token at `position`. DONE, TEXT: -1 */
    /* Natural logarithm, under the model's own distribution. TOKEN: if requested, else 0. SCORE: given the
     * tokens before it; 0 for the first token. */
    float logprob;
    uint64_t position; /* in the sequence, from 0 for the prompt's first token; DONE: the sequence's length */
    /* What this event completed. A possible beginning of a stop text or a tag is held back until it is
     * decided. */
    const char *text;
    size_t text_size;
    const ds_token_logprob *top; /* most likely first */
    size_t top_count;
    /* [vocabulary], raw; NULL unless requested. TOKEN: what `token` was chosen from. SCORE: of the token
     * after `position`. */
    const float *logits;
    ds_finish finish; /* DONE */
    ds_status status; /* DONE */
    /* So far; the last two chosen by the model. The end token counts in none of them. */
    uint64_t prompt_tokens, thinking_tokens, answer_tokens;
    uint64_t injected_tokens; /* so far */
    uint64_t cached_tokens;   /* of the prompt: cached, or shared with the request that it was forked from */
    uint64_t preemptions;     /* of this request */
    /* DONE: from submission to the start; from there to the first token; from there to the end. */
    double queue_seconds, prompt_seconds, answer_seconds;
    /* TOKEN: nonzero if injected to close the thinking; it then has no logprob, top or logits. */
    int injected;
    uint32_t reserved;
} ds_event;

/* Does one step of work for all running requests: pieces of prompts, and one token for each answer. With
 * nothing to do it returns immediately, without events.
 *   events, count   receive an array of pointers to the step's events, each request's in order; may be empty
 * Status: DS_ERR_STATE (another thread is in it), DS_ERR_MEMORY (no memory for the pages of a waiting
 * request; nothing is lost: step again, or cancel it), DS_ERR_DEVICE. */
DS_API ds_status ds_engine_step(ds_engine *engine, const ds_event *const **events, size_t *count,
                                ds_error *err);

/* Blocks until a step has something to do: a request waits, runs or was cancelled. A host whose requests come
 * from other threads steps while there is work and waits here when there is none, so it need not poll. While
 * ds_engine_chat is using the engine, there is no work for others.
 *   timeout_seconds   at most this long, from 0 (only checks) to INFINITY
 *   work              receives 1 if there is something to do; 0 after the timeout or ds_engine_wake; not NULL
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_wait(ds_engine *engine, double timeout_seconds, int *work, ds_error *err);

/* Ends the waiting of all threads in ds_engine_wait; if there are none, the next call of ds_engine_wait that
 * has no work returns immediately.
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_wake(ds_engine *engine, ds_error *err);

typedef struct ds_engine_stats {
    size_t struct_size;
    uint64_t running, queued;                          /* requests */
    uint64_t pages_total, pages_free, pages_committed; /* free: held by no request; committed: have memory */
    uint64_t steps, prompt_tokens, new_tokens;         /* since the engine was created */
    uint32_t threads;
    uint32_t reserved;
    char isa[32];          /* on a device its kind, "sm_90" */
    uint64_t pages_cached; /* of pages_free, those cached for their contents */
    uint64_t preemptions;  /* since the engine was created */
    /* Prompt tokens of requests that have started; of these, those cached or shared by forks. Their ratio is
     * the hit rate. */
    uint64_t lookup_tokens, cached_tokens;
    double prompt_tokens_per_second, new_tokens_per_second; /* over the last 10 seconds, at most 128 steps */
} ds_engine_stats;

/* Reports an engine's counters.
 *   stats   filled; the caller sets its struct_size
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_engine_get_stats(ds_engine *engine, ds_engine_stats *stats, ds_error *err);

/* Shrinks the prefix cache, and returns free memory at the end of the page pool to the system. Memory from
 * the host's allocator, or of a device, is not returned.
 *   keep_tokens   positions that stay cached, the most recently used, in whole pages; 0: none
 * Status: DS_ERR_ARGUMENT, DS_ERR_STATE (another thread is in step). */
DS_API ds_status ds_engine_trim(ds_engine *engine, uint64_t keep_tokens, ds_error *err);

/* ---- Sessions */

/* A session is a client's sequence of tokens: the prompts and answers of a conversation so far. What was
 * computed for it stays in the prefix cache, in full pages of 64 positions, until others need the memory. It
 * can be saved to a file and restored into an engine of the same model and kv_type, in this process or
 * another; the rest of the configuration may differ. A prompt of that client that begins with these tokens
 * then continues with the same bits, without computing those positions again. To spill an idle session, save
 * it, then forget it, which makes its pages available to others; restore it when it is needed again. These
 * calls read and write the file before they return, and no step can run meanwhile. */

/* Saves a session: its tokens, and their cached pages from the first up to the first one missing. The file is
 * written beside `path` and renamed over it, so on failure the old file is still there.
 *   tokens, count   1 to 2^30 tokens
 *   path            UTF-8, NUL-terminated; a regular file, or none yet
 *   positions       receives how many positions the saved pages hold; may be NULL. The others are computed
 *                   again after restoring
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_STATE (another thread is in step), DS_ERR_DEVICE. */
DS_API ds_status ds_engine_save_session(ds_engine *engine, const ds_token *tokens, size_t count,
                                        uint64_t client_id, const char *path, size_t *positions,
                                        ds_error *err);

/* Restores what ds_engine_save_session has written. The pages join the prefix cache of `client_id`, which
 * need not be the client that saved them; pages already cached stay. If the pool has no room for all, the
 * beginning is restored. The whole file is checked, checksums included, before any of it is used. But
 * checksums detect damage, not intent: who can forge a file can influence what the model says.
 *   tokens, capacity   receive the session's tokens; may be NULL and 0
 *   count              receives their number; not NULL
 *   positions          receives how many positions are now cached; may be NULL
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_FORMAT (damaged; the message names the field),
 * DS_ERR_UNSUPPORTED (another version of the file format, byte order, model or kv_type), DS_ERR_BUFFER
 * (nothing restored, count stored), DS_ERR_STATE (another thread is in step), DS_ERR_DEVICE. After a failure
 * nothing of the file is cached, though older cached pages may have been dropped for it. */
DS_API ds_status ds_engine_restore_session(ds_engine *engine, const char *path, uint64_t client_id,
                                           ds_token *tokens, size_t capacity, size_t *count,
                                           size_t *positions, ds_error *err);

/* Drops a session's pages from the prefix cache, except those that a request holds or that another cached
 * sequence continues from. (ds_engine_trim returns the memory to the system.)
 *   tokens, count   1 to 2^30 tokens
 *   pages           receives how many were freed; may be NULL
 * Status: DS_ERR_ARGUMENT, DS_ERR_STATE (another thread is in step). */
DS_API ds_status ds_engine_forget_session(ds_engine *engine, const ds_token *tokens, size_t count,
                                          uint64_t client_id, size_t *pages, ds_error *err);

/* ---- A whole answer in one call */

/* Receives a piece of text, valid during the call. A nonzero return value ends the answer, which is not an
 * error. */
typedef int (*ds_text_fn)(void *user, const char *text, size_t size);

/* How an answer ended; the fields are those of ds_event. */
typedef struct ds_chat_result {
    size_t struct_size;
    ds_finish finish; /* CANCELLED: the text callback asked for it */
    uint32_t reserved;
    uint64_t prompt_tokens, thinking_tokens, answer_tokens, injected_tokens, cached_tokens, preemptions;
    double queue_seconds, prompt_seconds, answer_seconds;
} ds_chat_result;

/* Conversation in, text out: renders the messages with the model's template, answers, and calls `text` for
 * every piece, thinking and its tags included. If the prompt itself opens the thought, the text begins with
 * that opening tag. The engine must have no other requests, and until the call returns, submissions from
 * other threads are refused with DS_ERR_STATE. However it returns, its own request is gone.
 *   messages, count   at least one
 *   parameters        of the answer; NULL: all defaults. Its prompt, SCORE flag and user are ignored
 *   text, user        receive the pieces; text is not NULL
 *   result            receives how the answer ended; the caller sets its struct_size; may be NULL
 * Status: as ds_chat_tokenize, ds_engine_submit and ds_engine_step; DS_ERR_STATE also if the engine has other
 * requests; DS_ERR_NUMERIC. */
DS_API ds_status ds_engine_chat(ds_engine *engine, const ds_message *messages, size_t count,
                                const ds_request *parameters, ds_text_fn text, void *user,
                                ds_chat_result *result, ds_error *err);

/* ---- Models from nothing */

typedef enum ds_vocabulary_kind {
    DS_VOCABULARY_BPE = 0,  /* byte-level BPE, split as DeepSeek-V3 does; digits are single tokens */
    DS_VOCABULARY_BYTES = 1 /* each byte that occurs is a token; texts with other bytes have none */
} ds_vocabulary_kind;

typedef struct ds_vocabulary_config {
    size_t struct_size;
    ds_vocabulary_kind kind;
    uint32_t size; /* BPE: the most tokens, from 262 to 2^22; fewer, if no more pairs occur twice. BYTES: 0 */
} ds_vocabulary_config;

/* Makes a vocabulary from texts, with DeepSeek-R1's special tokens and chat template, and writes it as a GGUF
 * file without tensors, which loads with DS_LOAD_VOCAB_ONLY. The texts alone decide: the same ones give the
 * same bytes on every machine.
 *   path           the file, written beside it and renamed
 *   config         not NULL
 *   texts, sizes   [count] bytes; spellings of the special tokens in them are left out. At least one
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO. */
DS_API ds_status ds_vocabulary_train(const char *path, const ds_vocabulary_config *config,
                                     const char *const *texts, const size_t *sizes, size_t count,
                                     ds_error *err);

typedef struct ds_shape {
    size_t struct_size;
    const char *architecture; /* "llama", "qwen2", "qwen3", "r1" or "deepseek2" */
    const char *name;         /* for people; NULL: none */
    uint64_t seed;
    uint32_t layers, hidden_size, heads;
    uint32_t kv_heads;  /* 0: as heads. Not for r1 and deepseek2 */
    uint32_t head_size; /* 0: hidden_size / heads. Of r1's and deepseek2's keys, with the rotated part */
    uint32_t feed_forward_size, context_length;
    uint32_t tied;                  /* 1: the output head is the embedding */
    ds_rope_scaling rope_scaling;   /* FROM_FILE: none */
    uint32_t rope_original_context; /* YaRN; 0: context_length / rope_factor */
    double rope_factor;             /* 1 to 10^6, for LINEAR and YARN; context_length is what it leads to */
    double rope_base;               /* 0: 10000 */
    /* r1 and deepseek2 */
    uint32_t kv_lora_rank, q_lora_rank; /* q_lora_rank 0: none */
    uint32_t rotated_size;              /* of a key; 0: half of it */
    uint32_t value_size;                /* 0: head_size - rotated_size */
    /* r1 */
    uint32_t heads_used, heads_shared; /* heads_used 0: all */
    uint32_t blocks;                   /* of weights, which the layers share; 0: one a layer */
    /* deepseek2; its experts are chosen as DeepSeek-V3's are, without groups. experts 0: none */
    uint32_t experts, experts_used, experts_shared, expert_size, dense_layers;
    float deviation;   /* of matrices' weights; 0: 0.02 */
    uint32_t reserved; /* 0 */
} ds_shape;

/* Writes a model of random weights in F32, to be trained: matrices nearly normal, those that add to the
 * residual stream smaller by sqrt(2 layers), norms 1, biases and the gates of r1's heads 0. The same shape
 * and vocabulary give the same bytes on every machine.
 *   path         the file, written beside it and renamed
 *   vocabulary   a model whose tokenizer and chat template the new one gets; DS_LOAD_VOCAB_ONLY is enough
 *   shape        not NULL
 * Status: DS_ERR_ARGUMENT (the message names the field, or the key it becomes), DS_ERR_UNSUPPORTED
 * (architecture), DS_ERR_IO. */
DS_API ds_status ds_model_init(const char *path, const ds_model *vocabulary, const ds_shape *shape,
                               ds_error *err);

/* ---- Training */

/* A trainer changes a model's weights: supervised steps of AdamW on batches of token sequences. Its forward
 * pass is the engine's, so that log-probabilities have the same bits, and its gradients are sums in a fixed
 * order: weights after any number of steps are the same bytes with any number of threads, with every
 * instruction set, whatever is recomputed instead of stored, and after saving and resuming. How a batch is
 * cut into runs (run_tokens) does not change them either, except in models with shared blocks or with a
 * balance loss. Architectures: all that this library runs; weights on the host, float pages. A trainer may be
 * used by one thread at a time; ds_trainer_cancel may be called from any. */
typedef struct ds_trainer ds_trainer;

/* The format of the weights that the passes use. BF16 keeps 16 more bits of each for the optimizer alone. */
typedef enum ds_train_format { DS_TRAIN_F32 = 0, DS_TRAIN_BF16 = 1 } ds_train_format;
/* The optimizer's two states a weight. INT8: a byte each, with a scale for every 256. */
typedef enum ds_train_states { DS_STATES_F32 = 0, DS_STATES_INT8 = 1 } ds_train_states;
/* What is computed a second time for the gradients, so that it need not be stored in between: nothing; norms,
 * rotations and products of gates, which is cheap; whole blocks, about a third more work. */
typedef enum ds_recompute {
    DS_RECOMPUTE_NOTHING = 0,
    DS_RECOMPUTE_CHEAP = 1,
    DS_RECOMPUTE_BLOCKS = 2
} ds_recompute;

typedef struct ds_trainer_config {
    size_t struct_size;
    uint32_t threads;        /* 0: one per processor */
    uint32_t context_length; /* the most tokens of a sequence; 0: the model's */
    ds_train_format format;
    ds_train_states states;
    ds_recompute recompute;
    uint32_t run_tokens;   /* the most tokens computed together; 0: the largest power of two, from 32, for
                                * which everything fits memory_limit, or 2,048 without a limit */
    uint64_t memory_limit; /* bytes; 0: none */
    double learning_rate;  /* at its peak; 0: 1e-4 */
    double final_rate;     /* at total_steps */
    uint64_t warmup_steps; /* the rate rises linearly */
    uint64_t total_steps;  /* the rate falls as a cosine up to here; 0: it stays */
    float beta1, beta2;    /* 0: 0.9 and 0.95 */
    float epsilon;         /* 0: 1e-8 */
    float weight_decay;    /* of matrices, times the rate; 0: 0.1; negative: none */
    float clip_norm;       /* the most that the norm of all gradients may be; 0: 1; negative: any */
    float balance;         /* r1: the weight of the loss that balances its attention heads */
    const ds_host *host;   /* log and allocator; NULL: the defaults */
} ds_trainer_config;

typedef struct ds_training_plan {
    size_t struct_size;
    uint64_t weights, gradients, states;              /* bytes */
    uint64_t activations, pages, work, inputs, total; /* of a run */
    uint64_t run_tokens;
} ds_training_plan;

/* What a trainer would take, before anything is allocated.
 *   model    not on a device, not loaded for its vocabulary only
 *   config   may be NULL
 *   plan     filled; the caller sets its struct_size
 * Status: DS_ERR_ARGUMENT, DS_ERR_UNSUPPORTED, DS_ERR_MEMORY (memory_limit is too small; the message says how
 * much is needed). */
DS_API ds_status ds_trainer_plan(const ds_model *model, const ds_trainer_config *config,
                                 ds_training_plan *plan, ds_error *err);

/* Creates a trainer whose weights start as the model's, in whatever format these are. The model's own weights
 * stay as they are, and the model is kept alive. If an allocation for the passes fails, here (with run_tokens
 * 0) or in a step or evaluation, it is tried again with runs of half as many tokens, down to 32 and to the
 * batch's longest sequence.
 *   config    may be NULL
 *   trainer   receives the trainer; free it with ds_trainer_free
 * Status: as ds_trainer_plan; DS_ERR_NUMERIC (a weight is not finite; the message names the tensor). */
DS_API ds_status ds_trainer_new(const ds_model *model, const ds_trainer_config *config, ds_trainer **trainer,
                                ds_error *err);
DS_API void ds_trainer_free(ds_trainer *trainer);

typedef struct ds_sequence {
    const ds_token *tokens;
    const float
        *weights; /* [count], each at least 0: how much the token's negative log-probability, given those
                           * before it, counts in the loss; the first is not used. NULL: 1 each */
    size_t count; /* from 2 to the plan's run_tokens and the context */
} ds_sequence;

typedef struct ds_train_report {
    size_t struct_size;
    uint64_t step; /* steps made so far, this one included */
    double loss;   /* the weighted mean over the batch, in nats, before the step */
    double norm;   /* of all gradients together, before clipping */
    double learning_rate;
    uint64_t tokens, targets; /* of the batch; targets: those that have a weight */
    uint32_t runs;            /* that the batch was cut into */
    uint32_t skipped;         /* 1: loss or gradients were not finite, and the weights are as before */
    uint64_t run_tokens;      /* the most of a run now: fewer than planned after a lack of memory */
} ds_train_report;

/* One step of the optimizer on a batch. Sequences are computed in their order, several in a run.
 *   sequences, count   at least one
 *   report             filled; the caller sets its struct_size; may be NULL
 * Status: DS_ERR_ARGUMENT (the message names the sequence and token) or DS_ERR_TOO_LONG: nothing has changed;
 * DS_ERR_CANCELLED: the weights are as before; DS_ERR_NUMERIC: ten steps in a row were skipped. */
DS_API ds_status ds_trainer_step(ds_trainer *trainer, const ds_sequence *sequences, size_t count,
                                 ds_train_report *report, ds_error *err);

/* The loss of a batch, and nothing else. The first call allocates memory for its passes. Status: as
 * ds_trainer_step. */
DS_API ds_status ds_trainer_evaluate(ds_trainer *trainer, const ds_sequence *sequences, size_t count,
                                     ds_train_report *report, ds_error *err);

/* Ends the step or evaluation that is running, or the next one, with DS_ERR_CANCELLED. Any thread may call
 * it; it takes no lock, so that a signal handler may, too. */
DS_API void ds_trainer_cancel(ds_trainer *trainer);

/* Saves all that the next steps depend on. The file is written beside `path` and renamed over it, so that at
 * any moment either the old file is there or the new one.
 *   own, own_size   bytes of the caller's, such as the place in its data; may be NULL and 0
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO. */
DS_API ds_status ds_trainer_save(const ds_trainer *trainer, const char *path, const void *own,
                                 size_t own_size, ds_error *err);

/* Restores what ds_trainer_save has written, into a trainer of the same model, format and states. The whole
 * file is checked before anything changes.
 *   own, capacity   receive the caller's bytes; NULL and 0: they are not wanted
 *   own_size        receives their number; may be NULL if own is
 * Status: DS_ERR_ARGUMENT (it belongs to another model or configuration), DS_ERR_IO, DS_ERR_FORMAT (damaged),
 * DS_ERR_UNSUPPORTED (another version), DS_ERR_BUFFER (nothing restored, own_size stored). */
DS_API ds_status ds_trainer_resume(ds_trainer *trainer, const char *path, void *own, size_t capacity,
                                   size_t *own_size, ds_error *err);

/* Writes the weights as a GGUF file with the model's metadata.
 *   type   of matrices: "f32", "f16", "bf16", "q8_0", "int8" and the other names of the quantize tool's
 *          formats without a mix; rows that it does not divide are in q8_0 or f16. Norms, biases and routers
 *          are F32
 * Status: DS_ERR_ARGUMENT, DS_ERR_IO, DS_ERR_UNSUPPORTED (type; the message lists those known). */
DS_API ds_status ds_trainer_export(const ds_trainer *trainer, const char *path, const char *type,
                                   ds_error *err);

/* The model that is trained, for engines: its weights are the trainer's own memory. After steps, an engine on
 * it returns DS_ERR_STATE until ds_trainer_publish, and no step of the trainer may run while such an engine
 * is in a step. Free it with ds_model_free; it and engines on it keep the memory when the trainer is freed.
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_trainer_model(ds_trainer *trainer, ds_model **model, ds_error *err);

/* Lets engines on ds_trainer_model go on with the weights as they are now. Each forgets its cached prefixes
 * at its next step; requests that have begun keep the keys and values of the weights that computed them.
 * Status: DS_ERR_ARGUMENT. */
DS_API ds_status ds_trainer_publish(ds_trainer *trainer, ds_error *err);

#ifdef __cplusplus
}
#endif
#endif
