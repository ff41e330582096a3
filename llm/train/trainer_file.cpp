// A trainer's file: a header, then its parts, weights and states as they lie in memory, then the caller's
// bytes, each with a checksum. It is written beside its place and renamed to it when it is complete, and read
// as a whole before anything changes.
#include "trainer_file.h"

#include "trainer.h"

#include "../model/fingerprint.h"

#include "../../tensor/os.h"

#include <algorithm>

namespace ds {

// The model and what a step depends on; not the schedule's end or the memory, which may change between runs.
uint64_t trainer::identity() const {
    const struct {
        uint64_t model;
        int64_t weights;
        uint64_t byte_states;
        int64_t pages;
    } of = {base_->fingerprint, static_cast<int64_t>(options_.weights), options_.adamw.byte_states,
            static_cast<int64_t>(options_.pages)};
    const uint64_t id = checksum(&of, sizeof of, 1);
    if (!trains_adapter()) return id;
    const struct {
        int64_t rank;
        float alpha, zero;
    } lora = {options_.lora_rank, lora_alpha(), 0};
    return checksum(&lora, sizeof lora, id);
}

std::vector<trainer::part> trainer::parts() const {
    std::vector<part> all;
    for (const weight &w : weights_) {
        all.push_back({w.exact().data, tensor_bytes(w.exact())});
        if (w.low.data) all.push_back({w.low.data, tensor_bytes(w.low)});
    }
    for (const auto &[data, bytes] : optimizer_->states()) all.push_back({data, bytes});
    return all;
}

static uint64_t header_sum(const trainer_file_header &h) {
    return checksum(&h, offsetof(trainer_file_header, header_sum), 0);
}

void trainer::save(const std::string &path, std::string_view own) const {
    const std::vector<part> all = parts();
    trainer_file_header h{};
    std::memcpy(h.magic, trainer_file_magic, sizeof h.magic);
    h.version = trainer_file_version;
    h.loss_scale = loss_scale_;
    h.scaled_steps = static_cast<uint32_t>(scaled_steps_);
    h.identity = identity();
    h.steps = steps_;
    h.updates = updates_;
    h.skips = static_cast<uint32_t>(skips_);
    h.parts = all.size();
    for (const part &p : all) h.part_bytes += p.bytes;
    checksum_stream sum(h.part_bytes, 0);
    for (const part &p : all) sum.add({static_cast<const char *>(p.data), p.bytes});
    h.parts_sum = sum.sum();
    h.own_bytes = own.size();
    h.own_sum = checksum(own.data(), own.size(), 0);
    h.header_sum = header_sum(h);
    os::output_file f(path);
    f.write(&h, sizeof h);
    for (const part &p : all) f.write(p.data, p.bytes);
    f.write(own.data(), own.size());
    f.commit();
}

// So that counting on never overflows.
constexpr int64_t most_steps = int64_t{1} << 62;
constexpr uint64_t most_skips = 1u << 30;

void trainer::resume(const std::string &path, const std::function<void(std::string_view)> &own) {
    const os::mapping bytes = os::mapping::map_file(path);
    const auto damaged = [&](const std::string &what) { return error(status::format, path + ": " + what); };
    trainer_file_header h;
    if (bytes.size() < sizeof h) throw damaged("is too short for a trainer's file");
    std::memcpy(&h, bytes.data(), sizeof h);
    if (std::memcmp(h.magic, trainer_file_magic, sizeof h.magic) != 0)
        throw damaged("is not a trainer's file");
    if (h.version != trainer_file_version)
        throw error(status::unsupported, path + ": version: is " + std::to_string(h.version) + ", known is " +
                                             std::to_string(trainer_file_version));
    if (h.header_sum != header_sum(h)) throw damaged("its header is damaged");
    if (h.identity != identity())
        throw error(
            status::argument,
            path +
                ": belongs to another model, to other formats of weights or states, or to another adapter");
    const std::vector<part> all = parts();
    uint64_t expected = 0;
    for (const part &p : all) expected += p.bytes;
    if (h.parts != all.size() || h.part_bytes != expected || h.updates < 0 || h.steps < h.updates ||
        h.steps > most_steps || h.skips > most_skips || !is_loss_scale(h.loss_scale) ||
        h.scaled_steps >= static_cast<uint32_t>(scale_steps) || h.own_bytes > bytes.size() ||
        bytes.size() != sizeof h + expected + h.own_bytes)
        throw damaged("has " + std::to_string(bytes.size()) + " bytes, which is not what it describes");
    const char *at = reinterpret_cast<const char *>(bytes.data()) + sizeof h;
    if (checksum(at, expected, 0) != h.parts_sum) throw damaged("its weights or states are damaged");
    at += expected;
    if (checksum(at, h.own_bytes, 0) != h.own_sum) throw damaged("the caller's bytes are damaged");
    if (own) own({at, h.own_bytes});
    at = reinterpret_cast<const char *>(bytes.data()) + sizeof h;
    trained_->generation.fetch_or(1);
    for (const part &p : all) {
        std::memcpy(const_cast<void *>(p.data), at, p.bytes);
        at += p.bytes;
    }
    steps_ = h.steps;
    updates_ = h.updates;
    skips_ = static_cast<int32_t>(h.skips);
    loss_scale_ = h.loss_scale;
    scaled_steps_ = static_cast<int32_t>(h.scaled_steps);
    make_copies();
}

// The nearest format that holds rows of this length.
static format fitting(format type, int64_t width) {
    return width % info(type).block == 0                                   ? type
           : info(type).block > 1 && width % info(format::q8_0).block == 0 ? format::q8_0
                                                                           : format::f16;
}

void trainer::write_adapter(const std::string &path) const {
    const std::vector<tensor_row> rows = adaptable_rows(*base_);
    const std::vector<lora_matrix> matrices = lora_matrices();
    std::vector<lora_pair> pairs;
    for (size_t i = 0; i < rows.size(); ++i) pairs.push_back({&rows[i], matrices[i].a, matrices[i].b});
    ds::write_adapter(path, base_->architecture->name, options_.lora_rank, lora_alpha(), pairs);
}

// Row r of a weight that is not trained, in any format and with any outer strides.
static void read_constant(const tensor &t, int64_t r, std::vector<float> &row) {
    const int64_t i0 = t.rank == 3 ? r / t.ne[1] : t.rank == 1 ? 0 : r, i1 = t.rank == 3 ? r % t.ne[1] : 0;
    decode_row(t.type, at(t, i0, i1), row.data(), row.size());
    if (!t.scale) return;
    const float scale = *f32_at(*t.scale, i0, i1);
    for (float &x : row) x = x * scale;
}

void trainer::write_model(const std::string &path, format type) const {
    if (!info(type).writes && type != format::i8)
        throw error(status::unsupported, std::string("a model cannot be written in ") + info(type).text);
    gguf_writer w;
    const gguf_file &f = base_->file;
    for (size_t i = 0; i < f.key_count(); ++i)
        if (!is_split_key(f.key(i)) && f.key(i) != "general.file_type" &&
            f.key(i) != "deepseek.quant.version")
            w.set_raw(f.key(i), f.value(i));
    // context and scaling may have been set when the model was loaded
    if (type == format::i8) w.set_u32("deepseek.quant.version", 1);
    struct output {
        const weight *trained;
        const tensor *constant;
        format type;
    };
    std::vector<output> outputs;
    const auto add = [&](const tensor_row &row, const weight *trained, const tensor *constant) {
        const format to = row.stays_f32() ? format::f32 : fitting(type, row.ne.back());
        w.add_tensor(row.name, to, row.ne);
        outputs.push_back({trained, constant, to});
        if (to != format::i8) return;
        w.add_tensor(row.name + "_scale", format::f32, {row.ne.data(), row.ne.size() - 1});
        outputs.push_back({trained, constant, format::count});
    };
    for (const tensor_row &row : base_->architecture->tensors(base_->h)) {
        const auto trained = std::find_if(weights_.begin(), weights_.end(),
                                          [&](const weight &x) { return x.row.name == row.name; });
        const tensor *const t = slot_of(base_->weights, row);
        if (trained != weights_.end()) add(row, &*trained, nullptr);
        else if (t) add(row, nullptr, t);
    }
    // what an adapter adds to constants
    std::unordered_map<const tensor *, lora_matrix> added;
    if (trains_adapter()) {
        const std::vector<tensor_row> rows = adaptable_rows(*base_);
        const std::vector<lora_matrix> matrices = lora_matrices();
        for (size_t i = 0; i < rows.size(); ++i) added.emplace(slot_of(base_->weights, rows[i]), matrices[i]);
    }
    os::output_file file(path);
    const std::string header = w.header();
    file.write(header.data(), header.size());
    std::vector<float> row;
    std::vector<char> bytes;
    std::vector<float> scales;
    for (size_t i = 0; i < outputs.size(); ++i) {
        const output &o = outputs[i];
        const tensor &t = o.trained ? o.trained->exact() : *o.constant;
        const int64_t width = t.ne[t.rank - 1], rows = elements(t) / width;
        row.resize(static_cast<size_t>(width));
        if (o.type == format::count) {  // the scales of the tensor before
            file.write(scales.data(), scales.size() * sizeof(float));
            scales.clear();
        } else {
            bytes.resize(row_bytes(o.type, static_cast<uint64_t>(width)));
            for (int64_t r = 0; r < rows; ++r) {
                if (!o.trained) {
                    read_constant(t, r, row);
                    if (const auto m = added.find(&t); m != added.end())
                        add_lora_row(m->second, 1, r, row.data(), row.size());
                }
                for (int64_t k = 0; k < width && o.trained; ++k) {
                    const int64_t e = r * width + k;
                    if (t.type == format::bf16)
                        row[static_cast<size_t>(k)] =
                            joined({static_cast<const uint16_t *>(t.data)[e],
                                    static_cast<const uint16_t *>(o.trained->low.data)[e]});
                    else row[static_cast<size_t>(k)] = static_cast<const float *>(t.data)[e];
                }
                if (o.type == format::i8)
                    scales.push_back(
                        encode_row_i8(row.data(), reinterpret_cast<int8_t *>(bytes.data()), row.size()));
                else encode_row(o.type, row.data(), bytes.data(), row.size());
                file.write(bytes.data(), bytes.size());
            }
        }
        const std::string zeros(w.padding(i), '\0');
        file.write(zeros.data(), zeros.size());
    }
    file.commit();
}

}  // namespace ds
