// Models in several files: merged parts equal the original byte for byte and run as one file does. Parts that
// do not belong together are made here byte by byte.
#include "../support/api.h"
#include "../support/files.h"
#include "../support/gguf_bytes.h"

#include "../../quantize/convert.h"
#include "../../quantize/inspect.h"
#include "../../quantize/requantize.h"

#include <nlohmann/json.hpp>

#include <csignal>
#include <fcntl.h>
#include <sys/resource.h>

using namespace ds;
using namespace ds::test;
using namespace gguf_bytes;

namespace {

std::string part(const std::string &prefix, unsigned no, unsigned count) {
    return prefix + format_text("-%05u-of-%05u.gguf", no, count);
}

// The paths of all files of a split.
size_t split_to(const std::string &in, const std::string &prefix, const gguf_split_limits &l) {
    job j;
    j.split = l;
    copy_gguf(in, prefix, j);
    size_t n = 0;
    const std::string name = fs::path(prefix).filename().string();
    for (const auto &entry : fs::directory_iterator(fs::path(prefix).parent_path()))
        n += entry.path().filename().string().starts_with(name + "-0");
    return n;
}

}  // namespace

TEST_CASE("split: merged parts are the original file, byte for byte") {
    const temp_dir dir;
    // I8, whose scales are separate tensors
    convert(data_path("micro/qwen2"), dir / "i8.gguf", {format::i8, false, "m"}, {});
    for (const std::string &in : {std::string(golden::bundled_path), dir / "i8.gguf"})
        for (const gguf_split_limits &l : {gguf_split_limits{},
                                           {.bytes = 100000},
                                           {.tensors = 1},
                                           {.tensors = 7},
                                           {.bytes = 200000, .tensors = 3},
                                           {.bytes = 1}}) {
            CAPTURE(in);
            CAPTURE(l.bytes);
            CAPTURE(l.tensors);
            fs::create_directory(dir / "p");
            const gguf_file whole = gguf_file::open(in);
            const size_t n = split_to(in, dir / "p/model", l), tensors = whole.tensors().size();
            if (l.bytes == UINT64_MAX)
                CHECK(n == (l.tensors == UINT64_MAX ? 1 : (tensors + l.tensors - 1) / l.tensors));
            if (l.bytes == 1) CHECK(n == tensors);
            const std::string first = part(dir / "p/model", 1, static_cast<unsigned>(n));
            const gguf_file f = gguf_file::open(first);
            CHECK(f.part_count() == n);
            REQUIRE(f.tensors().size() == tensors);
            size_t at = 0;
            for (unsigned i = 1; i <= n; ++i) {
                const std::string name = part(dir / "p/model", i, static_cast<unsigned>(n));
                const size_t begin = at;
                for (; at < tensors && f.tensors()[at].part == i - 1; ++at)
                    CHECK(f.name_of(f.tensors()[at]) == name);
                CHECK(at > begin);
                CHECK(at - begin <= l.tensors);
                CHECK((fs::file_size(name) <= l.bytes || at == begin + 1));
            }
            for (size_t i = 0; i < tensors; ++i) {
                const gguf_tensor &a = whole.tensors()[i], &b = f.tensors()[i];
                CHECK(a.name == b.name);
                CHECK((a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0));
                f.forget(b);
            }
            copy_gguf(first, dir / "merged.gguf", {});
            CHECK(file_bytes(dir / "merged.gguf") == file_bytes(in));
            fs::remove_all(dir / "p");
        }
}

TEST_CASE("split: keys and their types are llama.cpp's") {
    const temp_dir dir;
    REQUIRE(split_to(golden::bundled_path, dir / "m", {.tensors = 20}) > 1);
    const size_t tensors = gguf_file::open(golden::bundled_path).tensors().size(), n = (tensors + 19) / 20;
    for (unsigned i = 0; i < n; ++i) {
        const std::string bytes = file_bytes(part(dir / "m", i + 1, static_cast<unsigned>(n)));
        CHECK(contains(bytes,
                       le_string("split.no") + le<uint32_t>(U16) + le<uint16_t>(static_cast<uint16_t>(i))));
        CHECK(contains(bytes, le_string("split.count") + le<uint32_t>(U16) +
                                  le<uint16_t>(static_cast<uint16_t>(n))));
        CHECK(contains(bytes, le_string("split.tensors.count") + le<uint32_t>(I32) +
                                  le<int32_t>(static_cast<int32_t>(tensors))));
        CHECK(contains(bytes, "tokenizer.ggml.tokens") == (i == 0));
    }
}

TEST_CASE("split: converting and requantizing to parts, and from parts") {
    const temp_dir dir;
    job parts;
    parts.split = gguf_split_limits{.tensors = 10};
    convert(data_path("micro/llama"), dir / "a.gguf", {format::bf16, false, "m"}, {});
    convert(data_path("micro/llama"), dir / "b.gguf", {format::bf16, false, "m"}, parts);
    CHECK(!fs::exists(dir / "b.gguf"));
    const size_t n = (gguf_file::open(dir / "a.gguf").tensors().size() + 9) / 10;
    const std::string first = part(dir / "b", 1, static_cast<unsigned>(n));
    copy_gguf(first, dir / "merged.gguf", {});
    CHECK(file_bytes(dir / "merged.gguf") == file_bytes(dir / "a.gguf"));
    for (const format type : {format::q8_0, format::i8}) {
        requantize(dir / "a.gguf", dir / "a2.gguf", type, {});
        requantize(first, dir / "b2.gguf", type, {});
        CHECK(file_bytes(dir / "a2.gguf") == file_bytes(dir / "b2.gguf"));
    }
    const gguf_file f = gguf_file::open(first);
    CHECK(contains(inspect_text(f, {}), format_text(" in %zu files", n)));
    const nlohmann::json j = nlohmann::json::parse(inspect_json(f, {}));
    REQUIRE(j["parts"].size() == n);
    CHECK(j["parts"][1] == part(dir / "b", 2, static_cast<unsigned>(n)));
    CHECK(j["tensors"][10]["part"] == 1);
    uint64_t bytes = 0;
    for (unsigned i = 1; i <= n; ++i) bytes += fs::file_size(part(dir / "b", i, static_cast<unsigned>(n)));
    CHECK(j["bytes"] == bytes);
}

TEST_CASE("split: through the API a model in parts is the same model") {
    using namespace golden;
    const temp_dir dir;
    const auto n = static_cast<unsigned>(split_to(bundled_path, dir / "m", {.bytes = 300000}));
    REQUIRE(n > 2);
    const std::string first = part(dir / "m", 1, n), second = part(dir / "m", 2, n);
    const std::vector<ds_token> ids = {477, 10, 20, 30, 40, 50, 60, 70, 80, 90};
    const std::vector<float> expected = logits(engine(bundled(), engine_config()), ids, 512);
    for (const uint32_t flags : {0u, DS_LOAD_READ}) {
        ds_model_config c = model_config();
        c.flags = flags;
        ds_model *m = nullptr;
        MUST(ds_model_load(first.c_str(), &c, &m, &err));
        const model_ptr loaded(m);
        CHECK(same_bits(logits(engine(loaded, engine_config()), ids, 512), expected));
        ds_model_info info{};
        info.struct_size = sizeof info;
        MUST(ds_model_get_info(m, &info, &err));
        uint64_t bytes = 0;
        for (unsigned i = 1; i <= n; ++i) bytes += fs::file_size(part(dir / "m", i, n));
        CHECK(info.file_bytes == bytes);
    }
    ds_model *m = nullptr;
    check_argument(fs::path(first).filename().string(),
                   [&](ds_error *err) { return ds_model_load(second.c_str(), nullptr, &m, err); });
    const int fd = ::open(first.c_str(), O_RDONLY);
    REQUIRE(fd >= 0);
    check_fails(DS_ERR_UNSUPPORTED, "split.count",
                [&](ds_error *err) { return ds_model_load_fd(fd, nullptr, &m, err); });
    ::close(fd);
    const os::mapping bytes = os::mapping::map_file(first);
    check_fails(DS_ERR_UNSUPPORTED, "split.count", [&](ds_error *err) {
        return ds_model_load_memory(bytes.data(), bytes.size(), nullptr, &m, err);
    });
    fs::remove(second);
    check_fails(DS_ERR_IO, "m-00002-of-",
                [&](ds_error *err) { return ds_model_load(first.c_str(), nullptr, &m, err); });
    CHECK(m == nullptr);
}

// ---- Parts that do not belong together

namespace {

// Three parts of a model of four tensors; the second part has two.
struct parts {
    spec file[3];
    std::string name[3] = {part("m", 1, 3), part("m", 2, 3), part("m", 3, 3)};
    bool present[3] = {true, true, true};
    size_t load = 0;

    parts() {
        const char *const names[3][2] = {{"a", nullptr}, {"b", "c"}, {"d", nullptr}};
        for (uint16_t i = 0; i < 3; ++i) {
            file[i].keys = {{"split.no", U16, le(i)},
                            {"split.count", U16, le<uint16_t>(3)},
                            {"split.tensors.count", I32, le<int32_t>(4)}};
            for (const char *const n : names[i])
                if (n) file[i].tensors.push_back({n, {8}, 0, 32 * file[i].tensors.size()});
            file[i].data = std::string(64, static_cast<char>('A' + i));
        }
        file[0].keys.push_back({"general.name", STRING, le_string("model")});
        file[1].keys.push_back({"general.name", STRING, le_string("model")});
    }
    spec_key &key(size_t i, const char *wanted) {
        for (spec_key &k : file[i].keys)
            if (k.name == wanted) return k;
        FAIL("no such key");
        return file[i].keys[0];
    }
    void erase(size_t i, const char *unwanted) {
        std::erase_if(file[i].keys, [&](const spec_key &k) { return k.name == unwanted; });
    }
    uint64_t open(const temp_dir &dir) const {
        for (size_t i = 0; i < 3; ++i)
            if (present[i]) write_bytes(dir / name[i], file[i].bytes());
        return touch(gguf_file::open(dir / name[load]));
    }
};

}  // namespace

TEST_CASE("split: parts that do not belong together are named with file and field") {
    struct fault {
        const char *what;
        std::function<void(parts &)> change;
        status code;
        size_t file;
        const char *message;
    };
    const fault faults[] = {
        {"a part is missing", [](parts &p) { p.present[1] = false; }, status::io, 1, "cannot open"},
        {"the last part is missing", [](parts &p) { p.present[2] = false; }, status::io, 2, "cannot open"},
        {"another part is given", [](parts &p) { p.load = 2; }, status::argument, 2,
         "split.no: is 2, the file is part 3 of 3"},
        {"another part is given, under a name that has no number",
         [](parts &p) { p.load = 2, p.name[2] = "x.gguf"; }, status::argument, 2, "by the path of the first"},
        {"the first has another name", [](parts &p) { p.name[0] = "m.gguf"; }, status::format, 0,
         "split.count: is 3, but the file's name does not end in -00001-of-00003.gguf"},
        {"the first has another count in its name", [](parts &p) { p.name[0] = part("m", 1, 4); },
         status::format, 0, "split.count: is 3"},
        {"counts of parts disagree", [](parts &p) { p.key(1, "split.count").payload = le<uint16_t>(4); },
         status::format, 1, "split.count: is 4, but 3 in "},
        {"counts of tensors disagree",
         [](parts &p) { p.key(2, "split.tensors.count").payload = le<int32_t>(5); }, status::format, 2,
         "split.tensors.count: is 5, but 4 in "},
        {"there are fewer tensors", [](parts &p) { p.file[1].tensors.pop_back(); }, status::format, 0,
         "split.tensors.count: is 4, but the parts have 3 tensors"},
        {"there are more tensors",
         [](parts &p) {
             p.file[2].tensors.push_back({"e", {8}, 0, 32});
         },
         status::format, 0, "split.tensors.count: is 4, but the parts have 5 tensors"},
        {"two files are swapped", [](parts &p) { std::swap(p.name[1], p.name[2]); }, status::format, 2,
         "split.no: is 2, but the file's name and "},
        {"a part is not one", [](parts &p) { p.erase(1, "split.count"); }, status::format, 1,
         "split.count: missing"},
        {"a part has no number", [](parts &p) { p.erase(1, "split.no"); }, status::format, 1,
         "split.no: missing"},
        {"the first has no number", [](parts &p) { p.erase(0, "split.no"); }, status::format, 0,
         "split.no: missing"},
        {"the first does not count tensors", [](parts &p) { p.erase(0, "split.tensors.count"); },
         status::format, 0, "split.tensors.count: missing"},
        {"a number is out of range", [](parts &p) { p.key(0, "split.no").payload = le<uint16_t>(3); },
         status::format, 0, "split.no: 3 is not within 0 to 2"},
        {"a negative count", [](parts &p) { p.key(0, "split.tensors.count").payload = le<int32_t>(-1); },
         status::format, 0, "split.tensors.count: -1 is not within"},
        {"too many parts",
         [](parts &p) {
             p.key(0, "split.count") = {"split.count", U32, le<uint32_t>(65536)};
         },
         status::format, 0, "split.count: 65536 is not within 0 to 65535"},
        {"as many parts as there can be",
         [](parts &p) {
             p.key(0, "split.count").payload = le<uint16_t>(65535), p.name[0] = part("m", 1, 65535);
         },
         status::io, 3, "m-00002-of-65535.gguf: cannot open"},
        {"a tensor twice", [](parts &p) { p.file[2].tensors[0].name = "b"; }, status::format, 2,
         "b: the same tensor is in "},
        {"a part of another model", [](parts &p) { p.key(1, "general.name").payload = le_string("other"); },
         status::format, 1, "general.name: is 'other', but 'model' in "},
        {"a part is cut short", [](parts &p) { p.file[2].data.resize(31); }, status::format, 2,
         "data: 32 bytes at offset 0, but the file's data end at 31"},
        {"a part is no GGUF file", [](parts &p) { p.file[1].version = 99; }, status::unsupported, 1,
         "version: 99"},
        {"tensors of a part overlap", [](parts &p) { p.file[1].tensors[1].offset = 0; }, status::format, 1,
         "begins inside"},
        {"a part lacks its tensors, but the count is four", [](parts &p) { p.file[1].tensors.clear(); },
         status::format, 0, "the parts have 2 tensors"},
    };
    {
        const temp_dir dir;
        CHECK(parts().open(dir) > 0);
    }
    for (const fault &f : faults) {
        CAPTURE(f.what);
        const temp_dir dir;
        parts p;
        f.change(p);
        const error e = failure_of([&] { p.open(dir); });
        INFO(e.text);
        CHECK(e.code == f.code);
        CHECK(contains(e.text, f.message));
        CHECK(e.text.starts_with(dir.path));
        if (f.file < 3) CHECK(e.text.starts_with(dir / p.name[f.file] + ": "));
    }
}

TEST_CASE("split: a first part without tensors, and one part alone") {
    const temp_dir dir;
    parts p;
    p.file[0].tensors.clear();
    for (size_t i = 0; i < 3; ++i) p.key(i, "split.tensors.count").payload = le<int32_t>(3);
    CHECK(p.open(dir) > 0);
    spec alone = tiny();
    alone.keys.push_back({"split.no", U16, le<uint16_t>(0)});
    alone.keys.push_back({"split.count", U16, le<uint16_t>(1)});
    write_bytes(dir / "any.gguf", alone.bytes());
    CHECK(gguf_file::open(dir / "any.gguf").tensors().size() == 3);
}

TEST_CASE("split: a later part truncated at any length is an error that names it") {
    const temp_dir dir;
    const parts p;
    p.open(dir);
    const std::string bytes = p.file[1].bytes();
    for (size_t n = 0; n + 32 < bytes.size(); ++n) {  // its last 32 bytes belong to no tensor
        write_bytes(dir / p.name[1], bytes.substr(0, n));
        const error e = failure_of([&] { gguf_file::open(dir / p.name[0]); });
        CAPTURE(n);
        CHECK(e.code == status::format);
        CHECK(e.text.starts_with(dir / p.name[1] + ": "));
    }
}

// ---- Failures leave nothing

TEST_CASE("split: a stop, a full disk and an occupied path leave no files") {
    const temp_dir dir;
    fs::create_directory(dir / "p");
    const auto entries = [&] {
        return std::distance(fs::directory_iterator(dir / "p"), fs::directory_iterator());
    };
    job j;
    j.split = gguf_split_limits{.bytes = 300000};
    const auto n = static_cast<unsigned>(split_to(golden::bundled_path, dir / "m", *j.split));

    size_t calls = 0, stop_at = SIZE_MAX;
    uint64_t last = 0, all = 0;
    j.progress = [&](uint64_t done, uint64_t total) {
        CHECK((done >= last && done <= total));
        return last = done, all = total, ++calls < stop_at;
    };
    copy_gguf(golden::bundled_path, dir / "m", j);
    CHECK(last == all);
    CHECK(all > fs::file_size(golden::bundled_path));
    const size_t most = calls - 1;  // the last call reports completion and stops nothing
    for (const size_t at : {size_t(1), most / 2, most}) {
        stop_at = at, calls = last = 0;
        CHECK(failure_of([&] { copy_gguf(golden::bundled_path, dir / "p/m", j); }).code == status::cancelled);
        CHECK(entries() == 0);
    }

    rlimit old;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
    const rlimit small{200000, old.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    j.progress = {};
    const error full = failure_of([&] { copy_gguf(golden::bundled_path, dir / "p/m", j); });
    REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
    std::signal(SIGXFSZ, handler);
    CHECK(full.code == status::io);
    CHECK(entries() == 0);

    // A directory appears under the first part's name while the last is written. That rename comes last and
    // fails, and the other parts are removed.
    j.progress = [&](uint64_t done, uint64_t total) {
        const std::string name = part(dir / "p/m", 1, n);
        if (2 * done > total && !fs::exists(name)) fs::create_directory(name);
        return true;
    };
    const error taken = failure_of([&] { copy_gguf(golden::bundled_path, dir / "p/m", j); });
    CHECK(taken.code == status::io);
    CHECK(contains(taken.text, part(dir / "p/m", 1, n) + ": cannot rename into place"));
    CHECK(entries() == 1);
    // now it exists from the start
    CHECK(failure_of([&] { copy_gguf(golden::bundled_path, dir / "p/m", j); }).code == status::io);
    CHECK(entries() == 1);
}

TEST_CASE("output: an output never replaces an input, under any of its names") {
    const temp_dir dir;
    const auto refused = [&](const std::string &out, const job &j) {
        check_throws(status::argument, (out + ": is the same file as the input ").c_str(),
                     [&] { copy_gguf(dir / "model", out, j); });
    };
    fs::copy_file(golden::bundled_path, dir / "model");
    fs::create_hard_link(dir / "model", dir / "hard");
    fs::create_symlink("model", dir / "soft");
    job j;
    j.inputs = {dir / "absent", dir / "model"};
    for (const char *const name : {"model", "hard", "soft", "./model"}) refused(dir / name, j);
    CHECK(file_bytes(dir / "model") == file_bytes(golden::bundled_path));
    CHECK(dir.entries() == 3);
    copy_gguf(dir / "model", dir / "absent", j);  // absent, so it is no input; the next time it is one
    refused(dir / "absent", j);
    // All parts are checked before the first is written.
    fs::create_symlink("model", dir / "p-00002-of-00003.gguf");
    j.split = gguf_split_limits{.tensors = (gguf_file::open(dir / "model").tensors().size() + 2) / 3};
    check_throws(status::argument, "p-00002-of-00003.gguf: is the same file",
                 [&] { copy_gguf(dir / "model", dir / "p", j); });
    CHECK(dir.entries() == 5);
}
