// deepseek.h on loading: from a path, a descriptor and memory, mapped and read; progress, logs, ranges of ds_model_config; and that the floating-point mode
// of the host changes nothing and stays as it was.
#include "api.h"
#include "float_mode.h"

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
    size_t stop_at = SIZE_MAX;    // the call that stops
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

} // namespace

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
        CHECK(lseek(fd, 0, SEEK_CUR) == 1234);    // the caller's, as it was
        REQUIRE(close(fd) == 0);
        CHECK(same_bits(some_logits(model_ptr(m)), expected));
        const held_model in_memory = hold(read_all(bundled_path), &c);
        CHECK(same_bits(some_logits(in_memory.model), expected));
    }
}

TEST_CASE("api: read into memory, a file may go away and be cut short") {
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

TEST_CASE("api: what cannot be loaded") {
    ds_model *m = nullptr;
    check_fails(DS_ERR_IO, "/no/such/file", [&](ds_error *e) { return ds_model_load("/no/such/file", nullptr, &m, e); });
    check_fails(DS_ERR_IO, "", [&](ds_error *e) { return ds_model_load("", nullptr, &m, e); });
    check_fails(DS_ERR_IO, "descriptor -1", [&](ds_error *e) { return ds_model_load_fd(-1, nullptr, &m, e); });
    check_fails(DS_ERR_IO, "descriptor 2147483647", [&](ds_error *e) { return ds_model_load_fd(INT32_MAX, nullptr, &m, e); });
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    for (const uint32_t flags : {0u, DS_LOAD_READ}) {
        ds_model_config c = model_config();
        c.flags = flags;
        check_fails(DS_ERR_IO, "descriptor", [&](ds_error *e) { return ds_model_load_fd(pipes[0], &c, &m, e); });
        check_fails(DS_ERR_IO, "tests", [&](ds_error *e) { return ds_model_load(DS_SOURCE_DIR "/tests", &c, &m, e); });
        check_fails(DS_ERR_FORMAT, "main.cpp", [&](ds_error *e) { return ds_model_load(DS_SOURCE_DIR "/tests/main.cpp", &c, &m, e); });
        check_fails(DS_ERR_IO, "missing", [&](ds_error *e) { return ds_model_load("missing", &c, &m, e); });
    }
    close(pipes[0]);
    close(pipes[1]);
    const std::string bytes = read_all(bundled_path);
    aligned_bytes memory(bytes + std::string(64, '\0'));
    for (const size_t shift : {1, 4, 8, 16, 31})
        check_argument("data", [&](ds_error *e) { return ds_model_load_memory(memory.data() + shift, bytes.size(), nullptr, &m, e); });
    check_fails(DS_ERR_FORMAT, "memory", [&](ds_error *e) { return ds_model_load_memory(memory.data(), 0, nullptr, &m, e); });
    check_fails(DS_ERR_FORMAT, "memory", [&](ds_error *e) { return ds_model_load_memory(memory.data(), bytes.size() - 1, nullptr, &m, e); });
    CHECK(m == nullptr);
}

TEST_CASE("api: progress goes up to the end, and stops the loading wherever it says so") {
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
        CHECK(phases <= (flags ? 1 : 0));    // reading, then checking
        for (size_t stop = 0; stop < all.calls.size(); ++stop) {
            seen_progress p;
            p.stop_at = stop;
            const ds_model_config stopping = with_progress(p, flags);
            m = nullptr;
            ds_error err;
            CHECK(ds_model_load(bundled_path, &stopping, &m, &err) == DS_ERR_CANCELLED);
            CHECK(err.status == DS_ERR_CANCELLED);
            CHECK(m == nullptr);
            CHECK(p.calls.size() == stop + 1);    // nothing after the one that stops
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
    for (const int v : {-1, 4, INT32_MAX, INT32_MIN}) bad("rope_scaling", [&] { std::memcpy(&c.rope_scaling, &v, sizeof v); });
    for (const ds_rope_scaling s : {DS_ROPE_LINEAR, DS_ROPE_YARN}) {
        for (const double v : {1.0, 4.0, 1e6}) good([&] { c.rope_scaling = s, c.rope_factor = v; });
        for (const double v : {0.0, 0.999, -1.0, 1e6 + 1, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
            bad("rope_factor", [&] { c.rope_scaling = s, c.rope_factor = v; });
    }
    for (const ds_rope_scaling s : {DS_ROPE_FROM_FILE, DS_ROPE_NONE}) good([&] { c.rope_scaling = s, c.rope_factor = -5; });
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

TEST_CASE("api: nothing is printed, whatever there is to say") {
    const temp_file captured;
    const int to = open(captured.path.c_str(), O_RDWR), out = dup(1), err_fd = dup(2);
    REQUIRE((to >= 0 && out >= 0 && err_fd >= 0));
    fflush(nullptr);
    dup2(to, 1);
    dup2(to, 2);
    model_file f = micro_file("micro/llama");
    f.parts.push_back({"extra", ds::format::f32, {4}, std::string(16, '\0')});    // worth a warning
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

// Rounding upwards, and denormals flushed: every float that the library computed in such a mode would differ.
TEST_CASE("api: the host's floating-point mode changes no bit, and stays as it was") {
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
