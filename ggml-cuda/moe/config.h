// Experts and routed heads: how rows are grouped, and scratch. Plain arithmetic, tested without a device.
#pragma once

#include "../launch.h"

namespace ds::cuda {

constexpr int32_t most_experts = 1024;

// How products are cut: rows per group decide the kernel.
struct group_cut {
    int32_t group_rows;  // 8, 16, 32: few rows; 64, 128: tiles
    int32_t groups;      // the most that there can be
};
int32_t group_bound(int64_t pairs, int32_t experts, int32_t rows);
group_cut cut_of(const experts_launch_params &);
group_cut cut_of(const routed_launch_params &);

bool gate_and_up_together(const experts_launch_params &);  // whether one kernel computes both

// Offsets in scratch, each a multiple of 256. A pair is a row and one of its experts; its slot is its index
// after sorting by expert.
struct experts_work {
    size_t slot;              // [pairs]
    size_t row_of;            // [pairs]: the row in each slot
    size_t groups;            // [groups]
    size_t x, x_up;           // rows quantized for gate, and for up where its format differs
    size_t hidden, up;        // [pairs, ffn]
    size_t hidden_quantized;  // hidden, quantized for down
    size_t y;                 // [pairs, d]
    size_t bytes;
};
experts_work work_of(const experts_launch_params &);

struct routed_work {
    size_t slot, row_of, groups;
    size_t x;  // rows quantized
    size_t y;  // [pairs, m], by slot
    size_t bytes;
};
routed_work work_of(const routed_launch_params &);

}  // namespace ds::cuda
