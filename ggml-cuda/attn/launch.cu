// Starts the kernels of the given way.
#include "config.h"

namespace ds::cuda {

int launch_attention(attention_way way, const attention_launch_params &a, const device_facts &d, stream s) {
    if (a.n == 0) return 0;
    switch (way) {
    case attention_way::integers: return launch_integers(a, cut_of(a, d), s);
    case attention_way::floats: return launch_floats(a, s);
    default: return launch_plain_attention(a, s);
    }
}

}  // namespace ds::cuda
