// Safetensors and JSON with invalid content: each fault is made here, and the error must name it.
#include "../support/allocations.h"
#include "../support/checkpoint_files.h"
#include "../support/sanitizers.h"

#include "../../quantize/convert.h"
#include "../../quantize/json.h"
#include "../../quantize/safetensors.h"

#include <sys/resource.h>
#include <unistd.h>

using namespace ds;
using namespace ds::test;

static safetensors_file open_bytes(const std::string &bytes) {
    return safetensors_file(os::mapping::borrow(bytes.data(), bytes.size()), "file");
}
static safetensors_file open_header(const std::string &header, size_t data) {
    return open_bytes(with_length(header) + std::string(data, '\0'));
}

TEST_CASE("safetensors: tensors in the order of their bytes") {
    const std::string bytes =
        with_length(
            R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
            R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F8_E4M3","shape":[0,7],"data_offsets":[16,16]}})") +
        "0123456789abcdef";
    const safetensors_file f = open_bytes(bytes);
    REQUIRE(f.tensors().size() == 3);
    CHECK(f.tensors()[0].name == "a");
    CHECK(f.tensors()[0].ne.empty());
    CHECK(f.tensors()[0].bytes == 4);
    CHECK(f.tensors()[1].ne == std::vector<int64_t>{2, 3});
    CHECK(f.tensors()[1].type == format::bf16);
    CHECK(memcmp(f.tensors()[1].data, "456789abcdef", 12) == 0);
    CHECK(!f.tensors()[2].type);
    CHECK(f.tensors()[2].dtype == "F8_E4M3");
}

TEST_CASE("safetensors: hostile headers") {
    struct fault {
        const char *header;
        size_t data;
        const char *message;
    };
    const fault faults[] = {
        {"", 0, "not JSON"},
        {"[]", 0, "not an object"},
        {R"({"a":1})", 0, "not an object"},
        {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "dtype"},
        {R"({"a":{"dtype":"F8_E9","shape":[4],"data_offsets":[0,4]}})", 4, "F8_E9"},
        {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "shape"},
        {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "data_offsets"},
        {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "-1"},
        {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "1.5"},
        {R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "not a whole number"},
        {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, "9 dimensions"},
        {R"({"a":{"dtype":"F32","shape":[281474976710656,281474976710656],"data_offsets":[0,4]}})", 4,
         "product"},
        {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
         "product"},  // 2^64 elements, which wraps to 0
        {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4, "whole number"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8, "8 bytes, but the shape asks for 4"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "not a range"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "not two numbers"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}})", 4,
         "not a range"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "not a range"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "after the last"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
         6, "overlap"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}})",
         10, "unclaimed"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
         8, "given twice"},
        {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, "shape asks"},
    };
    for (const fault &f : faults) {
        CAPTURE(f.header);
        const error e = failure_of([&] { open_header(f.header, f.data); });
        CHECK((e.code == status::format || e.code == status::unsupported));
        INFO(e.text);
        CHECK(contains(e.text, "file: "));
        CHECK(contains(e.text, f.message));
    }
}

TEST_CASE("safetensors: header lengths beyond the file's end") {
    const std::string good =
        with_length(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})") + "data";
    open_bytes(good);
    for (size_t n = 0; n < good.size(); ++n) {  // truncated at every length
        CAPTURE(n);
        CHECK(failure_of([&] { open_bytes(good.substr(0, n)); }).code == status::format);
    }
    for (const uint64_t length :
         {UINT64_MAX, UINT64_MAX - 7, uint64_t(1) << 63, uint64_t(good.size()), uint64_t(good.size() - 7)}) {
        CAPTURE(length);
        const std::string bytes = std::string(reinterpret_cast<const char *>(&length), 8) + good.substr(8);
        CHECK(contains(failure_of([&] { open_bytes(bytes); }).text, "header length"));
    }
}

TEST_CASE("json: depth, duplicates, invalid text") {
    CHECK(contains(failure_of([] { parse_json(std::string(100000, '['), "file"); }).text, "nested deeper"));
    std::string nested;
    for (int i = 0; i < 1000; ++i) nested += R"({"a":)";
    CHECK(contains(failure_of([&] { parse_json(nested, "file"); }).text, "nested deeper"));
    CHECK(contains(failure_of([] { parse_json(R"({"x":{"a":1,"b":{"a":1},"a":2}})", "file"); }).text,
                   "'a': given twice"));
    CHECK(failure_of([] { parse_json("{\"a\":\"\xff\"}", "file"); }).code == status::format);
    CHECK(failure_of([] { parse_json("{} {}", "file"); }).code == status::format);
    CHECK(failure_of([] { parse_json(R"({"a":1e999})", "file"); }).code == status::format);
    const json_tree tree = parse_json(R"({"a":{"b":1},"c":{"b":2}})", "file");
    CHECK(json_node(tree).at("c").at("b").whole(9) == 2);
}

TEST_CASE("json: a wrong value is named with file, field and value") {
    const json_tree tree =
        parse_json(R"({"rope":{"factor":"two","list":[1,-2]},"none":null,"on":1})", "config.json");
    const json_node root(tree);
    CHECK(failure_of([&] { root.at("rope").at("factor").number(); }).text ==
          "config.json: 'rope.factor': '\"two\"' is not a number");
    CHECK(contains(failure_of([&] { root.at("rope").at("list").at(1).whole(10); }).text,
                   "'rope.list[1]': '-2'"));
    CHECK(contains(failure_of([&] { root.at("none"); }).text, "'none': missing"));
    CHECK(contains(failure_of([&] { root.at("on").flag(); }).text, "true or false"));
    CHECK(contains(failure_of([&] { root.at("on").at("x"); }).text, "an object"));
    CHECK(!root.has("none"));
    CHECK(root.whole("absent", 10, 7) == 7);
}

TEST_CASE("json: equal values, and numbers of every size") {
    const auto same = [](const char *a, const char *b) {
        const json_tree x = parse_json(a, "a"), y = parse_json(b, "b");
        return json_node(x).same_as(json_node(y));
    };
    CHECK(
        same(R"({"a":[1,-2,3.5,null,true,"x",{}],"b":{}})", R"({"b":{},"a":[1.0,-2,3.5,null,true,"x",{}]})"));
    CHECK(same("18446744073709551615", "18446744073709551615"));
    CHECK(!same("18446744073709551615", "18446744073709551614"));
    CHECK(!same("36028797018963968", "36028797018963967"));
    CHECK(!same("1", "-1"));
    CHECK(!same("[1]", "[1,1]"));
    CHECK(!same(R"({"a":1})", R"({"b":1})"));
    CHECK(!same("true", "false"));
    CHECK(!same("null", "false"));
    CHECK(!same(R"("1")", "1"));
    for (const uint64_t n : {uint64_t(0), uint64_t(1), (uint64_t(1) << 55) - 1, uint64_t(1) << 55,
                             uint64_t(1) << 56, (uint64_t(1) << 63) + 7, UINT64_MAX}) {
        const json_tree t = parse_json(std::to_string(n), "n");
        CHECK(json_node(t).whole(UINT64_MAX) == n);
        CHECK(json_node(t).number() == static_cast<double>(n));
        CHECK(json_node(t).shown() == std::to_string(n));
        if (n > 0) CHECK(!json_node(t).is_whole(n - 1));
    }
    const json_tree t = parse_json("[-9223372036854775808,-1,-0,1e300,-0.5]", "n");
    CHECK(json_node(t).at(size_t(0)).number() == -9223372036854775808.0);
    CHECK((json_node(t).at(size_t(0)).is_integer() && !json_node(t).at(size_t(0)).is_whole(UINT64_MAX)));
    CHECK(json_node(t).at(1).shown() == "-1");
    CHECK(json_node(t).at(2).whole(0) == 0);
    CHECK(json_node(t).at(3).number() == 1e300);
    CHECK(json_node(t).at(4).number() == -0.5);
}

TEST_CASE("json: members and elements of nested values") {
    const json_tree t =
        parse_json(R"({"z":[[],[1,[2]],{"k":{}}],"a":{"y":"Y","x":["X"]},"":0,"n":null})", "t");
    const json_node root(t);
    CHECK(root.names() == std::vector<std::string>{"", "a", "n", "z"});
    CHECK(root.size() == 4);
    CHECK(root.at("z").size() == 3);
    CHECK(root.at("z").at(1).at(1).at(size_t(0)).whole(9) == 2);
    CHECK(root.at("z").at(1).at(1).at(size_t(0)).field() == "z[1][1][0]");
    CHECK(root.at("z").at(2).at("k").names().empty());
    CHECK(root.at("a").at("x").at(size_t(0)).text() == "X");
    CHECK(root.at("").whole(9) == 0);
    CHECK(!root.has("n"));
    std::string seen;
    root.at("a").each([&](std::string_view name, const json_node &v) {
        seen += std::string(name) + "=" + v.field() + ";";
    });
    root.at("z").each(
        [&](size_t i, const json_node &v) { seen += std::to_string(i) + "=" + v.field() + ";"; });
    CHECK(seen == "x=a.x;y=a.y;0=z[0];1=z[1];2=z[2];");
    const std::string zeros("a\0b", 3), long_text(100000, 'x');
    const json_tree u = parse_json("[\"a\\u0000b\",\"" + long_text + "\",\"\"]", "u");
    CHECK(json_node(u).at(size_t(0)).text() == zeros);
    CHECK(json_node(u).at(1).text() == long_text);
    CHECK(json_node(u).at(2).text().empty());
}

// ---- Time and memory

static std::string header_of(size_t tensors, bool real) {
    std::string out = "{";
    for (size_t i = 0; i < tensors; ++i) {
        if (i > 0) out += ",";
        out +=
            real
                ? format_text(
                      R"("model.layers.%zu.mlp.experts.%zu.down_proj.weight":{"dtype":"BF16","shape":[0,%zu],"data_offsets":[0,0]})",
                      i / 100, i % 100, i)
                : format_text(R"("%zu":{"dtype":"F4","shape":[0],"data_offsets":[0,0]})", i);
    }
    return out + "}";
}

TEST_CASE("json: a header of many tensors takes linear steps") {
    uint64_t last = 0;
    for (const size_t n : {20000, 40000, 80000, 160000}) {
        uint64_t steps = 0;
        parse_json(header_of(n, true), "file", {}, &steps);
        CHECK(steps >= 8 * n);
        CHECK(steps <= 60 * n);  // 11 values and 4 names each, plus sorting the names: n ln n
        if (last > 0) CHECK(steps <= last * 5 / 2);
        last = steps;
    }
    uint64_t steps = 0;
    std::string list = "[{}";
    for (size_t i = 1; i < 150000; ++i) list += ",{}";
    parse_json(list + "]", "file", {}, &steps);
    CHECK(steps == 150001);
    steps = 0;
    std::string one = "{\"0\":0";
    for (size_t i = 1; i < 150000; ++i) one += ",\"" + std::to_string(i) + "\":0";
    parse_json(one + "}", "file", {}, &steps);
    CHECK(steps <= 150000 * 40);  // names compared
}

TEST_CASE("json: reading stops on request") {
    const std::string header = header_of(40000, true);
    int asked = 0;
    const auto stop = [&] { return ++asked == 3; };
    const error e = failure_of([&] { parse_json(header, "file", stop); });
    CHECK(e.code == status::cancelled);
    CHECK(contains(e.text, "file: stopped"));
    CHECK(asked == 3);
    const temp_dir dir;
    write_bytes(dir / "model.safetensors", with_length(header));
    CHECK(failure_of([&] { checkpoint(dir.path, [] { return true; }); }).code == status::cancelled);
    checkpoint_files c("micro/llama");
    c.save(dir / "in", false);
    write_bytes(dir / "in/config.json", header);
    CHECK(failure_of([&] {
              convert(dir / "in", dir / "out.gguf", {},
                      {.progress = [](uint64_t, uint64_t) { return false; }});
          }).code == status::cancelled);
}

TEST_CASE("json: a tree takes at most 8 times the text and 16 MiB, for any text") {
    const size_t n = sanitized ? 3 << 19 : 5 << 20;
    const auto list = [&](const std::function<std::string(size_t)> &element) {
        std::string out = "[" + element(0);
        for (size_t i = 1; out.size() < n; ++i) out += "," + element(i);
        return out + "]";
    };
    const auto members = [&](const std::function<std::string(size_t)> &member) {
        std::string out = list(member);
        out.front() = '{', out.back() = '}';
        return out;
    };
    const std::string texts[] = {
        list([](size_t) { return "0"; }),
        list([](size_t) { return "-1"; }),
        list([](size_t) { return "1e9"; }),
        list([](size_t) { return "null"; }),
        list([](size_t) { return "[]"; }),
        list([](size_t) { return "{}"; }),
        list([](size_t) { return "[0]"; }),
        list([](size_t) { return R"("")"; }),
        list([](size_t) { return R"("abcdefghijklmnopqrst")"; }),
        list([](size_t) { return R"({"":0})"; }),
        list([](size_t) { return "[[[[0]]]]"; }),
        list([](size_t i) { return "\"" + std::string(i % 50 == 0 ? 40000 : 1, 'x') + "\""; }),
        members([](size_t i) { return "\"" + std::to_string(i) + "\":0"; }),
        members([](size_t i) { return "\"" + std::to_string(i) + "\":{}"; }),
        "\"" + std::string(n, 'x') + "\"",
        header_of(60000, true),
        header_of(60000, false),
    };
    for (const std::string &text : texts) {
        const int64_t most = most_bytes([&] { parse_json(text, "file"); });
        CAPTURE(text.substr(0, 20));
        CHECK(most <= static_cast<int64_t>(8 * text.size() + (16 << 20)));
    }
}

TEST_CASE("safetensors: headers and indexes take at most 8 times their size and 16 MiB") {
    const size_t n = sanitized ? 20000 : 80000;
    for (const bool real : {false, true}) {
        const temp_dir dir;
        const std::string header = header_of(n, real), bytes = with_length(header);
        CHECK(most_bytes([&] { CHECK(open_bytes(bytes).tensors().size() == n); }) <=
              static_cast<int64_t>(8 * bytes.size() + (16 << 20)));
        write_bytes(dir / "model.safetensors", bytes);
        CHECK(most_bytes([&] { CHECK(checkpoint(dir.path).tensors().size() == n); }) <=
              static_cast<int64_t>(8 * bytes.size() + (16 << 20)));

        fs::rename(dir / "model.safetensors", dir / "m");
        std::string index = R"({"weight_map":{)";
        json_node(parse_json(header, "")).each([&](std::string_view name, const json_node &) {
            index += (index.back() == '{' ? "\"" : ",\"") + std::string(name) + "\":\"m\"";
        });
        write_bytes(dir / "model.safetensors.index.json", index + "}}");
        CHECK(most_bytes([&] { CHECK(checkpoint(dir.path).tensors().size() == n); }) <=
              static_cast<int64_t>(8 * (bytes.size() + index.size()) + (16 << 20)));
    }
}

TEST_CASE("checkpoint: no number in a small file causes a large allocation") {
    const auto peak = [](const std::function<void(checkpoint_files &)> &change, const char *field) {
        const temp_dir dir;
        checkpoint_files c("micro/llama");
        change(c);
        c.save(dir / "in", false);
        std::string text;
        const int64_t most = most_bytes([&] {
            text = failure_of([&] {
                       convert(dir / "in", dir / "out.gguf",
                               {.type = format::f32, .vocab_only = true, .name = ""}, {});
                   }).text;
        });
        CAPTURE(text);
        CHECK(contains(text, field));
        CHECK(most <= (16 << 20));
    };
    for (const uint64_t n : {uint64_t(1) << 24, (uint64_t(1) << 24) - 1, uint64_t(1) << 20, UINT64_MAX}) {
        peak([&](checkpoint_files &c) { c.config["vocab_size"] = n; }, "vocab_size");
        peak([&](checkpoint_files &c) { c.tokenizer["model"]["vocab"]["zz"] = n; },
             n > (1u << 24) ? "model.vocab.zz" : "vocab_size");
        peak([&](checkpoint_files &c) { c.tokenizer["added_tokens"][0]["id"] = n; }, "id");
        peak(
            [&](checkpoint_files &c) {
                c.config["vocab_size"] = n, c.tokenizer["model"]["vocab"]["zz"] = n - 1;
            },
            "");
    }
}

// ---- Directories

static raw_tensor one_float(const std::string &bytes) { return {"F32", {1}, bytes}; }

TEST_CASE("checkpoint: shards by their index") {
    const temp_dir dir;
    write_bytes(dir / "model-1.safetensors", safetensors_bytes({{"a", one_float("aaaa")}}));
    write_bytes(dir / "model-2.safetensors",
                safetensors_bytes({{"b", one_float("bbbb")}, {"c", one_float("cccc")}}));
    const auto with_map = [&](const nlohmann::json &map) {
        write_bytes(dir / "model.safetensors.index.json",
                    nlohmann::json{{"metadata", {{"total_size", 12}}}, {"weight_map", map}}.dump());
        return checkpoint(dir.path);
    };
    const checkpoint good =
        with_map({{"a", "model-1.safetensors"}, {"b", "model-2.safetensors"}, {"c", "model-2.safetensors"}});
    REQUIRE(good.find("c"));
    CHECK(memcmp(good.find("c")->data, "cccc", 4) == 0);
    CHECK(good.file_name(*good.find("c")) == dir / "model-2.safetensors");
    CHECK(good.find("d") == nullptr);

    const auto fault = [&](const nlohmann::json &map) { return failure_of([&] { with_map(map); }).text; };
    CHECK(contains(fault({{"a", "model-1.safetensors"}, {"b", "model-2.safetensors"}}), "'c': not listed"));
    CHECK(contains(
        fault({{"a", "model-2.safetensors"}, {"b", "model-2.safetensors"}, {"c", "model-2.safetensors"}}),
        "'a': not in"));
    CHECK(contains(fault({{"a", "model-1.safetensors"}, {"d", "model-1.safetensors"}}), "'d': not in"));
    CHECK(contains(fault({{"a", "model-3.safetensors"}}), "model-3.safetensors"));
    CHECK(contains(fault({{"a", "../model-1.safetensors"}}), "not the name of a file"));
    CHECK(contains(fault({{"a", "/etc/passwd"}}), "not the name of a file"));
    CHECK(contains(fault({{"a", ""}}), "not the name of a file"));
    CHECK(contains(fault({{"a", ".."}}), "not the name of a file"));
    CHECK(contains(fault({{"a", "sub/../model-1.safetensors"}}), "not the name of a file"));
    CHECK(contains(fault({{"a", std::string("model-1.safetensors\0.x", 22)}}), "not the name of a file"));
    CHECK(contains(fault({{"a", 1}}), "not a string"));
    CHECK(contains(fault(nlohmann::json::array()), "not an object"));

    write_bytes(dir / "model-2.safetensors", safetensors_bytes({{"a", one_float("bbbb")}}));
    CHECK(contains(fault({{"a", "model-1.safetensors"}, {"b", "model-2.safetensors"}}),
                   "'a': in another file"));
}

TEST_CASE("checkpoint: as many shards as R1 has, with few file descriptors") {
    constexpr int shards = 163;
    const temp_dir dir;
    const auto shard_name = [](int i) { return format_text("model-%05d-of-000163.safetensors", i + 1); };
    nlohmann::json map;
    for (int i = 0; i < shards; ++i) {
        write_bytes(dir / shard_name(i),
                    safetensors_bytes({{"t" + std::to_string(i), one_float(format_text("%04d", i))},
                                       {"u" + std::to_string(i), one_float("uuuu")}}));
        for (const char *const t : {"t", "u"}) map[t + std::to_string(i)] = shard_name(i);
    }
    const auto write_index = [&] {
        write_bytes(dir / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    };
    write_index();
    rlimit old;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
    const int lowest = dup(0);
    REQUIRE(lowest >= 0);
    close(lowest);
    const rlimit few{static_cast<rlim_t>(lowest) + 3, old.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    std::optional<checkpoint> c;
    std::string failed;
    try {
        c.emplace(dir.path);
    } catch (const error &e) {
        failed = e.text;
    }
    REQUIRE(setrlimit(RLIMIT_NOFILE, &old) == 0);
    INFO(failed);
    REQUIRE(c);
    CHECK(c->tensors().size() == 2 * shards);
    for (int i = 0; i < shards; ++i) {
        const safetensor *const t = c->find("t" + std::to_string(i));
        REQUIRE(t);
        CHECK(memcmp(t->data, format_text("%04d", i).data(), 4) == 0);
        CHECK(c->file_name(*t) == dir / shard_name(i));
    }

    map["t7"] = shard_name(100);
    write_index();
    CHECK(contains(failure_of([&] { checkpoint(dir.path); }).text,
                   "index.json: 't7': not in " + (dir / shard_name(100))));
    map["t7"] = shard_name(7);
    write_index();
    fs::remove(dir / shard_name(99));
    const error missing = failure_of([&] { checkpoint(dir.path); });
    CHECK(missing.code == status::io);
    CHECK(contains(missing.text, shard_name(99)));
}

TEST_CASE("checkpoint: the error for a directory without weights names the files that were tried") {
    const temp_dir dir;
    const error e = failure_of([&] { checkpoint c(dir.path); });
    CHECK(e.code == status::io);
    CHECK(contains(e.text, "model.safetensors.index.json"));
}
