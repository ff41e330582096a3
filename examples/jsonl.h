// Prompts and answers as lines of JSON: the fields of a prompt, and a file of answers.
// Invariant: the file of answers is never left with half a line.
#pragma once

#include "cli.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <map>
#include <set>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace jsonl {

using json = nlohmann::ordered_json;

struct prompt {
    size_t line = 0;
    // a string or an integer; by default the line's number
    json id;
    std::vector<std::pair<std::string, std::string>> messages;  // role, content
    // its pointers are set when it is submitted
    cli::answer_options how;
    std::vector<std::string> stop;
    std::string think_end, error;  // error: why the line is no prompt
    // of the system message and the line's text; repeated in its answer
    std::string hash;
};

// ---- A line of prompts

// One row for each field: its help, and its reader.
struct field {
    const char *name, *help;
    // throws the rest of a sentence that begins with the field's name
    std::function<void(prompt &, const json &)> set;
};

inline const std::string &text_of(const json &v) {
    if (!v.is_string()) throw cli::failure("must be a string");
    const auto &s = v.get_ref<const std::string &>();
    if (s.find('\0') != std::string::npos) throw cli::failure("has a character U+0000");
    return s;
}

template <class T> T number_of(const json &v) {
    if constexpr (std::is_floating_point_v<T>) {
        using range = std::numeric_limits<T>;
        if (!v.is_number() || !(v.get<double>() >= range::lowest() && v.get<double>() <= range::max()))
            throw cli::failure("must be a number that fits 32 bits");
        return v.get<T>();
    } else if constexpr (std::is_signed_v<T>) {
        using range = std::numeric_limits<T>;
        if (!v.is_number_integer() ||
            (v.is_number_unsigned() && v.get<uint64_t>() > uint64_t{range::max()}) ||
            v.get<int64_t>() < range::min())
            throw cli::failure("must be an integer from " + std::to_string(range::min()) + " to " +
                               std::to_string(range::max()));
        return v.get<T>();
    } else {
        if (!v.is_number_unsigned() || v.get<uint64_t>() > std::numeric_limits<T>::max())
            throw cli::failure("must be an integer from 0 to " +
                               std::to_string(std::numeric_limits<T>::max()));
        return v.get<T>();
    }
}
template <class S, class T>
std::function<void(prompt &, const json &)> number(S cli::answer_options::*part, T S::*at) {
    return [part, at](prompt &p, const json &v) { p.how.*part.*at = number_of<T>(v); };
}

inline void set_id(prompt &p, const json &v) {
    if (!v.is_string() && !v.is_number_integer()) throw cli::failure("must be a string or an integer");
    p.id = v;
}

inline void set_messages(prompt &p, const json &v) {
    if (!v.is_array() || v.empty()) throw cli::failure("must be an array of at least one message");
    for (const json &m : v) {
        if (!m.is_object() || m.size() != 2 || !m.contains("role") || !m.contains("content"))
            throw cli::failure("a message must be an object of role and content");
        p.messages.emplace_back(text_of(m["role"]), text_of(m["content"]));
    }
}

inline void set_think_budget(prompt &p, const json &v) {
    cli::set_think_budget(p.how.thinking, v.is_null() ? "off" : std::to_string(number_of<uint32_t>(v)));
}

inline void set_thinking(prompt &p, const json &v) {
    if (!v.is_boolean()) throw cli::failure("must be true or false");
    p.how.thinking.mode = v.get<bool>() ? DS_THINKING_ON : DS_THINKING_OFF;
}

inline void set_stop(prompt &p, const json &v) {
    p.stop.clear();
    if (!v.is_array()) p.stop.push_back(text_of(v));
    else
        for (const json &s : v) p.stop.push_back(text_of(s));
}

inline const std::vector<field> &fields() {
    static const std::vector<field> list = {
        {"id", "a string or an integer, no two the same; default: the number of the line", set_id},
        {"prompt", "the question; this or messages",
         [](prompt &p, const json &v) { p.messages.emplace_back("user", text_of(v)); }},
        {"messages", "[{\"role\": \"user\", \"content\": \"…\"}, …]", set_messages},
        {"max_tokens", "as --max-new", number(&cli::answer_options::request, &ds_request::max_new_tokens)},
        {"temperature", "as --temp", number(&cli::answer_options::sampling, &ds_sampling::temperature)},
        {"top_p", "as --top-p", number(&cli::answer_options::sampling, &ds_sampling::top_p)},
        {"top_k", "as --top-k", number(&cli::answer_options::sampling, &ds_sampling::top_k)},
        {"min_p", "as --min-p", number(&cli::answer_options::sampling, &ds_sampling::min_p)},
        {"seed", "as --seed", number(&cli::answer_options::sampling, &ds_sampling::seed)},
        {"repetition_penalty", "from 0 to 1000",
         number(&cli::answer_options::sampling, &ds_sampling::repetition_penalty)},
        {"presence_penalty", "from -1000 to 1000",
         number(&cli::answer_options::sampling, &ds_sampling::presence_penalty)},
        {"frequency_penalty", "from -1000 to 1000",
         number(&cli::answer_options::sampling, &ds_sampling::frequency_penalty)},
        {"thinking", "true or false, as --think", set_thinking},
        {"think_budget", "as --think-budget; null: no limit", set_think_budget},
        {"think_end", "as --think-end", [](prompt &p, const json &v) { p.think_end = text_of(v); }},
        {"priority", "an integer: of the prompts that wait, higher ones go first; default 0",
         number(&cli::answer_options::request, &ds_request::priority)},
        {"stop", "a text that ends the answer, or an array of them", set_stop},
    };
    return list;
}

// For messages: cut at a character.
inline std::string short_name(const std::string &name) {
    size_t n = 60;
    if (name.size() <= n) return name;
    while ((name[n] & 0xc0) == 0x80) --n;
    return name.substr(0, n) + "…";
}

// Checks a line without building a value: JSON of modest depth, no name twice in an object, no number beyond
// double's range.
class line_check : public nlohmann::json_sax<json> {
public:
    std::string fault;  // the rest of a sentence

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t &) override { return true; }
    bool string(string_t &) override { return true; }
    bool binary(binary_t &) override { return true; }
    bool start_object(std::size_t) override { return enter(); }
    bool start_array(std::size_t) override { return enter(); }
    bool end_object() override { return leave(); }
    bool end_array() override { return leave(); }
    bool key(string_t &name) override {
        constexpr size_t most_names = 100;  // a prompt has few, and looking them up is quadratic
        if (!names_.back().insert(name).second) return wrong("has " + short_name(name) + " twice");
        return names_.back().size() <= most_names ||
               wrong("has an object of more than " + std::to_string(most_names) + " fields");
    }
    bool parse_error(std::size_t at, const std::string &, const nlohmann::detail::exception &e) override {
        const bool overflow = dynamic_cast<const json::out_of_range *>(&e) != nullptr;
        return wrong((overflow ? "has a number out of range, at byte " : "is not JSON, at byte ") +
                     std::to_string(at));
    }

private:
    bool wrong(const std::string &why) { return fault = why, false; }
    bool enter() {
        constexpr size_t most_levels = 100;
        names_.emplace_back();
        return names_.size() <= most_levels ||
               wrong("is deeper than " + std::to_string(most_levels) + " levels");
    }
    bool leave() { return names_.pop_back(), true; }

    std::vector<std::set<std::string>> names_;  // of the open objects and arrays
};

// One line's value. Anything that the parser throws is an error in this line.
inline json parse_line(const std::string &text) {
    line_check check;
    try {
        if (json::sax_parse(text, &check)) return json::parse(text);
    } catch (const json::exception &e) {
        throw cli::failure(std::string("is not JSON: ") + e.what());
    }
    throw cli::failure(check.fault);
}

inline std::string text_line(const json &record) {
    return record.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

// FNV-1a, as 16 hexadecimal digits.
inline std::string hash_of(const std::string &text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash));
    return out;
}

// `p` has the defaults. Throws a sentence that says what is wrong.
inline void read_prompt(const std::string &text, prompt &p) {
    const json object = parse_line(text);
    if (!object.is_object()) throw cli::failure("is not a JSON object");
    if (object.contains("prompt") == object.contains("messages"))
        throw cli::failure("needs prompt or messages, and not both");
    for (const auto &[name, value] : object.items()) {
        const field *found = nullptr;
        for (const field &f : fields())
            if (name == f.name) found = &f;
        if (!found) throw cli::failure(short_name(name) + ": no such field; see --help");
        try {
            found->set(p, value);
        } catch (const cli::failure &e) {
            throw cli::failure(name + ": " + e.what());
        }
    }
}

inline std::string input_name(const std::string &path) { return path == "-" ? "standard input" : path; }
inline std::string location(const std::string &path, size_t line) {
    return input_name(path) + ":" + std::to_string(line);
}

// Calls each(line number, text, offset) for the lines of a file. Text after the last line feed is a line as
// well.
template <class F> void each_line(FILE *in, const std::string &path, F &&each) {
    char *buffer = nullptr;
    size_t capacity = 0, number = 0;
    uint64_t offset = 0;
    std::string text;
    for (ssize_t n; (n = getline(&buffer, &capacity, in)) >= 0; offset += text.size()) {
        text.assign(buffer, static_cast<size_t>(n));
        std::free(std::exchange(buffer, nullptr));  // `each` may throw
        each(++number, text, offset);
    }
    std::free(buffer);
    if (std::ferror(in)) {
        const char *const why = std::strerror(errno);
        throw cli::failure(input_name(path) + ": could not be read: " + why);
    }
}

// All prompts; fields that a line lacks have the values of `defaults`. A line that is no prompt throws or,
// with keep_errors, becomes a prompt with an error and the line's number for its id. A repeated id is an
// error of the later line.
inline std::vector<prompt> read_prompts(const std::string &path, const prompt &defaults,
                                        const std::string &system, bool keep_errors) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(path == "-" ? stdin : std::fopen(path.c_str(), "rb"),
                                                    [](FILE *f) { return f == stdin ? 0 : std::fclose(f); });
    if (!in) throw cli::failure(path + ": " + std::strerror(errno));
    std::vector<prompt> out;
    std::map<std::string, size_t> seen;
    each_line(in.get(), path, [&](size_t line, const std::string &text, uint64_t) {
        const size_t last = text.find_last_not_of(" \t\r\n");
        if (last == std::string::npos) return;
        prompt p = defaults;
        p.line = line;
        p.id = line;
        p.hash = hash_of(system + '\0' + text.substr(0, last + 1));
        try {
            read_prompt(text.substr(0, last + 1), p);
            const auto [other, added] = seen.emplace(text_line(p.id), line);
            if (!added)
                throw cli::failure("id: " + p.id.dump() + " is the id of line " +
                                   std::to_string(other->second));
        } catch (const cli::failure &e) {
            if (!keep_errors) throw cli::failure(location(path, line) + ": " + e.what());
            p.error = e.what();
            p.id = line;
        }
        out.push_back(std::move(p));
    });
    return out;
}

// ---- The file of answers

// Whether both are the same regular file, under any name. If `path` is "-", it is the descriptor `standard`.
inline bool same_file(int fd, const std::string &path, int standard) {
    struct stat a, b;
    const bool known =
        fstat(fd, &a) == 0 && (path == "-" ? fstat(standard, &b) : stat(path.c_str(), &b)) == 0;
    return known && S_ISREG(a.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// Lines are appended whole or not at all. Existing content is read() first, and nothing changes until all of
// it has been accepted.
class answers {
public:
    // `inputs`: files that it may not be, with their names for messages.
    answers(const std::string &path, const std::vector<std::pair<std::string, const char *>> &inputs)
        : path_(path),
          fd_(path == "-" ? STDOUT_FILENO
                          : ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
        if (fd_ < 0) fail("could not be opened");
        struct stat s;
        regular_ = path != "-" && fstat(fd_, &s) == 0 && S_ISREG(s.st_mode);
        try {
            for (const auto &[input, what] : inputs)
                if (same_file(fd_, input, STDIN_FILENO))
                    throw cli::failure(name() + ": is the file of " + what +
                                       ", which would be overwritten; it is unchanged");
            if (regular_ && flock(fd_, LOCK_EX | LOCK_NB) != 0) fail("is in use");
        } catch (...) {
            close_all();
            throw;
        }
    }
    answers(const answers &) = delete;
    ~answers() { close_all(); }

    struct record {
        size_t line;       // in the file, from 1
        std::string text;  // with its line feed, which a last, incomplete line lacks
        bool first, whole;
    };
    // Calls accept(record, rank) for each existing line. It throws if the line is no answer of ours.
    // Otherwise it returns whether to retain the line, and sets its rank among the answers.
    template <class F> void read(F &&accept) {
        if (!regular_) return;
        FILE *const in = fdopen(dup(fd_), "rb");
        if (!in) fail("could not be read");
        const std::unique_ptr<FILE, int (*)(FILE *)> owner(in, std::fclose);
        each_line(in, path_, [&](size_t line, const std::string &text, uint64_t offset) {
            size_t rank = 0;
            const bool whole = text.back() == '\n';
            const bool keep = accept(record{line, text, line == 1, whole}, rank) && whole;
            if (keep) lines_.push_back({rank, offset, text.size()}), size_ = offset + text.size();
            else (whole ? dropped_ : torn_) = true;
        });
    }

    // Removes the lines that are not retained, in one step: a reader sees the old file or the new one.
    void clean() {
        if (dropped_) rewrite();
        else if (torn_ && ftruncate(fd_, static_cast<off_t>(size_)) != 0)
            fail("could not be shortened to its last whole line");
        dropped_ = torn_ = false;
    }

    void append(const json &value, size_t rank) {
        const std::string line = text_line(value);
        for (size_t done = 0; done < line.size();) {
            const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) {
                const int why = errno;
                if (regular_ && ftruncate(fd_, static_cast<off_t>(size_)) != 0)
                    fail("could not be written, and ends in half a line");
                errno = why;
                fail("could not be written");
            }
            done += static_cast<size_t>(n);
        }
        if (regular_) lines_.push_back({rank, size_, line.size()});
        size_ += line.size();
    }

    // An earlier run's answers may precede answers of a lower rank.
    void sort() {
        const auto before = [](const piece &a, const piece &b) { return a.rank < b.rank; };
        if (!regular_ || std::is_sorted(lines_.begin(), lines_.end(), before)) return;
        std::stable_sort(lines_.begin(), lines_.end(), before);
        rewrite();
    }

    // Some systems report a full disk only now.
    void sync() {
        if (regular_ && fsync(fd_) != 0) fail("could not be written");
    }

private:
    struct piece {
        size_t rank;
        uint64_t offset;
        size_t size;
    };

    std::string name() const { return path_ == "-" ? "standard output" : path_; }
    [[noreturn]] void fail(const char *what) const {
        const char *const why = std::strerror(errno);
        throw cli::failure(name() + ": " + what + ": " + why);
    }

    void close_all() {
        for (const int fd : replaced_) ::close(fd);
        if (path_ != "-") ::close(fd_);
    }

    // Writes the known lines in their order to a temporary file beside this one, which then replaces it. If
    // this one is a link, its target is replaced.
    void rewrite() {
        const std::unique_ptr<char, void (*)(void *)> real(realpath(path_.c_str(), nullptr), std::free);
        struct stat s;
        if (!real || fstat(fd_, &s) != 0) fail("could not be rewritten");
        std::string beside = std::string(real.get()) + ".part-XXXXXX";
        const int to = mkostemp(beside.data(), O_APPEND | O_CLOEXEC);
        if (to < 0) fail("could not be rewritten");
        std::vector<piece> moved;
        uint64_t size = 0;
        bool good = fchmod(to, s.st_mode & 07777) == 0 && flock(to, LOCK_EX | LOCK_NB) == 0;
        std::string text;
        for (size_t i = 0; good && i < lines_.size(); ++i) {
            text.resize(lines_[i].size);
            good = pread(fd_, text.data(), text.size(), static_cast<off_t>(lines_[i].offset)) ==
                       static_cast<ssize_t>(text.size()) &&
                   ::write(to, text.data(), text.size()) == static_cast<ssize_t>(text.size());
            moved.push_back({lines_[i].rank, size, text.size()});
            size += text.size();
        }
        if (!good || fsync(to) != 0 || rename(beside.c_str(), real.get()) != 0) {
            const int why = errno;
            ::unlink(beside.c_str());
            ::close(to);
            errno = why;
            fail("could not be rewritten");
        }
        // the old file stays locked: a process that has opened it must not write to a file without a name
        replaced_.push_back(fd_);
        fd_ = to;
        lines_ = std::move(moved);
        size_ = size;
    }

    std::string path_;
    int fd_;
    bool regular_ = false, dropped_ = false, torn_ = false;
    uint64_t size_ = 0;
    std::vector<piece> lines_;
    std::vector<int> replaced_;
};

}  // namespace jsonl
