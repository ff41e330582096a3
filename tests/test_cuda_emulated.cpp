// The CUDA backend's way from a node to its kernels, with these run on the host (cuda_emulation.h) and behind memory that the host cannot touch (fake_device.h):
// every case of every operation in every variant, and whole engines.
#include "cuda_kernels.h"
#include "device_case.h"
#include "fake_device.h"
#include "golden.h"

#include "../ggml-cpu/cpu.h"
#include "../llm/engine.h"

#include <set>

using namespace ds;
using namespace ds::test;

TEST_CASE("CUDA, emulated: every variant of every operation against the reference") {
    if (!kernels_run()) { MESSAGE("not run here: the emulation wants x86-64 and no sanitizer"); return; }
    const std::vector<op_case> cases = all_cases();
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        const op kind = static_cast<op>(k);
        CHECK(emulated_variants(kind).empty() == !info(kind).cuda);
        for (const char *name : emulated_variants(kind)) {
            bool used = false;
            for (const bool library : {false, true}) {
                const std::shared_ptr<backend> b = fake_device({}, emulated_cuda({.sm = 90, .library = library, .kind = kind, .variant = name}));
                for (const op_case &c : cases) {
                    if (c.kind != kind) continue;
                    CAPTURE(c.text);
                    device_case one(c, b);
                    if (!one.variant() || std::string(one.variant()) != name) continue;
                    used = true;
                    const std::string wrong = compare(c, reference_result(c), one.run(), bits_defined(c, library), 2.0);
                    CHECK_MESSAGE(wrong.empty(), c.text, " ", name, library ? " with a library: " : ": ", wrong);
                }
            }
            if (std::string(name) != "wgmma") CHECK_MESSAGE(used, info(kind).name, ": no case for ", name);
        }
    }
}
