// train sft: supervised training. A run that was stopped continues to the same bytes.
#include "train.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <csignal>

namespace train {

namespace {

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

// Sequences of at most `length` tokens, for so many steps or until the loss of --eval is low enough.
struct stage {
    uint64_t length = 0, steps = 0;  // steps 0: until the loss is
    double loss = 0;
    std::string text;
};

struct options {
    std::vector<std::string> rows;
    std::vector<double> weights;
    std::vector<stage> stages;
    rows::batching how;
    bool by_memory = false;
    std::string model, out, type = "f32", eval, log, save;
    ds_trainer_config config = cli::make<ds_trainer_config>();
    uint64_t steps = 0, epochs = 0, eval_every = 0, save_every = 0;
    rows::rules rules;
    bool resume = false, plan = false, quiet = false;
};

stage stage_of(const std::string &text) {
    stage s;
    s.text = text;
    const size_t colon = text.find(':');
    cli::number(s.length, uint64_t{2}, uint64_t{1} << 30)(text.substr(0, colon));
    if (colon == std::string::npos) throw cli::usage_error("is " + text + ", must be LENGTH:STEPS");
    const std::string end = text.substr(colon + 1);
    if (end.rfind("loss=", 0) == 0) cli::number(s.loss, 1e-9, 1e3)(end.substr(5));
    else cli::number(s.steps, uint64_t{1}, uint64_t{1} << 40)(end);
    return s;
}

std::vector<cli::flag> flags(options &o) {
    ds_trainer_config &c = o.config;
    std::vector<cli::flag> f = {
        {"", "", "The result:", {}},
        {"-o, --out", "FILE", "the trained model, GGUF", cli::text(o.out)},
        {"--type", "TYPE", "its number format: f32 (default), f16, bf16, q8_0, int8, …", cli::text(o.type)},
        {"--lora", "RANK",
         "train an adapter of this rank beside the model's weights, in whatever format these are; FILE is "
         "the adapter",
         cli::number(c.lora_rank, 1u, 1024u)},
        {"--lora-alpha", "X", "the adapter's scale is X / RANK; default: RANK",
         cli::number(c.lora_alpha, 1e-6f, 1e6f)},
        {"", "", "The work:", {}},
        {"--steps", "N", "steps of the optimizer in all",
         cli::number(o.steps, uint64_t{1}, uint64_t{1} << 40)},
        {"--epochs", "N", "times through the rows; default: 1, without --steps",
         cli::number(o.epochs, uint64_t{1}, uint64_t{1} << 20)},
        {"--batch-tokens", "N", "most tokens of a step, but at least one row; default 2048",
         cli::number(o.how.tokens, uint64_t{1}, uint64_t{1} << 40)},
        {"--batch", "N|memory",
         "rows of a step; memory: the power of two from 32 to 2048 that fits --memory, or what is free. A "
         "step has as many runs as memory makes necessary",
         [&o](const std::string &v) {
             if ((o.by_memory = v == "memory")) return;
             cli::number(o.how.sequences, uint64_t{1}, uint64_t{1} << 20)(v);
         }},
        {"--buckets", "", "rows of a step are of one length, up to a power of two", cli::on(o.how.buckets)},
        {"--stage", "LENGTH:STEPS",
         "first, for so many steps, rows of at most so many tokens; or LENGTH:loss=X, until the loss of "
         "--eval is X; may be repeated, the last is for the rest",
         [&o](const std::string &v) { o.stages.push_back(stage_of(v)); }},
        {"--context", "N", "most tokens of a row; default: the model's context",
         cli::number(c.context_length, 0u, 1u << 30)},
        {"--seed", "N", "of the rows' order; default 1", cli::number(o.how.seed, uint64_t{0})},
    };
    add_row_flags(f, o.rules);
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
    f.push_back(quiet_flag(o.quiet));
    return f;
}

// The data sets, and the place in them: a stage and a feeder.
struct course {
    std::vector<rows::data> sets;
    const options &o;
    size_t at = 0;       // the stage
    uint64_t begun = 0;  // its first step
    std::unique_ptr<rows::feeder> feed;

    explicit course(const options &of) : o(of) {}
    void enter(size_t stage, uint64_t step) {
        at = stage, begun = step;
        rows::batching how = o.how;
        if (!o.stages.empty()) how.most_tokens = o.stages[stage].length;
        feed = std::make_unique<rows::feeder>(sets, o.weights, how);
    }
    // After `step` steps, the last measurement being `held`.
    void move_on(uint64_t step, double held) {
        if (at + 1 >= o.stages.size()) return;
        const stage &s = o.stages[at];
        if (s.steps ? step - begun >= s.steps : held <= s.loss) enter(at + 1, step);
    }
    std::vector<ds_sequence> next() const {
        std::vector<ds_sequence> out;
        for (const auto &[set, i] : feed->next()) out.push_back(rows::view_of(sets[set].sequences[i]));
        return out;
    }
};

// What is saved beside the weights: the place in the rows, and what rows they are.
json place_of(const course &c, uint64_t step) {
    const options &o = c.o;
    json sets = json::array(), stages = json::array();
    for (size_t i = 0; i < c.sets.size(); ++i)
        sets.push_back({c.sets[i].bytes, c.sets[i].hash, o.weights[i]});
    for (const stage &s : o.stages) stages.push_back(s.text);
    return {{"train", 2},
            {"--seed", o.how.seed},
            {"rows' sizes, hashes and weights", sets},
            {"--batch-tokens", o.how.tokens},
            {"--batch", o.how.sequences},
            {"--buckets", o.how.buckets},
            {"--stage", stages},
            {"--all-tokens", o.rules.all_tokens},
            {"--plain", o.rules.plain},
            {"step", step},
            {"stage", c.at},
            {"begun", c.begun},
            {"place", c.feed->place()}};
}

// `unlogged`: a step's line, if its measurement was stopped.
uint64_t resume(const options &o, const trainer_ptr &t, course &c, json &unlogged) {
    std::string own(1 << 16, '\0');
    size_t size = 0;
    ds_error err;
    const ds_status s = ds_trainer_resume(t.get(), o.save.c_str(), own.data(), own.size(), &size, &err);
    if (s != DS_ERR_BUFFER) cli::check(s, err);
    own.resize(s == DS_OK ? size : 0);
    const json place = json::parse(own, nullptr, false), now = place_of(c, 0);
    const auto foreign = [&] { return cli::failure(o.save + ": was not saved by this program"); };
    if (!place.is_object()) throw foreign();
    for (const auto &[name, value] : now.items()) {
        if (!place.contains(name)) throw foreign();
        const bool moves = name == "step" || name == "stage" || name == "begun" || name == "place";
        if (!moves && place[name] != value)
            throw cli::failure(o.save + ": " + name + ": the saved run has " + place[name].dump() +
                               ", this one " + value.dump());
    }
    const auto number = [&](const char *name) { return jsonl::number_of<uint64_t>(place[name]); };
    if (number("stage") >= std::max<size_t>(o.stages.size(), 1) || number("begun") > number("step"))
        throw foreign();
    c.enter(number("stage"), number("begun"));
    if (!c.feed->go_to(place["place"])) throw foreign();
    unlogged = place.value("unlogged", json());
    return number("step");
}

void write_result(const options &o, const trainer_ptr &t, const std::string &path) {
    ds_error err;
    cli::check(o.config.lora_rank ? ds_trainer_export_adapter(t.get(), path.c_str(), &err)
                                  : ds_trainer_export(t.get(), path.c_str(), o.type.c_str(), &err),
               err);
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
        std::vector<ds_sequence> view;
        for (const size_t i : batch) view.push_back(rows::view_of(d.sequences[i]));
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

// What the machine could give at once.
uint64_t free_memory() {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(std::fopen("/proc/meminfo", "rb"), std::fclose);
    char line[256];
    unsigned long long kilobytes = 0;
    while (in && std::fgets(line, sizeof line, in.get()))
        if (std::sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1) return kilobytes << 10;
    throw cli::failure("--batch memory: the free memory is not known here; say --memory");
}

// The rows of a step, if memory decides, and of a run: a power of two of the longest row.
void fit(options &o, const cli::model_ptr &model, const course &c, const rows::data &held) {
    size_t longest = 2;
    const auto look = [&](const rows::data &d) {
        for (const rows::sequence &s : d.sequences) longest = std::max(longest, s.tokens.size());
    };
    for (const rows::data &d : c.sets) look(d);
    look(held);
    const uint64_t limit = o.config.memory_limit ? o.config.memory_limit : free_memory() / 10 * 9;
    const auto fits = [&](uint64_t n) {
        ds_trainer_config with = o.config;
        if (n * longest > (1u << 24)) return false;
        with.run_tokens = static_cast<uint32_t>(n * longest);
        with.memory_limit = limit;
        auto plan = cli::make<ds_training_plan>();
        ds_error err;
        const ds_status s = ds_trainer_plan(model.get(), &with, &plan, &err);
        if (s == DS_ERR_MEMORY && n > (o.by_memory ? 32u : 1u)) return false;
        cli::check(s, err);
        return true;
    };
    const uint64_t most = o.by_memory ? 2048 : std::bit_ceil(o.how.sequences);
    uint64_t n = most;
    while (!fits(n)) n /= 2;
    if (o.by_memory) o.how.sequences = n;
    if (!o.config.run_tokens) o.config.run_tokens = static_cast<uint32_t>(n * longest);
    if (!o.quiet)
        std::fprintf(stderr, "train: %llu rows a step, %llu together\n",
                     static_cast<unsigned long long>(o.how.sequences), static_cast<unsigned long long>(n));
}

int learn(options o) {
    const cli::model_ptr model = cli::load(o.model, cli::make<ds_model_config>());
    ds_error err;
    auto plan = cli::make<ds_training_plan>();
    cli::check(ds_trainer_plan(model.get(), &o.config, &plan, &err), err);
    if (o.plan) return print_plan(plan), 0;

    const uint64_t context =
        o.config.context_length ? o.config.context_length : cli::info(model).context_length;
    const bool counts = o.how.sequences || o.by_memory;  // how much is computed together depends on the rows
    o.rules.most_tokens = counts ? context : std::min(context, plan.run_tokens);
    o.rules.limit = o.rules.most_tokens == context ? "the context" : "are computed together (--run-tokens)";
    const rows::reader reader(model, o.rules);
    course c(o);
    for (const std::string &path : o.rows) c.sets.push_back(rows::read_data(path, reader));
    rows::data held;
    if (!o.eval.empty()) held = rows::read_data(o.eval, reader);
    for (size_t i = o.stages.size(); i-- > 0;) c.enter(i, 0);  // each has rows
    if (o.stages.empty()) c.enter(0, 0);
    if (counts) fit(o, model, c, held);

    if (!o.stages.empty() && !o.steps)
        for (const stage &s : o.stages) o.steps += s.steps;
    for (const uint64_t epochs = o.steps ? 0 : std::max(o.epochs, uint64_t{1}); c.feed->epoch() < epochs;
         ++o.steps)
        c.next();
    c.enter(0, 0);
    o.config.total_steps = o.steps;

    const bool saves = !o.save.empty() || o.save_every || o.resume;
    if (o.save.empty()) o.save = o.out + ".train";
    std::vector<std::string> others = o.rows;
    others.insert(others.end(), {o.model, o.eval, o.log});
    must_differ(o.save, others);
    others.push_back(o.save);
    must_differ(o.out, others);
    if (!o.resume && access(o.save.c_str(), F_OK) == 0)
        throw cli::failure(o.save + ": exists; --resume continues that run, or remove it to begin anew");
    { const part_file can_save(o.save); }

    ds_trainer *made = nullptr;
    cli::check(ds_trainer_new(model.get(), &o.config, &made, &err), err);
    const trainer_ptr t(made);
    json unlogged;
    uint64_t step = o.resume ? resume(o, t, c, unlogged) : 0;
    {
        // The type is known, and there is room.
        const part_file can_write(o.out);
        write_result(o, t, can_write.name);
    }
    std::unique_ptr<jsonl::answers> log;
    if (!o.log.empty()) {
        std::vector<std::pair<std::string, const char *>> inputs = {{o.eval, "rows"}, {o.model, "the model"}};
        for (const std::string &path : o.rows) inputs.emplace_back(path, "rows");
        log = std::make_unique<jsonl::answers>(o.log, inputs);
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
    json place = place_of(c, step);
    const auto save = [&] {
        if (!unlogged.is_null()) place["unlogged"] = unlogged;
        const std::string own = place.dump();
        const memory_throws scope;
        ds_error e;
        cli::check(ds_trainer_save(t.get(), o.save.c_str(), own.data(), own.size(), &e), e);
    };
    // Measures, if it is due, and moves on to the next stage.
    const auto end_step = [&](json line) {
        double measured = NAN;
        const bool due = step == o.steps || (o.eval_every && step % o.eval_every == 0);
        if (due && !o.eval.empty()) {
            if (!evaluate(t, held, o.how.tokens, held_loss)) return void(unlogged = std::move(line));
            line["eval"] = measured = held_loss;
        }
        c.move_on(step, measured);
        place = place_of(c, step);
        if (log) log->append(line, step);
    };
    if (!unlogged.is_null()) end_step(std::exchange(unlogged, json()));
    while (step < o.steps && !interrupted) {
        const double begin = seconds();
        const std::vector<ds_sequence> batch = c.next();
        auto r = cli::make<ds_train_report>();
        if (!done(ds_trainer_step(t.get(), batch.data(), batch.size(), &r, &err), err)) break;
        place = place_of(c, ++step);
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

// FILE or FILE=WEIGHT
void add_rows(options &o, const std::string &word) {
    const size_t equals = word.rfind('=');
    double weight = 1;
    std::string path = word;
    if (equals != std::string::npos &&
        word.find_first_not_of("0123456789.", equals + 1) == std::string::npos && equals + 1 < word.size()) {
        cli::number(weight, 1e-6, 1e6)(word.substr(equals + 1));
        path.resize(equals);
    }
    o.rows.push_back(path);
    o.weights.push_back(weight);
}

}  // namespace

int run_sft(const command &c, int argc, char **argv) {
    options o;
    const auto rest = parse(c, argc, argv, flags(o));
    if (!rest) return 0;
    if (rest->size() < 2 && !(o.plan && rest->size() == 1))
        throw cli::usage_error("sft: needs a model and a file of rows; see train sft --help");
    if (o.out.empty() && !o.plan) throw cli::usage_error("sft: needs --out FILE");
    if (o.config.lora_rank && o.type != "f32") throw cli::usage_error("--type: not with --lora");
    if (o.config.lora_alpha != 0 && !o.config.lora_rank)
        throw cli::usage_error("--lora-alpha: is for --lora");
    if (o.steps && o.epochs) throw cli::usage_error("--epochs: not with --steps");
    if (o.eval_every && o.eval.empty()) throw cli::usage_error("--eval-every: is for --eval");
    o.model = (*rest)[0];
    int standard_inputs = o.eval == "-";
    for (size_t i = 1; i < rest->size(); ++i) {
        add_rows(o, (*rest)[i]);
        standard_inputs += o.rows.back() == "-";
    }
    if (standard_inputs > 1) throw cli::usage_error("--eval: standard input has the rows");
    if (o.how.sequences && o.by_memory) throw cli::usage_error("--batch: is said twice");
    const bool by_loss =
        std::any_of(o.stages.begin(), o.stages.end(), [](const stage &s) { return !s.steps; });
    if (by_loss && (o.eval.empty() || !o.eval_every))
        throw cli::usage_error("--stage: loss= needs --eval and --eval-every");
    if (!o.plan && !o.steps && (by_loss || (o.stages.empty() && (o.rows.size() > 1 || o.how.buckets))))
        throw cli::usage_error("sft: needs --steps, where rows are of several files, buckets or such stages");
    if (!o.stages.empty() && o.epochs) throw cli::usage_error("--epochs: not with --stage");
    return learn(std::move(o));
}

}  // namespace train
