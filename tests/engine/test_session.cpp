// Sessions: a restored session continues with the same bits, and only for its client. Files that are damaged,
// truncated or of another model are refused and change nothing. Neither a full disk nor lack of memory loses
// a page.
#include "../support/allocations.h"
#include "../support/answers.h"
#include "../support/api.h"
#include "../support/files.h"

#include "../../llm/engine/session.h"

#include <cmath>
#include <csignal>
#include <random>
#include <sys/resource.h>
#include <sys/stat.h>

using namespace golden;
using ds::session_header;
using ds::test::file_bytes;
using ds::test::temp_dir;
using ds::test::with_failing;
using ds::test::write_bytes;

namespace {

answer ask(const engine_ptr &e, const std::vector<ds_token> &prompt, uint32_t n, size_t vocab,
           uint64_t client = 0, uint32_t flags = 0) {
    full_request r = request(prompt);
    r.flags = flags | DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
    r.max_new_tokens = n;
    r.client_id = client;
    return ask(e, r, vocab);
}

size_t save(const engine_ptr &e, const std::vector<ds_token> &tokens, const std::string &path,
            uint64_t client = 0) {
    size_t positions = 77;
    MUST(ds_engine_save_session(e.get(), tokens.data(), tokens.size(), client, path.c_str(), &positions,
                                &err));
    return positions;
}

// Returns the restored positions, and checks the tokens.
size_t restore(const engine_ptr &e, const std::string &path, const std::vector<ds_token> &tokens,
               uint64_t client = 0) {
    std::vector<ds_token> got(tokens.size());
    size_t count = 0, positions = 77;
    MUST(ds_engine_restore_session(e.get(), path.c_str(), client, got.data(), got.size(), &count, &positions,
                                   &err));
    CHECK(count == tokens.size());
    CHECK(got == tokens);
    return positions;
}

size_t forget(const engine_ptr &e, const std::vector<ds_token> &tokens, uint64_t client = 0) {
    size_t pages = 77;
    MUST(ds_engine_forget_session(e.get(), tokens.data(), tokens.size(), client, &pages, &err));
    return pages;
}

std::vector<ds_token> first(const std::vector<ds_token> &ids, size_t n) {
    return {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(n)};
}

ds_engine_config small(uint64_t pages) {
    ds_engine_config c = engine_config();
    c.max_requests = 2;
    c.kv_tokens = pages * 64;
    return c;
}

// A model, a session of three full pages and a few tokens, and an empty engine to restore it into.
struct scene {
    temp_dir d;
    std::string path = d / "session";
    model_ptr m;
    data golden_data;
    std::vector<ds_token> ids = first(golden_data.ids, 200);
    size_t vocab = golden_data.vocab;
    engine_ptr e;

    explicit scene(ds_kv_type kv = DS_KV_F16, const char *name = "micro/qwen2")
        : m(model(name, ds::format::f32)), golden_data(load(name)) {
        ds_engine_config c = small(8);
        c.kv_type = kv;
        const engine_ptr made = engine(m, c);
        ask(made, ids, 1, vocab);
        REQUIRE(save(made, ids, path) == 192);
        e = engine(m, c);
    }
    bool untouched() const {
        const ds_engine_stats s = stats_of(e);
        return s.pages_cached == 0 && s.pages_free == s.pages_total;
    }
};

}  // namespace

TEST_CASE("session: restored, it continues with the same bits for every type of pages and in an engine with "
          "other settings") {
    const temp_dir d;
    for (const char *name : {"tiny-r1", "micro/deepseek-r1", "micro/r1"}) {
        CAPTURE(name);
        const data g = load(name);
        const model_ptr m = model(name, ds::format::q8_0);
        const std::vector<ds_token> ids = first(g.ids, 150);
        for (const ds_kv_type kv : {DS_KV_F32, DS_KV_F16, DS_KV_INT8}) {
            CAPTURE(kv);
            ds_engine_config c = small(8);
            c.kv_type = kv;
            const std::string path = d / "session";
            answer expected;
            {
                const engine_ptr e = engine(m, c);
                expected = ask(e, ids, 16, g.vocab, 0, DS_REQUEST_NO_CACHE);
                CHECK(save(e, ids, path) == 0);  // only the tokens: no page is cached
                CHECK(ask(e, ids, 1, g.vocab, 3).cached == 0);
                CHECK(save(e, ids, path, 3) == 128);
            }
            REQUIRE(expected.tokens.size() == 16);
            c.threads = 2;
            c.step_tokens = 20;
            c.isa = "scalar";
            c.kv_tokens = 20 * 64;
            const engine_ptr e = engine(m, c);
            CHECK(restore(e, path, ids, 9) == 128);
            const answer other = ask(e, ids, 16, g.vocab, 3), a = ask(e, ids, 16, g.vocab, 9);
            CHECK(other.cached == 0);  // another client's
            CHECK(a.cached == 128);
            for (const answer *x : {&other, &a}) {
                CHECK(x->tokens == expected.tokens);
                CHECK(same_bits(x->logits, expected.logits));
            }
        }
    }
}

TEST_CASE("session: without pages only its tokens are saved; a full page at the end is used too") {
    scene s;
    const std::vector<ds_token> few = first(s.ids, 63), whole = first(s.ids, 128);
    CHECK(save(s.e, few, s.path) == 0);
    CHECK(restore(s.e, s.path, few) == 0);
    CHECK(s.untouched());
    const answer expected = ask(s.e, whole, 3, s.vocab, 0, DS_REQUEST_NO_CACHE);
    ask(s.e, whole, 1, s.vocab);
    CHECK(save(s.e, whole, s.path) == 128);
    CHECK(forget(s.e, whole) == 2);
    CHECK(restore(s.e, s.path, whole) == 128);
    const answer a = ask(s.e, whole, 3, s.vocab);
    CHECK(a.cached == 127);  // the last token's logits are needed
    CHECK(same_bits(a.logits, expected.logits));
}

TEST_CASE("session: spilled and back: forgetting frees pages that no other sequence needs") {
    scene s;
    std::vector<ds_token> talk = s.ids;
    const answer a = ask(s.e, talk, 30, s.vocab);
    // 230: three full pages and part of one
    talk.insert(talk.end(), a.tokens.begin(), a.tokens.end());
    const uint64_t cached_pages = stats_of(s.e).pages_cached;
    CHECK(cached_pages == 4);
    // another known sequence continues from there: this one
    CHECK(forget(s.e, first(talk, 100)) == 0);
    CHECK(forget(s.e, talk, 5) == 0);
    CHECK(save(s.e, talk, s.path) == 192);
    CHECK(forget(s.e, talk) == 4);
    CHECK(s.untouched());
    CHECK(restore(s.e, s.path, talk) == 192);
    CHECK(stats_of(s.e).pages_cached == 3);
    CHECK(restore(s.e, s.path, talk) == 192);  // they are cached already
    CHECK(stats_of(s.e).pages_cached == 3);
    const answer again = ask(s.e, talk, 8, s.vocab),
                 expected = ask(s.e, talk, 8, s.vocab, 0, DS_REQUEST_NO_CACHE);
    CHECK(again.cached == 192);
    CHECK(same_bits(again.logits, expected.logits));

    talk.insert(talk.end(), again.tokens.begin(), again.tokens.end());
    std::vector<ds_token> branch = first(talk, 128);
    branch.insert(branch.end(), 70, talk[5]);
    ask(s.e, branch, 1, s.vocab);
    const uint64_t before = stats_of(s.e).pages_cached;
    // all but two pages, which the branch continues with two more
    CHECK(forget(s.e, talk) == before - 4);
    CHECK(stats_of(s.e).pages_cached == 4);
    CHECK(forget(s.e, branch) == 4);
    CHECK(s.untouched());
}

TEST_CASE("session: pages that a request holds are not freed, and can be saved while it runs") {
    scene s;
    full_request r = request(s.ids);
    r.flags = DS_REQUEST_IGNORE_END;
    r.max_new_tokens = 5;
    ds_request_id id;
    MUST(ds_engine_submit(s.e.get(), &r, &id, &err));
    const ds_event *const *events;
    size_t count;
    MUST(ds_engine_step(s.e.get(), &events, &count, &err));
    CHECK(forget(s.e, s.ids) == 0);
    CHECK(save(s.e, s.ids, s.path) == 192);
    CHECK(restore(s.e, s.path, s.ids) == 192);
    CHECK(stats_of(s.e).pages_cached == 0);
    run(s.e, [](const ds_event &) {});
    CHECK(forget(s.e, s.ids) == 0);  // the answer continues it in the last page
    CHECK(stats_of(s.e).pages_cached == 4);
    MUST(ds_engine_trim(s.e.get(), 0, &err));
    CHECK(restore(s.e, s.path, s.ids) == 192);
    CHECK(ask(s.e, s.ids, 1, s.vocab).cached == 192);
}

TEST_CASE(
    "session: in a pool with less room only the beginning is restored, in place of older cached pages") {
    const scene s;
    const std::vector<ds_token> other(100, 7);
    const answer expected = ask(s.e, s.ids, 2, s.vocab);
    ds_engine_config c = small(4);
    c.kv_type = DS_KV_F16;
    const engine_ptr e = engine(s.m, c);
    ask(e, other, 1, s.vocab, 4);
    CHECK(stats_of(e).pages_cached == 2);
    full_request r = request(other);
    r.max_new_tokens = 20;
    r.flags = DS_REQUEST_NO_CACHE | DS_REQUEST_IGNORE_END;
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    const ds_event *const *events;
    size_t count;
    MUST(ds_engine_step(e.get(), &events, &count, &err));
    CHECK(restore(e, s.path, s.ids) == 128);  // two pages are in use
    CHECK((stats_of(e).pages_cached == 2 && stats_of(e).pages_free == 2));
    run(e, [](const ds_event &) {});
    CHECK(restore(e, s.path, s.ids) == 192);  // now pages are free
    const answer a = ask(e, s.ids, 2, s.vocab);
    CHECK(a.cached == 192);
    CHECK(same_bits(a.logits, expected.logits));
    CHECK(stats_of(e).pages_free == 4);
}

// ---- Invalid files

namespace {

// A session file that can be changed, with its checksums recomputed.
struct forged {
    std::string bytes;
    session_header h;

    explicit forged(std::string b) : bytes(std::move(b)) { std::memcpy(&h, bytes.data(), sizeof h); }
    size_t page_at(size_t i) const { return sizeof h + h.tokens * 4 + i * (h.page_bytes + 8); }
    // Offsets of the scales in i8 page i: each layer's keys and then its values have theirs after their
    // integers.
    std::vector<size_t> scales_at(size_t i) const {
        std::vector<size_t> out;
        size_t at = page_at(i);
        for (uint32_t part = 0; part < 2 * h.layers; ++part) {
            at += size_t{h.kv_heads} * (part % 2 && h.rope_size ? h.rope_size : h.head_size) * 64;
            for (uint32_t k = 0; k < h.kv_heads * 64; ++k, at += 4) out.push_back(at);
        }
        CHECK(at == page_at(i) + h.page_bytes);
        return out;
    }
    void put(size_t at, float x) { std::memcpy(bytes.data() + at, &x, sizeof x); }
    std::string with_header() {
        h.header_sum = ds::checksum(&h, offsetof(session_header, header_sum), 0);
        std::memcpy(bytes.data(), &h, sizeof h);
        return bytes;
    }
    std::string with_all_sums() {
        h.token_sum = ds::checksum(bytes.data() + sizeof h, h.tokens * 4, 0);
        with_header();
        uint64_t sum = h.header_sum;
        for (size_t i = 0; i < h.pages; ++i) {
            sum = ds::checksum(bytes.data() + page_at(i), h.page_bytes, sum);
            std::memcpy(bytes.data() + page_at(i) + h.page_bytes, &sum, sizeof sum);
        }
        return bytes;
    }
};

// Checks that the file is refused and that nothing changes.
void refused(const scene &s, const std::string &bytes, const std::string &part,
             ds_status expected = DS_ERR_FORMAT) {
    const std::string path = s.d / "wrong";
    write_bytes(path, bytes);
    std::vector<ds_token> tokens(s.ids.size(), -5);
    size_t count = 99, positions = 98;
    ds_error err{};
    const ds_status status = ds_engine_restore_session(s.e.get(), path.c_str(), 0, tokens.data(),
                                                       tokens.size(), &count, &positions, &err);
    CAPTURE(err.message);
    CAPTURE(part);
    CHECK(status == expected);
    CHECK(std::string(err.message).find(part) != std::string::npos);
    CHECK(std::string(err.message).find("wrong: ") != std::string::npos);
    CHECK((positions == 98 && (count == 99) == (expected != DS_ERR_BUFFER)));
    CHECK(std::count(tokens.begin(), tokens.end(), -5) == static_cast<ptrdiff_t>(tokens.size()));
    CHECK(s.untouched());
}

}  // namespace

TEST_CASE("session: hundreds of files with a flipped bit, a range of noise, or truncated are refused") {
    const scene s;
    const std::string whole = file_bytes(s.path);
    const forged f(whole);
    REQUIRE(f.page_at(3) == whole.size());
    for (size_t i = 0; i < sizeof(session_header) + 2; ++i)
        refused(s, whole.substr(0, i), i < sizeof(session_header) ? "header: is " : "bytes, must have");
    for (size_t i = 0; i < 4; ++i)
        for (const ptrdiff_t by : {-9, -8, -1, 0, 1, 8}) {
            const size_t n = f.page_at(i) + static_cast<size_t>(by);
            if (n != whole.size())
                refused(s,
                        n < whole.size() ? whole.substr(0, n) : whole + std::string(n - whole.size(), '\0'),
                        "bytes, must have");
        }
    std::mt19937 random(3);
    const auto flipped = [&](size_t at) {
        std::string bytes = whole;
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        return bytes;
    };
    for (size_t i = 0; i < sizeof(session_header); ++i)
        refused(s, flipped(i), "", i >= 8 && i < 16 ? DS_ERR_UNSUPPORTED : DS_ERR_FORMAT);
    for (int i = 0; i < 100; ++i)
        refused(s, flipped(sizeof f.h + random() % (s.ids.size() * 4)), "tokens: its checksum");
    for (size_t page = 0; page < 3; ++page) {
        const std::string name = "pages[" + std::to_string(page) + "]: its checksum";
        for (int i = 0; i < 60; ++i) refused(s, flipped(f.page_at(page) + random() % f.h.page_bytes), name);
        for (size_t i = 0; i < 8; ++i) refused(s, flipped(f.page_at(page) + f.h.page_bytes + i), name);
    }
    for (int i = 0; i < 60; ++i) {  // noise over a range
        std::string bytes = whole;
        const size_t at = random() % bytes.size(),
                     n = 1 + random() % std::min<size_t>(bytes.size() - at, 3000);
        for (size_t k = at; k < at + n; ++k) bytes[k] = static_cast<char>(random());
        if (bytes != whole) refused(s, bytes, "", at >= 8 && at < 16 ? DS_ERR_UNSUPPORTED : DS_ERR_FORMAT);
    }
    CHECK(restore(s.e, s.path, s.ids) == 192);  // the intact file is accepted
}

TEST_CASE("session: headers with a valid checksum and impossible values") {
    const scene s;
    const std::string whole = file_bytes(s.path);
    const auto says = [&](const std::string &part, ds_status status,
                          const std::function<void(session_header &)> &change) {
        forged f(whole);
        change(f.h);
        refused(s, f.with_header(), part, status);
    };
    says("magic", DS_ERR_FORMAT, [](session_header &h) { h.magic[0] = 'X'; });
    says("version: is 2, known is 1", DS_ERR_UNSUPPORTED, [](session_header &h) { h.version = 2; });
    says("version: is 0", DS_ERR_UNSUPPORTED, [](session_header &h) { h.version = 0; });
    says("byte_order: is 0x04030201", DS_ERR_UNSUPPORTED,
         [](session_header &h) { h.byte_order = 0x04030201; });
    for (const uint64_t n : {uint64_t{0}, uint64_t{1} << 31, uint64_t{1} << 62, UINT64_MAX, UINT64_MAX / 4})
        says("tokens: is ", DS_ERR_FORMAT, [n](session_header &h) { h.tokens = n; });
    for (const uint64_t n : {uint64_t{4}, uint64_t{1} << 32, uint64_t{1} << 62, UINT64_MAX})
        says("pages: is ", DS_ERR_FORMAT, [n](session_header &h) { h.pages = n; });
    says("file_bytes", DS_ERR_FORMAT, [](session_header &h) { h.pages = 2; });
    for (const uint64_t n : {uint64_t{0}, uint64_t{1} << 63, UINT64_MAX}) {
        says("file_bytes", DS_ERR_FORMAT, [n](session_header &h) { h.file_bytes = n; });
        says("page_bytes", DS_ERR_UNSUPPORTED, [n](session_header &h) { h.page_bytes = n; });
    }
    says("file_bytes", DS_ERR_FORMAT, [](session_header &h) { h.tokens = 201; });
    says("bytes, must have", DS_ERR_FORMAT, [](session_header &h) { h.tokens = 201, h.file_bytes += 4; });
    says("bytes, must have", DS_ERR_FORMAT, [](session_header &h) {
        h.file_bytes += ((uint64_t{1} << 30) - h.tokens) * 4, h.tokens = uint64_t{1} << 30;
    });
    says("model: is ", DS_ERR_UNSUPPORTED, [](session_header &h) { h.model ^= 1; });
    says("page_positions: is 32", DS_ERR_UNSUPPORTED, [](session_header &h) { h.page_positions = 32; });
    says("kv_type: is 30", DS_ERR_UNSUPPORTED, [](session_header &h) { h.kv_type = 30; });
    says("vocabulary: is ", DS_ERR_UNSUPPORTED, [](session_header &h) { ++h.vocabulary; });
    says("layers: is ", DS_ERR_UNSUPPORTED, [](session_header &h) { ++h.layers; });
    says("kv_heads: is ", DS_ERR_UNSUPPORTED, [](session_header &h) { ++h.kv_heads; });
    says("head_size: is ", DS_ERR_UNSUPPORTED, [](session_header &h) { ++h.head_size; });
    says("rope_size: is ", DS_ERR_UNSUPPORTED, [](session_header &h) { ++h.rope_size; });
    says("adapted: is 1, asked for is 0", DS_ERR_UNSUPPORTED, [](session_header &h) { h.adapted = 1; });
    says("adapted: is 2", DS_ERR_FORMAT, [](session_header &h) { h.adapted = 2; });
    says("tokens: its checksum", DS_ERR_FORMAT, [](session_header &h) { h.token_sum ^= uint64_t{1} << 63; });

    for (const ds_token t : {-1, INT32_MIN, INT32_MAX, static_cast<ds_token>(s.vocab)}) {
        forged f(whole);
        std::memcpy(f.bytes.data() + sizeof f.h + 4 * 199, &t, sizeof t);
        refused(s, f.with_all_sums(), "tokens[199]: is " + std::to_string(t));
    }
    forged f(whole);  // two pages swapped, with their checksums
    std::swap_ranges(f.bytes.begin() + static_cast<ptrdiff_t>(f.page_at(1)),
                     f.bytes.begin() + static_cast<ptrdiff_t>(f.page_at(2)),
                     f.bytes.begin() + static_cast<ptrdiff_t>(f.page_at(2)));
    refused(s, f.bytes, "pages[1]: its checksum");
    refused(s, "", "header: is 0");
    refused(s,
            "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') +
                "\nsize 12345\n",
            "a pointer of Git LFS to it, a file of 12345 bytes");
    refused(s, std::string(5000, '\0'), "magic");
}

TEST_CASE(
    "session: forged pages with valid checksums are computed with, and do no harm beyond their requests") {
    for (const ds_kv_type kv : {DS_KV_F32, DS_KV_F16, DS_KV_INT8}) {
        const scene s(kv);
        const std::string whole = file_bytes(s.path), path = s.d / "forged";
        std::mt19937 random(1);
        for (int round = 0; round < 6; ++round) {
            forged f(whole);
            for (size_t i = 0; i < f.h.pages; ++i)
                for (size_t k = 0; k < f.h.page_bytes; ++k)
                    f.bytes[f.page_at(i) + k] = round == 0   ? '\xff'
                                                : round == 1 ? '\x7f'
                                                : round == 2 ? '\x80'
                                                             : static_cast<char>(random());
            for (size_t i = 0; kv == DS_KV_INT8 && i < f.h.pages; ++i)  // any scales that a page may hold
                for (const size_t at : f.scales_at(i))
                    f.put(at, round == 0   ? 0.0f
                              : round == 1 ? 2.6e36f
                              : round == 2 ? 7.9e-33f
                                           : std::ldexp(1.0f, static_cast<int>(random() % 220) - 105));
            write_bytes(path, f.with_all_sums());
            CHECK(restore(s.e, path, s.ids) == 192);
            const answer a = ask(s.e, s.ids, 3, s.vocab);
            CHECK(a.cached == 192);
            CHECK((a.finish == DS_FINISH_ERROR || a.finish == DS_FINISH_LENGTH));
            MUST(ds_engine_trim(s.e.get(), 0, &err));
            CHECK(s.untouched());
        }
        const answer honest = ask(s.e, s.ids, 3, s.vocab);
        CHECK((honest.finish == DS_FINISH_LENGTH && honest.cached == 0));
    }
}

TEST_CASE("session: scales that no page can hold are refused by name") {
    constexpr float inf = std::numeric_limits<float>::infinity();
    for (const char *name : {"micro/qwen2", "micro/deepseek-r1", "micro/r1"}) {
        CAPTURE(name);
        const scene s(DS_KV_INT8, name);
        const std::string whole = file_bytes(s.path);
        const bool latent = forged(whole).h.rope_size != 0;
        for (const size_t page : {size_t{0}, size_t{2}}) {
            const std::vector<size_t> scales = forged(whole).scales_at(page);
            const size_t half = size_t{forged(whole).h.kv_heads} * 64;
            for (const size_t k : {size_t{0}, half - 1, half, 2 * half, scales.size() - 1})
                for (const float x : {-1.0f, -1e-30f, -0.0f, 1e-36f, 1e-45f, 7e-33f, 3e36f, 3.4e38f, inf,
                                      -inf, std::numeric_limits<float>::quiet_NaN()}) {
                    forged f(whole);
                    f.put(scales[k], x);
                    const char *const part =
                        k / half % 2 ? (latent ? "rotated keys" : "values") : (latent ? "latents" : "keys");
                    refused(s, f.with_all_sums(),
                            "pages[" + std::to_string(page) + "]: layer " + std::to_string(k / (2 * half)) +
                                ": scales of the " + part + "[" + std::to_string(k % half) + "]: is ");
                }
        }
        CHECK(restore(s.e, s.path, s.ids) == 192);
    }
}

// 0xf1da5a3b948d505d is the fingerprint by version 1 of the format. It is computed once, so the time to save
// does not depend on the metadata.
TEST_CASE("session: the fingerprint of a model does not change, and saving does not compute it again") {
    const temp_dir d;
    const auto saved = [&](const model_ptr &m) {
        const engine_ptr e = engine(m, small(4));
        save(e, {1, 2, 3}, d / "session");
        const int64_t n = with_failing(0, false, [&] { save(e, {1, 2, 3}, d / "session"); });
        return std::pair(forged(file_bytes(d / "session")).h.model, n);
    };
    const auto [fingerprint, allocations] = saved(bundled());
    CHECK(fingerprint == 0xf1da5a3b948d505d);
    model_file f = read_model_file(bundled_path);
    f.keys.set_strings(std::string(ds::gguf_file::open(bundled_path).get_string("general.architecture")) +
                           ".note",
                       std::vector<std::string>{std::string(1 << 20, '\1')});
    const auto [noted, as_many] = saved(hold(f).model);
    CHECK(noted != fingerprint);
    CHECK(as_many == allocations);
}

TEST_CASE("session: another model, other pages or other positions are refused") {
    const scene s;
    const auto refused_by = [&](const model_ptr &m, ds_kv_type kv, const char *part) {
        ds_engine_config c = small(8);
        c.kv_type = kv;
        const engine_ptr e = engine(m, c);
        std::vector<ds_token> tokens(200);
        size_t count = 9;
        check_fails(DS_ERR_UNSUPPORTED, part, [&](ds_error *x) {
            return ds_engine_restore_session(e.get(), s.path.c_str(), 0, tokens.data(), 200, &count, nullptr,
                                             x);
        });
        CHECK((count == 9 && stats_of(e).pages_cached == 0));
    };
    refused_by(s.m, DS_KV_F32, "kv_type: is ");
    refused_by(s.m, DS_KV_INT8, "kv_type: is ");
    refused_by(model("micro/qwen2", ds::format::f16), DS_KV_F16, "model: is ");
    refused_by(model("micro/llama", ds::format::f32), DS_KV_F16, "");
    refused_by(model("micro/deepseek-r1", ds::format::f32), DS_KV_F16, "");
    model_file f = micro_file("micro/qwen2");
    f.find("blk.1.ffn_up.weight").f32()[0] += 0.01f;
    const held_model tuned = hold(f);
    refused_by(tuned.model, DS_KV_F16, "model: is ");
    ds_model_config c = model_config();
    c.rope_scaling = DS_ROPE_LINEAR, c.rope_factor = 2;
    const held_model scaled = hold(micro_file("micro/qwen2"), &c);
    refused_by(scaled.model, DS_KV_F16, "model: is ");
    ds_engine_config same = small(8);
    same.kv_type = DS_KV_F16;
    const held_model from_memory = hold(micro_file("micro/qwen2"));
    CHECK(restore(engine(from_memory.model, same), s.path, s.ids) == 192);
}

TEST_CASE("session: a checksum does not depend on how the bytes are split") {
    std::mt19937 random(7);
    std::string bytes(300, '\0');
    for (char &c : bytes) c = static_cast<char>(random());
    for (size_t n = 0; n <= bytes.size(); ++n) {
        ds::checksum_stream s(n, 5);
        for (size_t at = 0; at < n;) {
            const size_t piece = std::min<size_t>(random() % (n % 3 ? 9 : 70), n - at);
            s.add(std::string_view(bytes).substr(at, piece));
            at += piece;
        }
        CHECK(s.sum() == ds::checksum(bytes.data(), n, 5));
    }
}

TEST_CASE("session: the checksum depends on every bit, the order of words and the length") {
    std::mt19937_64 random(2);
    for (size_t n = 1; n <= 130; ++n) {
        std::string bytes(n, '\0');
        for (char &c : bytes) c = static_cast<char>(random());
        const uint64_t sum = ds::checksum(bytes.data(), n, 5);
        for (size_t bit = 0; bit < 8 * n; ++bit) {
            bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
            if (ds::checksum(bytes.data(), n, 5) == sum) FAIL("bit " << bit << " of " << n << " bytes");
            bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
        }
        CHECK(ds::checksum(bytes.data(), n - 1, 5) != sum);
        CHECK(ds::checksum((bytes + '\0').data(), n + 1, 5) != sum);
        CHECK(ds::checksum(bytes.data(), n, 6) != sum);
        for (size_t a = 0; a + 16 <= n; a += 8) {
            std::string swapped = bytes;
            std::swap_ranges(swapped.begin() + static_cast<ptrdiff_t>(a),
                             swapped.begin() + static_cast<ptrdiff_t>(a) + 8, swapped.end() - 8);
            if (swapped != bytes) CHECK(ds::checksum(swapped.data(), n, 5) != sum);
        }
    }
}

// ---- Failures of memory and files

TEST_CASE("session: every failing allocation of save, restore and forget leaves the engine usable and its "
          "pages conserved") {
    const scene s;
    const std::string before = file_bytes(s.path);
    const answer expected = ask(s.e, s.ids, 4, s.vocab, 0, DS_REQUEST_NO_CACHE);
    for (const bool ever : {false, true}) {
        CAPTURE(ever);
        std::vector<ds_token> tokens(200);
        size_t count = 0, positions = 0, freed = 0;
        const auto sweep = [&](ds_status (*call)(void *), void *user, const std::function<void()> &after) {
            for (int64_t n = 1;; ++n) {
                REQUIRE(n < 500);
                ds_status status = DS_OK;
                const int64_t took = with_failing(n, ever, [&] { status = call(user); });
                if (status == DS_OK) {
                    CHECK(took < n);
                    return n - 1;
                }
                CHECK((status == DS_ERR_MEMORY && took >= n));
                const ds_engine_stats x = stats_of(s.e);
                CHECK(x.pages_free == x.pages_total);
                after();
            }
        };
        struct context {
            const scene &s;
            std::vector<ds_token> &tokens;
            size_t &count, &positions, &freed;
        } c{s, tokens, count, positions, freed};
        const auto restored = sweep(
            [](void *u) {
                auto &in = *static_cast<context *>(u);
                return ds_engine_restore_session(in.s.e.get(), in.s.path.c_str(), 0, in.tokens.data(), 200,
                                                 &in.count, &in.positions, nullptr);
            },
            &c, [&] { CHECK((s.untouched() && count == 0)); });
        CHECK((positions == 192 && count == 200 && tokens == s.ids));
        const auto saved = sweep(
            [](void *u) {
                auto &in = *static_cast<context *>(u);
                return ds_engine_save_session(in.s.e.get(), in.tokens.data(), 200, 0, in.s.path.c_str(),
                                              &in.positions, nullptr);
            },
            &c, [&] { CHECK((s.d.entries() == 1 && file_bytes(s.path) == before)); });
        CHECK((s.d.entries() == 1 && file_bytes(s.path) == before));
        CHECK(same_bits(ask(s.e, s.ids, 4, s.vocab).logits, expected.logits));
        MUST(ds_engine_trim(s.e.get(), 0, &err));
        CHECK(restore(s.e, s.path, s.ids) == 192);
        const auto forgotten = sweep(
            [](void *u) {
                auto &in = *static_cast<context *>(u);
                return ds_engine_forget_session(in.s.e.get(), in.tokens.data(), 200, 0, &in.freed, nullptr);
            },
            &c, [&] { CHECK(stats_of(s.e).pages_cached == 3); });
        CHECK((freed == 3 && s.untouched()));
        CHECK((restored > 5 && saved > 5 && forgotten > 0));
    }
}

TEST_CASE("session: a host's allocator that is exhausted") {
    const scene s;
    static bool empty;
    empty = false;
    ds_engine_config c = small(8);
    c.kv_type = DS_KV_F16;
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc = [](void *, size_t bytes, size_t alignment) -> void * {
        return empty ? nullptr
                     : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    };
    host.free = [](void *, void *p, size_t, size_t) { std::free(p); };
    c.host = &host;
    const engine_ptr e = engine(s.m, c);
    std::vector<ds_token> tokens(200);
    size_t count = 0;
    empty = true;
    check_fails(DS_ERR_MEMORY, "", [&](ds_error *x) {
        return ds_engine_restore_session(e.get(), s.path.c_str(), 0, tokens.data(), 200, &count, nullptr, x);
    });
    empty = false;
    CHECK((stats_of(e).pages_cached == 0 && stats_of(e).pages_free == 8));
    CHECK(restore(e, s.path, s.ids) == 192);
}

TEST_CASE("session: paths that cannot be written or read") {
    const scene s;
    const std::string before = file_bytes(s.path), fifo = s.d / "fifo";
    REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
    REQUIRE(mkdir((s.d / "folder").c_str(), 0700) == 0);
    ask(s.e, s.ids, 1, s.vocab);
    const auto saves = [&](const std::string &path) {
        return [&s, path](ds_error *x) {
            return ds_engine_save_session(s.e.get(), s.ids.data(), 200, 0, path.c_str(), nullptr, x);
        };
    };
    for (const std::string &path : {std::string("/dev/full"), fifo, s.d / "folder"})
        check_fails(DS_ERR_IO, path + ": cannot write: not a regular file", saves(path));
    check_fails(DS_ERR_IO, "cannot create", saves(s.d / "absent/file"));
    check_fails(DS_ERR_IO, "cannot create", saves(s.path + "/file"));
    {
        rlimit limit, tight;
        REQUIRE(getrlimit(RLIMIT_FSIZE, &limit) == 0);
        tight = limit;
        tight.rlim_cur = before.size() / 2;
        const auto handler = signal(SIGXFSZ, SIG_IGN);
        REQUIRE(setrlimit(RLIMIT_FSIZE, &tight) == 0);
        ds_error err;
        const ds_status status = saves(s.path)(&err);
        setrlimit(RLIMIT_FSIZE, &limit);
        signal(SIGXFSZ, handler);
        CHECK(status == DS_ERR_IO);
        CHECK(std::string(err.message).find(s.path + ": cannot write") == 0);
    }
    CHECK(file_bytes(s.path) == before);
    CHECK(s.d.entries() == 3);
    std::vector<ds_token> tokens(200);
    size_t count = 9;
    const auto restores = [&](const std::string &path) {
        return [&, path](ds_error *x) {
            return ds_engine_restore_session(s.e.get(), path.c_str(), 0, tokens.data(), 200, &count, nullptr,
                                             x);
        };
    };
    check_fails(DS_ERR_IO, "absent: cannot open", restores(s.d / "absent"));
    for (const std::string &path : {fifo, s.d / "folder", std::string("/dev/zero")})
        check_fails(DS_ERR_IO, path + ": not a regular file", restores(path));
    CHECK(count == 9);
}

TEST_CASE("session: arguments, a buffer that is too small, and calls during a step") {
    const scene s;
    ds_engine *const e = s.e.get();
    const ds_token *const ids = s.ids.data();
    const char *const path = s.path.c_str();
    std::vector<ds_token> tokens(200, -5);
    size_t count = 9;
    check_argument("engine", [&](ds_error *x) {
        return ds_engine_save_session(nullptr, ids, 200, 0, path, nullptr, x);
    });
    check_argument("tokens: is NULL",
                   [&](ds_error *x) { return ds_engine_save_session(e, nullptr, 200, 0, path, nullptr, x); });
    check_argument("tokens: is empty",
                   [&](ds_error *x) { return ds_engine_save_session(e, nullptr, 0, 0, path, nullptr, x); });
    check_argument("path",
                   [&](ds_error *x) { return ds_engine_save_session(e, ids, 200, 0, nullptr, nullptr, x); });
    check_argument("count: must be at most 2^30", [&](ds_error *x) {
        return ds_engine_save_session(e, ids, SIZE_MAX, 0, path, nullptr, x);
    });
    check_argument("engine", [&](ds_error *x) {
        return ds_engine_restore_session(nullptr, path, 0, tokens.data(), 200, &count, nullptr, x);
    });
    check_argument("path", [&](ds_error *x) {
        return ds_engine_restore_session(e, nullptr, 0, tokens.data(), 200, &count, nullptr, x);
    });
    check_argument("tokens: is NULL", [&](ds_error *x) {
        return ds_engine_restore_session(e, path, 0, nullptr, 200, &count, nullptr, x);
    });
    check_argument("count: is NULL", [&](ds_error *x) {
        return ds_engine_restore_session(e, path, 0, tokens.data(), 200, nullptr, nullptr, x);
    });
    check_argument("engine",
                   [&](ds_error *x) { return ds_engine_forget_session(nullptr, ids, 200, 0, nullptr, x); });
    check_argument("tokens: is empty",
                   [&](ds_error *x) { return ds_engine_forget_session(e, ids, 0, 0, nullptr, x); });
    check_argument("count: must be at most 2^30",
                   [&](ds_error *x) { return ds_engine_forget_session(e, ids, SIZE_MAX, 0, nullptr, x); });
    for (const ds_token bad : {-1, static_cast<ds_token>(s.vocab)}) {
        std::vector<ds_token> wrong = s.ids;
        wrong[150] = bad;
        check_argument("tokens[150]: is " + std::to_string(bad), [&](ds_error *x) {
            return ds_engine_save_session(e, wrong.data(), 200, 0, path, nullptr, x);
        });
        check_argument("tokens[150]: is " + std::to_string(bad), [&](ds_error *x) {
            return ds_engine_forget_session(e, wrong.data(), 200, 0, nullptr, x);
        });
    }
    CHECK(count == 9);
    for (const size_t room : {size_t{0}, size_t{1}, size_t{199}}) {
        check_fails(DS_ERR_BUFFER, "needs room for 200", [&](ds_error *x) {
            return ds_engine_restore_session(e, path, 0, room ? tokens.data() : nullptr, room, &count,
                                             nullptr, x);
        });
        CHECK((count == 200 && tokens[0] == -5 && s.untouched()));
    }

    struct {
        ds_engine *e = nullptr;
        const scene *s;
        ds_status save, restore, forget;
        int calls = 0;
    } seen;
    seen.s = &s;
    ds_engine_config c = small(8);
    c.kv_type = DS_KV_F16;
    c.trace_user = &seen;
    c.trace = [](void *user, const ds_step_trace *) {  // called inside a step
        auto &x = *static_cast<decltype(seen) *>(user);
        const std::vector<ds_token> &all = x.s->ids;
        std::vector<ds_token> room(200);
        size_t n = 0;
        x.save = ds_engine_save_session(x.e, all.data(), 200, 0, x.s->path.c_str(), nullptr, nullptr);
        x.restore =
            ds_engine_restore_session(x.e, x.s->path.c_str(), 0, room.data(), 200, &n, nullptr, nullptr);
        x.forget = ds_engine_forget_session(x.e, all.data(), 200, 0, nullptr, nullptr);
        ++x.calls;
    };
    const engine_ptr traced = engine(s.m, c);
    seen.e = traced.get();
    ask(traced, s.ids, 1, s.vocab);
    CHECK((seen.calls > 0 && seen.save == DS_ERR_STATE && seen.restore == DS_ERR_STATE &&
           seen.forget == DS_ERR_STATE));
}
