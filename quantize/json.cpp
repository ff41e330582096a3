// JSON reading for the converter, over nlohmann's parser (which keeps its own stack, so depth costs no recursion; the limit here keeps it small).
// A duplicate member is an error: two readers of one file must not see two values.

#include "json.h"

#include "../tensor/os.h"

#include <filesystem>

namespace ds {

bool json_node::has(std::string_view member) const {
    const auto i = object().v_->find(member);
    return i != v_->end() && !i->is_null();
}

json_node json_node::at(std::string_view member) const {
    const std::string field = field_.empty() ? std::string(member) : field_ + "." + std::string(member);
    const auto i = object().v_->find(member);
    if (i == v_->end() || i->is_null()) throw error(status::format, file_ + ": " + ds::quoted(field) + ": missing");
    return json_node(*i, file_, field);
}

json_node json_node::at(size_t i) const { return json_node((*array().v_)[i], file_, field_ + "[" + std::to_string(i) + "]"); }

std::vector<std::string> json_node::names() const {
    std::vector<std::string> out;
    for (const auto &[name, ignored] : object().v_->items()) out.push_back(name);
    return out;
}

bool json_node::is_whole(uint64_t max) const {
    const bool negative = v_->is_number_integer() && !v_->is_number_unsigned() && v_->get<int64_t>() < 0;
    return v_->is_number_integer() && !negative && v_->get<uint64_t>() <= max;
}

uint64_t json_node::whole(uint64_t max) const {
    if (!is_whole(max)) not_a(("a whole number up to " + std::to_string(max)).c_str());
    return v_->get<uint64_t>();
}

double json_node::number() const {
    if (!v_->is_number()) not_a("a number");
    return v_->get<double>();
}

bool json_node::flag() const {
    if (!v_->is_boolean()) not_a("true or false");
    return v_->get<bool>();
}

const std::string &json_node::text() const {
    if (!v_->is_string()) not_a("a string");
    return v_->get_ref<const std::string &>();
}

const json_node &json_node::object() const {
    if (!v_->is_object()) not_a("an object");
    return *this;
}

const json_node &json_node::array() const {
    if (!v_->is_array()) not_a("an array");
    return *this;
}

void json_node::fail(status code, const std::string &text) const {
    throw error(code, file_ + ": " + (field_.empty() ? "" : ds::quoted(field_) + ": ") + text);
}

std::string json_node::shown() const {
    return v_->is_structured() ? v_->type_name() : v_->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void json_node::not_a(const char *what) const { fail(status::format, ds::quoted(shown()) + " is not " + what); }

// ---- The tree ---------------------------------------------------------------------------------------------------------------------------------------

static void take_apart(nlohmann::json &v) noexcept {
    if (auto *const list = v.get_ptr<nlohmann::json::array_t *>()) {
        for (nlohmann::json &x : *list) take_apart(x);
        list->clear();
    } else if (auto *const members = v.get_ptr<nlohmann::json::object_t *>()) {
        for (auto &[name, x] : *members) take_apart(x);
        members->clear();
    }
}
json_tree::~json_tree() { take_apart(value); }

namespace {

// What nlohmann's parser sees, as a tree, in one pass.
class builder {
public:
    builder(const std::string &name, json_tree &tree) : name_(name), tree_(tree) {}

    bool null() { return put(nullptr), true; }
    bool boolean(bool v) { return put(v), true; }
    bool number_integer(int64_t v) { return put(v), true; }
    bool number_unsigned(uint64_t v) { return put(v), true; }
    bool number_float(double v, const std::string &) { return put(v), true; }
    bool string(std::string &v) { return put(std::move(v)), true; }
    bool binary(nlohmann::json::binary_t &) { return false; }    // not in JSON
    bool start_object(size_t) { return open(nlohmann::json::object()); }
    bool start_array(size_t) { return open(nlohmann::json::array()); }
    bool end_object() { return open_.pop_back(), true; }
    bool end_array() { return open_.pop_back(), true; }
    bool key(std::string &v) {
        if (open_.back()->find(v) != open_.back()->end()) throw error(status::format, name_ + ": " + ds::quoted(v) + ": given twice");
        return key_ = std::move(v), true;
    }
    bool parse_error(size_t, const std::string &, const nlohmann::json::exception &e) {
        const auto *const where = dynamic_cast<const nlohmann::json::parse_error *>(&e);
        throw error(status::format, name_ + (where ? ": not JSON at byte " + std::to_string(where->byte) : std::string(": a number in the JSON is out of range")));
    }

private:
    nlohmann::json &put(nlohmann::json v) {
        if (open_.empty()) return tree_.value = std::move(v);
        if (auto *const list = open_.back()->get_ptr<nlohmann::json::array_t *>()) return list->emplace_back(std::move(v));
        return open_.back()->get_ref<nlohmann::json::object_t &>().emplace(std::move(key_), std::move(v)).first->second;
    }
    bool open(nlohmann::json v) {
        if (open_.size() > json_max_depth) throw error(status::format, name_ + ": JSON nested deeper than " + std::to_string(json_max_depth));
        open_.push_back(&put(std::move(v)));    // who is put into a list stays where it is until it is closed
        return true;
    }

    const std::string &name_;
    json_tree &tree_;
    std::vector<nlohmann::json *> open_;
    std::string key_;
};

} // namespace

json_tree parse_json(std::string_view text, const std::string &name) {
    if (text.size() > json_max_bytes) throw error(status::format, name + ": more than " + std::to_string(json_max_bytes) + " bytes of JSON");
    json_tree tree;
    builder b(name, tree);
    nlohmann::json::sax_parse(text, &b);
    return tree;
}

json_tree read_json(const std::string &path) {
    const os::mapping bytes = os::mapping::map_file(path);
    return parse_json(std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size()), path);
}

bool file_exists(const std::string &path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}

} // namespace ds
