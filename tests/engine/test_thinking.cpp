// Thinking: which text is thought, however tokens split it, and budgets, which are exact. The parser is
// compared with a reference that sees the whole text. The engine is compared with its own unlimited answers
// on tiny-r1, also with a vocabulary that is respelled so that tags are split and share tokens.
#include "../support/answers.h"
#include "../support/api.h"
#include "../support/problems.h"

#include "../../llm/engine/thinking.h"
#include "../../llm/text/chat.h"

#include <algorithm>
#include <random>
#include <set>

using namespace golden;
using ds::channel_cutter;
using ds::text_piece;
using ds::think_state;
using ds::think_tags;

namespace {

constexpr ds_token think_open = 482, think_close = 483;  // of tiny-r1

// The parts of a whole text as defined in deepseek.h: [before, thought, answer].
struct meaning {
    std::string before, thought, answer;
};
meaning meaning_of(const std::string &text, think_state from) {
    size_t begin = 0;
    if (from == think_state::answer) return {"", "", text};
    if (from == think_state::start) {
        begin = text.find_first_not_of(" \t\r\n");
        if (begin == std::string::npos || text.compare(begin, 7, "<think>") != 0) return {"", "", text};
    }
    const size_t close = text.find("</think>", begin + (from == think_state::start ? 7 : 0)),
                 end = close == std::string::npos ? text.size() : close + 8;
    return {text.substr(0, begin), text.substr(begin, end - begin), text.substr(end)};
}

// Pieces; adjacent ones of the same channel are joined.
struct piece {
    bool thinking;
    std::string text;
};
struct joined {
    std::vector<piece> list;
    void add(bool thinking, std::string_view text) {
        if (text.empty()) return;
        if (list.empty() || list.back().thinking != thinking) list.push_back({thinking, ""});
        list.back().text += text;
    }
    void check(const meaning &m) const {
        joined expected;
        expected.add(false, m.before);
        expected.add(true, m.thought);
        expected.add(false, m.answer);
        REQUIRE(list.size() == expected.list.size());
        for (size_t i = 0; i < list.size(); ++i)
            CHECK((list[i].thinking == expected.list[i].thinking && list[i].text == expected.list[i].text));
    }
};

std::string random_text(std::mt19937 &random) {
    static const char *const parts[] = {"<think>", "</think>", "<", "</",       "think>",
                                        "<thi",    "nk>",      "a", "\n",       " ",
                                        "é",       "</think",  ">", "<<think>", "</</think>"};
    std::string out;
    for (unsigned n = static_cast<unsigned>(random() % 9); n > 0; --n)
        out += parts[random() % std::size(parts)];
    return out;
}

}  // namespace

TEST_CASE("thinking: text has its channel, however it is split into tokens and released") {
    std::mt19937 random(1);
    for (int round = 0; round < 20000; ++round) {
        const std::string text = random_text(random);
        CAPTURE(text);
        const think_state from =
            std::array{think_state::start, think_state::thinking, think_state::answer}[random() % 3];
        channel_cutter cutter({-1, -1}, from);
        joined got;
        size_t released = 0;
        std::vector<text_piece> pieces;
        const auto release = [&](size_t upto) {
            pieces.clear();
            cutter.cut(std::string_view(text).substr(released, upto - released), pieces);
            for (size_t i = 1; i < pieces.size(); ++i) CHECK(pieces[i].thinking != pieces[i - 1].thinking);
            for (const text_piece &p : pieces) got.add(p.thinking, p.text);
            released = upto;
        };
        for (size_t at = 0; at < text.size();) {
            const size_t n = std::min<size_t>(1 + random() % 12, text.size() - at);
            const bool before = cutter.thinking();
            const channel_cutter::seen seen = cutter.push(7, n, std::string_view(text).substr(at, n));
            at += n;
            CHECK(seen.thinking == (before || seen.opened));
            release(released + random() % (at - released + 1));
        }
        cutter.finish("");
        release(text.size());
        got.check(meaning_of(text, from));
    }
}

TEST_CASE("thinking: where the vocabulary has the tags as tokens, no other text counts as a tag") {
    const think_tags tags = {think_open, think_close};
    struct {
        think_state from;
        std::vector<std::pair<ds_token, const char *>> tokens;
        std::vector<piece> expected;
    } const cases[] = {
        {think_state::start,
         {{think_open, "<think>"}, {1, "a</think>b"}, {think_close, "</think>"}, {2, "c"}},
         {{true, "<think>a</think>b</think>"}, {false, "c"}}},
        {think_state::start, {{1, "<think>"}, {think_close, "</think>"}}, {{false, "<think></think>"}}},
        {think_state::start, {{1, "\n "}, {think_open, "<think>"}}, {{false, "\n "}, {true, "<think>"}}},
        {think_state::start, {{1, "a"}, {think_open, "<think>"}, {2, "b"}}, {{false, "a<think>b"}}},
        // part of a character before the tag
        {think_state::start, {{think_open, "\uFFFD<think>"}, {2, "b"}}, {{false, "\uFFFD<think>b"}}},
        {think_state::thinking,
         {{think_open, "<think>"}, {think_close, "\uFFFD</think>"}, {2, "b"}},
         {{true, "<think>\uFFFD</think>"}, {false, "b"}}},
        {think_state::thinking,
         {{think_close, "</think>"}, {think_open, "<think>"}, {think_close, "</think>"}},
         {{true, "</think>"}, {false, "<think></think>"}}},
        {think_state::answer, {{think_open, "<think>"}, {2, "b"}}, {{false, "<think>b"}}},
    };
    for (const auto &c : cases) {
        channel_cutter cutter(tags, c.from);
        joined got;
        for (const auto &[token, text] : c.tokens) {
            std::vector<text_piece> pieces;
            cutter.push(token,
                        std::strlen(token == think_open    ? "<think>"
                                    : token == think_close ? "</think>"
                                                           : text),
                        text);
            cutter.cut(text, pieces);
            for (const text_piece &p : pieces) got.add(p.thinking, p.text);
        }
        REQUIRE(got.list.size() == c.expected.size());
        for (size_t i = 0; i < got.list.size(); ++i)
            CHECK((got.list[i].thinking == c.expected[i].thinking && got.list[i].text == c.expected[i].text));
    }
    // tags that are control tokens have no text but count
    channel_cutter silent(tags, think_state::start);
    CHECK(silent.push(think_open, 0, "").opened);
    CHECK(silent.thinking());
    CHECK(silent.push(think_close, 0, "").thinking);
    CHECK(!silent.thinking());
}

namespace {

// tiny-r1 with other spellings of some tokens, and without merges of tokens that no longer exist. Weights are
// unchanged, so it generates the same tokens.
held_model respelled(const std::vector<std::pair<ds_token, std::string>> &spellings) {
    model_file f = read_model_file(bundled_path);
    const std::string header = f.keys.header();
    const ds::gguf_file keys(ds::os::mapping::borrow(header.data(), header.size()), "keys");
    std::vector<std::string> tokens;
    for (const std::string_view t : keys.get_strings("tokenizer.ggml.tokens")) tokens.emplace_back(t);
    for (const auto &[t, text] : spellings) tokens[static_cast<size_t>(t)] = text;
    f.keys.set_strings("tokenizer.ggml.tokens", tokens);
    const std::set<std::string> known(tokens.begin(), tokens.end());
    std::vector<std::string> merges;
    for (const std::string_view merge : keys.get_strings("tokenizer.ggml.merges")) {
        const size_t gap = merge.find(' ', 1);
        const std::string left(merge.substr(0, gap)), right(merge.substr(gap + 1));
        if (known.count(left) && known.count(right) && known.count(left + right)) merges.emplace_back(merge);
    }
    f.keys.set_strings("tokenizer.ggml.merges", merges);
    return hold(f);
}

std::vector<ds_token> tokens_of(const ds_model *m, const std::string &text,
                                uint32_t flags = DS_TOKENIZE_SPECIAL) {
    std::vector<ds_token> out(text.size());
    size_t n = 0;
    MUST(ds_tokenize(m, text.data(), text.size(), flags, out.data(), out.size(), &n, &err));
    out.resize(n);
    return out;
}

std::vector<ds_token> prompt_of(const model_ptr &m, const std::string &question,
                                ds_thinking_mode thinking = DS_THINKING_DEFAULT,
                                const char *chat_template = nullptr) {
    ds_chat_config c{};
    c.struct_size = sizeof c;
    c.thinking = thinking;
    c.chat_template = chat_template;
    return chat_prompt(m, question, &c);
}

// An answer with its text by channel. Each event is checked against deepseek.h.
struct told : golden::answer {
    std::string thinking, answer;
    uint64_t own_thinking = 0, own_answer = 0, injected = 0, text_events = 0;

    void hear(const ds_event &e, size_t prompt) {
        golden::answer::hear(e, 0);
        (e.channel == DS_CHANNEL_THINKING ? thinking : answer).append(e.text, e.text_size);
        if (e.type == DS_EVENT_TEXT) {
            ++text_events;
            CHECK((e.text_size > 0 && e.token == -1 && !e.injected && !e.logits));
        }
        if (e.type == DS_EVENT_TOKEN) {
            CHECK(first_position == prompt);
            ++(e.injected ? injected : e.channel == DS_CHANNEL_THINKING ? own_thinking : own_answer);
            if (e.injected) CHECK((e.logprob == 0 && e.top_count == 0 && e.logits == nullptr));
        }
        CHECK((e.type == DS_EVENT_TEXT || (e.thinking_tokens == own_thinking &&
                                           e.answer_tokens == own_answer && e.injected_tokens == injected)));
    }
};

std::vector<told> tell_all(const engine_ptr &e, const std::vector<full_request> &requests) {
    std::vector<told> out(requests.size());
    std::unordered_map<ds_request_id, size_t> of;
    for (const full_request &r : requests) of.emplace(submit(e, r), of.size());
    run(e, [&](const ds_event &event) {
        const size_t i = of.at(event.request);
        out[i].hear(event, requests[i].prompt_count);
    });
    return out;
}
told tell(const engine_ptr &e, const full_request &r) { return tell_all(e, {r})[0]; }

full_request limited(const std::vector<ds_token> &prompt, uint32_t budget, const char *end_text = nullptr) {
    full_request r = request(prompt);
    r.thought.flags = DS_THINKING_BUDGET;
    r.thought.max_tokens = budget;
    r.thought.end_text = end_text;
    return r;
}

}  // namespace

TEST_CASE("thinking: a prompt opens it with a tag that comes first or last after the last control token") {
    const model_ptr whole = bundled();
    // the tags have no tokens
    const held_model split = respelled({{think_open, "[a]"}, {think_close, "[b]"}});
    struct {
        const char *text;
        bool thinking;
    } const prompts[] = {
        {"<｜User｜>Hi<｜Assistant｜><think>\n", true},
        {"<｜User｜>Hi<｜Assistant｜><think>\nSo, 3", true},
        {"<｜User｜>Hi<｜Assistant｜>\n<think>", true},
        {"<｜User｜>Hi<｜Assistant｜>", false},
        {"<｜User｜>Hi<｜Assistant｜><think>\n</think>\n\n", false},
        {"<｜User｜>What is <think><｜Assistant｜>", false},
        {"3 + 4 <think>\n", true},
        {"3 + 4 <think> 7", false},
        {"<think>1</think>2 <think>", true},
        {"3 + 4", false},
    };
    for (const auto &p : prompts)
        for (ds_model *m : {whole.get(), split.model.get()}) {
            CAPTURE(p.text);
            ds_engine *e = nullptr;
            MUST(ds_engine_new(m, nullptr, &e, &err));
            const engine_ptr owner(e);
            const std::vector<ds_token> prompt = tokens_of(m, p.text);
            if (m == split.model.get()) CHECK(std::count(prompt.begin(), prompt.end(), think_open) == 0);
            full_request r = request(prompt);
            r.max_new_tokens = 1;
            r.flags = DS_REQUEST_IGNORE_END;
            const ds_logit_bias letter = {tokens_of(m, "a")[0], 1e4f};
            r.draw.logit_bias = &letter;
            r.draw.logit_bias_count = 1;
            const told t = tell(owner, r);
            CHECK(t.text == "a");
            CHECK((t.thinking_tokens == (p.thinking ? 1 : 0) && t.thinking == (p.thinking ? "a" : "")));
        }
}

TEST_CASE("thinking: budgets are exact for each of 200 requests, and each has an answer") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.max_requests = 16;
    c.step_tokens = 24;  // prompts and injected tokens are processed in pieces
    c.threads = 2;
    const engine_ptr e = engine(m, c);
    std::vector<std::vector<ds_token>> prompts;
    const size_t most = sanitized ? 48 : 200;
    for (const golden::problem &p : golden::problems(most)) prompts.push_back(prompt_of(m, p.question));
    REQUIRE(prompts.size() == most);
    const uint32_t budgets[] = {0, 1, 16, 64};
    const char *const say = "\nTime is up.\n";
    std::vector<full_request> free, bound;
    for (size_t i = 0; i < prompts.size(); ++i) {
        full_request r = request(prompts[i]);
        r.draw.temperature = i % 3 == 2 ? 0.8f : 0;
        r.draw.seed = i;
        r.draw.repetition_penalty = i % 5 == 4 ? 1.1f : 0;
        r.max_new_tokens = 230;
        free.push_back(r);
        bound.push_back(r);
        bound[i].thought.flags = DS_THINKING_BUDGET;
        bound[i].thought.max_tokens = budgets[i % 4];
        bound[i].thought.end_text = i % 8 < 4 ? nullptr : say;
    }
    const std::vector<told> whole = tell_all(e, free), cut = tell_all(e, bound);
    const std::vector<ds_token> closing = {think_close, tokens_of(m.get(), "\n\n")[0]};
    size_t closed = 0;
    for (size_t i = 0; i < cut.size(); ++i) {
        CAPTURE(i);
        const told &t = cut[i];
        const uint32_t budget = budgets[i % 4];
        CHECK(t.own_thinking <= budget);
        CHECK(t.own_answer > 0);
        CHECK(t.answer.find_first_not_of(" \n") != std::string::npos);
        CHECK(t.text == t.thinking + t.answer);
        if (whole[i].own_thinking <= budget) {  // the model closed it within the budget: nothing changes
            CHECK((t.tokens == whole[i].tokens && t.injected == 0));
            continue;
        }
        ++closed;
        std::vector<ds_token> expected(whole[i].tokens.begin(), whole[i].tokens.begin() + budget);
        if (bound[i].thought.end_text)
            for (const ds_token x : tokens_of(m.get(), say)) expected.push_back(x);
        expected.insert(expected.end(), closing.begin(), closing.end());
        CHECK(t.own_thinking == budget);
        CHECK(t.injected == expected.size() - budget);
        REQUIRE(t.tokens.size() > expected.size());
        CHECK(std::equal(expected.begin(), expected.end(), t.tokens.begin()));
        CHECK(t.thinking.ends_with(std::string(bound[i].thought.end_text ? say : "") + "</think>"));
        CHECK(t.answer.starts_with("\n\n"));
    }
    CHECK(closed > most / 2);
    // The same request alone gives the same answer. What follows the closing is what the model answers to a
    // prompt that contains it.
    c.max_requests = 1;
    c.step_tokens = 512;
    const engine_ptr lone = engine(m, c);
    for (size_t i = 0; i < cut.size(); i += 9) CHECK(tell(lone, bound[i]).tokens == cut[i].tokens);
    for (size_t i = 0; i < 12; ++i) {
        if (!cut[i].injected) continue;
        std::vector<ds_token> prompt = prompts[i];
        const size_t known = budgets[i % 4] + cut[i].injected;
        prompt.insert(prompt.end(), cut[i].tokens.begin(),
                      cut[i].tokens.begin() + static_cast<ptrdiff_t>(known));
        full_request r = free[i];
        r.prompt = prompt.data(), r.prompt_count = prompt.size();
        const told rest = tell(lone, r);
        CHECK(std::equal(rest.tokens.begin(), rest.tokens.end(),
                         cut[i].tokens.begin() + static_cast<ptrdiff_t>(known), cut[i].tokens.end()));
    }
}

TEST_CASE("thinking: budgets hold where requests are preempted and find their prompts cached") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.max_requests = 8;
    c.kv_tokens = 512;  // 8 pages; most requests grow to two
    const engine_ptr roomy = engine(m, engine_config()), tight = engine(m, c);
    std::vector<std::vector<ds_token>> prompts;
    for (const golden::problem &p : golden::problems(32)) prompts.push_back(prompt_of(m, p.question));
    // the injected text fills pages
    const std::string long_text = "\n" + std::string(60, '3') + "\n";
    std::vector<full_request> requests;
    for (size_t i = 0; i < prompts.size(); ++i) {
        requests.push_back(
            limited(prompts[i], static_cast<uint32_t>(i * 7 % 40), i % 2 ? long_text.c_str() : nullptr));
        requests[i].flags |= DS_REQUEST_IGNORE_END;
        requests[i].max_new_tokens = 100;
        requests[i].draw.temperature = i % 4 ? 0 : 1;
        requests[i].draw.seed = i;
    }
    const std::vector<told> expected = tell_all(roomy, requests), got = tell_all(tight, requests),
                            again = tell_all(tight, requests);
    uint64_t preemptions = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
        CAPTURE(i);
        CHECK((got[i].tokens == expected[i].tokens && got[i].text == expected[i].text &&
               got[i].thinking == expected[i].thinking));
        CHECK((again[i].tokens == expected[i].tokens && again[i].thinking == expected[i].thinking));
        CHECK((got[i].own_thinking <= requests[i].thought.max_tokens &&
               got[i].own_thinking + got[i].own_answer == 100 && got[i].injected == expected[i].injected));
        preemptions += got[i].preemptions;
    }
    CHECK(preemptions > 0);
    full_request r = requests[1];  // its prompt, thought and closing fill a page together
    r.max_new_tokens = 1;
    const std::vector<ds_token> said(expected[1].tokens.begin(),
                                     expected[1].tokens.begin() +
                                         static_cast<ptrdiff_t>(7 + expected[1].injected));
    std::vector<ds_token> prompt = prompts[1];
    prompt.insert(prompt.end(), said.begin(), said.end());
    REQUIRE(prompt.size() > 65);
    tell(roomy, requests[1]);
    r.prompt = prompt.data(), r.prompt_count = prompt.size();
    const told next = tell(roomy, r);
    CHECK(next.cached >= 64);
    CHECK((next.tokens.size() == 1 && next.tokens[0] == expected[1].tokens[said.size()]));
}

TEST_CASE("thinking: a fork goes on in the thought, within its own budget, and releases the text that was "
          "held back") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt = prompt_of(m, "What is 37 + 85?");
    const told whole = tell(e, request(prompt));
    const std::string almost = whole.text.substr(0, 24) + "?";  // its prefix is held back
    const char *const stop = almost.c_str();
    struct fork_case {
        int64_t budget;
        size_t after;
        bool stops;
    } const cases[] = {{-1, 3, false}, {-1, 3, true}, {4, 3, false}, {0, 3, true}, {1, 1, false}};
    for (const auto &f : cases) {
        CAPTURE(f.budget);
        CAPTURE(f.after);
        full_request r = request(prompt);
        r.stop = &stop, r.stop_count = 1;
        ds_request_id first = 0, second = 0;
        MUST(ds_engine_submit(e.get(), &r, &first, &err));
        told one, two;
        const auto hear = [&](const ds_event &event) {
            if (event.request == first) one.hear(event, prompt.size());
            else two.hear(event, prompt.size() + f.after);
        };
        while (one.tokens.size() < f.after) step(e, hear);
        REQUIRE((one.tokens.size() == f.after && one.text.empty()));
        full_request p = limited({}, static_cast<uint32_t>(std::max<int64_t>(f.budget, 0)), "\nOh.\n");
        if (f.budget < 0) p.thought.flags = 0;
        if (f.stops) p.stop = &stop, p.stop_count = 1;
        MUST(ds_engine_fork(e.get(), first, &p, &second, &err));
        run(e, hear);
        CHECK((one.text == whole.text && one.thinking == whole.thinking && one.tokens == whole.tokens));
        CHECK(two.text == two.thinking + two.answer);
        if (f.budget < 0) {
            CHECK((two.text == whole.text && two.thinking == whole.thinking &&
                   two.own_answer == whole.own_answer));
            CHECK(std::equal(two.tokens.begin(), two.tokens.end(),
                             whole.tokens.begin() + static_cast<ptrdiff_t>(f.after), whole.tokens.end()));
        } else {
            const told same =
                tell(e, limited(prompt, static_cast<uint32_t>(f.budget) + static_cast<uint32_t>(f.after),
                                "\nOh.\n"));
            CHECK((two.own_thinking == static_cast<uint64_t>(f.budget) && two.text == same.text &&
                   two.thinking == same.thinking));
            CHECK(std::equal(two.tokens.begin(), two.tokens.end(),
                             same.tokens.begin() + static_cast<ptrdiff_t>(f.after), same.tokens.end()));
        }
    }
}

TEST_CASE("thinking: a model that opens its thought itself is held to its budget") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt =
                                    prompt_of(m, "What is 37 + 85?", DS_THINKING_DEFAULT, "deepseek-r1-0528"),
                                whole = tell(e, request(prompt)).tokens;
    REQUIRE(whole[0] == think_open);
    for (const uint32_t budget : {0u, 1u, 2u, 10u}) {
        const told t = tell(e, limited(prompt, budget));
        CAPTURE(budget);
        CHECK(t.own_thinking == budget);
        CHECK(t.tokens[0] == think_open);
        CHECK(t.injected == (budget ? 2 : 3));
        CHECK(t.own_answer > 0);
        CHECK(t.thinking.starts_with("<think>"));
        CHECK(t.thinking.ends_with("</think>"));
        CHECK((budget > 0 || t.thinking == "<think></think>"));
    }
    full_request r = request(prompt);
    r.thought.max_tokens = 5;  // it is a limit without the flag too
    CHECK(tell(e, r).own_thinking == 5);
    r.thought.max_tokens = 0;  // without the flag 0 means no limit
    CHECK(tell(e, r).tokens == whole);
    // tokens of the answer: injected tokens and the tag that the model opened count separately
    for (const uint32_t tokens : {1u, 2u, 5u}) {
        full_request short_one = limited(prompt, 0, "So.\n");
        short_one.max_new_tokens = tokens;
        const told t = tell(e, short_one);
        CHECK((t.own_answer == tokens && t.own_thinking == 0 && t.finish == DS_FINISH_LENGTH &&
               !t.answer.empty()));
    }
}

TEST_CASE("thinking: the first token after a closed thought is no end token and opens none") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt = prompt_of(m, "What is 37 + 85?");
    const ds_token end = ds_token_special(m.get(), DS_SPECIAL_EOS);
    ds_logit_bias bias[] = {{end, 500}, {think_open, 600}};
    full_request r = limited(prompt, 0);
    r.draw.logit_bias = bias, r.draw.logit_bias_count = 2;
    const ds_logit_bias only[] = {{end, 500}};
    told t = tell(e, r);
    CHECK((t.injected == 2 && t.tokens.size() > 3 && t.tokens[2] != end && t.tokens[2] != think_open &&
           t.tokens[3] == think_open));
    CHECK(t.answer.find("<think>") != std::string::npos);  // after the thought a tag is plain text
    r.draw.logit_bias = only, r.draw.logit_bias_count = 1;
    t = tell(e, r);
    CHECK((t.own_answer == 1 && t.finish == DS_FINISH_STOP));
    std::vector<ds_logit_bias> all(512);  // the end token is chosen when all others are banned
    for (ds_token i = 0; i < 512; ++i) all[static_cast<size_t>(i)] = {i, i == end ? 0 : -INFINITY};
    r.draw.logit_bias = all.data(), r.draw.logit_bias_count = all.size();
    t = tell(e, r);
    CHECK((t.own_answer == 0 && t.finish == DS_FINISH_STOP));
}

TEST_CASE("thinking: an answer's limits apply while the thought is being closed") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt = prompt_of(m, "What is 37 + 85?");
    full_request r = limited(prompt, 4, "\nEnough now.\n");
    const told whole = tell(e, r);
    CHECK((whole.finish == DS_FINISH_STOP && whole.thinking.ends_with("\nEnough now.\n</think>") &&
           whole.own_thinking == 4));
    for (const uint32_t most : {3u, 4u}) {  // the budget is not reached, or at the same token
        r.max_new_tokens = most;
        const told t = tell(e, r);
        CHECK((t.finish == DS_FINISH_LENGTH && t.own_thinking == most && t.injected == 0));
    }
    r.max_new_tokens = 6;  // injected tokens do not count
    told t = tell(e, r);
    CHECK((t.finish == DS_FINISH_LENGTH && t.own_thinking == 4 && t.own_answer == 2 &&
           t.injected == whole.injected));
    r.max_new_tokens = 0;
    for (const char *stop : {"</think>", "Enough", "think>\n\n"}) {  // stop texts match injected text too
        r.stop = &stop, r.stop_count = 1;
        t = tell(e, r);
        CHECK(t.finish == DS_FINISH_STOP);
        CHECK(t.text == whole.text.substr(0, whole.text.find(stop)));
        CHECK(t.own_answer == 0);
    }
    r.stop_count = 0;
    // the context has no room for the injected tokens and one more: the request ends
    for (uint32_t room = 3; room < 4 + whole.injected + 3; ++room) {
        ds_engine_config c = engine_config();
        c.context_length = static_cast<uint32_t>(prompt.size()) + room;
        t = tell(engine(m, c), r);
        CAPTURE(room);
        CHECK(t.finish == DS_FINISH_CONTEXT);
        CHECK(t.tokens.size() == (room <= 4 + whole.injected ? std::min(room, 4u) : room));
    }
    const std::vector<ds_token> said = tokens_of(m.get(), "\nEnough now.\n");
    r.draw.presence_penalty = 1000;  // penalties count injected tokens
    t = tell(e, r);
    for (auto at = t.tokens.begin() + static_cast<ptrdiff_t>(4 + t.injected); at != t.tokens.end(); ++at)
        CHECK(std::count(said.begin(), said.end(), *at) == 0);
    r.draw.presence_penalty = 0;
    full_request score = r;
    score.flags |= DS_REQUEST_SCORE;  // scored requests have no thought
    size_t scored = 0;
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &score, &id, &err));
    run(e, [&](const ds_event &event) { scored += event.type == DS_EVENT_SCORE; });
    CHECK(scored == prompt.size());
}

// The model's own tokens under other spellings. It closes the thought with token 483, after "\n" and before
// "\n\n".
TEST_CASE("thinking: tags in pieces, and tokens that hold text of both channels") {
    const model_ptr plain = bundled();
    const std::vector<ds_token> prompt = prompt_of(plain, "What is 37 + 85?");
    const told usual = tell(engine(plain, engine_config()), request(prompt));
    const auto close = std::find(usual.tokens.begin(), usual.tokens.end(), think_close);
    REQUIRE(close + 1 < usual.tokens.end());
    const ds_token after = close[1];
    REQUIRE(std::count(usual.tokens.begin(), usual.tokens.end(), after) == 1);
    struct {
        std::vector<std::pair<ds_token, std::string>> spellings;
        std::string thought_end, answer_begin;
        int text_events;
    } const cases[] = {
        {{{think_close, "</thi"}, {after, "nk>"}}, "</think>", "", 0},
        {{{think_close, "x</thi"}, {after, "nk>So:"}}, "x</think>", "So:", 1},
        {{{think_close, "so</think>Now"}}, "so</think>", "Now\n\n", 1},
        {{{think_close, "</think></think>"}}, "</think>", "</think>\n\n", 1},
    };
    for (const auto &c : cases) {
        const held_model m = respelled(c.spellings);
        const engine_ptr e = engine(m.model, engine_config());
        CAPTURE(c.thought_end);
        full_request r = request(prompt);
        told t = tell(e, r);
        CHECK(t.tokens == usual.tokens);
        CHECK(t.thinking == usual.thinking.substr(0, usual.thinking.size() - 8) + c.thought_end);
        CHECK(t.answer == c.answer_begin + usual.answer.substr(2));
        CHECK(t.text == t.thinking + t.answer);
        CHECK(t.text_events == static_cast<uint64_t>(c.text_events));
        const char *const never = "</think>never";  // text that is held back for it keeps its channel
        r.stop = &never, r.stop_count = 1;
        const told held = tell(e, r);
        CHECK((held.thinking == t.thinking && held.answer == t.answer));
    }
    {  // the opening tag, split in the prompt and by the model
        const std::vector<ds_token> self =
            prompt_of(plain, "What is 37 + 85?", DS_THINKING_DEFAULT, "deepseek-r1-0528");
        const told own = tell(engine(plain, engine_config()), request(self));
        REQUIRE((own.tokens[0] == think_open && own.tokens[1] == tokens_of(plain.get(), "\n")[0]));
        // another token is spelled as the line feed
        const held_model m = respelled({{think_open, "<thi"}, {own.tokens[1], "nk>"}, {400, "\u010a"}});
        const engine_ptr e = engine(m.model, engine_config());
        told t = tell(e, request(prompt));
        CHECK((t.tokens == usual.tokens && !t.answer.empty() && t.thinking.ends_with("</think>") &&
               t.own_thinking == usual.own_thinking));
        t = tell(e, request(self));
        CHECK((t.tokens == own.tokens && t.thinking.starts_with("<think>") &&
               t.thinking.ends_with("</think>")));
        // its first half is before the thought
        CHECK((t.own_thinking == own.own_thinking - 1 && t.own_answer == own.own_answer + 1));
        t = tell(e, limited(self, 0));
        CHECK((t.thinking == "<think></think>" && t.own_thinking == 0 && t.own_answer > 1));
    }
}

TEST_CASE(
    "thinking: a closing of several tokens is injected unchanged, and none of it counts in the budget") {
    const held_model m = respelled({{think_open, "[a]"}, {think_close, "[b]"}});
    const engine_ptr e = engine(m.model, engine_config());
    const std::vector<ds_token> prompt = prompt_of(m.model, "What is 37 + 85?"),
                                closing = tokens_of(m.model.get(), "\nStop.\n</think>\n\n");
    REQUIRE(closing.size() > 5);
    for (const uint32_t budget : {0u, 1u, 16u}) {
        full_request r = limited(prompt, budget, "\nStop.\n");
        r.flags |= DS_REQUEST_IGNORE_END;
        r.max_new_tokens = budget + 3;
        const told t = tell(e, r);
        CHECK((t.own_thinking == budget && t.own_answer == 3 && t.injected == closing.size()));
        REQUIRE(t.tokens.size() == budget + closing.size() + 3);
        CHECK(std::equal(closing.begin(), closing.end(), t.tokens.begin() + budget));
        CHECK(t.thinking.ends_with("\nStop.\n</think>"));
        CHECK(t.answer.starts_with("\n\n"));
    }
}

TEST_CASE("thinking: texts that may not end a thought are refused by name") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt = prompt_of(m, "What is 3 + 4?");
    const std::string just(1024, 'x'), over(1025, 'x');
    ds_request_id id = 0;
    for (const char *text : {"a</think>", "<think>", over.c_str(), "\xff"}) {
        const full_request r = limited(prompt, 3, text);
        check_argument("thinking.end_text",
                       [&](ds_error *x) { return ds_engine_submit(e.get(), &r, &id, x); });
    }
    for (const char *text : {"", "<think", "é"}) {
        const full_request r = limited(prompt, 3, text);
        const told t = tell(e, r);
        CHECK(t.thinking.ends_with(std::string(text) + "</think>"));
    }
    const told t = tell(e, limited(prompt, 3, just.c_str()));  // longer than the context
    CHECK((t.finish == DS_FINISH_CONTEXT && t.own_thinking == 3 && t.injected == 0));
    full_request r = limited(prompt, 0x80000000u);
    CHECK(tell(e, r).text == tell(e, request(prompt)).text);
}

TEST_CASE("thinking: the chat call with budgets, and without thought") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const ds_message ask = {"user", "What is 37 + 85?"};
    const auto chat = [&](full_request r) {
        std::string out;
        MUST(ds_engine_chat(
            e.get(), &ask, 1, &r,
            [](void *to, const char *text, size_t n) {
                return static_cast<std::string *>(to)->append(text, n), 0;
            },
            &out, nullptr, &err));
        return out;
    };
    const std::string whole = chat({});
    full_request r;
    r.thought.flags = DS_THINKING_BUDGET;
    CHECK(chat(r).starts_with("<think>\n</think>\n\n"));
    r.thought.end_text = "Done.\n";
    CHECK(chat(r).starts_with("<think>\nDone.\n</think>\n\n"));
    r.thought.max_tokens = 1000;
    CHECK(chat(r) == whole);
    r = {};
    r.thought.mode = DS_THINKING_OFF;
    const std::string off = chat(r);
    CHECK((off.find("think>") == std::string::npos && !off.empty()));
    const std::vector<ds_token> prompt = prompt_of(m, ask.content, DS_THINKING_OFF);
    const told t = tell(e, limited(prompt, 0));
    CHECK((t.text == off && t.thinking.empty() && t.injected == 0));
}
