// The contract of deepseek.h without engines: pointers, sizes of structures, flags, buffers and texts.
// Loading is in test_api_load.cpp, engines are in test_api_engine.cpp.
#include "../support/api.h"

#include <sys/stat.h>

using namespace golden;

namespace {

std::string metadata(const model_ptr &m, const char *key) {
    size_t n = 0;
    const ds_status s = ds_model_metadata(m.get(), key, nullptr, 0, &n, nullptr);
    CHECK(s == (n ? DS_ERR_BUFFER : DS_OK));
    std::string out(n, '\0');
    MUST(ds_model_metadata(m.get(), key, out.data(), n, &n, &err));
    return out;
}

std::vector<ds_token> tokens_of(const model_ptr &m, std::string_view text, uint32_t flags = 0) {
    std::vector<ds_token> out(text.size() + 8);
    size_t n = 0;
    MUST(ds_tokenize(m.get(), text.data(), text.size(), flags, out.data(), out.size(), &n, &err));
    out.resize(n);
    return out;
}

std::string text_of(const model_ptr &m, const std::vector<ds_token> &tokens, uint32_t flags = 0) {
    std::string out(64 + 64 * tokens.size(), '\0');
    size_t n = 0;
    MUST(ds_detokenize(m.get(), tokens.data(), tokens.size(), flags, out.data(), out.size(), &n, &err));
    out.resize(n);
    return out;
}

// The token whose text is this one byte.
ds_token byte_token(const model_ptr &m, int byte) {
    for (ds_token t = 0; t < 512; ++t) {
        const char *bytes;
        size_t n;
        MUST(ds_token_bytes(m.get(), t, 0, &bytes, &n, &err));
        if (n == 1 && static_cast<unsigned char>(*bytes) == byte) return t;
    }
    FAIL("no token for the byte");
    return -1;
}

// Checks a call that fills a buffer: with one that is too small it writes nothing and reports the size;
// otherwise it writes that many elements and no more.
template <class T> void check_buffer(const std::function<ds_status(T *, size_t, size_t *)> &f,
                                     const std::vector<T> &expected, T sentinel) {
    for (size_t capacity = 0; capacity <= expected.size() + 3; ++capacity) {
        std::vector<T> buffer(expected.size() + 8, sentinel);
        size_t n = SIZE_MAX;
        const bool fits = capacity >= expected.size();
        CHECK(f(capacity ? buffer.data() : nullptr, capacity, &n) == (fits ? DS_OK : DS_ERR_BUFFER));
        CHECK(n == expected.size());
        std::vector<T> wanted(buffer.size(), sentinel);
        if (fits) std::copy(expected.begin(), expected.end(), wanted.begin());
        CHECK(buffer == wanted);
    }
}

std::vector<char> chars(std::string_view s) { return {s.begin(), s.end()}; }

}  // namespace

TEST_CASE("api: version and names of statuses") {
    CHECK(std::string(ds_version()) == DS_VERSION);
    CHECK(ds_abi_version() == DS_ABI_VERSION);
    CHECK(std::string(ds_status_name(DS_OK)) == "DS_OK");
    CHECK(std::string(ds_status_name(DS_ERR_ARGUMENT)) == "DS_ERR_ARGUMENT");
    CHECK(std::string(ds_status_name(DS_ERR_BUSY)) == "DS_ERR_BUSY");
    CHECK(std::string(ds_status_name(DS_ERR_INTERNAL)) == "DS_ERR_INTERNAL");
    CHECK(std::string(ds_status_name(DS_ERR_NO_DEVICE)) == "DS_ERR_NO_DEVICE");
    for (const int bad : {-1, 15, 16})
        CHECK(std::string(ds_status_name(static_cast<ds_status>(bad))) == "unknown");
}

TEST_CASE("api: NULL where it is refused and where it is allowed") {
    const model_ptr m = bundled();
    ds_model *out = nullptr;
    ds_model_info info{};
    info.struct_size = sizeof info;
    ds_decoder *d = nullptr;
    MUST(ds_decoder_new(m.get(), 0, &d, &err));
    ds_token token = 5;
    char text[8];
    const char *p = nullptr;
    size_t n = 0;

    check_argument("path", [&](ds_error *e) { return ds_model_load(nullptr, nullptr, &out, e); });
    check_argument("out", [&](ds_error *e) { return ds_model_load(bundled_path, nullptr, nullptr, e); });
    check_argument("out", [&](ds_error *e) { return ds_model_load_fd(0, nullptr, nullptr, e); });
    check_argument("data", [&](ds_error *e) { return ds_model_load_memory(nullptr, 100, nullptr, &out, e); });
    check_argument("out", [&](ds_error *e) { return ds_model_load_memory(text, 8, nullptr, nullptr, e); });
    check_argument("model", [&](ds_error *e) { return ds_model_get_info(nullptr, &info, e); });
    check_argument("info", [&](ds_error *e) { return ds_model_get_info(m.get(), nullptr, e); });
    check_argument("model",
                   [&](ds_error *e) { return ds_model_metadata(nullptr, "general.name", text, 8, &n, e); });
    check_argument("key", [&](ds_error *e) { return ds_model_metadata(m.get(), nullptr, text, 8, &n, e); });
    check_argument(
        "size", [&](ds_error *e) { return ds_model_metadata(m.get(), "general.name", text, 8, nullptr, e); });
    check_argument(
        "buffer", [&](ds_error *e) { return ds_model_metadata(m.get(), "general.name", nullptr, 8, &n, e); });
    check_argument("model", [&](ds_error *e) { return ds_tokenize(nullptr, "a", 1, 0, &token, 1, &n, e); });
    check_argument("text",
                   [&](ds_error *e) { return ds_tokenize(m.get(), nullptr, 1, 0, &token, 1, &n, e); });
    check_argument("tokens", [&](ds_error *e) { return ds_tokenize(m.get(), "a", 1, 0, nullptr, 1, &n, e); });
    check_argument("count",
                   [&](ds_error *e) { return ds_tokenize(m.get(), "a", 1, 0, &token, 1, nullptr, e); });
    check_argument("model",
                   [&](ds_error *e) { return ds_detokenize(nullptr, &token, 1, 0, text, 8, &n, e); });
    check_argument("tokens",
                   [&](ds_error *e) { return ds_detokenize(m.get(), nullptr, 1, 0, text, 8, &n, e); });
    check_argument("text",
                   [&](ds_error *e) { return ds_detokenize(m.get(), &token, 1, 0, nullptr, 8, &n, e); });
    check_argument("size",
                   [&](ds_error *e) { return ds_detokenize(m.get(), &token, 1, 0, text, 8, nullptr, e); });
    check_argument("model", [&](ds_error *e) { return ds_token_bytes(nullptr, 1, 0, &p, &n, e); });
    check_argument("bytes", [&](ds_error *e) { return ds_token_bytes(m.get(), 1, 0, nullptr, &n, e); });
    check_argument("size", [&](ds_error *e) { return ds_token_bytes(m.get(), 1, 0, &p, nullptr, e); });
    check_argument("model", [&](ds_error *e) { return ds_decoder_new(nullptr, 0, &d, e); });
    check_argument("out", [&](ds_error *e) { return ds_decoder_new(m.get(), 0, nullptr, e); });
    check_argument("decoder", [&](ds_error *e) { return ds_decoder_push(nullptr, 1, &p, &n, e); });
    check_argument("text", [&](ds_error *e) { return ds_decoder_push(d, 1, nullptr, &n, e); });
    check_argument("size", [&](ds_error *e) { return ds_decoder_push(d, 1, &p, nullptr, e); });
    check_argument("decoder", [&](ds_error *e) { return ds_decoder_finish(nullptr, &p, &n, e); });
    check_argument("text", [&](ds_error *e) { return ds_decoder_finish(d, nullptr, &n, e); });
    check_argument("size", [&](ds_error *e) { return ds_decoder_finish(d, &p, nullptr, e); });
    check_argument("model",
                   [&](ds_error *e) { return ds_chat_render(nullptr, &hello, 1, nullptr, text, 8, &n, e); });
    check_argument("messages",
                   [&](ds_error *e) { return ds_chat_render(m.get(), nullptr, 1, nullptr, text, 8, &n, e); });
    check_argument(
        "text", [&](ds_error *e) { return ds_chat_render(m.get(), &hello, 1, nullptr, nullptr, 8, &n, e); });
    check_argument("size", [&](ds_error *e) {
        return ds_chat_render(m.get(), &hello, 1, nullptr, text, 8, nullptr, e);
    });
    check_argument("model", [&](ds_error *e) {
        return ds_chat_tokenize(nullptr, &hello, 1, nullptr, &token, 1, &n, e);
    });
    check_argument("messages", [&](ds_error *e) {
        return ds_chat_tokenize(m.get(), nullptr, 1, nullptr, &token, 1, &n, e);
    });
    check_argument("tokens", [&](ds_error *e) {
        return ds_chat_tokenize(m.get(), &hello, 1, nullptr, nullptr, 1, &n, e);
    });
    check_argument("token_count", [&](ds_error *e) {
        return ds_chat_tokenize(m.get(), &hello, 1, nullptr, &token, 1, nullptr, e);
    });

    // Outputs are unchanged.
    CHECK((out == nullptr && token == 5 && p == nullptr && n == 0));
    ds_model_free(nullptr);
    ds_decoder_free(nullptr);
    CHECK(ds_model_metadata_count(nullptr) == 0);
    CHECK(ds_model_metadata_key(nullptr, 0) == nullptr);
    CHECK(ds_token_special(nullptr, DS_SPECIAL_BOS) == -1);
    CHECK(ds_token_is_end(nullptr, 0) == 0);
    CHECK(ds_tokenize(m.get(), nullptr, 0, 0, nullptr, 0, &n, nullptr) == DS_OK);
    CHECK(ds_detokenize(m.get(), nullptr, 0, 0, nullptr, 0, &n, nullptr) == DS_OK);
    ds_decoder_free(d);
}

TEST_CASE("api: structures of earlier versions, which are shorter") {
    const model_ptr m = bundled();
    ds_model_info whole{}, part;
    whole.struct_size = sizeof whole;
    MUST(ds_model_get_info(m.get(), &whole, &err));
    for (size_t size = 8; size <= sizeof whole; size += 8) {
        std::memset(&part, 0x55, sizeof part);
        part.struct_size = size;
        MUST(ds_model_get_info(m.get(), &part, &err));
        CHECK(part.struct_size == size);
        CHECK(std::memcmp(part.architecture, whole.architecture, size - 8) == 0);
        for (size_t i = size; i < sizeof part; ++i) CHECK(reinterpret_cast<const char *>(&part)[i] == 0x55);
    }
    ds_chat_config c{};
    c.thinking = DS_THINKING_OFF;
    c.chat_template = "no such template";
    char text[512];
    size_t n = 0;
    c.struct_size = offsetof(ds_chat_config, chat_template);  // the fields after it are not read
    MUST(ds_chat_render(m.get(), &hello, 1, &c, text, sizeof text, &n, &err));
    CHECK(std::string_view(text, n).find("</think>") != std::string_view::npos);
    c.struct_size = 8;
    MUST(ds_chat_render(m.get(), &hello, 1, &c, text, sizeof text, &n, &err));
    CHECK(std::string_view(text, n).find("</think>") == std::string_view::npos);
    c.struct_size = sizeof c;
    check_fails(DS_ERR_UNSUPPORTED, "template", [&](ds_error *e) {
        return ds_chat_render(m.get(), &hello, 1, &c, text, sizeof text, &n, e);
    });
}

TEST_CASE("api: sizes of structures, and unknown flags") {
    const model_ptr m = bundled();
    ds_model *out = nullptr;
    char text[512];
    size_t n = 0;
    struct longer_model {
        ds_model_config c;
        char tail[24];
    } lm{};
    struct longer_chat {
        ds_chat_config c;
        char tail[24];
    } lc{};
    const auto load_it = [&](ds_error *e) { return ds_model_load(bundled_path, &lm.c, &out, e); };
    const auto render_it = [&](ds_error *e) {
        return ds_chat_render(m.get(), &hello, 1, &lc.c, text, sizeof text, &n, e);
    };
    for (const size_t size : {size_t{0}, size_t{1}, size_t{7}, size_t{12}, sizeof(ds_model_config) - 1,
                              size_t{65537}, SIZE_MAX}) {
        lm.c.struct_size = size;
        check_argument("config.struct_size", load_it);
    }
    for (const size_t size : {size_t{0}, sizeof(ds_chat_config) - 1, size_t{65537}}) {
        lc.c.struct_size = size;
        check_argument("config.struct_size", render_it);
    }
    lm.c.struct_size = sizeof lm;
    lc.c.struct_size = sizeof lc;
    lm.tail[5] = 1;
    lc.tail[0] = -1;
    check_argument("byte " + std::to_string(offsetof(longer_model, tail) + 5), load_it);
    check_argument("byte " + std::to_string(offsetof(longer_chat, tail)), render_it);
    CHECK(out == nullptr);
    lm.tail[5] = lc.tail[0] = 0;
    MUST(load_it(&err));
    ds_model_free(out);
    MUST(render_it(&err));

    for (const uint32_t flags : {4u, 0x80000000u}) {
        lm.c.flags = flags;
        check_argument("flags", load_it);
    }
    ds_token token = 0;
    const char *p = nullptr;
    ds_decoder *d = nullptr;
    lc.c.flags = 2;
    check_argument("flags", render_it);
    check_argument("flags", [&](ds_error *e) { return ds_tokenize(m.get(), "a", 1, 4, &token, 1, &n, e); });
    check_argument("flags",
                   [&](ds_error *e) { return ds_detokenize(m.get(), &token, 1, 2, text, 8, &n, e); });
    check_argument("flags", [&](ds_error *e) { return ds_token_bytes(m.get(), 1, 2, &p, &n, e); });
    check_argument("flags", [&](ds_error *e) { return ds_decoder_new(m.get(), 2, &d, e); });

    struct longer_info {
        ds_model_info i;
        char tail[16];
    } li;
    for (const size_t size : {size_t{0}, sizeof(ds_model_info) - 1, size_t{65537}}) {
        std::memset(&li, 0x55, sizeof li);
        li.i.struct_size = size;
        check_argument("info.struct_size", [&](ds_error *e) { return ds_model_get_info(m.get(), &li.i, e); });
        CHECK((li.i.layers == 0x55555555 && li.i.name[0] == 0x55));
    }
    li.i.struct_size = sizeof li;
    MUST(ds_model_get_info(m.get(), &li.i, &err));
    CHECK((li.i.struct_size == sizeof li && li.i.layers == 4));
    for (const char c : li.tail) CHECK(c == 0);  // bytes beyond our structure are zeroed
}

TEST_CASE("api: a buffer that is too small is left alone, and the needed size is reported") {
    const model_ptr m = bundled();
    const std::string prompt = "<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜><think>\n";
    const std::vector<ds_token> ids = tokens_of(m, "What is 37 + 85?"),
                                chat = tokens_of(m, prompt, DS_TOKENIZE_SPECIAL);
    REQUIRE(ids.size() > 4);
    check_buffer<ds_token>(
        [&](ds_token *to, size_t room, size_t *n) {
            return ds_tokenize(m.get(), "What is 37 + 85?", 16, 0, to, room, n, nullptr);
        },
        ids, -7);
    check_buffer<char>(
        [&](char *to, size_t room, size_t *n) {
            return ds_detokenize(m.get(), ids.data(), ids.size(), 0, to, room, n, nullptr);
        },
        chars("What is 37 + 85?"), '#');
    check_buffer<char>(
        [&](char *to, size_t room, size_t *n) {
            return ds_model_metadata(m.get(), "general.name", to, room, n, nullptr);
        },
        chars("tiny-r1"), '#');
    check_buffer<char>(
        [&](char *to, size_t room, size_t *n) {
            return ds_chat_render(m.get(), &hello, 1, nullptr, to, room, n, nullptr);
        },
        chars(prompt), '#');
    check_buffer<ds_token>(
        [&](ds_token *to, size_t room, size_t *n) {
            return ds_chat_tokenize(m.get(), &hello, 1, nullptr, to, room, n, nullptr);
        },
        chat, -7);
    size_t n = 0;
    check_fails(DS_ERR_BUFFER, "needs room for 7, has 3", [&](ds_error *e) {
        char c[3];
        return ds_model_metadata(m.get(), "general.name", c, 3, &n, e);
    });
}

TEST_CASE(
    "api: messages are well-formed UTF-8, on one line when they name a path, and truncated at a character") {
    ds_model *m = nullptr;
    for (size_t i = 0; i < 4; ++i) {
        std::string path = "/" + std::string(i, 'x');
        while (path.size() < 1500) path += "/€é𝄞";
        check_fails(DS_ERR_IO, "€é𝄞",
                    [&](ds_error *e) { return ds_model_load(path.c_str(), nullptr, &m, e); });
        ds_error err;
        ds_model_load(path.c_str(), nullptr, &m, &err);
        CHECK(std::strlen(err.message) > sizeof err.message - 5);
    }
    check_fails(DS_ERR_IO, "\uFFFD",
                [&](ds_error *e) { return ds_model_load("/no\xff such\xe2\x82", nullptr, &m, e); });
    const temp_file plain;
    const std::string odd = plain.path + "\n\xf0x";
    REQUIRE(link(plain.path.c_str(), odd.c_str()) == 0);
    check_fails(DS_ERR_FORMAT, plain.path + " \uFFFDx: header magic: ", [&](ds_error *e) {
        return ds_model_load(odd.c_str(), nullptr, &m, e);
    });
    unlink(odd.c_str());
}

TEST_CASE("api: model information") {
    const model_ptr m = bundled();
    ds_model_info i{};
    i.struct_size = sizeof i;
    MUST(ds_model_get_info(m.get(), &i, &err));
    CHECK(std::string(i.architecture) == "llama");
    CHECK(std::string(i.name) == "tiny-r1");
    CHECK(std::string(i.weights) == "q8_0");
    CHECK(std::string(ds_chat_templates()).find(i.chat_template) != std::string::npos);
    CHECK(i.chat_template[0] != 0);
    CHECK((i.context_length == 512 && i.vocabulary == 512 && i.layers == 4 && i.hidden_size == 160 &&
           i.heads == 5 && i.kv_heads == 5));
    CHECK((i.head_size == 32 && i.feed_forward_size == 448));
    const uint64_t matrices = 2 * 512 * 160 + 4 * (4 * 160 * 160 + 3 * 448 * 160), norms = 160 + 4 * 2 * 160;
    CHECK(i.parameters == matrices + norms);
    CHECK(i.weight_bytes == matrices / 32 * 34 + 4 * norms);
    struct stat file;
    REQUIRE(stat(bundled_path, &file) == 0);
    CHECK(i.file_bytes == static_cast<uint64_t>(file.st_size));

    const model_ptr vocabulary = bundled(DS_LOAD_VOCAB_ONLY);
    MUST(ds_model_get_info(vocabulary.get(), &i, &err));
    CHECK(
        (i.vocabulary == 512 && i.layers == 0 && i.context_length == 0 && i.heads == 0 && i.head_size == 0));
    CHECK(tokens_of(vocabulary, "What is 37 + 85?") == tokens_of(m, "What is 37 + 85?"));

    model_file f = micro_file("micro/llama");
    std::string name;
    while (name.size() < 200) name += "é";
    f.keys.set_string("general.name", "x" + name);
    MUST(ds_model_get_info(hold(f).model.get(), &i, &err));
    CHECK(std::string(i.name) == "x" + name.substr(0, 126));
    f.keys.set_string("general.name", name);
    MUST(ds_model_get_info(hold(f).model.get(), &i, &err));
    CHECK(std::string(i.name) == name.substr(0, 126));
    f.keys.set_string("general.name", "a\xc3|\xff"
                                      "b");
    f.keys.set_string("tokenizer.chat_template", "{{ nothing known }}");
    MUST(ds_model_get_info(hold(f).model.get(), &i, &err));
    CHECK(std::string(i.name) == "a\uFFFD|\uFFFDb");
    CHECK(i.chat_template[0] == 0);
    CHECK(std::string(i.weights) == "f32");
}

TEST_CASE("api: metadata in the file's order, as text") {
    const model_ptr m = bundled();
    REQUIRE(ds_model_metadata_count(m.get()) == 28);
    CHECK(std::string(ds_model_metadata_key(m.get(), 0)) == "general.architecture");
    CHECK(std::string(ds_model_metadata_key(m.get(), 27)) == "general.quantization_version");
    for (const size_t i : {size_t{28}, SIZE_MAX}) CHECK(ds_model_metadata_key(m.get(), i) == nullptr);
    for (size_t i = 0; i < 28; ++i) CHECK(!metadata(m, ds_model_metadata_key(m.get(), i)).empty());
    CHECK(metadata(m, "llama.block_count") == "4");
    CHECK(metadata(m, "llama.attention.layer_norm_rms_epsilon") == "1e-05");
    CHECK(metadata(m, "tokenizer.ggml.add_bos_token") == "true");
    const std::string types = metadata(m, "tokenizer.ggml.token_type");
    CHECK(types.substr(0, 7) == "[1, 1, ");
    CHECK(std::count(types.begin(), types.end(), ',') == 64);  // 64 elements are shown, then "…"
    CHECK(types.substr(types.size() - 6) == ", …]");
    size_t n = 3;
    for (const char *key : {"", "general", "no.such\nkey"})
        check_argument("has no key",
                       [&](ds_error *e) { return ds_model_metadata(m.get(), key, nullptr, 0, &n, e); });
    CHECK(n == 3);
}

TEST_CASE("api: tokens in and out of range") {
    const model_ptr m = bundled();
    CHECK(ds_token_special(m.get(), DS_SPECIAL_BOS) == 477);
    CHECK(ds_token_special(m.get(), DS_SPECIAL_EOS) == 478);
    CHECK(ds_token_special(m.get(), DS_SPECIAL_PAD) == 478);
    CHECK(ds_token_special(m.get(), DS_SPECIAL_UNKNOWN) == -1);
    for (const int bad : {-1, 4, 7}) CHECK(ds_token_special(m.get(), static_cast<ds_special>(bad)) == -1);
    CHECK(ds_token_is_end(m.get(), 478));
    char text[64];
    const char *p = nullptr;
    size_t n = 9;
    ds_decoder *d = nullptr;
    MUST(ds_decoder_new(m.get(), 0, &d, &err));
    for (const ds_token bad : {-1, 512, INT32_MIN, INT32_MAX}) {
        const std::string value = std::to_string(bad);
        CHECK(!ds_token_is_end(m.get(), bad));
        check_argument(value, [&](ds_error *e) { return ds_token_bytes(m.get(), bad, 0, &p, &n, e); });
        check_argument(value, [&](ds_error *e) { return ds_decoder_push(d, bad, &p, &n, e); });
        const ds_token list[] = {0, bad};
        check_argument("token 1: is " + value, [&](ds_error *e) {
            return ds_detokenize(m.get(), list, 2, 0, text, sizeof text, &n, e);
        });
    }
    CHECK((p == nullptr && n == 9));
    ds_decoder_free(d);
    for (ds_token t = 0; t < 512; ++t) {
        MUST(ds_token_bytes(m.get(), t, 0, &p, &n, &err));
        CHECK(p != nullptr);
    }
    CHECK(text_of(m, {477, 478}).empty());
    CHECK(text_of(m, {477}, DS_DETOKENIZE_SPECIAL) == "<｜begin▁of▁sentence｜>");
    CHECK(tokens_of(m, "", DS_TOKENIZE_BOS) == std::vector<ds_token>{477});
    CHECK(tokens_of(m, "<｜begin▁of▁sentence｜>", DS_TOKENIZE_SPECIAL) == std::vector<ds_token>{477});
    CHECK(tokens_of(m, "<｜begin▁of▁sentence｜>").size() > 5);
    // refused before any byte is read
    for (const size_t size : {(size_t{1} << 29) + 1, (size_t{1} << 31) + 1, SIZE_MAX})
        check_fails(DS_ERR_TOO_LONG, std::to_string(size),
                    [&](ds_error *e) { return ds_tokenize(m.get(), "a", size, 0, nullptr, 0, &n, e); });
}

TEST_CASE("api: characters spread over tokens are released whole, invalid ones as U+FFFD") {
    model_ptr m = bundled();
    const std::string text = "a😀é\u2581z";
    std::vector<ds_token> bytes;
    for (const char c : text) bytes.push_back(byte_token(m, static_cast<unsigned char>(c)));
    CHECK(text_of(m, bytes) == text);
    ds_decoder *d = nullptr;
    MUST(ds_decoder_new(m.get(), 0, &d, &err));
    const ds_token e2 = byte_token(m, 0xe2), x82 = byte_token(m, 0x82), xff = byte_token(m, 0xff),
                   a = byte_token(m, 'a');
    CHECK(text_of(m, {e2, x82, a}) == "\uFFFDa");  // one U+FFFD for a truncated sequence
    CHECK(text_of(m, {xff, xff, x82, a, e2}) == "\uFFFD\uFFFD\uFFFDa\uFFFD");
    m.reset();  // the decoder keeps the vocabulary alive
    std::string all;
    const char *p = nullptr;
    size_t n = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
        MUST(ds_decoder_push(d, bytes[i], &p, &n, &err));
        CHECK(well_formed({p, n}));
        all.append(p, n);
        if (i >= 1 && i <= 3) CHECK(n == 0);
        if (i == 4) CHECK(std::string(p, n) == "😀");
    }
    CHECK(all == text);
    for (int again = 0; again < 2; ++again) {
        MUST(ds_decoder_push(d, e2, &p, &n, &err));
        CHECK(n == 0);
        MUST(ds_decoder_finish(d, &p, &n, &err));
        CHECK(std::string(p, n) == "\uFFFD");
        MUST(ds_decoder_finish(d, &p, &n, &err));
        CHECK(n == 0);
        MUST(ds_decoder_push(d, a, &p, &n, &err));  // a new text
        CHECK(std::string(p, n) == "a");
    }
    ds_decoder_free(d);
}

TEST_CASE("api: chat prompts and their errors") {
    const model_ptr m = bundled();
    char text[1024];
    size_t n = 0;
    const auto render = [&](std::vector<ds_message> list, const ds_chat_config *c) {
        return [&m, &text, &n, list, c](ds_error *e) {
            return ds_chat_render(m.get(), list.data(), list.size(), c, text, sizeof text, &n, e);
        };
    };
    check_argument("messages", [&](ds_error *e) {
        return ds_chat_render(m.get(), &hello, 0, nullptr, text, sizeof text, &n, e);
    });
    check_argument("'wizard'", render({hello, {"wizard", "x"}}, nullptr));
    check_argument("role", render({{nullptr, "x"}}, nullptr));
    check_argument("content", render({{"user", nullptr}}, nullptr));
    ds_chat_config c{};
    c.struct_size = sizeof c;
    for (const int bad : {-1, 3, INT32_MAX}) {
        std::memcpy(&c.thinking, &bad, sizeof bad);
        check_argument("thinking", render({hello}, &c));
    }
    c.thinking = DS_THINKING_OFF;
    MUST(render({hello}, &c)(&err));
    CHECK(std::string(text, n).find("<think>\n\n</think>") != std::string::npos);
    c.thinking = DS_THINKING_DEFAULT;
    c.chat_template = "no such";
    check_fails(DS_ERR_UNSUPPORTED, ds_chat_templates(), render({hello}, &c));
    c.chat_template = nullptr;
    c.flags = DS_CHAT_NO_GENERATION_PROMPT;
    MUST(render({hello}, &c)(&err));
    CHECK(std::string(text, n) == "<｜begin▁of▁sentence｜><｜User｜>Hello");
    MUST(render({{"user", "\xff!"}}, &c)(&err));
    CHECK(std::string(text, n) == "<｜begin▁of▁sentence｜><｜User｜>\uFFFD!");

    model_file f = micro_file("micro/llama");
    f.keys.erase("tokenizer.chat_template");
    const held_model none = hold(f);
    check_fails(DS_ERR_UNSUPPORTED, ds_chat_templates(), [&](ds_error *e) {
        return ds_chat_render(none.model.get(), &hello, 1, nullptr, text, sizeof text, &n, e);
    });
}
