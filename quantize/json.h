// JSON from files that nobody vouches for: parsed with a bounded depth, duplicate members refused, every read typed, every message naming
// file and field.
#pragma once

#include "../tensor/base.h"

#include <nlohmann/json.hpp>

#include <string_view>
#include <vector>

namespace ds {

// A value and its place in the file, for messages: "DIR/config.json: rope_scaling.factor: …". It refers to the tree that it was made of.
class json_node {
public:
    json_node(const nlohmann::json &value, std::string file, std::string field = "") : v_(&value), file_(std::move(file)), field_(std::move(field)) {}

    bool has(std::string_view member) const;            // there, and not null
    json_node at(std::string_view member) const;        // throws status::format when absent or null
    json_node at(size_t i) const;                       // of an array, in range
    size_t size() const { return v_->size(); }
    const nlohmann::json &value() const { return *v_; }
    const std::string &file() const { return file_; }
    const std::string &field() const { return field_; }
    std::vector<std::string> names() const;             // of an object's members
    bool same_as(const json_node &other) const { return *v_ == *other.v_; }

    bool is_object() const { return v_->is_object(); }
    bool is_array() const { return v_->is_array(); }
    bool is_integer() const { return v_->is_number_integer(); }
    bool is_whole(uint64_t max) const;
    std::string shown() const;                          // a scalar as JSON, or the name of the type
    bool is_text() const { return v_->is_string(); }

    // Typed reads; each throws status::format when the value is something else.
    uint64_t whole(uint64_t max) const;
    double number() const;
    bool flag() const;
    const std::string &text() const;
    const json_node &object() const;                    // itself
    const json_node &array() const;

    // Members that may be absent or null.
    uint64_t whole(std::string_view member, uint64_t max, uint64_t absent) const { return has(member) ? at(member).whole(max) : absent; }
    double number(std::string_view member, double absent) const { return has(member) ? at(member).number() : absent; }
    bool flag(std::string_view member, bool absent) const { return has(member) ? at(member).flag() : absent; }
    std::string text(std::string_view member, const std::string &absent) const { return has(member) ? at(member).text() : absent; }

    [[noreturn]] void fail(status code, const std::string &text) const;

private:
    [[noreturn]] void not_a(const char *what) const;
    const nlohmann::json *v_;
    std::string file_, field_;
};

constexpr int json_max_depth = 64;
constexpr size_t json_max_bytes = 100u << 20;

// A parsed file. nlohmann's own destructor asks for memory, and would end the program where there is none: this one takes the tree apart from its leaves up.
struct json_tree {
    nlohmann::json value;

    json_tree() = default;
    explicit json_tree(nlohmann::json v) : value(std::move(v)) {}
    json_tree(json_tree &&o) noexcept { value.swap(o.value); }
    json_tree &operator=(json_tree &&o) noexcept { return value.swap(o.value), *this; }
    ~json_tree();
};

json_tree parse_json(std::string_view text, const std::string &name);   // throws status::format
json_tree read_json(const std::string &path);                           // and status::io

bool file_exists(const std::string &path);

} // namespace ds
