// The contract of deepseek.h for loading: from a path, a descriptor and memory, mapped and read; progress,
// logs, ranges of ds_model_config; and the host's floating-point mode, which has no effect and is preserved.
#include "../support/api.h"
#include "../support/float_mode.h"

#include "../../quantize/requantize.h"

#include <cfenv>
#include <fcntl.h>
#include <limits>
#include <sys/stat.h>
#include <thread>

using namespace golden;

namespace {

std::string read_all(const char *path) {
    const ds::os::mapping m = ds::os::mapping::map_file(path);
    return {reinterpret_cast<const char *>(m.data()), m.size()};
}

const std::vector<ds_token> some_ids = {477, 10, 20, 30, 40, 50, 60, 70, 80, 90};

std::vector<float> some_logits(const model_ptr &m, uint32_t threads = 1) {
    ds_engine_config c = engine_config();
    c.threads = threads;
    return logits(engine(m, c), some_ids, 512);
}

struct seen_progress {
    std::vector<std::pair<uint64_t, uint64_t>> calls;
    size_t stop_at = SIZE_MAX;  // index of the call that stops
};
ds_model_config with_progress(seen_progress &p, uint32_t flags) {
    ds_model_config c = model_config();
    c.flags = flags;
    c.progress_user = &p;
    c.progress = [](void *user, uint64_t done, uint64_t total) {
        auto *to = static_cast<seen_progress *>(user);
        to->calls.emplace_back(done, total);
        return to->calls.size() > to->stop_at ? 1 : 0;
    };
    return c;
}

}  // namespace

TEST_CASE("api: a model from a path, a descriptor and memory, mapped and read, is the same") {
    const std::vector<float> expected = some_logits(bundled());
    CHECK(same_bits(some_logits(bundled(DS_LOAD_READ)), expected));
    for (const uint32_t flags : {0u, DS_LOAD_READ}) {
        ds_model_config c = model_config();
        c.flags = flags;
        const int fd = open(bundled_path, O_RDONLY);
        REQUIRE(fd >= 0);
        REQUIRE(lseek(fd, 1234, SEEK_SET) == 1234);
        ds_model *m = nullptr;
        MUST(ds_model_load_fd(fd, &c, &m, &err));
        CHECK(lseek(fd, 0, SEEK_CUR) == 1234);  // the caller's position is unchanged
        REQUIRE(close(fd) == 0);
        CHECK(same_bits(some_logits(model_ptr(m)), expected));
        const held_model in_memory = hold(read_all(bundled_path), &c);
        CHECK(same_bits(some_logits(in_memory.model), expected));
    }
}

TEST_CASE("api: after a model is read into memory, its file may be deleted or truncated") {
    const temp_file copy;
    const std::string bytes = read_all(bundled_path);
    const int fd = open(copy.path.c_str(), O_RDWR);
    REQUIRE(write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    ds_model_config c = model_config();
    c.flags = DS_LOAD_READ;
    ds_model *m = nullptr;
    MUST(ds_model_load(copy.path.c_str(), &c, &m, &err));
    REQUIRE(ftruncate(fd, 0) == 0);
    close(fd);
    CHECK(same_bits(some_logits(model_ptr(m)), some_logits(bundled())));
}

// All that the interface reports about a model, and results computed with it.
static std::string told_by(const model_ptr &m) {
    std::string all;
    const auto add = [&](const void *p, size_t n) {
        all.append(static_cast<const char *>(p), n), all += '\n';
    };
    const auto filled =
        [&](auto item, const std::function<ds_status(decltype(item) *, size_t, size_t *, ds_error *)> &f) {
            std::vector<decltype(item)> room(1 << 16);
            size_t n = 0;
            MUST(f(room.data(), room.size(), &n, &err));
            add(room.data(), n * sizeof item);
            room.resize(n);
            return room;
        };
    ds_model_info info{};
    info.struct_size = sizeof info;
    MUST(ds_model_get_info(m.get(), &info, &err));
    add(&info.parameters, sizeof info.parameters);
    for (const char *text : {info.name, info.architecture, info.chat_template}) all += text;
    for (size_t i = 0; i < ds_model_metadata_count(m.get()); ++i) {
        const char *const key = ds_model_metadata_key(m.get(), i);
        all += key;
        filled(char(), [&](char *p, size_t room, size_t *n, ds_error *e) {
            return ds_model_metadata(m.get(), key, p, room, n, e);
        });
    }
    for (ds_token t = 0; t < static_cast<ds_token>(info.vocabulary); ++t) {
        const char *bytes;
        size_t n;
        MUST(ds_token_bytes(m.get(), t, DS_DETOKENIZE_SPECIAL, &bytes, &n, &err));
        add(bytes, n);
        all += ds_token_is_end(m.get(), t) ? 'e' : '-';
    }
    for (int i = 0; i <= DS_SPECIAL_UNKNOWN; ++i)
        all += std::to_string(ds_token_special(m.get(), static_cast<ds_special>(i))) + " ";
    const std::string text = "Hello, 12345 \u4f60\u597d <think>\n\n  int main() {} it's";
    const std::vector<ds_token> ids =
        filled(ds_token(), [&](ds_token *p, size_t room, size_t *n, ds_error *e) {
            return ds_tokenize(m.get(), text.data(), text.size(), DS_TOKENIZE_BOS | DS_TOKENIZE_SPECIAL, p,
                               room, n, e);
        });
    filled(char(), [&](char *p, size_t room, size_t *n, ds_error *e) {
        return ds_detokenize(m.get(), ids.data(), ids.size(), DS_DETOKENIZE_SPECIAL, p, room, n, e);
    });
    if (info.chat_template[0]) {
        filled(char(), [&](char *p, size_t room, size_t *n, ds_error *e) {
            return ds_chat_render(m.get(), &hello, 1, nullptr, p, room, n, e);
        });
        filled(ds_token(), [&](ds_token *p, size_t room, size_t *n, ds_error *e) {
            return ds_chat_tokenize(m.get(), &hello, 1, nullptr, p, room, n, e);
        });
    }
    const engine_ptr e = engine(m, engine_config());
    const std::vector<float> y = logits(e, some_ids, info.vocabulary);
    add(y.data(), y.size() * sizeof(float));
    const temp_file session;
    MUST(ds_engine_save_session(e.get(), some_ids.data(), some_ids.size(), 0, session.path.c_str(), nullptr,
                                &err));
    all += read_all(session.path.c_str());
    std::vector<ds_token> restored(some_ids.size());
    size_t n = 0;
    MUST(ds_engine_restore_session(engine(m, engine_config()).get(), session.path.c_str(), 0, restored.data(),
                                   restored.size(), &n, nullptr, &err));
    add(restored.data(), n * sizeof(ds_token));
    return all;
}

TEST_CASE("api: overwriting a model's header after loading changes nothing") {
    const auto header_of = [](const std::string &bytes) {
        return ds::gguf_file(ds::os::mapping::borrow(bytes.data(), bytes.size()), "whole").data_offset();
    };
    for (const std::string &bytes : {read_all(bundled_path), micro_file("micro/deepseek-r1").bytes(),
                                     micro_file("micro/llama3", ds::format::i8).bytes()}) {
        const held_model h = hold(bytes);
        const std::string before = told_by(h.model);
        for (const char garbage : {'\0', '\xff', '\x7f', 'A'}) {
            std::memset(h.memory->data(), garbage, header_of(bytes));
            CHECK(told_by(h.model) == before);
        }
    }
    // The same for mapped files, one of them in parts.
    const temp_file one;
    ds::job parts;
    parts.split.emplace();
    parts.split->tensors = 10;
    const std::string prefix = one.path + "-part";
    ds::copy_gguf(bundled_path, prefix, parts);
    ds::copy_gguf(bundled_path, one.path, {});
    const size_t tensors = ds::gguf_file::open(bundled_path).tensors().size(), count = (tensors + 9) / 10;
    std::vector<std::string> paths = {one.path}, headers;
    for (size_t i = 0; i < count; ++i) paths.push_back(ds::gguf_part_path(prefix, i, count));
    const model_ptr whole = load_file(one.path.c_str()), in_parts = load_file(paths[1].c_str());
    const std::string before = told_by(whole);
    CHECK(told_by(in_parts).size() > before.size());  // with the keys of the parts
    const std::string of_parts = told_by(in_parts);
    for (size_t i = 0; i < paths.size(); ++i) {
        const ds::gguf_file f = ds::gguf_file::open(paths[i ? 1 : 0]);
        uint64_t header = UINT64_MAX;
        for (const ds::gguf_tensor &t : f.tensors())
            if (t.part + 1 == (i ? i : 1)) header = std::min(header, t.offset);
        headers.emplace_back(header, '\xff');
    }
    for (size_t i = 0; i < paths.size(); ++i) {
        const std::string &path = paths[i], &garbage = headers[i];
        const int fd = open(path.c_str(), O_WRONLY);
        REQUIRE(pwrite(fd, garbage.data(), garbage.size(), 0) == static_cast<ssize_t>(garbage.size()));
        close(fd);
    }
    CHECK(told_by(whole) == before);
    CHECK(told_by(in_parts) == of_parts);
    for (size_t i = 1; i < paths.size(); ++i) unlink(paths[i].c_str());
}

namespace {

struct counted_memory {
    uint64_t held = 0, most = 0;
};
ds_host counted_by(counted_memory &c) {
    ds_host h{};
    h.struct_size = sizeof h;
    h.alloc_user = &c;
    h.alloc = [](void *user, size_t n, size_t alignment) {
        auto &count = *static_cast<counted_memory *>(user);
        count.most = std::max(count.most, count.held += n);
        return std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment);
    };
    h.free = [](void *user, void *p, size_t n, size_t) {
        static_cast<counted_memory *>(user)->held -= n, std::free(p);
    };
    return h;
}

}  // namespace

TEST_CASE("api: the host's allocator holds a mapped model's header once, and nothing else") {
    const std::string bytes = read_all(bundled_path);
    counted_memory c;
    ds_model_config config = model_config();
    const ds_host host = counted_by(c);
    config.host = &host;
    {
        const held_model h = hold(bytes, &config);
        CHECK(c.held <=
              ds::gguf_file(ds::os::mapping::borrow(bytes.data(), bytes.size()), "whole").data_offset());
        CHECK(c.held > 1000);
        CHECK(c.most == c.held);
    }
    CHECK(c.held == 0);
}

TEST_CASE("api: models that cannot be loaded") {
    ds_model *m = nullptr;
    check_fails(DS_ERR_IO, "/no/such/file",
                [&](ds_error *e) { return ds_model_load("/no/such/file", nullptr, &m, e); });
    check_fails(DS_ERR_IO, "", [&](ds_error *e) { return ds_model_load("", nullptr, &m, e); });
    check_fails(DS_ERR_IO, "descriptor -1",
                [&](ds_error *e) { return ds_model_load_fd(-1, nullptr, &m, e); });
    check_fails(DS_ERR_IO, "descriptor 2147483647",
                [&](ds_error *e) { return ds_model_load_fd(INT32_MAX, nullptr, &m, e); });
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    for (const uint32_t flags : {0u, DS_LOAD_READ}) {
        ds_model_config c = model_config();
        c.flags = flags;
        check_fails(DS_ERR_IO, "descriptor",
                    [&](ds_error *e) { return ds_model_load_fd(pipes[0], &c, &m, e); });
        check_fails(DS_ERR_IO, "tests",
                    [&](ds_error *e) { return ds_model_load(DS_SOURCE_DIR "/tests", &c, &m, e); });
        check_fails(DS_ERR_FORMAT, "main.cpp", [&](ds_error *e) {
            return ds_model_load(DS_SOURCE_DIR "/tests/support/main.cpp", &c, &m, e);
        });
        check_fails(DS_ERR_IO, "missing", [&](ds_error *e) { return ds_model_load("missing", &c, &m, e); });
    }
    close(pipes[0]);
    close(pipes[1]);
    const std::string bytes = read_all(bundled_path);
    aligned_bytes memory(bytes + std::string(64, '\0'));
    for (const size_t shift : {1, 4, 8, 16, 31})
        check_argument("data", [&](ds_error *e) {
            return ds_model_load_memory(memory.data() + shift, bytes.size(), nullptr, &m, e);
        });
    check_fails(DS_ERR_FORMAT, "memory",
                [&](ds_error *e) { return ds_model_load_memory(memory.data(), 0, nullptr, &m, e); });
    check_fails(DS_ERR_FORMAT, "memory", [&](ds_error *e) {
        return ds_model_load_memory(memory.data(), bytes.size() - 1, nullptr, &m, e);
    });
    CHECK(m == nullptr);
}

TEST_CASE("api: progress reaches the end, and its callback can stop the loading at any call") {
    for (const uint32_t flags : {0u, DS_LOAD_READ}) {
        seen_progress all;
        ds_model_config c = with_progress(all, flags);
        ds_model *m = nullptr;
        MUST(ds_model_load(bundled_path, &c, &m, &err));
        ds_model_free(m);
        REQUIRE(all.calls.size() > 5);
        CHECK(all.calls.back().first == all.calls.back().second);
        int phases = 0;
        uint64_t before = 0;
        for (const auto &[done, total] : all.calls) {
            CHECK((done > 0 && done <= total));
            if (done <= before) ++phases;
            before = done;
        }
        CHECK(phases <= (flags ? 1 : 0));  // reading, then checking
        for (size_t stop = 0; stop < all.calls.size(); ++stop) {
            seen_progress p;
            p.stop_at = stop;
            const ds_model_config stopping = with_progress(p, flags);
            m = nullptr;
            ds_error err;
            CHECK(ds_model_load(bundled_path, &stopping, &m, &err) == DS_ERR_CANCELLED);
            CHECK(err.status == DS_ERR_CANCELLED);
            CHECK(m == nullptr);
            CHECK(p.calls.size() == stop + 1);  // no call after the one that stops
        }
    }
}

TEST_CASE("api: ranges of a model's configuration") {
    ds_model_config c{};
    ds_model *m = nullptr;
    const auto load_it = [&](ds_error *e) { return ds_model_load(bundled_path, &c, &m, e); };
    const auto good = [&](const std::function<void()> &set) {
        c = model_config();
        set();
        MUST(load_it(&err));
        ds_model_free(std::exchange(m, nullptr));
    };
    const auto bad = [&](const char *field, const std::function<void()> &set) {
        c = model_config();
        set();
        check_argument(field, load_it);
        CHECK(m == nullptr);
    };
    for (const uint32_t v : {1u, (1u << 30) - 1, 1u << 30}) good([&] { c.context_length = v; });
    for (const uint32_t v : {(1u << 30) + 1, 1u << 31, UINT32_MAX}) {
        bad("context_length", [&] { c.context_length = v; });
        bad("rope_original_context", [&] { c.rope_original_context = v; });
    }
    for (const int v : {-1, 4, INT32_MAX, INT32_MIN})
        bad("rope_scaling", [&] { std::memcpy(&c.rope_scaling, &v, sizeof v); });
    for (const ds_rope_scaling s : {DS_ROPE_LINEAR, DS_ROPE_YARN}) {
        for (const double v : {1.0, 4.0, 1e6}) good([&] { c.rope_scaling = s, c.rope_factor = v; });
        for (const double v : {0.0, 0.999, -1.0, 1e6 + 1, std::numeric_limits<double>::quiet_NaN(),
                               std::numeric_limits<double>::infinity()})
            bad("rope_factor", [&] { c.rope_scaling = s, c.rope_factor = v; });
    }
    for (const ds_rope_scaling s : {DS_ROPE_FROM_FILE, DS_ROPE_NONE})
        good([&] { c.rope_scaling = s, c.rope_factor = -5; });
    bad("chat_template", [&] { c.chat_template = "no such template"; });
    bad(ds_chat_templates(), [&] { c.chat_template = "x"; });
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc = [](void *, size_t, size_t) -> void * { return nullptr; };
    bad("alloc", [&] { c.host = &host; });
    host.alloc = nullptr, host.free = [](void *, void *, size_t, size_t) {};
    bad("free", [&] { c.host = &host; });
    host.struct_size = 9;
    bad("host.struct_size", [&] { c.host = &host; });
    bad("reserved", [&] { c.reserved = 1; });
    std::string names = ds_chat_templates();
    for (size_t from = 0; from < names.size();) {
        const size_t to = std::min(names.find(", ", from), names.size());
        const std::string name = names.substr(from, to - from);
        good([&] { c.chat_template = name.c_str(); });
        from = to + 2;
    }
}

TEST_CASE("api: nothing is printed, not even warnings") {
    const temp_file captured;
    const int to = open(captured.path.c_str(), O_RDWR), out = dup(1), err_fd = dup(2);
    REQUIRE((to >= 0 && out >= 0 && err_fd >= 0));
    fflush(nullptr);
    dup2(to, 1);
    dup2(to, 2);
    model_file f = micro_file("micro/llama");
    f.parts.push_back({"extra", ds::format::f32, {4}, std::string(16, '\0')});  // causes a warning
    {
        const held_model m = hold(f);
        logits(engine(m.model, engine_config()), {1, 2, 3}, 512);
        ds_model *none = nullptr;
        ds_model_load("/no/such/file", nullptr, &none, nullptr);
    }
    fflush(nullptr);
    dup2(out, 1);
    dup2(err_fd, 2);
    struct stat s;
    REQUIRE(fstat(to, &s) == 0);
    CHECK(s.st_size == 0);
    for (const int fd : {to, out, err_fd}) close(fd);
}

// Rounding upward, and flushing denormals: results computed in such a mode would differ.
TEST_CASE("api: the host's floating-point mode changes no bit, and is preserved") {
    model_file f = micro_file("micro/llama3");
    float *down = f.find("blk.0.ffn_down.weight").f32(), *norm = f.find("blk.1.attn_norm.weight").f32();
    down[0] *= 1e-38f;
    norm[0] *= 1e-38f;
    const held_model plain = hold(f);
    const std::vector<float> expected = some_logits(plain.model, 2);
    std::vector<float> odd;
    int rounding = -1;
    bool flushing = false;
    std::thread([&] {
        std::fesetround(FE_UPWARD);
        ds::test::set_float_control(ds::test::float_control() | ds::test::flushing);
        {
            const held_model m = hold(f);
            odd = some_logits(m.model, 2);
        }
        rounding = std::fegetround();
        flushing = (ds::test::float_control() & ds::test::flushing) == ds::test::flushing;
    }).join();
    CHECK(same_bits(odd, expected));
    CHECK(rounding == FE_UPWARD);
    CHECK(flushing);
}
