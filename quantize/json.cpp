// Reads JSON for the converter with nlohmann's parser, which has a stack of its own, so depth costs no
// recursion there; json_max_depth bounds same(), which recurses. A duplicate member is an error: two readers
// of one file must not see two values.

#include "json.h"

#include "../tensor/os.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <filesystem>

namespace ds {

using kind = json_tree::kind;

// ---- Reading a tree

size_t json_node::find(std::string_view member) const {
    object();
    const auto from = t_->order_.begin() + static_cast<std::ptrdiff_t>(t_->first_order(at_)),
               to = from + static_cast<std::ptrdiff_t>(size());
    const auto i = std::lower_bound(from, to, member,
                                    [&](uint32_t name, std::string_view m) { return t_->text(name) < m; });
    return i == to || t_->text(*i) != member || t_->words_[*i + 1].what() == kind::null ? SIZE_MAX : *i + 1;
}

bool json_node::has(std::string_view member) const { return find(member) != SIZE_MAX; }

json_node json_node::at(std::string_view member) const {
    const size_t i = find(member);
    if (i == SIZE_MAX)
        throw error(status::format, file() + ": " + ds::quoted(field_of(member)) + ": missing");
    return json_node(t_, i, field_of(member));
}

json_node json_node::at(size_t i) const {
    size_t at = array().at_ + 2;
    for (size_t k = 0; k < i; ++k) at = t_->after(at);
    return json_node(t_, at, field_ + "[" + std::to_string(i) + "]");
}

std::vector<std::string> json_node::names() const {
    std::vector<std::string> out;
    object().each([&](std::string_view name, const json_node &) { out.emplace_back(name); });
    return out;
}

void json_node::each(const std::function<void(std::string_view name, const json_node &value)> &f) const {
    object();
    for (size_t i = 0, first = t_->first_order(at_); i < size(); ++i) {
        const size_t name = t_->order_[first + i];
        f(t_->text(name), json_node(t_, name + 1, field_of(t_->text(name))));
    }
}

void json_node::each(const std::function<void(size_t i, const json_node &value)> &f) const {
    size_t at = array().at_ + 2;
    for (size_t i = 0; i < size(); ++i, at = t_->after(at))
        f(i, json_node(t_, at, field_ + "[" + std::to_string(i) + "]"));
}

uint64_t json_node::whole(uint64_t max) const {
    if (!is_whole(max)) not_a(("a whole number up to " + std::to_string(max)).c_str());
    return t_->number_bits(at_);
}

double json_node::number_at(const json_tree &t, size_t at) {
    const uint64_t bits = t.number_bits(at);
    const kind k = t.words_[at].what();
    return k == kind::whole      ? static_cast<double>(bits)
           : k == kind::negative ? static_cast<double>(static_cast<int64_t>(bits))
                                 : std::bit_cast<double>(bits);
}

double json_node::number() const {
    if (!is_integer() && what() != kind::number) not_a("a number");
    return number_at(*t_, at_);
}

bool json_node::flag() const {
    if (what() != kind::yes && what() != kind::no) not_a("true or false");
    return what() == kind::yes;
}

std::string_view json_node::view() const {
    if (!is_text()) not_a("a string");
    return t_->text(at_);
}

const json_node &json_node::object() const {
    if (!is_object()) not_a("an object");
    return *this;
}

const json_node &json_node::array() const {
    if (!is_array()) not_a("an array");
    return *this;
}

void json_node::fail(status code, const std::string &text) const {
    throw error(code, file() + ": " + (field_.empty() ? "" : ds::quoted(field_) + ": ") + text);
}

std::string json_node::shown() const {
    const auto as_json = [](const nlohmann::json &v) {
        return v.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    };
    switch (what()) {
    case kind::array: return "array";
    case kind::object: return "object";
    case kind::null: return "null";
    case kind::no: return "false";
    case kind::yes: return "true";
    // ds::quoted cuts longer ones
    case kind::text: return as_json(std::string(t_->text(at_).substr(0, 256)));
    case kind::whole: return std::to_string(t_->number_bits(at_));
    case kind::negative: return std::to_string(static_cast<int64_t>(t_->number_bits(at_)));
    case kind::number: break;
    }
    return as_json(number_at(*t_, at_));
}

void json_node::not_a(const char *what) const {
    fail(status::format, ds::quoted(shown()) + " is not " + what);
}

// Numbers are equal if their values are. Recurses as deep as the tree.
bool json_node::same(const json_tree &a, size_t i, const json_tree &b, size_t j) {
    const kind x = a.words_[i].what(), y = b.words_[j].what();
    const auto is_number = [](kind k) {
        return k == kind::whole || k == kind::negative || k == kind::number;
    };
    if (is_number(x) && is_number(y))
        return x == y && x != kind::number ? a.number_bits(i) == b.number_bits(j)
                                           : number_at(a, i) == number_at(b, j);
    if (x != y) return false;
    if (x == kind::text) return a.text(i) == b.text(j);
    if (x != kind::array && x != kind::object) return true;
    if (a.count(i) != b.count(j)) return false;
    const size_t n = a.count(i);
    for (size_t k = 0, at = i + 2, other = j + 2; k < n; ++k) {
        if (x == kind::array) {
            if (!same(a, at, b, other)) return false;
            at = a.after(at), other = b.after(other);
            continue;
        }
        const size_t name = a.order_[a.first_order(i) + k], same_name = b.order_[b.first_order(j) + k];
        if (a.text(name) != b.text(same_name) || !same(a, name + 1, b, same_name + 1)) return false;
    }
    return true;
}

// ---- Building a tree

// Builds the tree from the parser's events, in one pass.
class json_builder {
public:
    json_builder(json_tree &tree, const stop_asked &stopped) : t_(tree), stopped_(stopped) {}

    bool null() { return put({kind::null, 0}); }
    bool boolean(bool v) { return put({v ? kind::yes : kind::no, 0}); }
    bool number_integer(int64_t v) {
        return put_number(v < 0 ? kind::negative : kind::whole, static_cast<uint64_t>(v));
    }
    bool number_unsigned(uint64_t v) {
        return v < json_tree::by_index ? put({kind::whole, v}) : put_number(kind::whole, v);
    }
    bool number_float(double v, const std::string &) {
        return put_number(kind::number, std::bit_cast<uint64_t>(v));
    }
    bool string(std::string &v) { return put({kind::text, keep(v)}); }
    bool binary(nlohmann::json::binary_t &) { return false; }  // not in JSON
    bool start_object(size_t) { return open(kind::object); }
    bool start_array(size_t) { return open(kind::array); }
    bool end_array() { return close(); }
    bool key(std::string &v) {
        ++steps_;
        ++open_.back().count;
        t_.words_.push_back({kind::text, keep(v)});
        return in_object_ = true;
    }
    // Duplicate names are neighbours once sorted.
    bool end_object() {
        const opened o = open_.back();
        const size_t first = t_.order_.size();
        for (size_t i = 0, at = o.at + 2; i < o.count; ++i, at = t_.after(at + 1))
            t_.order_.push_back(static_cast<uint32_t>(at));
        const auto from = t_.order_.begin() + static_cast<std::ptrdiff_t>(first);
        std::sort(from, t_.order_.end(),
                  [&](uint32_t a, uint32_t b) { return ++steps_, t_.text(a) < t_.text(b); });
        const auto twice = std::adjacent_find(
            from, t_.order_.end(), [&](uint32_t a, uint32_t b) { return t_.text(a) == t_.text(b); });
        if (twice != t_.order_.end()) {
            const std::string_view name = t_.text(*twice);
            throw error(status::format,
                        t_.name_ + ": " + ds::quoted(name.data(), name.size()) + ": given twice");
        }
        first_order_ = first;
        return close();
    }
    bool parse_error(size_t, const std::string &, const nlohmann::json::exception &e) {
        const auto *const where = dynamic_cast<const nlohmann::json::parse_error *>(&e);
        throw error(status::format,
                    t_.name_ + (where ? ": not JSON at byte " + std::to_string(where->byte)
                                      : std::string(": a number in the JSON is out of range")));
    }

    uint64_t steps() const { return steps_; }

private:
    struct opened {
        size_t at, count;
    };

    // Counts an element of an array; key() has counted a member of an object.
    void count() {
        if (++values_ % 65536 == 0 && stopped_ && stopped_())
            throw error(status::cancelled, t_.name_ + ": stopped before it was read");
        ++steps_;
        if (!in_object_ && !open_.empty()) ++open_.back().count;
        in_object_ = false;
    }
    bool put(json_tree::word w) {
        count();
        t_.words_.push_back(w);
        return true;
    }
    bool put_number(kind k, uint64_t bits) {
        t_.numbers_.push_back(bits);
        return put({k, json_tree::by_index + t_.numbers_.size() - 1});
    }
    bool open(kind k) {
        if (open_.size() > json_max_depth)
            throw error(status::format,
                        t_.name_ + ": JSON nested deeper than " + std::to_string(json_max_depth));
        put({k, 0});
        open_.push_back({t_.words_.size() - 1, 0});
        t_.words_.push_back({kind::null, 0});
        first_order_ = 0;
        return true;
    }
    bool close() {
        const opened o = open_.back();
        open_.pop_back();
        t_.words_[o.at] = {t_.words_[o.at].what(), t_.words_.size()};
        t_.words_[o.at + 1].bits = uint64_t(o.count) << 32 | first_order_;
        first_order_ = 0;
        return true;
    }

    // Stores a text. Returns its block, and its offset there.
    uint64_t keep(std::string_view v) {
        constexpr size_t block = size_t(1) << 16;
        const auto n = static_cast<uint32_t>(v.size());
        const size_t bytes = sizeof n + v.size();
        if (bytes > t_.chars_left_) {
            t_.chars_left_ = std::max(block, bytes), t_.chars_used_ = 0;
            t_.chars_.push_back(std::make_unique_for_overwrite<char[]>(t_.chars_left_));
        }
        char *const p = t_.chars_.back().get() + t_.chars_used_;
        std::memcpy(p, &n, sizeof n);
        std::memcpy(p + sizeof n, v.data(), v.size());
        const uint64_t location = uint64_t(t_.chars_.size() - 1) << 32 | t_.chars_used_;
        t_.chars_used_ += bytes, t_.chars_left_ -= bytes;
        return location;
    }

    json_tree &t_;
    std::vector<opened> open_;
    bool in_object_ = false;  // a name has been read, its value is next
    size_t first_order_ = 0;
    uint64_t steps_ = 0, values_ = 0;
    const stop_asked &stopped_;
};

json_tree parse_json(std::string_view text, const std::string &name, const stop_asked &stopped,
                     uint64_t *steps) {
    if (text.size() > json_max_bytes)
        throw error(status::format,
                    name + ": more than " + std::to_string(json_max_bytes) + " bytes of JSON");
    json_tree tree(name);
    json_builder b(tree, stopped);
    nlohmann::json::sax_parse(text, &b);
    if (steps) *steps += b.steps();
    return tree;
}

json_tree read_json(const std::string &path, const stop_asked &stopped) {
    const os::mapping bytes = os::mapping::map_file(path);
    return parse_json(std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size()), path,
                      stopped);
}

bool file_exists(const std::string &path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}

}  // namespace ds
