// The step to compare with is the last of a prompt that is processed in steps of as many rows as the suffix
// has, at the same depth, with nothing cached.
#include "prefix.h"

#include "handles.h"
#include "median.h"

#include "../../tensor/os.h"

#include <algorithm>
#include <span>

namespace bench {

namespace {

struct steps {
    std::vector<double> all, beside;
};  // seconds

engine_ptr make_engine(const ds_model *m, const speed_options &o, uint32_t context, uint32_t requests,
                       uint32_t step_tokens, steps *to) {
    ds_engine_config c{};
    c.struct_size = sizeof c;
    c.threads = *std::max_element(o.threads.begin(), o.threads.end());
    c.max_requests = requests;
    c.context_length = context;
    c.step_tokens = step_tokens;
    c.kv_type = o.kv;
    c.isa = o.isa.empty() ? nullptr : o.isa.c_str();
    c.trace_user = to;
    c.trace = [](void *user, const ds_step_trace *t) {
        static_cast<steps *>(user)->all.push_back(t->seconds);
        static_cast<steps *>(user)->beside.push_back(t->seconds - t->compute_seconds);
    };
    ds_error err;
    ds_engine *e = nullptr;
    check(ds_engine_new(m, &c, &e, &err), err);
    return engine_ptr(e);
}

// Tokens of the prefix, always the same, and of a suffix that depends on the index.
std::vector<ds_token> prompt_of(unsigned prefix, unsigned suffix, unsigned which, uint32_t vocabulary) {
    std::vector<ds_token> ids(prefix + suffix);
    uint32_t random = 12345;
    for (size_t i = 0; i < ids.size(); ++i) {
        if (i == prefix) random += 7919 * (which + 1);
        random = random * 1664525u + 1013904223u;
        ids[i] = static_cast<ds_token>((random >> 8) % vocabulary);
    }
    return ids;
}

// Seconds from the first of `requests` submissions to the end of the last.
double run(ds_engine *e, const std::vector<ds_token> &prompt, unsigned requests, uint32_t new_tokens,
           uint32_t flags) {
    ds_request r{};
    r.struct_size = sizeof r;
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    r.flags = DS_REQUEST_IGNORE_END | flags;
    r.max_new_tokens = new_tokens;
    ds_error err;
    const double begin = ds::os::seconds();
    for (unsigned i = 0; i < requests; ++i) {
        ds_request_id id;
        check(ds_engine_submit(e, &r, &id, &err), err);
    }
    for (unsigned done = 0; done < requests;) {
        const ds_event *const *events = nullptr;
        size_t count = 0;
        check(ds_engine_step(e, &events, &count, &err), err);
        for (const ds_event *v : std::span(events, count)) done += v->type == DS_EVENT_DONE;
    }
    return ds::os::seconds() - begin;
}

}  // namespace

prefix_speed measure_prefix(const std::string &path, const speed_options &o, unsigned prefix,
                            unsigned suffix) {
    ds_error err;
    ds_model *handle = nullptr;
    check(ds_model_load(path.c_str(), nullptr, &handle, &err), err);
    const model_ptr m(handle);
    ds_model_info info{};
    info.struct_size = sizeof info;
    check(ds_model_get_info(m.get(), &info, &err), err);
    if (prefix + suffix + 40 > info.context_length)
        throw std::runtime_error("the prefix does not fit the context");
    const unsigned requests = *std::max_element(o.requests.begin(), o.requests.end());
    prefix_speed out{prefix, suffix, requests, 0, 0, 0, 0, 0};
    steps seen;
    const engine_ptr e = make_engine(m.get(), o, prefix + suffix + 40, requests, o.step_tokens, &seen);
    // file pages in memory, threads awake
    run(e.get(), prompt_of(32, 0, 0, info.vocabulary), 1, 4, DS_REQUEST_NO_CACHE);
    out.cold = run(e.get(), prompt_of(prefix, suffix, 0, info.vocabulary), 1, 1, 0);
    std::vector<double> warm;
    for (unsigned i = 1; i <= std::max(3u, o.repetitions); ++i)
        warm.push_back(run(e.get(), prompt_of(prefix, suffix, i, info.vocabulary), 1, 1, 0));
    out.warm = median(warm);
    const std::vector<ds_token> shared = prompt_of(prefix, 0, 0, info.vocabulary);
    run(e.get(), shared, requests, 4, 0);
    seen = {};
    run(e.get(), shared, requests, 24, 0);
    out.decode = median({seen.all.begin() + 4, seen.all.end()});
    out.beside = median({seen.beside.begin() + 4, seen.beside.end()});

    const engine_ptr slow = make_engine(m.get(), o, prefix + suffix + 40, 1, suffix, &seen);
    seen = {};
    run(slow.get(), prompt_of(prefix - prefix % suffix, suffix, 0, info.vocabulary), 1, 1,
        DS_REQUEST_NO_CACHE);
    out.step = median({seen.all.end() - 3, seen.all.end()});  // the last three, at nearly the same depth
    return out;
}

}  // namespace bench
