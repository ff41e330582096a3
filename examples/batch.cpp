// batch: answers a file of prompts, many at the same time, into a file of answers. After an interruption of
// any kind, the next run continues. An answer is written when it is complete, in one piece, so the file of
// answers is the program's only state.
#include "jsonl.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <new>
#include <span>
#include <string_view>
#include <sys/ioctl.h>

namespace {

using jsonl::json;
using jsonl::prompt;

volatile std::sig_atomic_t interrupted = 0;
void on_interrupt(int) { interrupted = 1; }

// A second signal is not caught: the program ends immediately, which the file of answers survives as well.
void install_interrupt() {
    struct sigaction action = {};
    action.sa_handler = on_interrupt;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (const int s : {SIGINT, SIGTERM}) sigaction(s, &action, nullptr);
}

struct options {
    std::string model, in, out, system, chat_template;
    cli::engine_flags engine;
    cli::rope_flags rope;
    cli::adapter_flags adapter;
    prompt defaults;
    bool keep_going = false, in_order = false, quiet = false, help = false;
};

// ---- Progress

class progress {
public:
    progress(bool quiet, size_t total, size_t before)
        : quiet_(quiet), terminal_(isatty(STDERR_FILENO)), total_(total), before_(before), done_(before) {}

    void count_token() { ++tokens_; }
    void count_prompt(bool wrong) { ++done_, errors_ += wrong; }

    // On a terminal a bar, redrawn at most ten times a second; else a line every ten seconds.
    void show() {
        const double now = seconds();
        if (quiet_ || now - shown_ < (terminal_ ? 0.1 : 10)) return;
        shown_ = now;
        const std::string line = text(now);
        if (terminal_) std::fprintf(stderr, "\r%s%s\033[K", bar().c_str(), line.c_str());
        else std::fprintf(stderr, "batch: %s\n", line.c_str());
    }
    void clear() const {
        if (!quiet_ && terminal_ && shown_ > 0) std::fputs("\r\033[K", stderr);
    }
    void sum() const {
        if (quiet_) return;
        const double now = seconds();
        std::fprintf(stderr, "batch: %zu of %zu answered", done_ - errors_, total_);
        if (before_) std::fprintf(stderr, ", %zu of them before", before_);
        std::fprintf(stderr, "; %llu tokens in %.1f s, %.0f/s\n", static_cast<unsigned long long>(tokens_),
                     now, static_cast<double>(tokens_) / now);
    }

private:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    }

    std::string text(double now) const {
        const size_t now_done = done_ - before_;
        char out[128], left[32] = "";
        if (now_done) {
            const auto s = static_cast<unsigned long long>(now / static_cast<double>(now_done) *
                                                           static_cast<double>(total_ - done_));
            std::snprintf(left, sizeof left, ", %llu:%02llu:%02llu left", s / 3600, s / 60 % 60, s % 60);
        }
        std::snprintf(out, sizeof out, "%zu of %zu, %.0f tokens/s%s", done_, total_,
                      static_cast<double>(tokens_) / now, left);
        return out;
    }

    // As wide as the rest of the line allows.
    std::string bar() const {
        winsize w = {};
        const int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
        const size_t width = static_cast<size_t>(std::clamp(columns - 60, 0, 40)),
                     full = total_ ? width * done_ / total_ : 0;
        return width ? "[" + std::string(full, '#') + std::string(width - full, '.') + "] " : "";
    }

    bool quiet_, terminal_;
    size_t total_, before_, done_, errors_ = 0;
    uint64_t tokens_ = 0;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
    double shown_ = 0;
};

// ---- Records

json record_of(const prompt &p, const std::string &error) {
    return {{"id", p.id}, {"line", p.line}, {"error", error}};
}

// The text without the tags at its ends and without surrounding white space.
std::string bare(const std::string &text, const std::string &first, const std::string &last) {
    const char *const blanks = " \t\r\n";
    const auto trim = [&](std::string s) {
        s.erase(0, std::min(s.find_first_not_of(blanks), s.size()));
        s.erase(s.find_last_not_of(blanks) + 1);
        return s;
    };
    std::string out = trim(text);
    if (!first.empty() && out.rfind(first, 0) == 0) out.erase(0, first.size());
    if (!last.empty() && out.size() >= last.size() &&
        out.compare(out.size() - last.size(), last.size(), last) == 0)
        out.resize(out.size() - last.size());
    return trim(out);
}

json record_of(const prompt &p, const std::string &thinking, const std::string &answer,
               const ds_event &done) {
    if (done.finish == DS_FINISH_ERROR)
        return record_of(p, std::string("the model's logits are not finite (") + ds_status_name(done.status) +
                                ")");
    const char *const finish = done.finish == DS_FINISH_LENGTH    ? "length"
                               : done.finish == DS_FINISH_CONTEXT ? "context"
                                                                  : "stop";
    return {
        {"id", p.id},
        {"thinking", bare(thinking, "<think>", "</think>")},
        {"answer", bare(answer, "", "")},
        {"finish", finish},
        {"tokens",
         {{"prompt", done.prompt_tokens},
          {"cached", done.cached_tokens},
          {"thinking", done.thinking_tokens},
          {"injected", done.injected_tokens},
          {"answer", done.answer_tokens}}},
        {"seconds",
         {{"queue", done.queue_seconds}, {"prompt", done.prompt_seconds}, {"answer", done.answer_seconds}}},
        {"preemptions", done.preemptions},
        {"line_hash", p.hash}};
}

// Writes records as they come or, in order, as soon as all before them are written.
class writer {
public:
    writer(jsonl::answers &to, bool in_order) : to_(to), in_order_(in_order) {}

    // `number` counts the prompts to be answered, from 0. Answers are ranked by the line in PROMPTS.
    void put(size_t number, size_t line, json record) {
        if (!in_order_) return to_.append(record, line);
        waiting_.emplace(number, std::pair(line, std::move(record)));
        for (; !waiting_.empty() && waiting_.begin()->first == next_; ++next_) {
            to_.append(waiting_.begin()->second.second, waiting_.begin()->second.first);
            waiting_.erase(waiting_.begin());
        }
    }

private:
    jsonl::answers &to_;
    bool in_order_;
    size_t next_ = 0;
    std::map<size_t, std::pair<size_t, json>> waiting_;
};

// ---- The work

struct job {
    size_t number;
    const prompt *p;
    std::vector<ds_token> tokens;
    std::string thinking, answer;
};

struct batch {
    options o;
    cli::model_ptr model;
    cli::adapter_ptr adapter;
    cli::engine_ptr engine;
    std::map<size_t, job> jobs;  // begun and not ended, by number
    size_t errors = 0;
};

std::vector<ds_token> tokens_of(const batch &b, const prompt &p) {
    std::vector<ds_message> messages;
    if (!b.o.system.empty()) messages.push_back({"system", b.o.system.c_str()});
    for (const auto &[role, content] : p.messages) messages.push_back({role.c_str(), content.c_str()});
    auto config = cli::make<ds_chat_config>();
    config.thinking = p.how.thinking.mode;
    return cli::collect<ds_token>([&](ds_token *tokens, size_t capacity, size_t *count, ds_error *err) {
        return ds_chat_tokenize(b.model.get(), messages.data(), messages.size(), &config, tokens, capacity,
                                count, err);
    });
}

// An error of one prompt, which does not concern the others.
struct bad_prompt : cli::failure {
    using cli::failure::failure;
};

// False if the engine's queue is full.
bool submit(batch &b, job &j) {
    const prompt &p = *j.p;
    if (!p.error.empty()) throw bad_prompt(p.error);
    try {
        if (j.tokens.empty()) j.tokens = tokens_of(b, p);
    } catch (const cli::failure &e) {
        throw bad_prompt(e.what());
    }
    std::vector<const char *> stop;
    for (const std::string &s : p.stop) stop.push_back(s.c_str());
    cli::answer_options how = p.how;
    how.thinking.end_text = p.think_end.empty() ? nullptr : p.think_end.c_str();
    ds_request r = how.get();
    r.prompt = j.tokens.data();
    r.prompt_count = j.tokens.size();
    r.stop = stop.data();
    r.stop_count = stop.size();
    r.user = &j;
    b.o.adapter.set(r, b.adapter);
    ds_request_id id = 0;
    ds_error err;
    const ds_status s = ds_engine_submit(b.engine.get(), &r, &id, &err);
    if (s == DS_ERR_BUSY) return false;
    if (s == DS_ERR_ARGUMENT || s == DS_ERR_TOO_LONG) throw bad_prompt(err.message);
    cli::check(s, err);
    j.tokens = {};
    return true;
}

// Answers `prompts`, until all are answered or the user stops the program.
void answer(batch &b, const std::vector<const prompt *> &prompts, writer &out, progress &bar) {
    const auto end = [&](const job &j, const json &record, bool wrong) {
        if (wrong && !b.o.keep_going)
            throw cli::failure(jsonl::location(b.o.in, j.p->line) + ": " +
                               record["error"].get<std::string>());
        b.errors += wrong;
        out.put(j.number, j.p->line, record);
        bar.count_prompt(wrong);
        b.jobs.erase(j.number);
    };
    for (size_t begun = 0; (begun < prompts.size() || !b.jobs.empty()) && !interrupted;) {
        for (; begun < prompts.size() && !interrupted; ++begun) {
            // a prompt that had to wait has a job already
            job &j = b.jobs.try_emplace(begun, job{begun, prompts[begun], {}, {}, {}}).first->second;
            try {
                if (!submit(b, j)) break;
            } catch (const bad_prompt &e) {
                end(j, record_of(*j.p, e.what()), true);
            }
        }
        const ds_event *const *events = nullptr;
        size_t count = 0;
        ds_error err;
        cli::check(ds_engine_step(b.engine.get(), &events, &count, &err), err);
        for (const ds_event *e : std::span(events, count)) {
            job &j = *static_cast<job *>(e->user);
            (e->channel == DS_CHANNEL_THINKING ? j.thinking : j.answer).append(e->text, e->text_size);
            if (e->type == DS_EVENT_TOKEN && !e->injected) bar.count_token();
            if (e->type != DS_EVENT_DONE) continue;
            end(j, record_of(*j.p, j.thinking, j.answer, *e), e->finish == DS_FINISH_ERROR);
        }
        bar.show();
    }
}

// ---- An earlier run's answers

// The names and types of a value's parts, in order.
std::string form_of(const json &v) {
    if (v.is_string()) return "text";
    if (v.is_number()) return "number";
    if (!v.is_object()) return "another";
    std::string out = "{";
    for (const auto &[name, value] : v.items())
        out += name + ": " + (name == "id" ? "id" : form_of(value)) + ", ";
    return out + "}";
}

// Finds the prompts without an answer. Each line of an existing file of answers is compared with what this
// program would write for these prompts: a file with any other line is refused and stays unchanged. Records
// of errors are removed, and their prompts are tried again.
class older_answers {
public:
    older_answers(const options &o, const std::vector<prompt> &prompts)
        : o_(o), prompts_(prompts), answered_(prompts.size()) {
        for (size_t i = 0; i < prompts.size(); ++i) {
            lines_.emplace(prompts[i].line, i);
            if (prompts[i].error.empty()) ids_.emplace(jsonl::text_line(prompts[i].id), i);
        }
    }

    // Whether to retain the line; its rank is the prompt's line.
    bool accept(const jsonl::answers::record &r, size_t &rank) {
        if (!r.whole) return is_beginning(r) ? false : refuse(r, "is not a line of answers");
        json v;
        try {
            v = jsonl::parse_line(r.text);
        } catch (const cli::failure &) {
            refuse(r, "is not a line of answers");
        }
        const std::string form = form_of(v);
        const bool error = form == form_of(record_of(prompt{}, ""));
        if (!error && form != form_of(record_of(prompt{}, "", "", ds_event{})))
            refuse(r, "is not a line of answers, or is one of an earlier version");
        const auto found = ids_.find(jsonl::text_line(v["id"]));
        if (found == ids_.end() && !(error && is_of_a_line(v)))
            refuse(r, "id " + v["id"].dump() + " is none of the prompts': these are answers of another run");
        if (error) return false;
        const prompt &p = prompts_[found->second];
        if (v["line_hash"] != p.hash)
            refuse(r, "id " + v["id"].dump() + ": answers another text than " +
                          jsonl::location(o_.in, p.line) + " has, or another --system");
        if (answered_[found->second]) refuse(r, "id " + v["id"].dump() + " was answered before");
        answered_[found->second] = true;
        rank = p.line;
        return true;
    }

    std::vector<const prompt *> left() const {
        std::vector<const prompt *> out;
        for (size_t i = 0; i < prompts_.size(); ++i)
            if (!answered_[i]) out.push_back(&prompts_[i]);
        return out;
    }

private:
    [[noreturn]] bool refuse(const jsonl::answers::record &r, const std::string &why) const {
        throw cli::failure(jsonl::location(o_.out, r.line) + ": " + why + "; the file is unchanged");
    }

    // The record of a line that was no prompt has the line's number as its id.
    bool is_of_a_line(const json &v) const {
        return v["id"] == v["line"] && v["line"].is_number_unsigned() &&
               lines_.count(v["line"].get<uint64_t>());
    }

    // Whether it is the beginning of a record of one of the prompts. A file that holds only a record's first
    // bytes proves nothing.
    bool is_beginning(const jsonl::answers::record &r) const {
        const auto begins = [&](const std::string &mark) {
            const size_t n = std::min(mark.size(), r.text.size());
            return r.text.compare(0, n, mark, 0, n) == 0 && (n == mark.size() || !r.first);
        };
        for (const prompt &p : prompts_) {
            const std::string line = std::to_string(p.line);
            for (const std::string &id : {p.id.dump(), line})
                if (begins("{\"id\":" + id + ",\"thinking\":\"") ||
                    begins("{\"id\":" + id + ",\"line\":" + line + ",\"error\":\""))
                    return true;
        }
        return false;
    }

    const options &o_;
    const std::vector<prompt> &prompts_;
    std::vector<bool> answered_;
    std::map<std::string, size_t> ids_;
    std::map<uint64_t, size_t> lines_;
};

int run_batch(options options) {
    batch b;
    b.o = std::move(options);
    const std::vector<prompt> prompts = jsonl::read_prompts(b.o.in, b.o.defaults, b.o.system, b.o.keep_going);
    jsonl::answers out(b.o.out,
                       {{b.o.in, "prompts"}, {b.o.model, "the model"}, {b.o.adapter.file, "the adapter"}});
    older_answers older(b.o, prompts);
    out.read([&](const jsonl::answers::record &r, size_t &rank) { return older.accept(r, rank); });
    const std::vector<const prompt *> left = older.left();

    auto config = cli::make<ds_model_config>();
    if (!b.o.chat_template.empty()) config.chat_template = b.o.chat_template.c_str();
    b.o.rope.set(config, b.o.engine.config.context_length);
    b.model = cli::load(b.o.model, config);
    if (!b.o.quiet) b.o.rope.remark("batch", b.model, config.context_length);
    b.adapter = b.o.adapter.load(b.model, b.o.engine.config);
    ds_engine_config c = b.o.engine.get();
    c.max_queue = c.max_requests;  // enough waiting prompts to fill every step, and no more in memory
    b.engine = cli::start(b.model, c);

    tokens_of(b, {0, 0, {{"user", "?"}}, b.o.defaults.how, {}, {}, {}});  // throws if there is no template

    out.clean();
    install_interrupt();
    progress bar(b.o.quiet, prompts.size(), prompts.size() - left.size());
    writer to(out, b.o.in_order);
    try {
        answer(b, left, to, bar);
    } catch (...) {
        bar.clear();
        bar.sum();
        throw;
    }
    bar.clear();
    bar.sum();
    if (b.o.in_order) out.sort();
    out.sync();
    if (b.errors)
        std::fprintf(stderr, "batch: %zu prompt%s an error; the same command tries again\n", b.errors,
                     b.errors == 1 ? " has" : "s have");
    if (interrupted) return std::fputs("batch: stopped; run the same command to continue\n", stderr), 130;
    return b.errors ? 1 : 0;
}

// ---- Flags

std::vector<cli::flag> flags_of(options &o) {
    std::vector<cli::flag> f = {
        {"", "", "The work:", {}},
        {"--in-order", "", "answers in the prompts' order; default: as they finish", cli::on(o.in_order)},
        {"-k, --keep-going", "",
         "write a record with an error for a line that is no prompt or cannot be answered; default: stop "
         "there",
         cli::on(o.keep_going)},
        {"-q, --quiet", "", "no progress", cli::on(o.quiet)},
        {"", "", "The conversations:", {}},
        {"--system", "TEXT", "a system message before each", cli::text(o.system)},
        {"--template", "NAME",
         std::string(
             "chat template; default: recognised from the file; one of\n                            ") +
             ds_chat_templates(),
         cli::text(o.chat_template)},
    };
    cli::add_answer_flags(f, o.defaults.how);
    f.insert(f.end(),
             {
                 {"--think-end", "TEXT",
                  "text that is inserted before the thought is closed at the limit; default: none",
                  cli::text(o.defaults.think_end)},
                 {"", "", "The engine:", {}},
                 {"-b, --at-once", "N", "prompts that are answered at the same time; default 16",
                  cli::number(o.engine.config.max_requests, 1u, 4096u)},
                 {"-c, --context", "N",
                  "positions of a conversation; default: the model's, at most 4096; more than it has: see "
                  "--rope-scaling",
                  cli::number(o.engine.config.context_length, 0u, 1u << 30)},
                 {"--kv-tokens", "N", "positions that the cache holds; default: enough for all of these",
                  cli::number(o.engine.config.kv_tokens, uint64_t{0})},
             });
    o.adapter.add_to(f);
    o.rope.add_to(f);
    o.engine.add_to(f);
    f.push_back({"-h, --help", "", "this text", cli::on(o.help)});
    return f;
}

void print_usage(const std::vector<cli::flag> &flags) {
    std::printf(
        "Answers a file of prompts, many at the same time.\n"
        "usage: batch [flags] MODEL.gguf PROMPTS.jsonl ANSWERS.jsonl\n\n"
        "A line of PROMPTS (- is standard input) is a JSON object, whose fields override the flags:\n");
    for (const jsonl::field &f : jsonl::fields()) std::printf("  %-24s  %s\n", f.name, f.help);
    std::printf(
        "\nA line of ANSWERS (- is standard output) is an object of id, thinking and answer (without tags, "
        "and\n"
        "without surrounding white space), finish (stop, length or context), tokens {prompt, cached (of\n"
        "the prompt), thinking, injected, answer}, seconds {queue, prompt, answer}, preemptions and\n"
        "line_hash (of the prompt's line and the system message); or of id, line and error.\n"
        "If ANSWERS exists, its answers stay and only the missing ones are added: the same command\n"
        "continues after an interruption of any kind, and tries again what has an error. A file that is\n"
        "not of this form, or whose answers belong to other prompts, is refused and stays unchanged.\n");
    cli::print_help(flags);
    std::printf("\nExamples:\n"
                "  echo '{\"prompt\": \"What is 37 + 85?\"}' | batch models/tiny-r1.gguf - -\n"
                "  batch --temp 0 --think-budget 500 -b 32 model.gguf prompts.jsonl answers.jsonl\n\n"
                "Exit status: 0 all are answered; 1 something failed, and a line on standard error says "
                "what; 2 wrong usage; 130 stopped by Ctrl-C.\n");
}

}  // namespace

// nlohmann-json allocates in destructors, where a failure cannot be reported. Answers already written are
// whole lines, and the next run continues after them.
void out_of_memory() {
    const std::string_view text = "batch: out of memory\n";
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(1);  // nowhere left to report it
    _exit(1);
}

int main(int argc, char **argv) {
    std::set_new_handler(out_of_memory);
    return cli::run("batch", [&] {
        options o;
        o.defaults.how = cli::recommended();
        o.engine.config.max_requests = 16;
        const std::vector<cli::flag> flags = flags_of(o);
        const std::vector<std::string> rest = cli::parse(argc, argv, flags);
        if (o.help) return print_usage(flags), 0;
        if (rest.size() != 3)
            throw cli::usage_error("needs a model, a file of prompts and one for answers; see --help");
        o.model = rest[0], o.in = rest[1], o.out = rest[2];
        return run_batch(std::move(o));
    });
}
