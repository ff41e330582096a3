// A linear warm-up, then a cosine (arXiv 1608.03983, without restarts).
#include "schedule.h"

#include "../../tensor/numerics.h"

namespace ds {

double schedule::at(int64_t step) const {
    if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
    if (steps == 0) return peak;
    if (step >= steps) return least;
    const double part = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
    double sine, cosine;
    sin_cos_f64(3.14159265358979323846 * part, &sine, &cosine);
    return least + (peak - least) / 2 * (1 + cosine);
}

}  // namespace ds
