// JSON reading for the converter, over nlohmann's parser (which keeps its own stack, so depth costs no recursion; the limit here keeps it small).
// A duplicate member is an error: two readers of one file must not see two values.

#include "json.h"

#include "../tensor/os.h"

#include <filesystem>
#include <unordered_set>

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

nlohmann::json parse_json(std::string_view text, const std::string &name) {
    using event = nlohmann::json::parse_event_t;
    if (text.size() > json_max_bytes) throw error(status::format, name + ": more than " + std::to_string(json_max_bytes) + " bytes of JSON");
    std::vector<std::unordered_set<std::string>> open;      // the members of each object around the current place
    const auto watch = [&](int depth, event e, nlohmann::json &parsed) {
        if (depth > json_max_depth) throw error(status::format, name + ": JSON nested deeper than " + std::to_string(json_max_depth));
        if (e == event::object_start) open.emplace_back();
        if (e == event::object_end) open.pop_back();
        if (e == event::key && !open.back().insert(parsed.get_ref<const std::string &>()).second)
            throw error(status::format, name + ": " + ds::quoted(parsed.get_ref<const std::string &>()) + ": given twice");
        return true;
    };
    try {
        return nlohmann::json::parse(text, watch);
    } catch (const nlohmann::json::parse_error &e) {
        throw error(status::format, name + ": not JSON at byte " + std::to_string(e.byte));
    } catch (const nlohmann::json::exception &) {
        throw error(status::format, name + ": a number in the JSON is out of range");
    }
}

nlohmann::json read_json(const std::string &path) {
    const os::mapping bytes = os::mapping::map_file(path);
    return parse_json(std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size()), path);
}

bool file_exists(const std::string &path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}

} // namespace ds
