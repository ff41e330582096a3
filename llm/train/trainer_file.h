// The beginning of a trainer's file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ds {

struct trainer_file_header {
    char magic[8];
    uint32_t version;
    float loss_scale;
    uint64_t identity;
    int64_t steps, updates;
    uint32_t skips, scaled_steps;
    uint64_t parts, part_bytes, own_bytes;
    uint64_t parts_sum, own_sum;
    uint64_t header_sum;  // of all before it
};
constexpr uint32_t trainer_file_version = 2;
inline constexpr char trainer_file_magic[8] = {'d', 's', 't', 'r', 'a', 'i', 'n', '\0'};

}  // namespace ds
