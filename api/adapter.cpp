// Adapters: loading and information. Requests and sessions keep what a handle holds (request.cpp,
// session.cpp).
#include "boundary.h"

using namespace ds;

ds_status ds_adapter_load(const ds_model *model, const char *path, const ds_host *host, ds_adapter **out,
                          ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(out);
        const os::default_float_mode float_mode;
        if (!model->m->architecture)
            throw error(status::state,
                        model->m->file.name() + ": was loaded for its vocabulary only; it has no adapters");
        if (model->m->device && !model->m->device->fn->host_memory)
            throw error(status::unsupported,
                        model->m->file.name() +
                            ": is on a device, and adapters run on the host's processors only");
        const ds::host h = host_of(host);
        auto handle = std::make_unique<ds_adapter>();
        // Read, not mapped: it is copied anyway, and may be truncated meanwhile.
        const auto read = [&](const std::string &part) {
            return gguf_source{os::mapping::read_file(part, h, {}), part};
        };
        handle->a = std::make_shared<const adapter>(model->m, gguf_file::open(path, read, h), h);
        *out = handle.release();
    });
}

void ds_adapter_free(ds_adapter *a) { delete a; }

ds_status ds_adapter_get_info(const ds_adapter *adapter, ds_adapter_info *info_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(adapter);
        REQUIRE_POINTER(info_out);
        ds_adapter_info i{};
        i.rank = static_cast<uint32_t>(adapter->a->rank());
        i.matrices = static_cast<uint32_t>(adapter->a->count());
        i.alpha = adapter->a->alpha();
        i.bytes = adapter->a->bytes();
        write_info(info_out, i, "info");
    });
}
