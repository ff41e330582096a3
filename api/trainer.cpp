// Training: the trainer's handle, its configuration and plan, batches, files, and the model for engines.
#include "boundary.h"

#include <atomic>

using namespace ds;

struct ds_trainer {
    std::shared_ptr<trainer> t;  // also kept by its models
    std::atomic<bool> stop = false;
};

static double finite_or(double v, double absent, double least, double most, const char *name) {
    if (v == 0) return absent;
    if (!(v >= least && v <= most))
        throw error(status::argument, format_text("%s: is %g, must be from %g to %g", name, v, least, most));
    return v;
}

static trainer_options trainer_options_of(const ds_trainer_config &c) {
    check_reserved(c.reserved, "config");
    check_enum("format", c.format, DS_TRAIN_INT8);
    check_enum("kv_type", c.kv_type, DS_KV_INT8);
    check_enum("states", c.states, DS_STATES_INT8);
    check_enum("recompute", c.recompute, DS_RECOMPUTE_BLOCKS);
    require(c.context_length <= (1u << 30), "context_length: must be at most 2^30");
    require(c.run_tokens <= (1u << 24), "run_tokens: must be at most 2^24");
    trainer_options o;
    constexpr format weights[] = {format::f32, format::bf16, format::f16, format::i8};
    constexpr format pages[] = {format::f32, format::f32, format::f16, format::i8};
    o.weights = weights[number_of(c.format)];
    o.pages = pages[number_of(c.kv_type)];
    o.adamw.byte_states = c.states == DS_STATES_INT8;
    o.again = static_cast<train_graph::again>(number_of(c.recompute));
    o.context = c.context_length;
    o.rows = c.run_tokens;
    o.memory = c.memory_limit;
    o.rate.peak = finite_or(c.learning_rate, 1e-4, 1e-12, 10, "learning_rate");
    o.rate.least = finite_or(c.final_rate, 0, 0, 10, "final_rate");
    require(o.rate.least <= o.rate.peak, "final_rate: is more than learning_rate");
    constexpr uint64_t most_steps = uint64_t{1} << 40;
    require(c.warmup_steps <= most_steps && c.total_steps <= most_steps,
            "warmup_steps, total_steps: must be at most 2^40");
    require(!c.total_steps || c.warmup_steps < c.total_steps, "warmup_steps: must be less than total_steps");
    o.rate.warmup = static_cast<int64_t>(c.warmup_steps);
    o.rate.steps = static_cast<int64_t>(c.total_steps);
    const auto f32 = [](float v, double absent, double least, double most, const char *name) {
        return static_cast<float>(finite_or(static_cast<double>(v), absent, least, most, name));
    };
    o.adamw.beta1 = f32(c.beta1, 0.9, 1e-6, 0.999999, "beta1");
    o.adamw.beta2 = f32(c.beta2, 0.95, 1e-6, 0.999999, "beta2");
    o.adamw.epsilon = f32(c.epsilon, 1e-8, 1e-30, 1, "epsilon");
    o.adamw.decay = std::max(0.0f, f32(c.weight_decay, 0.1, -1e30, 1e3, "weight_decay"));
    o.adamw.clip = std::max(0.0f, f32(c.clip_norm, 1, -1e30, 1e30, "clip_norm"));
    require(c.lora_rank <= lora_most_rank, "lora_rank: must be at most 1024");
    require(c.lora_rank || c.lora_alpha == 0, "lora_alpha: is for lora_rank");
    o.lora_rank = c.lora_rank;
    o.lora_alpha = f32(c.lora_alpha, 0, 1e-6, static_cast<double>(lora_most_alpha), "lora_alpha");
    o.balance = f32(c.balance, 0, 0, 1e3, "balance");
    o.host = host_of(c.host);
    return o;
}

static std::shared_ptr<backend> backend_for(const ds_trainer_config &c, bool only_asked) {
    cpu_options o;
    o.threads = c.threads;
    o.host = host_of(c.host);
    o.only_asked = only_asked;
    return cpu_backend(o);
}

ds_status ds_trainer_plan(const ds_model *model, const ds_trainer_config *config, ds_training_plan *plan,
                          ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(plan);
        const os::default_float_mode float_mode;
        const ds_trainer_config c = read_config(config, "config");
        const train_plan p = trainer::plan(*model->m, trainer_options_of(c), *backend_for(c, true));
        ds_training_plan out{};
        out.weights = p.weights, out.gradients = p.gradients, out.states = p.states;
        out.activations = p.activations, out.pages = p.pages, out.work = p.work, out.inputs = p.inputs;
        out.total = p.total();
        out.run_tokens = static_cast<uint64_t>(p.rows);
        write_info(plan, out, "plan");
    });
}

ds_status ds_trainer_new(const ds_model *model, const ds_trainer_config *config, ds_trainer **out,
                         ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(out);
        const os::default_float_mode float_mode;
        const ds_trainer_config c = read_config(config, "config");
        auto handle = std::make_unique<ds_trainer>();
        handle->t = std::make_shared<trainer>(model->m, trainer_options_of(c), backend_for(c, false));
        *out = handle.release();
    });
}

void ds_trainer_free(ds_trainer *t) { delete t; }
void ds_trainer_cancel(ds_trainer *t) {
    if (t) t->stop.store(true, std::memory_order_relaxed);
}

static format format_named(const std::string &name) {
    format f = format::i8;  // "int8", as the quantize tool has it
    if (name != "int8" && (!format_from_text(name, &f) || !info(f).runs || !info(f).writes))
        throw error(status::unsupported,
                    "type: is " + quoted(name) + ", known are int8, " + formats_that_run());
    return f;
}

template <class Run> static ds_status run_batch(ds_trainer *t, const ds_sequence *sequences, size_t count,
                                                ds_train_report *report, ds_error *err, Run &&run) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        require(sequences || !count, "sequences: is NULL");
        const os::default_float_mode float_mode;
        if (report) check_struct_size(report->struct_size, "report");
        std::vector<train_sequence> batch;
        for (size_t i = 0; i < count; ++i) {
            const ds_sequence &s = sequences[i];
            if (!s.tokens)
                throw error(status::argument, "sequence " + std::to_string(i) + ": tokens: is NULL");
            batch.push_back({{s.tokens, s.count}, {s.weights, s.weights ? s.count : 0}});
        }
        const struct reset {
            std::atomic<bool> &stop;
            ~reset() { stop.store(false, std::memory_order_relaxed); }
        } after{t->stop};
        const train_report r = run(batch);
        if (!report) return;
        ds_train_report out{};
        out.step = static_cast<uint64_t>(r.step);
        out.loss = r.loss, out.norm = r.norm, out.learning_rate = r.rate;
        out.tokens = static_cast<uint64_t>(r.tokens), out.targets = static_cast<uint64_t>(r.targets);
        out.runs = static_cast<uint32_t>(r.runs);
        out.skipped = r.skipped;
        out.loss_scale = r.scale;
        out.run_tokens = static_cast<uint64_t>(r.rows);
        write_info(report, out, "report");
    });
}

ds_status ds_trainer_step(ds_trainer *t, const ds_sequence *sequences, size_t count, ds_train_report *report,
                          ds_error *err) {
    return run_batch(t, sequences, count, report, err,
                     [&](std::span<const train_sequence> batch) { return t->t->step(batch, &t->stop); });
}

ds_status ds_trainer_evaluate(ds_trainer *t, const ds_sequence *sequences, size_t count,
                              ds_train_report *report, ds_error *err) {
    return run_batch(t, sequences, count, report, err,
                     [&](std::span<const train_sequence> batch) { return t->t->evaluate(batch, &t->stop); });
}

ds_status ds_trainer_save(const ds_trainer *t, const char *path, const void *own, size_t own_size,
                          ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        REQUIRE_POINTER(path);
        require(own || !own_size, "own: is NULL");
        t->t->save(path, {static_cast<const char *>(own), own_size});
    });
}

ds_status ds_trainer_resume(ds_trainer *t, const char *path, void *own, size_t capacity, size_t *own_size,
                            ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        REQUIRE_POINTER(path);
        require(own_size || !own, "own_size: is NULL");
        require(own || !capacity, "own: is NULL");
        t->t->resume(path, [&](std::string_view bytes) {
            if (!own) {
                if (own_size) *own_size = bytes.size();
                return;
            }
            hand_out(std::span<const char>(bytes.data(), bytes.size()), static_cast<char *>(own), capacity,
                     own_size, "own");
        });
    });
}

ds_status ds_trainer_export(const ds_trainer *t, const char *path, const char *type, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(type);
        const os::default_float_mode float_mode;
        t->t->write_model(path, format_named(type));
    });
}

static void require_adapter(const ds_trainer &t) {
    if (!t.t->trains_adapter())
        throw error(status::state, "trainer: trains the weights, and has no adapter: lora_rank is 0");
}

ds_status ds_trainer_export_adapter(const ds_trainer *t, const char *path, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        REQUIRE_POINTER(path);
        require_adapter(*t);
        t->t->write_adapter(path);
    });
}

ds_status ds_trainer_adapter(const ds_trainer *t, ds_adapter **out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        REQUIRE_POINTER(out);
        require_adapter(*t);
        auto handle = std::make_unique<ds_adapter>();
        handle->a = t->t->adapter();
        *out = handle.release();
    });
}

ds_status ds_trainer_model(ds_trainer *t, ds_model **out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        REQUIRE_POINTER(out);
        if (t->t->trains_adapter())
            throw error(status::state, "trainer: trains an adapter, which engines on the model itself take: "
                                       "see ds_trainer_adapter");
        auto handle = std::make_unique<ds_model>();
        handle->device = 0;
        handle->m = {t->t, t->t->trained().get()};  // its weights are the trainer's memory
        for (size_t i = 0; i < handle->m->file.key_count(); ++i)
            handle->keys.emplace_back(handle->m->file.key(i));
        *out = handle.release();
    });
}

ds_status ds_trainer_publish(ds_trainer *t, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(t);
        t->t->publish();
    });
}
