// Fault injection into the library (sweep.h): in every operation the n-th allocation or the n-th call to the
// operating system fails. Each time the status fits, outputs are unchanged, nothing is lost or incomplete,
// and the same object continues with the same bits.
#include "../support/adapter_file.h"
#include "../support/allocations.h"
#include "../support/answers.h"
#include "../support/api.h"
#include "../support/files.h"
#include "sweep.h"

#include "../../quantize/requantize.h"

#include <fcntl.h>

using namespace golden;
using namespace ds::test;

namespace {

// A host's allocator whose blocks are counted like all others.
const ds_host &counting_host() {
    static ds_host h{};
    h.struct_size = sizeof h;
    h.alloc = [](void *, size_t bytes, size_t alignment) {
        return ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
    };
    h.free = [](void *, void *p, size_t, size_t alignment) {
        ::operator delete(p, std::align_val_t(alignment));
    };
    h.log = [](void *, ds_log_level, const char *) {};
    return h;
}

template <class T> T *poison() { return reinterpret_cast<T *>(uintptr_t{64}); }

void check_said(ds_status status, const ds_error &failure) {
    CHECK(failure.status == status);
    CHECK((failure.message[0] != 0) == (status != DS_OK));
}

ds_engine_config small_engine() {
    ds_engine_config c = engine_config();
    c.kv_type = DS_KV_DEFAULT;
    c.threads = 3;
    c.max_requests = 3;
    c.context_length = 256;
    c.step_tokens = 32;
    return c;
}

std::string text_of(const engine_ptr &e, const std::vector<ds_token> &prompt) {
    full_request r = request(prompt);
    r.max_new_tokens = 12;
    r.flags = DS_REQUEST_IGNORE_END;
    return ask(e, r).text;
}

struct file_descriptor {
    int fd;
    ~file_descriptor() { close(fd); }
};

}  // namespace

TEST_CASE("faults: loading a model, from everywhere") {
    const temp_dir dir;
    const std::string one = dir / "one.gguf";
    ds::convert(data_path("micro/qwen2"), one, {.type = ds::format::q8_0, .vocab_only = false, .name = ""},
                {});
    ds::job parts;
    parts.split.emplace();
    parts.split->tensors = 10;
    ds::copy_gguf(one, dir / "part", parts);
    std::string first;
    for (const auto &entry : fs::directory_iterator(dir.path))
        if (entry.path().filename().string().starts_with("part-00001")) first = entry.path().string();
    REQUIRE(!first.empty());
    const std::string bytes = file_bytes(one);
    std::vector<char> room(bytes.size() + 64);
    char *const memory = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64);
    std::memcpy(memory, bytes.data(), bytes.size());
    const file_descriptor open_file{open(one.c_str(), O_RDONLY | O_CLOEXEC)};

    for (const uint32_t flags : {0u, DS_LOAD_READ, DS_LOAD_VOCAB_ONLY})
        for (const char *const how : {"path", "parts", "descriptor", "memory"}) {
            if (flags == DS_LOAD_VOCAB_ONLY && std::string(how) != "path") continue;
            if (flags == DS_LOAD_READ && std::string(how) == "memory") continue;
            ds_model_config c{};
            c.struct_size = sizeof c;
            c.flags = flags;
            c.progress = [](void *, uint64_t, uint64_t) { return 0; };
            c.host = &counting_host();
            ds_model *m = nullptr;
            ds_error failure;
            sweep("load, " + std::string(how) +
                      (flags == DS_LOAD_READ ? ", read"
                       : flags               ? ", vocabulary"
                                             : ""),
                  {[&] {
                       m = poison<ds_model>();
                       switch (how[0]) {
                       case 'd': return ds_model_load_fd(open_file.fd, &c, &m, &failure);
                       case 'm': return ds_model_load_memory(memory, bytes.size(), &c, &m, &failure);
                       default:
                           return ds_model_load(how[1] == 'a' && how[2] == 'r' ? first.c_str() : one.c_str(),
                                                &c, &m, &failure);
                       }
                   },
                   [&](ds_status status) {
                       check_said(status, failure);
                       CHECK((m != poison<ds_model>()) == (status == DS_OK));
                       if (status != DS_OK) return;
                       ds_token tokens[16];
                       size_t count = 0;
                       CHECK(ds_tokenize(m, "Hello", 5, 0, tokens, 16, &count, nullptr) == DS_OK);
                       ds_model_free(m);
                   }});
        }
}

TEST_CASE("faults: loading an adapter") {
    const temp_dir dir;
    const std::string path = dir / "a.gguf";
    write_bytes(path, golden::random_adapter(golden::micro_file("micro/qwen2"), "qwen2", 2, 4, 1).bytes());
    const model_ptr m = model("micro/qwen2", ds::format::q8_0);
    for (const bool own : {false, true}) {
        ds_adapter *a = nullptr;
        ds_error failure;
        sweep(own ? "adapter, a host's allocator" : "adapter",
              {[&] {
                   a = poison<ds_adapter>();
                   return ds_adapter_load(m.get(), path.c_str(), own ? &counting_host() : nullptr, &a,
                                          &failure);
               },
               [&](ds_status status) {
                   check_said(status, failure);
                   CHECK((a != poison<ds_adapter>()) == (status == DS_OK));
                   if (status == DS_OK) ds_adapter_free(a);
               }});
    }
}

TEST_CASE("faults: engines: new and plan; a plan starts no thread and asks for no permission") {
    for (const char *name : {"micro/qwen2", "micro/deepseek-r1", "micro/r1"})
        for (const bool own : {false, true}) {
            const model_ptr m = model(name, ds::format::q8_0);
            ds_engine_config c = small_engine();
            if (own) c.host = &counting_host();
            const std::string where = std::string(name) + (own ? ", a host's allocator" : "");
            ds_engine *e = nullptr;
            ds_error failure;
            const data d = load(name);
            const std::vector<ds_token> prompt(d.ids.begin(), d.ids.begin() + 20);
            const std::string expected = text_of(engine(m, c), prompt);
            size_t used = 0;
            sweep("engine, " + where, {[&] {
                                           e = poison<ds_engine>();
                                           return ds_engine_new(m.get(), &c, &e, &failure);
                                       },
                                       [&](ds_status status) {
                                           check_said(status, failure);
                                           CHECK((e != poison<ds_engine>()) == (status == DS_OK));
                                           if (status != DS_OK) return;
                                           const engine_ptr owner(e);
                                           // the answer is the same with or without threads and permission
                                           if (++used % 8 == 1) CHECK(text_of(owner, prompt) == expected);
                                       }});
            ds_memory_plan plan{}, usual{};
            usual.struct_size = sizeof usual;
            MUST(ds_engine_plan(m.get(), &c, &usual, &err));
            sweep("plan, " + where, {[&] {
                                         plan = {};
                                         plan.struct_size = sizeof plan;
                                         plan.total = 7;
                                         return ds_engine_plan(m.get(), &c, &plan, &failure);
                                     },
                                     [&](ds_status status) {
                                         check_said(status, failure);
                                         if (status == DS_OK)
                                             CHECK(std::memcmp(&plan, &usual, sizeof plan) == 0);
                                         else CHECK((plan.total == 7 && plan.weights == 0));
                                     }});
            with_failing_calls(0, false, fault::refused,
                               [&] { ds_engine_plan(m.get(), &c, &plan, nullptr); });
            CHECK((calls_of("thread") == 0 && calls_of("permission") == 0));
            with_failing_calls(0, false, fault::refused, [&] { ds_engine_new(m.get(), &c, &e, nullptr); });
            ds_engine_free(e);
            CHECK(calls_of("thread") == 2);
        }
}

TEST_CASE("faults: text, tokens, chat prompts, decoders and model information") {
    const model_ptr m = bundled();
    const std::string text = "What is 37 + 85? \xc3\xa9\xf0\x9f\x99\x82 <think>";
    const ds_message list[] = {
        {"system", "Be short."}, {"user", "What is 37 + 85?"}, {"assistant", "122"}, {"user", "And 1 more?"}};
    struct {
        ds_token tokens[256];
        char text[2048];
        size_t count, size;
    } got, usual{};
    const std::vector<ds_token> some = chat_prompt(m, text);
    ds_error failure;
    const auto same = [&](ds_status status) {
        check_said(status, failure);
        if (status == DS_OK) CHECK(std::memcmp(&got, &usual, sizeof got) == 0);
        else CHECK((got.count == 77 && got.size == 77 && got.tokens[0] == 0 && got.text[0] == 0));
    };
    // The functions that return an array, each alone.
    const std::pair<const char *, std::function<ds_status()>> calls[] = {
        {"tokenize",
         [&] {
             return ds_tokenize(m.get(), text.data(), text.size(), DS_TOKENIZE_BOS | DS_TOKENIZE_SPECIAL,
                                got.tokens, 256, &got.count, &failure);
         }},
        {"detokenize",
         [&] {
             return ds_detokenize(m.get(), some.data(), some.size(), DS_DETOKENIZE_SPECIAL, got.text, 2048,
                                  &got.size, &failure);
         }},
        {"chat_render",
         [&] { return ds_chat_render(m.get(), list, 4, nullptr, got.text, 2048, &got.size, &failure); }},
        {"chat_tokenize",
         [&] { return ds_chat_tokenize(m.get(), list, 4, nullptr, got.tokens, 256, &got.count, &failure); }},
        {"metadata",
         [&] {
             return ds_model_metadata(m.get(), "tokenizer.ggml.tokens", got.text, 2048, &got.size, &failure);
         }},
    };
    for (const auto &[name, call] : calls) {
        const auto fresh = [&] {
            got = {};
            got.count = got.size = 77;
        };
        fresh();
        REQUIRE(call() == DS_OK);
        usual = got;
        sweep(name, {[&, &call = call] { return fresh(), call(); }, same});
    }
    ds_model_info info{};
    sweep("get_info", {[&] {
                           info = {};
                           info.struct_size = sizeof info;
                           return ds_model_get_info(m.get(), &info, &failure);
                       },
                       [&](ds_status status) {
                           check_said(status, failure);
                           CHECK((info.vocabulary != 0) == (status == DS_OK));
                       }});
    ds_decoder *d = nullptr;
    sweep("decoder_new", {[&] {
                              d = poison<ds_decoder>();
                              return ds_decoder_new(m.get(), 0, &d, &failure);
                          },
                          [&](ds_status status) {
                              check_said(status, failure);
                              CHECK((d != poison<ds_decoder>()) == (status == DS_OK));
                              if (status == DS_OK) ds_decoder_free(d);
                          }});
    // A decoder that failed returns the text at the next call.
    std::string whole, pieces;
    MUST(ds_decoder_new(m.get(), 0, &d, &err));
    for (const ds_token t : some) {
        const char *piece;
        size_t size;
        MUST(ds_decoder_push(d, t, &piece, &size, &err));
        whole.append(piece, size);
    }
    ds_decoder_free(d);
    size_t at = 0;
    d = nullptr;
    pieces.reserve(4096);
    const auto push_all = [&] {
        for (; at < some.size(); ++at) {
            const char *piece = poison<const char>();
            size_t size = 77;
            const ds_status status = ds_decoder_push(d, some[at], &piece, &size, &failure);
            if (status != DS_OK)
                return piece == poison<const char>() && size == 77 ? status : DS_ERR_INTERNAL;
            pieces.append(piece, size);
        }
        return DS_OK;
    };
    sweep("decoder_push", {[&] {
                               at = 0;
                               pieces.clear();
                               const ds_status status = d ? DS_OK : ds_decoder_new(m.get(), 0, &d, &failure);
                               return status != DS_OK ? status : push_all();
                           },
                           [&](ds_status status) {
                               if (status != DS_OK && d) CHECK(push_all() == DS_OK);
                               if (d) CHECK(pieces == whole);
                               ds_decoder_free(std::exchange(d, nullptr));
                           }});
}

TEST_CASE("faults: requests: submit, steps, fork; the same engine continues with the same bits") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    for (const bool own : {false, true}) {
        ds_engine_config c = small_engine();
        if (own) c.host = &counting_host();
        const engine_ptr e = engine(m, c);
        const char *const stops[] = {"never", "nor this"};
        const ds_logit_bias bias = {3, -1.0f};
        full_request r = request(prompt);
        r.stop = stops, r.stop_count = 2;
        r.draw.logit_bias = &bias, r.draw.logit_bias_count = 1;
        r.draw.presence_penalty = 0.01f;
        r.timeout_seconds = 1e6;
        r.max_new_tokens = 16;
        r.thought.max_tokens = 6, r.thought.end_text = " So.";
        ds_request_id ids[2] = {};
        std::string texts[2], expected[2];
        for (std::string &t : texts) t.reserve(4096);
        ds_error failure;
        int done = 0;
        const auto step = [&] {
            const ds_event *const *events = poison<const ds_event *const>();
            size_t count = 77;
            const ds_status status = ds_engine_step(e.get(), &events, &count, &failure);
            if (status != DS_OK)
                return events == poison<const ds_event *const>() && count == 77 ? status : DS_ERR_INTERNAL;
            for (size_t i = 0; i < count; ++i) {
                texts[events[i]->request == ids[1]].append(events[i]->text, events[i]->text_size);
                done += events[i]->type == DS_EVENT_DONE;
            }
            return DS_OK;
        };
        // Continues from where it stopped.
        const auto go_on = [&]() -> ds_status {
            ds_status status = DS_OK;
            if (!ids[0] && (status = ds_engine_submit(e.get(), &r, &ids[0], &failure)) != DS_OK)
                return status;
            while (texts[0].empty())
                if ((status = step()) != DS_OK) return status;
            if (!ids[1] && (status = ds_engine_fork(e.get(), ids[0], &r, &ids[1], &failure)) != DS_OK)
                return status;
            while (done < 2)
                if ((status = step()) != DS_OK) return status;
            return DS_OK;
        };
        sweep(own ? "requests, a host's allocator" : "requests",
              {[&] {
                   ids[0] = ids[1] = 0;
                   texts[0].clear(), texts[1].clear();
                   done = 0;
                   // so that memory must be committed again
                   const ds_status status = ds_engine_trim(e.get(), 0, &failure);
                   return status != DS_OK ? status : go_on();
               },
               [&](ds_status status) {
                   check_said(status, failure);
                   if (status != DS_OK) CHECK(go_on() == DS_OK);
                   if (expected[0].empty()) expected[0] = texts[0], expected[1] = texts[1];
                   CHECK((texts[0] == expected[0] && texts[1] == expected[1] && !texts[0].empty() &&
                          !texts[1].empty()));
                   const ds_engine_stats s = stats_of(e);
                   CHECK((s.pages_free == s.pages_total && s.running == 0 && s.queued == 0));
               },
               DS_OK, false});
        const ds_message ask = {"user", "What is 3 + 4?"};
        std::string text, usual;
        text.reserve(4096);
        full_request how;
        how.max_new_tokens = 10;
        sweep(own ? "chat, a host's allocator" : "chat",
              {[&] {
                   text.clear();
                   const ds_status status = ds_engine_trim(e.get(), 0, &failure);
                   if (status != DS_OK) return status;
                   return ds_engine_chat(
                       e.get(), &ask, 1, &how,
                       [](void *to, const char *t, size_t n) {
                           return static_cast<std::string *>(to)->append(t, n), 0;
                       },
                       &text, nullptr, &failure);
               },
               [&](ds_status status) {
                   check_said(status, failure);
                   if (usual.empty()) usual = text;
                   CHECK((status == DS_OK ? text == usual && !text.empty() : usual.starts_with(text)));
                   const ds_engine_stats s = stats_of(e);
                   CHECK((s.pages_free == s.pages_total && s.running == 0 && s.queued == 0));
               },
               DS_OK, false});
    }
}

TEST_CASE("faults: sessions saved, restored and forgotten") {
    const model_ptr m = model("micro/qwen2", ds::format::f32);
    const data d = load("micro/qwen2");
    const temp_dir dir;
    for (const bool own : {false, true}) {
        ds_engine_config c = small_engine();
        if (own) c.host = &counting_host();
        const engine_ptr e = engine(m, c);
        const std::vector<ds_token> ids(d.ids.begin(), d.ids.begin() + 150);
        const std::string path = dir / "session", old = "an old file", usual = text_of(e, ids);
        std::string whole;
        size_t positions = 0;
        ds_error failure;
        write_bytes(path, old);
        sweep(own ? "save, a host's allocator" : "save",
              {[&] {
                   positions = 77;
                   return ds_engine_save_session(e.get(), ids.data(), 150, 0, path.c_str(), &positions,
                                                 &failure);
               },
               [&](ds_status status) {
                   check_said(status, failure);
                   CHECK(positions == (status == DS_OK ? 128 : 77));
                   const std::string now = file_bytes(path);
                   if (whole.empty()) whole = now;
                   // When fsync of the directory fails, the new file is in place and complete.
                   CHECK((now == whole || (status != DS_OK && now == old)));
                   CHECK((status == DS_ERR_IO || (now == whole) == (status == DS_OK)));
                   CHECK(dir.entries() == 1);
                   write_bytes(path, old);
               }});
        write_bytes(path, whole);
        std::vector<ds_token> tokens(150);
        size_t count = 0;
        MUST(ds_engine_trim(e.get(), 0, &err));
        int64_t trial = 0;
        sweep(own ? "restore, a host's allocator" : "restore",
              {[&] {
                   tokens.assign(150, -5);
                   count = positions = 77;
                   return ds_engine_restore_session(e.get(), path.c_str(), 0, tokens.data(), 150, &count,
                                                    &positions, &failure);
               },
               [&](ds_status status) {
                   check_said(status, failure);
                   if (status == DS_OK) CHECK((count == 150 && tokens == ids));
                   else
                       CHECK((count == 77 && positions == 77 && tokens[0] == -5 && tokens[149] == -5 &&
                              stats_of(e).pages_cached == 0));
                   // Without memory for all pages fewer are restored.
                   if (status == DS_OK) CHECK(stats_of(e).pages_cached * 64 == positions);
                   CHECK(stats_of(e).pages_free == stats_of(e).pages_total);
                   if (trial++ % 16 == 0) CHECK(text_of(e, ids) == usual);
                   MUST(ds_engine_trim(e.get(), 0, &err));
                   CHECK(file_bytes(path) == whole);
               },
               DS_OK, false});
        text_of(e, ids);
        sweep(own ? "forget, a host's allocator" : "forget",
              {[&] {
                   positions = 77;
                   return ds_engine_forget_session(e.get(), ids.data(), 150, 0, &positions, &failure);
               },
               [&](ds_status status) {
                   check_said(status, failure);
                   CHECK((positions == 77) == (status != DS_OK));
                   if (status != DS_OK) CHECK(stats_of(e).pages_cached >= 2);
                   text_of(e, ids);
               },
               DS_OK, false});
    }
}
