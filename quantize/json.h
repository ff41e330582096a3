// JSON from untrusted files: bounded depth, no duplicate members, typed reads, and messages that name file
// and field. A tree takes at most six times the text's size, whatever the text.
#pragma once

#include "../tensor/base.h"

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace ds {

// A parsed file: its values in the order of the text, one word each. An array's or object's word is followed
// by one for its count, then by its elements; an object's are names and values, alternating.
class json_tree {
public:
    enum class kind : uint8_t { null, no, yes, text, array, object, whole, negative, number };

    explicit json_tree(std::string name = "") : name_(std::move(name)) {}
    json_tree(json_tree &&) = default;
    json_tree &operator=(json_tree &&) = default;
    const std::string &name() const { return name_; }

private:
    friend class json_node;
    friend class json_builder;

    // The kind, and by kind: the location of a text, the index of the word after an array or object, a whole
    // number below 2^55, or an index in numbers_.
    struct word {
        uint64_t bits;
        word(kind k, uint64_t v) : bits(v << 8 | static_cast<uint64_t>(k)) {}
        kind what() const { return static_cast<kind>(bits & 0xff); }
        uint64_t value() const { return bits >> 8; }
    };
    static constexpr uint64_t by_index = uint64_t(1) << 55;  // added to an index in numbers_

    size_t count(size_t at) const { return words_[at + 1].bits >> 32; }
    size_t first_order(size_t at) const { return words_[at + 1].bits & UINT32_MAX; }
    size_t after(size_t at) const {
        return words_[at].what() == kind::array || words_[at].what() == kind::object ? words_[at].value()
                                                                                     : at + 1;
    }
    std::string_view text(size_t at) const {
        const char *const p = chars_[words_[at].value() >> 32].get() + (words_[at].value() & UINT32_MAX);
        uint32_t n;
        std::memcpy(&n, p, sizeof n);
        return {p + sizeof n, n};
    }
    uint64_t number_bits(size_t at) const {
        return words_[at].value() & by_index ? numbers_[words_[at].value() - by_index] : words_[at].value();
    }

    std::string name_;
    std::deque<word> words_;
    std::deque<uint32_t> order_;  // of each object, the words of its names, sorted by name
    std::deque<uint64_t> numbers_;
    std::vector<std::unique_ptr<char[]>> chars_;  // texts, each after its length
    size_t chars_left_ = 0, chars_used_ = 0;      // of the last block
};

// A value and its path in the file, for messages: "DIR/config.json: rope_scaling.factor: …". The tree must
// outlive it and must not move.
class json_node {
public:
    explicit json_node(const json_tree &tree) : t_(&tree) {}

    bool has(std::string_view member) const;      // present and not null
    json_node at(std::string_view member) const;  // throws status::format when absent or null
    json_node at(size_t i) const;                 // of an array, in range; `each` is faster for all
    size_t size() const { return is_array() || is_object() ? t_->count(at_) : 0; }
    const std::string &file() const { return t_->name(); }
    const std::string &field() const { return field_; }
    std::vector<std::string> names() const;  // of an object's members
    bool same_as(const json_node &other) const { return same(*t_, at_, *other.t_, other.at_); }

    // All members of an object in the order of their names, null or not; all elements of an array.
    void each(const std::function<void(std::string_view name, const json_node &value)> &f) const;
    void each(const std::function<void(size_t i, const json_node &value)> &f) const;

    bool is_object() const { return what() == json_tree::kind::object; }
    bool is_array() const { return what() == json_tree::kind::array; }
    bool is_integer() const {
        return what() == json_tree::kind::whole || what() == json_tree::kind::negative;
    }
    bool is_whole(uint64_t max) const {
        return what() == json_tree::kind::whole && t_->number_bits(at_) <= max;
    }
    std::string shown() const;  // a scalar as JSON, or the name of the type
    bool is_text() const { return what() == json_tree::kind::text; }

    // Typed reads; each throws status::format when the value is something else.
    uint64_t whole(uint64_t max) const;
    double number() const;
    bool flag() const;
    std::string text() const { return std::string(view()); }
    std::string_view view() const;    // into the tree
    const json_node &object() const;  // itself
    const json_node &array() const;

    // Members that may be absent or null.
    uint64_t whole(std::string_view member, uint64_t max, uint64_t absent) const {
        return has(member) ? at(member).whole(max) : absent;
    }
    double number(std::string_view member, double absent) const {
        return has(member) ? at(member).number() : absent;
    }
    bool flag(std::string_view member, bool absent) const { return has(member) ? at(member).flag() : absent; }
    std::string text(std::string_view member, const std::string &absent) const {
        return has(member) ? at(member).text() : absent;
    }

    [[noreturn]] void fail(status code, const std::string &text) const;

private:
    json_node(const json_tree *t, size_t at, std::string field) : t_(t), at_(at), field_(std::move(field)) {}
    json_tree::kind what() const { return t_->words_[at_].what(); }
    size_t find(std::string_view member) const;  // its value, or SIZE_MAX
    std::string field_of(std::string_view member) const {
        return field_.empty() ? std::string(member) : field_ + "." + std::string(member);
    }
    static bool same(const json_tree &a, size_t i, const json_tree &b, size_t j);
    static double number_at(const json_tree &t, size_t at);
    [[noreturn]] void not_a(const char *what) const;
    const json_tree *t_;
    size_t at_ = 0;
    std::string field_;
};

constexpr int json_max_depth = 64;
constexpr size_t json_max_bytes = 100u << 20;

// Throws status::format. `steps`, if not null, is increased by the values read and the names compared, so
// that a test can check that the work is linear. `stopped` is polled; true ends the reading with
// status::cancelled.
using stop_asked = std::function<bool()>;
json_tree parse_json(std::string_view text, const std::string &name, const stop_asked &stopped = {},
                     uint64_t *steps = nullptr);
json_tree read_json(const std::string &path, const stop_asked &stopped = {});  // and status::io

bool file_exists(const std::string &path);

}  // namespace ds
