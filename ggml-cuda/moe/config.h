// Mixture of experts: scratch, and how rows are grouped. Plain numbers, tested without a device.
#pragma once

#include "../launch.h"

namespace ds::cuda {

constexpr int32_t most_experts = 1024;

// How the experts' products are made: rows a group, by the kernel for few rows, by tiles, or by a warp a
// result.
struct experts_cut {
    int32_t group_rows;  // 8, 16, 32: few rows; 64, 128: tiles
    int32_t groups;      // as many as there can be
};
int32_t group_bound(int64_t pairs, int32_t experts, int32_t rows);
experts_cut cut_of(const experts_launch_params &);

bool gate_and_up_together(const experts_launch_params &);  // by one kernel

// Offsets in scratch, each at a multiple of 256, of [pairs]: a row and one of its experts. A pair's place is
// where it stands when pairs are sorted by expert.
struct experts_work {
    size_t slot;              // [pairs]
    size_t row_of;            // [pairs]: the row that stands at a place
    size_t groups;            // [groups]
    size_t x, x_up;           // rows ready for gate, and for up where its format is another
    size_t hidden, up;        // [pairs, ffn]
    size_t hidden_quantized;  // hidden, ready for down
    size_t y;                 // [pairs, d]
    size_t bytes;
};
experts_work work_of(const experts_launch_params &);

}  // namespace ds::cuda
