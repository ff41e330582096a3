// Engines: options, memory plan, creation and trace.
#include "boundary.h"

#include "../llm/model/arch/deepseek2.h"

using namespace ds;

static ds_step_trace trace_of(const step_trace &t) {
    ds_step_trace out{};
    out.struct_size = sizeof out;
    out.step = t.step;
    out.rows = t.rows, out.prompt_rows = t.prompt_rows, out.answer_rows = t.answer_rows;
    out.started = t.started, out.preempted = t.preempted, out.ended = t.ended;
    out.cached_tokens = t.cached_positions;
    out.copied_pages = t.copied_pages;
    out.running = t.running, out.queued = t.queued;
    out.pages_used = t.pages_held, out.pages_cached = t.pages_cached, out.pages_unused = t.pages_free;
    out.seconds = t.seconds, out.compute_seconds = t.compute_seconds;
    return out;
}

static engine_options engine_options_of(const model &m, const ds_engine_config &c) {
    check_enum("kv_type", c.kv_type, DS_KV_INT8);
    check_enum("mla_form", c.mla_form, DS_MLA_ABSORBED);
    require(c.threads <= 1024, "threads: must be at most 1024");
    require(c.kv_tokens <= (uint64_t{1} << 31), "kv_tokens: must be at most 2^31");
    engine_options o;
    if (c.max_requests) o.max_requests = c.max_requests;
    if (c.max_queue) o.max_queue = c.max_queue;
    o.context = c.context_length;
    o.step_rows = c.step_tokens;
    o.logit_rows = c.logit_rows;
    o.kv_positions = static_cast<int64_t>(c.kv_tokens);
    o.kv_type = c.kv_type == DS_KV_F32 ? format::f32 : c.kv_type == DS_KV_F16 ? format::f16 : format::i8;
    if (c.kv_type == DS_KV_DEFAULT && m.main_format != format::i8) o.kv_type = format::f16;
    check_reserved(c.reserved, "config");
    o.adapter_rank = c.max_adapter_rank;
    if (c.mla_form == DS_MLA_ABSORBED) o.form = static_cast<int32_t>(mla_form::absorbed);
    o.host = host_of(c.host);
    if (c.trace)
        o.trace = [fn = c.trace, user = c.trace_user](const step_trace &t) {
            const ds_step_trace out = trace_of(t);
            fn(user, &out);
        };
    return engine::resolve(m, o);
}

static backend_ptr make_backend(const ds_model &m, const ds_engine_config &c, const engine_options &o,
                                bool only_asked = false) {
    if (m.device) return open_device(m.device);
    cpu_options cpu;
    cpu.threads = c.threads;
    cpu.isa = c.isa;
    cpu.host = o.host;
    cpu.only_asked = only_asked;
    return cpu_backend(cpu);
}

ds_status ds_engine_plan(const ds_model *model, const ds_engine_config *config, ds_memory_plan *plan_out,
                         ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(plan_out);
        const ds_engine_config c = read_config(config, "config");
        const engine_options o = engine_options_of(*model->m, c);
        // A device's plan uses the model's backend, so that no second one is opened.
        const std::shared_ptr<backend> &device = model->m->device;
        const memory_plan p =
            engine::measure(*model->m, o, device ? *device : *make_backend(*model, c, o, true));
        ds_memory_plan out{};
        out.weights = p.weights;
        out.pages = p.pages;
        out.page_bytes = p.page_bytes;
        out.activations = p.activations;
        out.work = p.work;
        out.tables = p.tables;
        out.total = p.weights + p.pages + p.activations + p.work + p.tables;
        write_info(plan_out, out, "plan");
    });
}

ds_status ds_engine_new(const ds_model *model, const ds_engine_config *config, ds_engine **out,
                        ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(out);
        const os::default_float_mode float_mode;
        const ds_engine_config c = read_config(config, "config");
        const engine_options o = engine_options_of(*model->m, c);
        auto handle = std::make_unique<ds_engine>();
        handle->e = std::make_unique<engine>(model->m, o, make_backend(*model, c, o));
        handle->events.reserve(handle->e->max_events());
        handle->list.reserve(handle->e->max_events());
        *out = handle.release();
    });
}

void ds_engine_free(ds_engine *engine) { delete engine; }
