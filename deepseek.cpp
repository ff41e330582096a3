// The C interface's version, statuses and devices, and static checks that the values in deepseek.h equal the
// internal ones. The rest of the interface is in api/, one file per group of functions.
#include "api/boundary.h"

using namespace ds;

// ---- Public and internal values must agree

static_assert(DS_OK == int(status::ok) && DS_ERR_ARGUMENT == int(status::argument) &&
              DS_ERR_IO == int(status::io) && DS_ERR_FORMAT == int(status::format));
static_assert(DS_ERR_UNSUPPORTED == int(status::unsupported) && DS_ERR_MEMORY == int(status::memory) &&
              DS_ERR_CANCELLED == int(status::cancelled));
static_assert(DS_ERR_BUFFER == int(status::buffer) && DS_ERR_TOO_LONG == int(status::too_long) &&
              DS_ERR_NUMERIC == int(status::numeric));
static_assert(DS_ERR_STATE == int(status::state) && DS_ERR_BUSY == int(status::busy) &&
              DS_ERR_DEVICE == int(status::device) && DS_ERR_INTERNAL == int(status::internal) &&
              DS_ERR_NO_DEVICE == int(status::no_device));
static_assert(DS_LOG_DEBUG == int(log_level::debug) && DS_LOG_INFO == int(log_level::info) &&
              DS_LOG_WARNING == int(log_level::warning) && DS_LOG_ERROR == int(log_level::error));
static_assert(DS_FINISH_NONE == int(finish::none) && DS_FINISH_STOP == int(finish::stop) &&
              DS_FINISH_LENGTH == int(finish::length) && DS_FINISH_CONTEXT == int(finish::context));
static_assert(DS_FINISH_DEADLINE == int(finish::deadline) && DS_FINISH_CANCELLED == int(finish::cancelled) &&
              DS_FINISH_ERROR == int(finish::error) && DS_FINISH_SCORED == int(finish::scored));
static_assert(DS_EVENT_TOKEN == int(event_type::token) && DS_EVENT_SCORE == int(event_type::score) &&
              DS_EVENT_DONE == int(event_type::done) && DS_EVENT_TEXT == int(event_type::text));
static_assert(DS_STATE_QUEUED == int(request_state::queued) &&
              DS_STATE_PROMPT == int(request_state::prompt) &&
              DS_STATE_ANSWER == int(request_state::answer) && DS_STATE_DONE == int(request_state::done));
static_assert(sizeof(ds_token_logprob) == sizeof(token_logprob) && sizeof(ds_token) == sizeof(token_id));

// ---- Version and status

const char *ds_version(void) { return DS_VERSION; }
uint32_t ds_abi_version(void) { return DS_ABI_VERSION; }

const char *ds_status_name(ds_status s) {
    static const char *const names[] = {
        "DS_OK",         "DS_ERR_ARGUMENT",  "DS_ERR_IO",     "DS_ERR_FORMAT",   "DS_ERR_UNSUPPORTED",
        "DS_ERR_MEMORY", "DS_ERR_CANCELLED", "DS_ERR_BUFFER", "DS_ERR_TOO_LONG", "DS_ERR_NUMERIC",
        "DS_ERR_STATE",  "DS_ERR_BUSY",      "DS_ERR_DEVICE", "DS_ERR_INTERNAL", "DS_ERR_NO_DEVICE"};
    const auto i = static_cast<size_t>(number_of(s));
    return i < std::size(names) ? names[i] : "unknown";
}

// ---- Devices

static int32_t device_number(uint32_t device) {
    require(device >= 1 && device <= 1u << 16, "device: must be from 1 to the number of devices");
    return static_cast<int32_t>(device - 1);
}

backend_ptr ds::open_device(uint32_t device) {
    cuda_options o;
    o.device = device_number(device);
    return cuda_backend(o);
}

ds_status ds_device_count(uint32_t *count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(count);
        *count = 0;
        *count = static_cast<uint32_t>(cuda_device_count());
    });
}

ds_status ds_device_get_info(uint32_t device, ds_device_info *info_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(info_out);
        const cuda_device d = describe_cuda_device(device_number(device));
        ds_device_info i{};
        copy_text(i.name, d.name);
        i.memory_total = d.memory_total;
        i.memory_free = d.memory_free;
        i.capability_major = static_cast<uint32_t>(d.major);
        i.capability_minor = static_cast<uint32_t>(d.minor);
        i.processors = static_cast<uint32_t>(d.processors);
        write_info(info_out, i, "info");
    });
}
