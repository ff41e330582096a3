// Resumes trainers from files with valid checksums and arbitrary content, then makes a step and exports.
// Input: a byte that selects the trainer, then the file.
#include "train_seed.h"

#include "../../llm/model/fingerprint.h"
#include "../../llm/train/trainer_file.h"

namespace ds::fuzz {

// Recomputes the checksums, as far as what they cover is within the file.
static void repair(std::string &file) {
    trainer_file_header h;
    if (file.size() < sizeof h) return;
    memcpy(&h, file.data(), sizeof h);
    if (h.own_bytes > file.size() - sizeof h) h.own_bytes = 0;
    const size_t parts = file.size() - sizeof h - h.own_bytes;
    h.parts_sum = checksum(file.data() + sizeof h, parts, 0);
    h.own_sum = checksum(file.data() + sizeof h + parts, h.own_bytes, 0);
    h.header_sum = checksum(&h, offsetof(trainer_file_header, header_sum), 0);
    memcpy(file.data(), &h, sizeof h);
}

void run(std::string_view input) {
    if (input.empty()) return;
    const train_target &t = train_targets()[static_cast<uint8_t>(input[0]) % train_targets().size()];
    const std::string path = scratch() + "/trainer";
    write_file(path, input.substr(1));
    char own[64];
    size_t size = 0;
    ds_error err{};
    const ds_status resumed = ds_trainer_resume(t.trainer, path.c_str(), own, sizeof own, &size, &err);
    allowed(resumed, err);
    if (resumed != DS_OK) return;
    must(size <= sizeof own, "no more than the caller's room");
    allowed(step(t.trainer, &err), err);
    allowed(ds_trainer_export(t.trainer, path.c_str(), "q8_0", &err), err);
    // whatever it was, the trainer can begin anew
    write_file(path, t.saved);
    must(ds_trainer_resume(t.trainer, path.c_str(), nullptr, 0, nullptr, &err) == DS_OK,
         "a good file resumes");
}

std::string mutated(std::string input, dice &d) {
    if (input.size() < 1 + sizeof(trainer_file_header)) return "";
    if (d.one_in(30)) input[0] = static_cast<char>(d.next());
    std::string file = input.substr(1);
    // Fields that must match the trainer, or the code after the check is not reached.
    if (d.one_in(3)) {
        const train_target &t = train_targets()[static_cast<uint8_t>(input[0]) % train_targets().size()];
        const uint64_t own = file.size() % 64;
        file = t.saved;
        trainer_file_header h;
        memcpy(&h, file.data(), sizeof h);
        file.resize(file.size() - h.own_bytes + own, 'x');
        h.own_bytes = own;
        memcpy(file.data(), &h, sizeof h);
    }
    switch (d.below(4)) {
    case 0: {  // a field
        const size_t at = d.below(sizeof(trainer_file_header) / 8) * 8;
        const uint64_t n = interesting(d);
        memcpy(&file[at], &n, sizeof n);
        break;
    }
    case 1: {  // a number among weights and states
        const size_t at = sizeof(trainer_file_header);
        if (file.size() < at + 4) break;
        const auto f = static_cast<float>(interesting_float(d));
        memcpy(&file[at + d.below((file.size() - at - 3) / 4) * 4], &f, sizeof f);
        break;
    }
    case 2: file.resize(d.below(file.size() + 1)); break;
    default: file = changed_bytes(file, d);
    }
    if (!d.one_in(10)) repair(file);
    return input.substr(0, 1) + file;
}

}  // namespace ds::fuzz
