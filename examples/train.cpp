// train: changes a model's weights by rows of text, measures it, draws a run, and makes rows to begin with.
// A run that was stopped continues to the same bytes.
#include "plot.h"
#include "problems.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <new>
#include <span>
#include <string_view>

namespace {

using jsonl::json;

struct trainer_free {
    void operator()(ds_trainer *t) const { ds_trainer_free(t); }
};
using trainer_ptr = std::unique_ptr<ds_trainer, trainer_free>;

volatile std::sig_atomic_t interrupted = 0;
std::atomic<ds_trainer *> running = nullptr;
void on_interrupt(int) {
    interrupted = 1;
    ds_trainer_cancel(running);
}

// A second signal is not caught: the program ends immediately, and what was saved before is still there.
void install_interrupt() {
    struct sigaction action = {};
    action.sa_handler = on_interrupt;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (const int s : {SIGINT, SIGTERM}) sigaction(s, &action, nullptr);
}

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// ---- Flags

// A number of bytes: 512M.
std::function<void(const std::string &)> bytes(uint64_t &to) {
    return [&to](const std::string &v) {
        const std::string units = "kmg";
        const size_t unit = v.empty() ? std::string::npos : units.find(cli::lower_case(v).back());
        const size_t shift = unit == std::string::npos ? 0 : 10 * (unit + 1);
        uint64_t n = 0;
        cli::number(n, uint64_t{1}, UINT64_MAX >> shift)(shift ? v.substr(0, v.size() - 1) : v);
        to = n << shift;
    };
}

struct options {
    std::string model, rows, out, type = "f32", eval, log, save;
    ds_trainer_config config = cli::make<ds_trainer_config>();
    cli::engine_flags engine;
    uint64_t steps = 0, epochs = 0, batch_tokens = 2048, seed = 1, eval_every = 0, save_every = 0;
    rows::rules rules;
    bool resume = false, plan = false, quiet = false, help = false;
    // data
    uint64_t count = 0;
    uint32_t digits = 3, numbers = 3;
    bool held_out = false;
};

void add_row_flags(std::vector<cli::flag> &f, options &o) {
    f.push_back({"--all-tokens", "", "learn the prompts too; default: the answers alone",
                 cli::on(o.rules.all_tokens)});
    f.push_back({"--plain", "",
                 "prompt and response are plain text; default: a question and an answer of the model's chat "
                 "template, if it has one",
                 cli::on(o.rules.plain)});
}
void add_help_flags(std::vector<cli::flag> &f, options &o) {
    f.push_back(
        {"-q, --quiet", "", "no progress (it shows on a terminal only) and no summary", cli::on(o.quiet)});
    f.push_back({"-h, --help", "", "this text", cli::on(o.help)});
}

std::vector<cli::flag> sft_flags(options &o) {
    ds_trainer_config &c = o.config;
    std::vector<cli::flag> f = {
        {"", "", "The result:", {}},
        {"-o, --out", "FILE", "the trained model, GGUF", cli::text(o.out)},
        {"--type", "TYPE", "its number format: f32 (default), f16, bf16, q8_0, int8, …", cli::text(o.type)},
        {"--lora", "RANK",
         "train an adapter of this rank beside the model's weights, in whatever format these are; FILE is "
         "the "
         "adapter",
         cli::number(c.lora_rank, 1u, 1024u)},
        {"--lora-alpha", "X", "the adapter's scale is X / RANK; default: RANK",
         cli::number(c.lora_alpha, 1e-6f, 1e6f)},
        {"", "", "The work:", {}},
        {"--steps", "N", "steps of the optimizer in all",
         cli::number(o.steps, uint64_t{1}, uint64_t{1} << 40)},
        {"--epochs", "N", "times through the rows; default: 1, without --steps",
         cli::number(o.epochs, uint64_t{1}, uint64_t{1} << 20)},
        {"--batch-tokens", "N", "most tokens of a step, but at least one row; default 2048",
         cli::number(o.batch_tokens, uint64_t{1}, uint64_t{1} << 40)},
        {"--context", "N", "most tokens of a row; default: the model's context",
         cli::number(c.context_length, 0u, 1u << 30)},
        {"--seed", "N", "of the rows' order; default 1", cli::number(o.seed, uint64_t{0})},
    };
    add_row_flags(f, o);
    f.insert(
        f.end(),
        {
            {"", "", "The optimizer, AdamW:", {}},
            {"--lr", "X", "its rate at the peak; default 1e-4", cli::number(c.learning_rate, 1e-12, 10.0)},
            {"--final-lr", "X", "the rate at the end, after a cosine; default 0",
             cli::number(c.final_rate, 0.0, 10.0)},
            {"--warmup", "N", "steps in which the rate rises to its peak; default 0",
             cli::number(c.warmup_steps, uint64_t{0}, uint64_t{1} << 40)},
            {"", "", "Memory and speed, which do not change the result but for the first three:", {}},
            {"--format", "F", "of the weights while training: f32 (default), bf16, f16, int8",
             cli::choice<ds_train_format>(c.format, {{"f32", DS_TRAIN_F32},
                                                     {"bf16", DS_TRAIN_BF16},
                                                     {"f16", DS_TRAIN_F16},
                                                     {"int8", DS_TRAIN_INT8}})},
            {"--kv", "F", "of keys and values: f32 (default), f16, int8",
             cli::choice<ds_kv_type>(c.kv_type,
                                     {{"f32", DS_KV_F32}, {"f16", DS_KV_F16}, {"int8", DS_KV_INT8}})},
            {"--states", "F", "of the optimizer's states: f32 (default), int8",
             cli::choice<ds_train_states>(c.states, {{"f32", DS_STATES_F32}, {"int8", DS_STATES_INT8}})},
            {"--recompute", "WHAT", "instead of storing it: none (default), cheap, gates, blocks",
             cli::choice<ds_recompute>(c.recompute, {{"none", DS_RECOMPUTE_NOTHING},
                                                     {"cheap", DS_RECOMPUTE_CHEAP},
                                                     {"gates", DS_RECOMPUTE_GATES},
                                                     {"blocks", DS_RECOMPUTE_BLOCKS}})},
            {"--memory", "BYTES", "most memory, such as 800M or 4G; default: no limit",
             bytes(c.memory_limit)},
            {"--run-tokens", "N",
             "most tokens computed together, and so of a row; default: what --memory allows, 2048 without",
             cli::number(c.run_tokens, 0u, 1u << 24)},
            {"-t, --threads", "N", "threads; default: one a processor", cli::number(c.threads, 0u, 1024u)},
            {"--plan", "", "print how much memory that takes, and leave", cli::on(o.plan)},
            {"", "", "On the way:", {}},
            {"--eval", "FILE", "rows that are not learned, whose loss is measured", cli::text(o.eval)},
            {"--eval-every", "N", "steps from one measurement to the next; default: at the end",
             cli::number(o.eval_every, uint64_t{1})},
            {"--log", "FILE", "a line of JSON for each step; see train plot", cli::text(o.log)},
            {"--save", "FILE", "where a run is saved to be continued; default: the result's name and .train",
             cli::text(o.save)},
            {"--save-every", "N", "steps from one saving to the next; default: at Ctrl-C",
             cli::number(o.save_every, uint64_t{1})},
            {"--resume", "", "continue the saved run", cli::on(o.resume)},
        });
    add_help_flags(f, o);
    return f;
}

std::vector<cli::flag> eval_flags(options &o) {
    std::vector<cli::flag> f = {
        {"--context", "N", "most tokens of a row; default: the model's context",
         cli::number(o.engine.config.context_length, 0u, 1u << 30)},
    };
    add_row_flags(f, o);
    o.engine.add_to(f);
    add_help_flags(f, o);
    return f;
}

std::vector<cli::flag> plot_flags(options &o) {
    return {{"-o, --out", "FILE", "the picture, SVG; - for standard output", cli::text(o.out)},
            {"-h, --help", "", "this text", cli::on(o.help)}};
}

std::vector<cli::flag> data_flags(options &o) {
    return {
        {"-n, --count", "N", "rows", cli::number(o.count, uint64_t{1})},
        {"--seed", "N", "the same seed gives the same rows; default 1", cli::number(o.seed, uint64_t{0})},
        {"--held-out", "", "the one problem in ten that is never among the other rows", cli::on(o.held_out)},
        {"--digits", "D", "arithmetic: of the numbers that are added; default 3",
         cli::number(o.digits, 1u, 100u)},
        {"--numbers", "K", "countdown: how many there are; default 3", cli::number(o.numbers, 2u, 8u)},
        {"-h, --help", "", "this text", cli::on(o.help)}};
}

// ---- Outputs

// While half-written files must be removed, a lack of memory is an exception (see out_of_memory).
struct memory_throws {
    std::new_handler before = std::set_new_handler(nullptr);
    memory_throws() = default;
    memory_throws(const memory_throws &) = delete;
    ~memory_throws() { std::set_new_handler(before); }
};

// A file beside `path`, which is removed again unless it replaces that one. That it can be made says that
// `path` can be written, before hours of work are to be.
class part_file {
public:
    explicit part_file(const std::string &path) : name(path + ".part-XXXXXX") {
        struct stat s;
        if (stat(path.c_str(), &s) == 0 && !S_ISREG(s.st_mode))
            throw cli::failure(path + ": is not a regular file");
        const int fd = mkostemp(name.data(), O_CLOEXEC);
        if (fd < 0) throw cli::failure(path + ": could not be written: " + std::strerror(errno));
        close(fd);
    }
    part_file(const part_file &) = delete;
    ~part_file() { unlink(name.c_str()); }

    memory_throws scope;
    std::string name;
};

void must_differ(const std::string &out, const std::vector<std::string> &others) {
    struct stat a, b;
    for (const std::string &other : others)
        if (other == out || (stat(out.c_str(), &a) == 0 && stat(other.c_str(), &b) == 0 &&
                             a.st_dev == b.st_dev && a.st_ino == b.st_ino))
            throw cli::failure(out + ": is the same file as another that this run reads or writes");
}

// Whether it is a line of this program's, and of which step.
uint64_t logged_step(const std::string &path, const jsonl::answers::record &r) {
    try {
        const json v = jsonl::parse_line(r.text);
        for (const char *name : {"step", "loss", "norm", "lr", "tokens", "targets", "seconds"})
            if (!v.is_object() || !v.contains(name)) throw cli::failure("");
        return jsonl::number_of<uint64_t>(v["step"]);
    } catch (const cli::failure &) {
        throw cli::failure(jsonl::location(path, r.line) +
                           ": is not a line of a training log; the file is unchanged");
    }
}

// ---- Supervised training

// What is saved beside the weights: the place in the rows, and what rows they are.
json place_of(const options &o, const rows::data &d, uint64_t step, const rows::feeder &feed) {
    return {{"train", 1},
            {"seed", o.seed},
            {"rows' size", d.bytes},
            {"rows' hash", d.hash},
            {"--batch-tokens", o.batch_tokens},
            {"--all-tokens", o.rules.all_tokens},
            {"--plain", o.rules.plain},
            {"step", step},
            {"epoch", feed.epoch},
            {"index", feed.index}};
}

// `unlogged`: a step's line, if its measurement was stopped.
uint64_t resume(const options &o, const trainer_ptr &t, const rows::data &d, rows::feeder &feed,
                json &unlogged) {
    std::string own(4096, '\0');
    size_t size = 0;
    ds_error err;
    const ds_status s = ds_trainer_resume(t.get(), o.save.c_str(), own.data(), own.size(), &size, &err);
    if (s != DS_ERR_BUFFER) cli::check(s, err);
    own.resize(s == DS_OK ? size : 0);
    const json place = json::parse(own, nullptr, false), now = place_of(o, d, 0, feed);
    if (!place.is_object()) throw cli::failure(o.save + ": was not saved by this program");
    for (const auto &[name, value] : now.items()) {
        if (!place.contains(name)) throw cli::failure(o.save + ": was not saved by this program");
        const bool moves = name == "step" || name == "epoch" || name == "index";
        if (!moves && place[name] != value)
            throw cli::failure(o.save + ": " + name + ": the saved run has " + place[name].dump() +
                               ", this one " + value.dump());
    }
    const auto number = [&](const char *name) { return jsonl::number_of<uint64_t>(place[name]); };
    if (number("index") >= d.sequences.size()) throw cli::failure(o.save + ": was not saved by this program");
    feed.go_to(number("epoch"), number("index"));
    unlogged = place.value("unlogged", json());
    return number("step");
}

// False if it was stopped.
bool done(ds_status s, const ds_error &err) {
    if (s != DS_ERR_CANCELLED) cli::check(s, err);
    return s == DS_OK;
}

// The mean over all targets; false if it was stopped.
bool evaluate(const trainer_ptr &t, const rows::data &d, uint64_t batch_tokens, double &loss) {
    double sum = 0;
    for (const std::vector<size_t> &batch : rows::batches_in_order(d, batch_tokens)) {
        if (interrupted) return false;
        const std::vector<ds_sequence> view = rows::view_of(d, batch);
        auto r = cli::make<ds_train_report>();
        ds_error err;
        if (!done(ds_trainer_evaluate(t.get(), view.data(), view.size(), &r, &err), err)) return false;
        sum += r.loss * static_cast<double>(r.targets);
    }
    loss = sum / static_cast<double>(d.targets);
    return true;
}

void print_plan(const ds_training_plan &p) {
    const std::pair<const char *, uint64_t> list[] = {{"weights", p.weights}, {"gradients", p.gradients},
                                                      {"states", p.states},   {"activations", p.activations},
                                                      {"pages", p.pages},     {"work", p.work},
                                                      {"inputs", p.inputs},   {"total", p.total}};
    for (const auto &[name, size] : list)
        std::printf("%-12s%12.1f MiB\n", name, static_cast<double>(size) / (1 << 20));
    std::printf("%-12s%12llu tokens\n", "a run", static_cast<unsigned long long>(p.run_tokens));
}

class progress {
public:
    progress(bool quiet, uint64_t total) : show_(!quiet && isatty(STDERR_FILENO)), total_(total) {}
    ~progress() { clear(); }

    void step(const ds_train_report &r, uint64_t step) {
        tokens_ += r.tokens;
        const double now = seconds();
        if (!show_ || (now - shown_ < 0.1 && step != total_)) return;
        shown_ = now;
        std::fprintf(stderr, "\r%llu of %llu  loss %.4f  %.0f tokens/s  lr %.3g  norm %.3g\033[K",
                     static_cast<unsigned long long>(step), static_cast<unsigned long long>(total_), r.loss,
                     static_cast<double>(tokens_) / (now - begin_), r.learning_rate, r.norm);
    }
    void clear() {
        if (shown_ > 0) std::fputs("\r\033[K", stderr);
        shown_ = 0;
    }
    uint64_t tokens() const { return tokens_; }
    double time() const { return seconds() - begin_; }

private:
    bool show_;
    uint64_t total_, tokens_ = 0;
    double begin_ = seconds(), shown_ = 0;
};

// The trained model, or the adapter.
void write_result(const options &o, const trainer_ptr &t, const std::string &path) {
    ds_error err;
    cli::check(o.config.lora_rank ? ds_trainer_export_adapter(t.get(), path.c_str(), &err)
                                  : ds_trainer_export(t.get(), path.c_str(), o.type.c_str(), &err),
               err);
}

int train(options o) {
    const cli::model_ptr model = cli::load(o.model, cli::make<ds_model_config>());
    ds_error err;
    auto plan = cli::make<ds_training_plan>();
    cli::check(ds_trainer_plan(model.get(), &o.config, &plan, &err), err);
    if (o.plan) return print_plan(plan), 0;

    const uint64_t context =
        o.config.context_length ? o.config.context_length : cli::info(model).context_length;
    o.rules.most_tokens = std::min(context, plan.run_tokens);
    o.rules.limit = context <= plan.run_tokens ? "the context" : "are computed together (--run-tokens)";
    const rows::reader reader(model, o.rules);
    const rows::data data = rows::read_data(o.rows, reader);
    rows::data held;
    if (!o.eval.empty()) held = rows::read_data(o.eval, reader);

    rows::feeder feed(data, o.batch_tokens, o.seed);
    for (const uint64_t epochs = o.steps ? 0 : std::max(o.epochs, uint64_t{1}); feed.epoch < epochs;
         ++o.steps)
        feed.next();
    feed.go_to(0, 0);
    o.config.total_steps = o.steps;

    const bool saves = !o.save.empty() || o.save_every || o.resume;
    if (o.save.empty()) o.save = o.out + ".train";
    must_differ(o.out, {o.model, o.rows, o.eval, o.log, o.save});
    must_differ(o.save, {o.model, o.rows, o.eval, o.log});
    if (!o.resume && access(o.save.c_str(), F_OK) == 0)
        throw cli::failure(o.save + ": exists; --resume continues that run, or remove it to begin anew");
    { const part_file can_save(o.save); }

    ds_trainer *made = nullptr;
    cli::check(ds_trainer_new(model.get(), &o.config, &made, &err), err);
    const trainer_ptr t(made);
    json unlogged;
    uint64_t step = o.resume ? resume(o, t, data, feed, unlogged) : 0;
    {
        // The type is known, and there is room.
        const part_file can_write(o.out);
        write_result(o, t, can_write.name);
    }
    std::unique_ptr<jsonl::answers> log;
    if (!o.log.empty()) {
        log = std::make_unique<jsonl::answers>(
            o.log, std::vector<std::pair<std::string, const char *>>{
                       {o.rows, "rows"}, {o.eval, "rows"}, {o.model, "the model"}});
        log->read([&](const jsonl::answers::record &r, size_t &rank) {
            rank = logged_step(o.log, r);
            return rank <= step;  // what came after the last saving is done again
        });
        log->clean();
    }

    running = t.get();
    install_interrupt();
    progress bar(o.quiet, o.steps);
    double loss = NAN, held_loss = NAN;
    json place = place_of(o, data, step, feed);
    const auto save = [&] {
        if (!unlogged.is_null()) place["unlogged"] = unlogged;
        const std::string own = place.dump();
        const memory_throws scope;
        ds_error e;
        cli::check(ds_trainer_save(t.get(), o.save.c_str(), own.data(), own.size(), &e), e);
    };
    const auto end_step = [&](json line) {
        const bool due = step == o.steps || (o.eval_every && step % o.eval_every == 0);
        if (due && !o.eval.empty()) {
            if (!evaluate(t, held, o.batch_tokens, held_loss)) return void(unlogged = std::move(line));
            line["eval"] = held_loss;
        }
        if (log) log->append(line, step);
    };
    if (!unlogged.is_null()) end_step(std::exchange(unlogged, json()));
    while (step < o.steps && !interrupted) {
        const double begin = seconds();
        const std::vector<ds_sequence> batch = rows::view_of(data, feed.next());
        auto r = cli::make<ds_train_report>();
        if (!done(ds_trainer_step(t.get(), batch.data(), batch.size(), &r, &err), err)) break;
        place = place_of(o, data, ++step, feed);
        loss = r.loss;
        end_step({{"step", step},
                  {"loss", r.loss},
                  {"norm", r.norm},
                  {"lr", r.learning_rate},
                  {"tokens", r.tokens},
                  {"targets", r.targets},
                  {"seconds", seconds() - begin}});
        bar.step(r, step);
        if (o.save_every && step % o.save_every == 0) save();
    }
    running = nullptr;
    bar.clear();
    if (log) log->sync();
    if (interrupted && (step < o.steps || !unlogged.is_null())) {
        save();
        std::fprintf(stderr,
                     "train: stopped after step %llu of %llu; the same command with --resume continues\n",
                     static_cast<unsigned long long>(step), static_cast<unsigned long long>(o.steps));
        return 130;
    }
    if (saves) save();
    {
        const memory_throws scope;
        write_result(o, t, o.out);
    }
    if (o.quiet) return 0;
    std::fprintf(stderr, "train: %llu steps", static_cast<unsigned long long>(step));
    if (std::isfinite(loss)) std::fprintf(stderr, ", loss %.4f", loss);
    if (std::isfinite(held_loss)) std::fprintf(stderr, ", of --eval %.4f", held_loss);
    std::fprintf(stderr, "; %llu tokens in %.1f s, %.0f/s\n", static_cast<unsigned long long>(bar.tokens()),
                 bar.time(), static_cast<double>(bar.tokens()) / bar.time());
    return 0;
}

// ---- The other commands

// By an engine, which runs the model in its own number formats.
int measure(options o) {
    const cli::model_ptr model = cli::load(o.model, cli::make<ds_model_config>());
    const ds_model_info info = cli::info(model);
    ds_engine_config c = o.engine.get();
    if (!c.context_length) c.context_length = info.context_length;
    o.rules.most_tokens = c.context_length;
    o.rules.limit = "the context";
    const rows::data data = rows::read_data(o.rows, rows::reader(model, o.rules));
    size_t longest = 2;
    for (const rows::sequence &s : data.sequences) longest = std::max(longest, s.tokens.size());
    c.context_length = static_cast<uint32_t>(longest);
    c.max_requests = 8;
    // scoring needs the logits of all rows of a step
    c.logit_rows = std::clamp(uint32_t{64 << 20} / (4 * info.vocabulary), 32u, 512u);
    const cli::engine_ptr e = cli::start(model, c);

    double sum = 0;
    ds_error err;
    size_t begun = 0, ended = 0;
    const bool show = !o.quiet && isatty(STDERR_FILENO);
    while (ended < data.sequences.size()) {
        for (; begun < data.sequences.size() && begun - ended < c.max_requests; ++begun) {
            const rows::sequence &s = data.sequences[begun];
            auto r = cli::make<ds_request>();
            r.flags = DS_REQUEST_SCORE;
            r.prompt = s.tokens.data();
            r.prompt_count = s.tokens.size();
            r.user = const_cast<rows::sequence *>(&s);
            ds_request_id id = 0;
            cli::check(ds_engine_submit(e.get(), &r, &id, &err), err);
        }
        const ds_event *const *events = nullptr;
        size_t count = 0;
        cli::check(ds_engine_step(e.get(), &events, &count, &err), err);
        for (const ds_event *v : std::span(events, count)) {
            const auto *const s = static_cast<const rows::sequence *>(v->user);
            if (v->type == DS_EVENT_SCORE && v->position > 0 && s->weights[v->position] > 0)
                sum -= static_cast<double>(v->logprob);
            if (v->type != DS_EVENT_DONE) continue;
            ++ended;
            if (v->finish != DS_FINISH_SCORED)
                throw cli::failure(std::string("a row could not be scored: ") + ds_status_name(v->status));
        }
        if (show) std::fprintf(stderr, "\r%zu of %zu rows\033[K", ended, data.sequences.size());
    }
    if (show) std::fputs("\r\033[K", stderr);
    const double loss = sum / static_cast<double>(data.targets);
    std::printf("rows        %zu, %llu tokens, %llu of them scored\n", data.sequences.size(),
                static_cast<unsigned long long>(data.tokens), static_cast<unsigned long long>(data.targets));
    std::printf("loss        %.6f\nperplexity  %.6f\n", loss, std::exp(loss));
    return 0;
}

int draw(const options &o) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(std::fopen(o.rows.c_str(), "rb"), std::fclose);
    if (!in) throw cli::failure(o.rows + ": " + std::strerror(errno));
    plot::points loss, eval, rate, norm;
    jsonl::each_line(in.get(), o.rows, [&](size_t line, const std::string &text, uint64_t) {
        logged_step(o.rows, {line, text, line == 1, true});
        const json v = jsonl::parse_line(text);
        const std::pair<const char *, plot::points *> all[] = {
            {"loss", &loss}, {"eval", &eval}, {"lr", &rate}, {"norm", &norm}};
        // a step that was skipped has no numbers, and what is beyond all measure is none to draw
        for (const auto &[name, to] : all)
            if (v.contains(name) && v[name].is_number() && std::fabs(v[name].get<double>()) < 1e30)
                to->emplace_back(v["step"].get<double>(), v[name].get<double>());
    });
    if (loss.empty()) throw cli::failure(o.rows + ": has no steps");
    const std::string svg = plot::svg({{"loss", {{"loss", "#1f5fa8", loss}, {"eval", "#c4501b", eval}}},
                                       {"learning rate", {{"lr", "#2e7d32", rate}}},
                                       {"norm of the gradients", {{"norm", "#6a3d9a", norm}}}});
    if (o.out == "-") return std::fwrite(svg.data(), 1, svg.size(), stdout), 0;
    must_differ(o.out, {o.rows});
    const part_file part(o.out);
    FILE *const to = std::fopen(part.name.c_str(), "wb");
    const bool written = to && std::fwrite(svg.data(), 1, svg.size(), to) == svg.size();
    const mode_t mask = umask(0);
    umask(mask);
    if ((to && std::fclose(to) != 0) || !written || chmod(part.name.c_str(), 0666 & ~mask) != 0 ||
        rename(part.name.c_str(), o.out.c_str()) != 0)
        throw cli::failure(o.out + ": could not be written: " + std::strerror(errno));
    return 0;
}

int make_rows(const options &o, const std::string &kind) {
    const auto write = [](const json &row) {
        const std::string line = jsonl::text_line(row);
        if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size()) throw cli::output_failure();
    };
    const auto make = [&](rows::splitmix64 &random) {
        return kind == "arithmetic" ? problems::sum(random, o.digits)
                                    : problems::countdown(random, o.numbers);
    };
    problems::generate(make, o.count, o.seed, o.held_out, write);
    return 0;
}

// ---- The command line

struct command {
    const char *name, *usage, *does;
    std::vector<cli::flag> (*flags)(options &);
    int (*run)(options &, const std::vector<std::string> &);
};

constexpr const char *about_rows =
    "A row is a line of JSON: {\"prompt\", \"response\"}; {\"messages\": [{\"role\", \"content\"}, …]}, of "
    "which\n"
    "the last is the assistant's; or {\"text\"}. Other fields are ignored. Messages, and a prompt and its\n"
    "response, are written with the model's chat template. The answers are learned, each with the token "
    "that\n"
    "ends it; of a text, all tokens are. Thoughts in answers before the last are dropped where the template\n"
    "does so.\n";

int run_sft(options &o, const std::vector<std::string> &rest) {
    if (rest.size() != 2 && !(o.plan && rest.size() == 1))
        throw cli::usage_error("sft: needs a model and a file of rows; see train sft --help");
    if (o.out.empty() && !o.plan) throw cli::usage_error("sft: needs --out FILE");
    if (o.config.lora_rank && o.type != "f32") throw cli::usage_error("--type: not with --lora");
    if (o.config.lora_alpha != 0 && !o.config.lora_rank)
        throw cli::usage_error("--lora-alpha: is for --lora");
    if (o.steps && o.epochs) throw cli::usage_error("--epochs: not with --steps");
    if (o.eval_every && o.eval.empty()) throw cli::usage_error("--eval-every: is for --eval");
    o.model = rest[0];
    if (rest.size() > 1) o.rows = rest[1];
    if (o.rows == "-" && o.eval == "-") throw cli::usage_error("--eval: standard input has the rows");
    return train(std::move(o));
}
int run_eval(options &o, const std::vector<std::string> &rest) {
    if (rest.size() != 2)
        throw cli::usage_error("eval: needs a model and a file of rows; see train eval --help");
    o.model = rest[0], o.rows = rest[1];
    return measure(std::move(o));
}
int run_plot(options &o, const std::vector<std::string> &rest) {
    if (rest.size() != 1) throw cli::usage_error("plot: needs a log of train sft; see train plot --help");
    if (o.out.empty()) throw cli::usage_error("plot: needs --out FILE");
    o.rows = rest[0];
    return draw(o);
}
int run_data(options &o, const std::vector<std::string> &rest) {
    if (rest.size() != 1 || (rest[0] != "arithmetic" && rest[0] != "countdown"))
        throw cli::usage_error("data: needs a kind of problem, arithmetic or countdown");
    if (!o.count) throw cli::usage_error("data: needs --count N");
    return make_rows(o, rest[0]);
}

const std::vector<command> &commands() {
    static const std::vector<command> list = {
        {"sft", "sft [flags] MODEL.gguf ROWS.jsonl -o OUT.gguf", "Trains a model on rows.", sft_flags,
         run_sft},
        {"eval", "eval [flags] MODEL.gguf ROWS.jsonl",
         "Measures how well a model predicts the answers: the mean negative log-likelihood of a token.",
         eval_flags, run_eval},
        {"plot", "plot RUN.jsonl -o RUN.svg", "Draws a run from the log that train sft --log wrote.",
         plot_flags, run_plot},
        {"data", "data [flags] arithmetic|countdown -n N",
         "Prints rows to learn from: sums worked column by column; or a target made from numbers with + - *.",
         data_flags, run_data},
    };
    return list;
}

constexpr const char *exit_statuses =
    "\nExit status: 0 done; 1 something failed, and a line on standard error says what; 2 wrong usage; 130 "
    "stopped by Ctrl-C, and saved.\n";

void print_usage() {
    std::printf("Trains models of the DeepSeek-R1 family.\n");
    for (const command &c : commands()) std::printf("\ntrain %s\n  %s\n", c.usage, c.does);
    std::printf(
        "\n%s"
        "\nExample:\n"
        "  train data arithmetic -n 20000 >rows.jsonl\n"
        "  train data arithmetic -n 200 --held-out >held.jsonl\n"
        "  train sft --lr 1e-3 --eval held.jsonl --log run.jsonl models/tiny-r1.gguf rows.jsonl -o out.gguf\n"
        "  train plot run.jsonl -o run.svg\n%s",
        about_rows, exit_statuses);
}

int run(int argc, char **argv) {
    std::string known;
    for (const command &c : commands()) known += (known.empty() ? "" : ", ") + std::string(c.name);
    if (argc < 2) throw cli::usage_error("needs a command; commands: " + known);
    const std::string name = argv[1];
    if (name == "--help" || name == "-h") return print_usage(), 0;
    for (const command &c : commands()) {
        if (name != c.name) continue;
        options o;
        const std::vector<cli::flag> flags = c.flags(o);
        const std::vector<std::string> rest = cli::parse(argc - 1, argv + 1, flags);
        if (!o.help) return c.run(o, rest);
        std::printf("%s\nusage: train %s\n", c.does, c.usage);
        if (name == "sft" || name == "eval") std::printf("\n%s", about_rows);
        cli::print_help(flags);
        std::fputs(exit_statuses, stdout);
        return 0;
    }
    throw cli::usage_error(name + ": no such command; commands: " + known);
}

}  // namespace

// nlohmann-json allocates in destructors, where a failure cannot be reported. What was saved is whole.
void out_of_memory() {
    const std::string_view text = "train: out of memory\n";
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(1);  // nowhere left to report it
    _exit(1);
}

int main(int argc, char **argv) {
    std::set_new_handler(out_of_memory);
    return cli::run("train", [&] { return run(argc, argv); });
}
