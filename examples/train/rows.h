// Rows of training data: a line of JSON becomes a sequence of tokens, with a weight for each; and the order
// in which sequences make batches, which depends on a seed, weights and their lengths alone.
#pragma once

#include "../jsonl.h"

#include <bit>
#include <cmath>
#include <map>

namespace rows {

using jsonl::json;

// FNV-1a, fed piece by piece.
struct fnv {
    uint64_t hash = 0xcbf29ce484222325u;
    void add(const std::string &bytes) {
        for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    }
};

// The same numbers on every machine, which the standard library's distributions do not promise.
struct splitmix64 {
    uint64_t state;
    static uint64_t mix(uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    uint64_t next() { return mix(state += 0x9e3779b97f4a7c15u); }
    uint64_t below(uint64_t n) { return next() % n; }  // n is so small that the bias does not matter
};

struct sequence {
    std::vector<ds_token> tokens;
    std::vector<float> weights;
};

struct data {
    std::string path;
    std::vector<sequence> sequences;
    uint64_t bytes = 0, hash = 0, tokens = 0, targets = 0;
};

struct rules {
    bool all_tokens = false, plain = false;
    size_t most_tokens = 0;
    std::string limit;  // what sets it, for messages
};

// ---- A row's tokens

class reader {
public:
    reader(const cli::model_ptr &model, rules r) : model_(model), rules_(std::move(r)) {
        tags_ = tokenize("</think>", DS_TOKENIZE_SPECIAL).size() == 1;
        end_ = ds_token_special(model_.get(), DS_SPECIAL_EOS);
        chat_ = *cli::info(model_).chat_template != 0;
        if (!chat_) return;
        default_ = form_of(DS_THINKING_DEFAULT);
        // a family may end an answer with another token than a text
        // (a space is a token of every vocabulary)
        const std::vector<ds_message> talk = {message("user", " "), message("assistant", " ")};
        for (const ds_token t : render(talk, talk.size(), DS_THINKING_DEFAULT, DS_CHAT_NO_GENERATION_PROMPT))
            if (ds_token_is_end(model_.get(), t)) end_ = t;
    }

    // Throws what is wrong with the line.
    sequence read(const std::string &line) const {
        const json row = jsonl::parse_line(line);
        if (!row.is_object()) throw cli::failure("is not a JSON object");
        const bool asks = row.contains("prompt"), answers = row.contains("response");
        if (asks != answers || asks + row.contains("messages") + row.contains("text") != 1)
            throw cli::failure("needs one of: prompt and response; messages; text");
        sequence s;
        if (row.contains("text")) s = text(field(row, "text"));
        else if (row.contains("messages")) s = conversation(row);
        else s = pair(field(row, "prompt"), field(row, "response"));
        if (rules_.all_tokens) s.weights.assign(s.tokens.size(), 1.0f);
        if (s.tokens.size() < 2) throw cli::failure("has fewer than 2 tokens, nothing to learn");
        if (s.tokens.size() > rules_.most_tokens)
            throw cli::failure("has " + std::to_string(s.tokens.size()) + " tokens, more than " +
                               rules_.limit + ", " + std::to_string(rules_.most_tokens));
        return s;
    }

private:
    using messages = std::vector<ds_message>;

    static ds_message message(const char *role, const char *content) {
        ds_message m{};
        m.role = role, m.content = content;
        return m;
    }
    static const std::string &field(const json &row, const char *name) {
        try {
            return jsonl::text_of(row[name]);
        } catch (const cli::failure &e) {
            throw cli::failure(std::string(name) + ": " + e.what());
        }
    }
    static void must_answer(const std::string &content, const std::string &name) {
        if (content.find_first_not_of(" \t\r\n") == std::string::npos)
            throw cli::failure(name + ": is an empty answer");
    }

    std::vector<ds_token> tokenize(const std::string &text, uint32_t flags) const {
        return cli::collect<ds_token>([&](ds_token *tokens, size_t capacity, size_t *count, ds_error *err) {
            return ds_tokenize(model_.get(), text.data(), text.size(), flags, tokens, capacity, count, err);
        });
    }
    // The first `count` of the messages.
    std::vector<ds_token> render(const messages &m, size_t count, ds_thinking_mode how,
                                 uint32_t flags = 0) const {
        auto config = cli::make<ds_chat_config>();
        config.thinking = how;
        config.flags = flags;
        return cli::collect<ds_token>([&](ds_token *tokens, size_t capacity, size_t *size, ds_error *err) {
            return ds_chat_tokenize(model_.get(), m.data(), count, &config, tokens, capacity, size, err);
        });
    }

    // How a prompt ends: with a thought that is open, with one that is closed, or without.
    enum class form { none, open, open_line, closed };
    form form_of(ds_thinking_mode how) const {
        auto config = cli::make<ds_chat_config>();
        config.thinking = how;
        const messages ask = {message("user", "?")};
        const auto text = cli::collect<char>([&](char *to, size_t capacity, size_t *size, ds_error *err) {
            return ds_chat_render(model_.get(), ask.data(), 1, &config, to, capacity, size, err);
        });
        std::string end(text.begin(), text.end());
        const size_t last = end.find_last_not_of('\n');
        const bool line = last + 1 < end.size();
        end.resize(last + 1);
        const auto ends = [&](const std::string &tag) {
            return end.size() >= tag.size() && end.compare(end.size() - tag.size(), tag.size(), tag) == 0;
        };
        return ends("</think>")   ? form::closed
               : !ends("<think>") ? form::none
               : line             ? form::open_line
                                  : form::open;
    }

    void add(sequence &s, const std::vector<ds_token> &tokens, float weight) const {
        s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
        s.weights.resize(s.tokens.size(), weight);
    }
    void add_end(sequence &s) const {
        if (end_ < 0) throw cli::failure("the model has no token that ends an answer");
        add(s, {end_}, 1);
    }
    // In an answer the tags of a thought are the tokens that the model writes.
    void add_answer(sequence &s, const std::string &answer) const {
        for (size_t begin = 0; begin < answer.size();) {
            size_t at = std::string::npos, size = 0;
            for (const std::string &tag : {std::string("<think>"), std::string("</think>")})
                if (const size_t p = answer.find(tag, begin); tags_ && p < at) at = p, size = tag.size();
            add(s, tokenize(answer.substr(begin, at - begin), 0), 1);
            if (at == std::string::npos) break;
            add(s, tokenize(answer.substr(at, size), DS_TOKENIZE_SPECIAL), 1);
            begin = at + size;
        }
        add_end(s);
    }

    sequence text(const std::string &content) const {
        sequence s;
        add(s, tokenize(content, DS_TOKENIZE_BOS), 1);
        return s;
    }

    sequence pair(const std::string &prompt, const std::string &response) const {
        must_answer(response, "response");
        if (chat_ && !rules_.plain)
            return talk({message("user", prompt.c_str()), message("assistant", response.c_str())});
        sequence s;
        add(s, tokenize(prompt, DS_TOKENIZE_BOS), 0);
        add_answer(s, response);
        return s;
    }

    sequence conversation(const json &row) const {
        jsonl::prompt p;
        try {
            jsonl::set_messages(p, row["messages"]);
        } catch (const cli::failure &e) {
            throw cli::failure(std::string("messages: ") + e.what());
        }
        messages m;
        for (const auto &[role, content] : p.messages) {
            if (role == "assistant") must_answer(content, "messages");
            m.push_back(message(role.c_str(), content.c_str()));
        }
        if (p.messages.back().first != "assistant")
            throw cli::failure("messages: the last must be the assistant's");
        if (p.messages.front().first == "assistant")
            throw cli::failure("messages: the first may not be the assistant's");
        return talk(m);
    }

    // The prompt of the last answer as an engine gets it, then the answer as a model writes it. Earlier
    // answers are as the template leaves them, which may be without their thoughts.
    sequence talk(const messages &m) const {
        const size_t last = m.size() - 1;
        std::string answer = m[last].content;
        const std::string tag = "<think>";
        const bool thinks = answer.compare(0, tag.size(), tag) == 0;
        ds_thinking_mode how = DS_THINKING_DEFAULT;
        form f = default_;
        if (thinks && f == form::closed) f = form_of(how = DS_THINKING_ON);
        else if (!thinks && (f == form::open || f == form::open_line)) f = form_of(how = DS_THINKING_OFF);
        if (thinks && (f == form::open || f == form::open_line)) {
            answer.erase(0, tag.size());
            if (f == form::open_line && answer[0] == '\n') answer.erase(0, 1);
        }
        sequence s;
        add(s, render(m, last, how), 0);
        for (size_t i = 1; i < last; ++i) {
            if (std::string(m[i].role) != "assistant") continue;
            const std::vector<ds_token> before = render(m, i, DS_THINKING_DEFAULT);
            size_t at = static_cast<size_t>(
                std::mismatch(before.begin(), before.end(), s.tokens.begin(), s.tokens.end()).second -
                s.tokens.begin());
            while (at < s.tokens.size()) {
                s.weights[at] = 1;
                if (ds_token_is_end(model_.get(), s.tokens[at++])) break;
            }
        }
        add_answer(s, answer);
        return s;
    }

    const cli::model_ptr &model_;
    rules rules_;
    bool tags_ = false, chat_ = false;
    form default_ = form::none;
    ds_token end_ = -1;
};

// All rows of a file, "-" for standard input. A bad one is an error that names the line.
inline data read_data(const std::string &path, const reader &r) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(path == "-" ? stdin : std::fopen(path.c_str(), "rb"),
                                                    [](FILE *f) { return f == stdin ? 0 : std::fclose(f); });
    if (!in) throw cli::failure(path + ": " + std::strerror(errno));
    data d;
    d.path = path;
    fnv hash;
    jsonl::each_line(in.get(), path, [&](size_t line, const std::string &text, uint64_t) {
        d.bytes += text.size();
        hash.add(text);
        const size_t last = text.find_last_not_of(" \t\r\n");
        if (last == std::string::npos) return;
        try {
            d.sequences.push_back(r.read(text.substr(0, last + 1)));
        } catch (const cli::failure &e) {
            throw cli::failure(jsonl::location(path, line) + ": " + e.what());
        }
        const sequence &s = d.sequences.back();
        d.tokens += s.tokens.size();
        d.targets += static_cast<uint64_t>(
            std::count_if(s.weights.begin() + 1, s.weights.end(), [](float w) { return w > 0; }));
    });
    if (d.sequences.empty()) throw cli::failure(jsonl::input_name(path) + ": has no rows");
    d.hash = hash.hash;
    return d;
}

// ---- Batches

// How batches are made of one or more data sets.
struct batching {
    uint64_t tokens = 2048;    // most of a batch, or one sequence; with `sequences` any
    uint64_t sequences = 0;    // of a batch; 0: as `tokens` has it
    bool buckets = false;      // of a batch all lengths have the same power of two above them
    uint64_t most_tokens = 0;  // of a sequence; longer ones are left out; 0: none is
    uint64_t seed = 1;
};

// Deals batches: each set's sequences in permutations, one an epoch; rows of several sets in proportion to
// their weights, and batches of several buckets in proportion to what these hold. There is no chance in it:
// the one that lacks most of its share is next, and the first among equals.
class feeder {
public:
    feeder(const std::vector<data> &sets, const std::vector<double> &weights, const batching &how)
        : sets_(sets), how_(how) {
        for (size_t s = 0; s < sets.size(); ++s) {
            std::map<uint64_t, lane> by_bucket;
            size_t rows = 0;
            for (size_t i = 0; i < sets[s].sequences.size(); ++i) {
                const uint64_t n = sets[s].sequences[i].tokens.size();
                if (how.most_tokens && n > how.most_tokens) continue;
                lane &l = by_bucket[how.buckets ? std::bit_ceil(n) : 0];
                l.set = s;
                l.rows.push_back(i);
                ++rows;
            }
            for (auto &[bucket, l] : by_bucket) {
                l.share = weights[s] * static_cast<double>(l.rows.size()) / static_cast<double>(rows);
                group &g = groups_[bucket];
                g.share += l.share;
                shuffle(l);
                g.lanes.push_back(std::move(l));
            }
        }
        if (groups_.empty())
            throw cli::failure(jsonl::input_name(sets[0].path) + ": has no rows of at most " +
                               std::to_string(how.most_tokens) + " tokens");
    }

    // Times through the rows, of one set without buckets.
    uint64_t epoch() const { return groups_.begin()->second.lanes[0].epoch; }

    std::vector<std::pair<size_t, size_t>> next() {  // sets and their sequences
        std::vector<group *> all;
        for (auto &[bucket, g] : groups_) all.push_back(&g);
        group &g = *choose(all);
        std::vector<lane *> lanes;
        for (lane &l : g.lanes) lanes.push_back(&l);
        std::vector<std::pair<size_t, size_t>> out;
        for (uint64_t tokens = 0;;) {
            const std::vector<double> before = credits(lanes);
            lane &l = *choose(lanes);
            const size_t row = l.order[l.index];
            tokens += sets_[l.set].sequences[row].tokens.size();
            if (!how_.sequences && !out.empty() && tokens > how_.tokens) {
                for (size_t i = 0; i < lanes.size(); ++i) lanes[i]->credit = before[i];
                return out;
            }
            out.emplace_back(l.set, row);
            const bool last = ++l.index == l.order.size();
            if (last) ++l.epoch, l.index = 0, shuffle(l);
            // an epoch of the only set ends its batch
            if (out.size() == how_.sequences || (last && lanes.size() == 1 && !how_.sequences)) return out;
        }
    }

    // The place in all this, to be continued from.
    json place() const {
        json out = json::array();
        for (const auto &[bucket, g] : groups_) {
            json lanes = json::array();
            for (const lane &l : g.lanes) lanes.push_back({l.epoch, l.index, l.credit});
            out.push_back({g.credit, lanes});
        }
        return out;
    }
    // False if it is not the place of such a feeder.
    bool go_to(const json &place) {
        try {
            size_t at = 0;
            if (place.size() != groups_.size()) return false;
            for (auto &[bucket, g] : groups_) {
                const json &p = place.at(at++);
                g.credit = p.at(0).get<double>();
                if (p.at(1).size() != g.lanes.size()) return false;
                for (size_t i = 0; i < g.lanes.size(); ++i) {
                    lane &l = g.lanes[i];
                    const json &q = p.at(1).at(i);
                    l.epoch = q.at(0).get<uint64_t>(), l.index = q.at(1).get<uint64_t>();
                    l.credit = q.at(2).get<double>();
                    if (l.index >= l.rows.size()) return false;
                    shuffle(l);
                }
            }
            return true;
        } catch (const json::exception &) {
            return false;
        }
    }

    // Of the sequences that are dealt.
    size_t longest() const {
        size_t n = 0;
        for (const auto &[bucket, g] : groups_)
            for (const lane &l : g.lanes)
                for (const size_t i : l.rows) n = std::max(n, sets_[l.set].sequences[i].tokens.size());
        return n;
    }

private:
    struct lane {
        size_t set = 0;
        std::vector<size_t> rows, order;
        uint64_t epoch = 0, index = 0;  // of the next sequence
        double share = 0, credit = 0;
    };
    struct group {
        std::vector<lane> lanes;
        double share = 0, credit = 0;
    };
    template <class T> static T *choose(const std::vector<T *> &all) {
        double sum = 0;
        T *best = all[0];
        for (T *const t : all) {
            sum += t->share;
            t->credit += t->share;
            if (t->credit > best->credit) best = t;
        }
        best->credit -= sum;
        return best;
    }
    static std::vector<double> credits(const std::vector<lane *> &lanes) {
        std::vector<double> out;
        for (const lane *const l : lanes) out.push_back(l->credit);
        return out;
    }
    void shuffle(lane &l) const {
        l.order = l.rows;
        splitmix64 random{splitmix64::mix(how_.seed + 1) + l.epoch};
        for (size_t i = l.order.size(); i > 1; --i) std::swap(l.order[i - 1], l.order[random.below(i)]);
    }

    const std::vector<data> &sets_;
    batching how_;
    std::map<uint64_t, group> groups_;
};

// In the file's order.
inline std::vector<std::vector<size_t>> batches_in_order(const data &d, uint64_t batch_tokens) {
    std::vector<std::vector<size_t>> out;
    uint64_t tokens = 0;
    for (size_t i = 0; i < d.sequences.size(); ++i) {
        const uint64_t n = d.sequences[i].tokens.size();
        if (out.empty() || tokens + n > batch_tokens) out.emplace_back(), tokens = 0;
        out.back().push_back(i);
        tokens += n;
    }
    return out;
}

inline ds_sequence view_of(const sequence &s) { return {s.tokens.data(), s.weights.data(), s.tokens.size()}; }

}  // namespace rows
