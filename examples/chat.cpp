// chat: a conversation in the terminal, or one question a line from a pipe. Streams the answer, with the
// thinking dimmed; Ctrl-C stops the answer, not the program. It uses the API's full path (tokenize, submit,
// step, events), as a server does; minimal_chat.c uses the short one.
// Invariant: the signal handler only sets a flag, which the loop reads between two steps. A step is never
// interrupted.
#include "cli.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <span>
#include <unistd.h>

namespace {

volatile std::sig_atomic_t interrupted = 0;
void on_interrupt(int) { interrupted = 1; }

// No SA_RESTART: a signal must also end the wait for a line.
void install_interrupt() {
    struct sigaction action = {};
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, nullptr);
}

struct options {
    std::string model, prompt, system, chat_template;
    cli::engine_flags engine;
    cli::rope_flags rope;
    cli::adapter_flags adapter;
    cli::answer_options how = cli::recommended();
    bool one_prompt = false, no_history = false, verbose = false, help = false;
};

struct turn {
    std::string question, answer;  // with its thinking, which the template leaves out
};

// The figures of /stats, for one answer or for all.
struct measures {
    uint64_t questions = 0, prompt_tokens = 0, thinking_tokens = 0, answer_tokens = 0, decode_steps = 0;
    double first_token = 0, prompt_seconds = 0, answer_seconds = 0;

    void add(const measures &m) {
        questions += m.questions, prompt_tokens += m.prompt_tokens, thinking_tokens += m.thinking_tokens,
            answer_tokens += m.answer_tokens;
        decode_steps += m.decode_steps, first_token += m.first_token, prompt_seconds += m.prompt_seconds,
            answer_seconds += m.answer_seconds;
    }
};

struct chat {
    options o;
    cli::model_ptr model;
    cli::adapter_ptr adapter;
    cli::engine_ptr engine;
    std::vector<turn> turns;
    measures last, all;
    bool terminal_out = isatty(STDOUT_FILENO), terminal_in = isatty(STDIN_FILENO);
    int exit_status = 0;
};

// ---- Output beside the answers

const char *const dim = "\033[2m", *const plain = "\033[0m";

// A dimmed line. Output that the user requested goes to standard output, remarks to standard error, so that a
// pipe gets answers only.
__attribute__((format(printf, 2, 3))) void say(FILE *to, const char *format, ...) {
    const bool terminal = isatty(fileno(to));
    std::fputs(terminal ? dim : "", to);
    va_list args;
    va_start(args, format);
    std::vfprintf(to, format, args);
    va_end(args);
    std::fputs(terminal ? plain : "", to);
    std::fputc('\n', to);
    std::fflush(to);
}

double rate(uint64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

void show(FILE *to, const char *what, const measures &m) {
    say(to, "%s%llu prompt tokens, %.0f/s; first token after %.3g s; %llu tokens (%llu of thinking), %.1f/s",
        what, static_cast<unsigned long long>(m.prompt_tokens), rate(m.prompt_tokens, m.prompt_seconds),
        m.questions ? m.first_token / static_cast<double>(m.questions) : 0,
        static_cast<unsigned long long>(m.thinking_tokens + m.answer_tokens),
        static_cast<unsigned long long>(m.thinking_tokens), rate(m.decode_steps, m.answer_seconds));
}

void show_stats(const chat &c) {
    const ds_model_info i = cli::info(c.model);
    const ds_engine_stats s = cli::stats(c.engine);
    say(stdout, "model    %s: %s, %.4g million parameters, %s, template %s", i.name, i.architecture,
        static_cast<double>(i.parameters) / 1e6, i.weights,
        c.o.chat_template.empty() ? i.chat_template : c.o.chat_template.c_str());
    say(stdout, "engine   %u threads, %s; %zu turns remembered", s.threads, s.isa, c.turns.size());
    show(stdout, "last     ", c.last);
    if (c.all.questions > 1) show(stdout, "in all   ", c.all);
}

void show_plan(const chat &c) {
    const ds_engine_config config = c.o.engine.get();
    auto p = cli::make<ds_memory_plan>();
    ds_error err;
    cli::check(ds_engine_plan(c.model.get(), &config, &p, &err), err);
    const auto line = [](const char *what, uint64_t bytes) {
        say(stderr, "%-12s %10.2f MiB", what, static_cast<double>(bytes) / (1 << 20));
    };
    line("weights", p.weights);
    line("pages", p.pages);
    line("activations", p.activations);
    line("work", p.work);
    line("tables", p.tables);
    line("total", p.total);
}

// ---- One answer

std::vector<ds_message> messages_of(const chat &c) {
    std::vector<ds_message> messages;
    if (!c.o.system.empty()) messages.push_back({"system", c.o.system.c_str()});
    for (const turn &t : c.turns) {
        messages.push_back({"user", t.question.c_str()});
        if (&t != &c.turns.back()) messages.push_back({"assistant", t.answer.c_str()});
    }
    return messages;
}

ds_chat_config how_to_render(const chat &c) {
    auto config = cli::make<ds_chat_config>();
    config.thinking = c.o.how.thinking.mode;
    return config;
}

std::vector<ds_token> prompt_of(const chat &c) {
    const std::vector<ds_message> messages = messages_of(c);
    const ds_chat_config config = how_to_render(c);
    return cli::collect<ds_token>([&](ds_token *tokens, size_t capacity, size_t *count, ds_error *err) {
        return ds_chat_tokenize(c.model.get(), messages.data(), messages.size(), &config, tokens, capacity,
                                count, err);
    });
}

// "<think>\n" if the prompt ends in it: the model continues from there, so the answer's text has the closing
// tag alone.
std::string opening_of(const chat &c) {
    const std::vector<ds_message> messages = messages_of(c);
    const ds_chat_config config = how_to_render(c);
    const auto prompt = cli::collect<char>([&](char *text, size_t capacity, size_t *size, ds_error *err) {
        return ds_chat_render(c.model.get(), messages.data(), messages.size(), &config, text, capacity, size,
                              err);
    });
    const std::string text(prompt.begin(), prompt.end()), tag = "<think>";
    const size_t at = text.rfind(tag);
    return at == std::string::npos || text.find_first_not_of(" \t\r\n", at + tag.size()) != std::string::npos
               ? ""
               : text.substr(at);
}

// Submits the conversation. Half of the context is reserved for the answer: the oldest turns are forgotten
// until the rest fits the other half.
ds_request_id submit(chat &c) {
    std::vector<ds_token> prompt = prompt_of(c);
    size_t forgotten = 0;
    for (; prompt.size() > c.o.engine.config.context_length / 2 && c.turns.size() > 1; ++forgotten) {
        c.turns.erase(c.turns.begin());
        prompt = prompt_of(c);
    }
    if (forgotten)
        say(stderr, "(the conversation fills half of the context: its oldest %zu turns are forgotten)",
            forgotten);
    ds_request r = c.o.how.get();
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    c.o.adapter.set(r, c.adapter);
    ds_request_id id = 0;
    ds_error err;
    cli::check(ds_engine_submit(c.engine.get(), &r, &id, &err), err);
    return id;
}

class printer {
public:
    explicit printer(bool terminal) : terminal_(terminal) {}
    ~printer() {
        show(DS_CHANNEL_ANSWER, "", 0);
        if (last_ != '\n') std::fputc('\n', stdout);
        std::fflush(stdout);
    }
    void show(ds_channel channel, const char *text, size_t n) {
        if (terminal_ && channel != channel_)
            std::fputs(channel == DS_CHANNEL_THINKING ? dim : plain, stdout);
        channel_ = channel;
        if (n == 0) return;
        std::fwrite(text, 1, n, stdout);
        last_ = text[n - 1];
        cli::flush_output();
    }

private:
    bool terminal_;
    ds_channel channel_ = DS_CHANNEL_ANSWER;
    char last_ = '\n';
};

// Runs the request to its end and prints its text. `answer` receives the text, after the tag if the prompt
// opened the thought.
ds_event stream(chat &c, ds_request_id id, std::string &answer) {
    printer out(c.terminal_out);
    ds_error err;
    answer = opening_of(c);
    out.show(DS_CHANNEL_THINKING, answer.data(), answer.size());
    for (bool cancelled = false;;) {
        if (interrupted && !cancelled) {
            cancelled = true;
            cli::check(ds_engine_cancel(c.engine.get(), id, &err), err);
        }
        const ds_event *const *events = nullptr;
        size_t count = 0;
        cli::check(ds_engine_step(c.engine.get(), &events, &count, &err), err);
        for (const ds_event *e : std::span(events, count)) {
            out.show(e->channel, e->text, e->text_size);
            answer.append(e->text, e->text_size);
            if (e->type == DS_EVENT_DONE) return *e;
        }
    }
}

measures measures_of(const ds_event &done) {
    measures m;
    m.questions = 1;
    m.prompt_tokens = done.prompt_tokens;
    m.thinking_tokens = done.thinking_tokens;
    m.answer_tokens = done.answer_tokens;
    // answer_seconds runs from the first token to the last, which may be an end token that is not counted.
    const uint64_t n = done.thinking_tokens + done.answer_tokens + (done.finish == DS_FINISH_STOP);
    m.decode_steps = n > 0 ? n - 1 : 0;
    m.first_token = done.queue_seconds + done.prompt_seconds;
    m.prompt_seconds = done.prompt_seconds;
    m.answer_seconds = done.answer_seconds;
    return m;
}

void report_finish(const ds_event &done) {
    switch (done.finish) {
    case DS_FINISH_LENGTH: say(stderr, "(stopped: --max-new is reached)"); break;
    case DS_FINISH_CONTEXT:
        say(stderr,
            "(stopped: the context is full; --context makes it longer, /reset forgets the conversation)");
        break;
    case DS_FINISH_CANCELLED: say(stderr, "(stopped)"); break;
    case DS_FINISH_ERROR:
        say(stderr, "(stopped: the model's logits are not finite, %s)", ds_status_name(done.status));
        break;
    default: break;
    }
}

// A question that gets no answer, or is stopped while the model thinks, is forgotten: the unfinished thought
// would be taken for an answer.
void ask(chat &c, const std::string &question) {
    if (c.o.no_history) c.turns.clear();
    c.turns.push_back({question, ""});
    interrupted = 0;
    try {
        const ds_request_id id = submit(c);
        const ds_event done = stream(c, id, c.turns.back().answer);
        c.last = measures_of(done);
        c.all.add(c.last);
        report_finish(done);
        if (c.terminal_in && c.terminal_out) show(stderr, "", c.last);
        if (done.finish == DS_FINISH_ERROR) c.exit_status = 1;
        if (done.answer_tokens == 0) c.turns.pop_back();
    } catch (const cli::failure &e) {
        c.turns.pop_back();
        c.exit_status = 1;
        say(stderr, "chat: %s", e.what());
    }
}

// ---- Lines

const char *const commands_help = "/reset          forget the conversation\n"
                                  "/stats          model, tokens a second, time to the first token\n"
                                  "/think on|off   let the model think before it answers, or not\n"
                                  "/budget N|off   let it think N tokens at most; off: no limit\n"
                                  "/help           this list\n"
                                  "/quit           leave (or Ctrl-D)\n"
                                  "Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.";

void set_budget(chat &c, const std::string &words) {
    try {
        cli::set_think_budget(c.o.how.thinking, words);
    } catch (const cli::usage_error &e) {
        say(stderr, "/budget %s: %s", words.c_str(), e.what());
    }
}

// False if the program should end.
bool command(chat &c, const std::string &line) {
    if (line == "/quit") return false;
    if (line == "/reset") c.turns.clear();
    else if (line == "/stats") show_stats(c);
    else if (line == "/think on") c.o.how.thinking.mode = DS_THINKING_ON;
    else if (line == "/think off") c.o.how.thinking.mode = DS_THINKING_OFF;
    else if (line.rfind("/budget ", 0) == 0) set_budget(c, line.substr(8));
    else if (line == "/help") say(stdout, "%s", commands_help);
    else say(stderr, "%s: no such command\n%s", line.c_str(), commands_help);
    return true;
}

// A line without its line ending; empty after Ctrl-C. False at the end of the input; in a pipe Ctrl-C ends it
// too.
bool read_line(const chat &c, std::string &line) {
    line.clear();
    for (;;) {
        if (c.terminal_in && c.terminal_out) std::fputs(line.empty() ? "> " : ". ", stdout);
        std::fflush(stdout);
        char *buffer = nullptr;
        size_t capacity = 0;
        errno = 0;
        ssize_t n = getline(&buffer, &capacity, stdin);
        const bool interrupted_read = n < 0 && errno == EINTR;
        while (n > 0 && (buffer[n - 1] == '\n' || buffer[n - 1] == '\r')) --n;
        if (n > 0) line.append(buffer, static_cast<size_t>(n));
        std::free(buffer);
        if (interrupted_read) {
            if (!c.terminal_in) return false;
            std::clearerr(stdin);
            say(stderr, "\n(/quit leaves)");
            return line.clear(), true;
        }
        if (n < 0 && std::ferror(stdin))
            throw cli::failure(std::string("standard input: could not be read: ") + std::strerror(errno));
        if (n < 0) return !line.empty();
        if (line.empty() || line.back() != '\\') return true;
        line.back() = '\n';
    }
}

void converse(chat &c) {
    if (c.terminal_in && c.terminal_out) say(stdout, "%s\n", commands_help);
    std::string line;
    bool first = true;
    while (read_line(c, line)) {
        interrupted = 0;
        if (line.find_first_not_of(" \t") == std::string::npos) continue;
        if (line[0] == '/' && c.terminal_in) {  // in a pipe it is a question
            if (!command(c, line)) return;
            continue;
        }
        if (const size_t nul = line.find('\0'); nul != std::string::npos) {
            c.exit_status = 1;
            say(stderr,
                "chat: the question has a character U+0000, at byte %zu, which a message cannot have: it is "
                "not asked",
                nul + 1);
            continue;
        }
        if (!first && !c.terminal_in) std::fputc('\n', stdout);
        first = false;
        ask(c, line);
    }
    if (c.terminal_in && c.terminal_out) std::fputc('\n', stdout);
}

// ---- Starting

std::vector<cli::flag> flags_of(options &o) {
    std::vector<cli::flag> f = {
        {"", "", "The conversation:", {}},
        {"-p, --prompt", "TEXT", "ask this, print the answer and leave",
         [&o](const std::string &v) { o.prompt = v, o.one_prompt = true; }},
        {"--system", "TEXT", "a system message", cli::text(o.system)},
        {"--template", "NAME",
         std::string(
             "chat template; default: recognised from the file; one of\n                            ") +
             ds_chat_templates(),
         cli::text(o.chat_template)},
        {"--no-history", "", "every question begins a new conversation", cli::on(o.no_history)},
    };
    cli::add_answer_flags(f, o.how);
    f.insert(f.end(), {
                          {"", "", "The engine:", {}},
                          {"-c, --context", "N",
                           "positions of the conversation; default: the model's, at most 4096; more than it "
                           "has: see --rope-scaling",
                           cli::number(o.engine.config.context_length, 0u, 1u << 30)},
                      });
    o.adapter.add_to(f);
    o.rope.add_to(f);
    o.engine.add_to(f);
    f.push_back({"-v, --verbose", "", "the library's log lines and the memory plan, on standard error",
                 cli::on(o.verbose)});
    f.push_back({"-h, --help", "", "this text", cli::on(o.help)});
    return f;
}

void print_usage(const std::vector<cli::flag> &flags) {
    std::printf("Chats with a model of the DeepSeek-R1 family.\n"
                "usage: chat [flags] MODEL.gguf\n\n"
                "Questions are read from standard input, one a line. On a terminal the model's thinking is "
                "dimmed, and\n"
                "speeds are shown after each answer. In a pipe the output is the answers' text, thinking and "
                "its tags\n"
                "included, and a line that begins with / is a question too.\n");
    cli::print_help(flags);
    std::printf("\nCommands, as lines on a terminal:\n%s\n\n"
                "Examples:\n"
                "  chat models/tiny-r1.gguf\n"
                "  echo 'What is 37 + 85?' | chat models/tiny-r1.gguf\n"
                "  chat --temp 0 -p 'What is 37 + 85?' models/tiny-r1.gguf\n\n"
                "Exit status: 0 done; 1 something failed, and a line on standard error says what; 2 wrong "
                "usage; 130 stopped by Ctrl-C before the end.\n",
                commands_help);
}

void log_line(void *, ds_log_level, const char *line) { say(stderr, "%s", line); }

chat open(options o) {
    chat c;
    c.o = std::move(o);
    auto config = cli::make<ds_model_config>();
    if (!c.o.chat_template.empty()) config.chat_template = c.o.chat_template.c_str();
    auto host = cli::make<ds_host>();
    host.log = log_line;
    if (c.o.verbose) config.host = c.o.engine.config.host = &host;
    c.o.rope.set(config, c.o.engine.config.context_length);
    c.model = cli::load(c.o.model, config);
    c.o.rope.remark("chat", c.model, config.context_length);
    c.adapter = c.o.adapter.load(c.model, c.o.engine.config);
    c.o.engine.config.max_requests = 1;
    if (!c.o.engine.config.context_length)
        c.o.engine.config.context_length = std::min(cli::info(c.model).context_length, 4096u);
    if (c.o.verbose) show_plan(c);
    c.engine = cli::start(c.model, c.o.engine.get());
    c.o.engine.config.host = nullptr;  // the engine has copied it
    return c;
}

int run(int argc, char **argv) {
    options o;
    const std::vector<cli::flag> flags = flags_of(o);
    const std::vector<std::string> rest = cli::parse(argc, argv, flags);
    if (o.help) return print_usage(flags), 0;
    if (rest.size() != 1) throw cli::usage_error("needs one model file; see --help");
    o.model = rest[0];

    chat c = open(std::move(o));
    install_interrupt();
    if (c.o.one_prompt) ask(c, c.o.prompt);
    else converse(c);
    return interrupted ? 130 : c.exit_status;
}

}  // namespace

int main(int argc, char **argv) {
    return cli::run("chat", [&] { return run(argc, argv); });
}
