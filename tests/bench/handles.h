// The library's objects as smart pointers, its errors as exceptions.
#pragma once

#include "../../deepseek.h"

#include <memory>
#include <stdexcept>

namespace bench {

inline void check(ds_status s, const ds_error &e) {
    if (s != DS_OK) throw std::runtime_error(e.message);
}

struct deleter {
    void operator()(ds_model *m) const { ds_model_free(m); }
    void operator()(ds_engine *e) const { ds_engine_free(e); }
};
using model_ptr = std::unique_ptr<ds_model, deleter>;
using engine_ptr = std::unique_ptr<ds_engine, deleter>;

}  // namespace bench
