// The architecture r1: its keys and those that are refused, the converter's layout, shared blocks, and that
// inactive heads are not read. That its logits are right is in test_golden.cpp.
#include "../engine/answers.h"
#include "../support/checkpoint_files.h"
#include "../support/model_file.h"

#include "../../llm/model/arch.h"
#include "../../quantize/calibrate.h"
#include "../../quantize/smooth.h"

#include <functional>

using namespace golden;
using ds::test::checkpoint_files;
using ds::test::contains;
using ds::test::failure_of;
using ds::test::temp_dir;

namespace {

const ds::arch &r1() { return *ds::arch_by_name("r1"); }

ds::hparams read_changed(const key_change &change) { return changed_hparams("micro/r1", change); }
std::string refusal(const key_change &change) {
    return failure_of([&] { read_changed(change); }).text;
}

// By steps of so many positions: a step of one runs by other kernels than one of many.
std::vector<float> logits_of(const model_file &f, const data &d, ds_kv_type kv, uint32_t step = 0) {
    const held_model m = hold(f);
    ds_engine_config c = engine_config();
    c.kv_type = kv;
    c.step_tokens = step;
    c.max_requests = 1;
    c.mla_form = DS_MLA_ABSORBED;
    return logits(engine(m.model, c), {d.ids.begin(), d.ids.begin() + 80}, d.vocab);
}

void fill(model_file &f, const std::string &name, float x) {
    model_file::part &p = f.find(name);
    std::fill_n(p.f32(), p.bytes.size() / sizeof(float), x);
}

// Gates of zeros: of the routed heads, 2 to 7, those of the lowest indices are active, 2 to 4.
model_file with_gates_of_zeros(ds::format type) {
    model_file f = micro_file("micro/r1", type);
    for (const std::string block : {"blk.0.", "blk.1."})
        for (const char *gate : {"routed", "shared", "mix"})
            fill(f, block + "attn_head_" + gate + ".weight", 0.0f);
    return f;
}

}  // namespace

TEST_CASE("r1: hyper-parameters from the keys") {
    const ds::hparams h = read_changed([](ds::gguf_writer &) {});
    CHECK((h.layers == 4 && h.blocks() == 2 && h.hidden == 96 && h.heads == 8 && h.ffn == 160));
    CHECK((h.q_rank == 0 && h.kv_rank == 32 && h.nope_size == 32 && h.rotated == 16 && h.value_size == 24));
    CHECK((h.heads_used == 5 && h.heads_shared == 2));
    CHECK((h.block_of(0) == 0 && h.block_of(1) == 0 && h.block_of(2) == 1 && h.block_of(3) == 1));
    CHECK((h.scaling == ds::rope_scaling::linear && h.rope_factor == 2));
    const ds::hparams own = read_changed([](ds::gguf_writer &w) { w.erase("r1.block_share_map"); });
    CHECK((own.blocks() == 4 && own.block_of(3) == 3));
    CHECK(read_changed([](ds::gguf_writer &w) { w.erase("r1.attention.head_shared_count"); }).heads_shared ==
          0);
    CHECK(ds::arch_by_checkpoint_class("R1ForCausalLM") == &r1());
    CHECK(ds::arch_by_checkpoint_class("R1ZeroForCausalLM") == ds::arch_by_name("llama"));
}

TEST_CASE("r1: invalid keys are refused by name") {
    const auto refused = [](const char *key, uint32_t value, const char *part) {
        const std::string full = std::string("r1.") + key,
                          text = refusal([&](ds::gguf_writer &w) { w.set_u32(full, value); });
        CAPTURE(text);
        CHECK(contains(text, full));
        CHECK(contains(text, part));
    };
    refused("attention.head_used_count", 0, "from 1 to 8");
    refused("attention.head_used_count", 9, "from 1 to 8");
    refused("attention.head_shared_count", 5, "is 5, must be less than head_used_count, 5");
    refused("attention.head_shared_count", 5000, "5000");
    refused("attention.kv_lora_rank", 0, "from 1 to 1024");
    refused("rope.dimension_count", 48, "less than a key's length");
    refused("block_share_map", 3, "array");
    const auto map_refused = [](std::vector<int32_t> map, const char *part) {
        const std::string text = refusal([&](ds::gguf_writer &w) { w.set_i32s("r1.block_share_map", map); });
        CAPTURE(text);
        CHECK(contains(text, "r1.block_share_map: "));
        CHECK(contains(text, part));
    };
    map_refused({}, "has 0 entries, must have block_count, 4");
    map_refused({0, 0, 1}, "has 3 entries, must have block_count, 4");
    map_refused({0, 0, 1, 1, 1}, "has 5 entries, must have block_count, 4");
    map_refused({0, -1, 1, 1}, "entry 1 is -1, must be from 0 to 3");
    map_refused({0, 0, 4, 1}, "entry 2 is 4, must be from 0 to 3");
    map_refused({0, INT32_MIN, INT32_MAX, 1}, "entry 1 is -2147483648");
    map_refused({0, 0, 2, 2}, "names block 2, but not block 1");
    map_refused({3, 3, 3, 3}, "names block 3, but not block 0");
    CHECK(contains(refusal([](ds::gguf_writer &w) { w.set_strings("r1.block_share_map", {}); }),
                   "r1.block_share_map"));
    CHECK(read_changed([](ds::gguf_writer &w) {
              w.set_i32s("r1.block_share_map", std::vector<int32_t>{1, 0, 2, 0});
          }).blocks() == 3);
    for (const char *key : {"attention.head_used_count", "attention.kv_lora_rank", "block_count"})
        CHECK(contains(refusal([&](ds::gguf_writer &w) { w.erase(std::string("r1.") + key); }), key));
}

TEST_CASE("r1: the converter's keys and tensors") {
    const checkpoint_files source("micro/r1");
    model_file f = micro_file("micro/r1");
    CHECK(f.parts.size() == source.tensors.size() + 2);  // kv_b in two parts
    const auto same = [&](const std::string &name, const std::string &checkpoint) {
        CAPTURE(name);
        model_file::part p = f.find(name);
        const ds::test::raw_tensor &raw = source.tensors.at(checkpoint);
        CHECK(p.ne == raw.shape);
        bool equal = true;
        for (size_t i = 0; i < p.bytes.size() / sizeof(float); ++i) equal &= p.f32()[i] == raw.bf16(i);
        CHECK(equal);
    };
    for (const std::string block : {"0", "1"}) {
        const std::string to = "blk." + block + ".", from = "model.layers." + block + ".";
        for (const char *gate : {"routed", "shared", "mix"})
            same(to + "attn_head_" + gate + ".weight", from + "self_attn.head_gate." + gate + ".weight");
        same(to + "attn_q.weight", from + "self_attn.q_proj.weight");
        same(to + "attn_kv_a_mqa.weight", from + "self_attn.kv_a_proj_with_mqa.weight");
        same(to + "attn_output.weight", from + "self_attn.o_proj.weight");
        same(to + "ffn_down.weight", from + "mlp.down_proj.weight");
    }
    // the gates stay f32 in every format
    for (const ds::format type : {ds::format::q8_0, ds::format::i8})
        for (const model_file::part &p : micro_file("micro/r1", type).parts)
            if (contains(p.name, "attn_head_")) CHECK(p.type == ds::format::f32);
}

TEST_CASE("r1: wrong checkpoints are refused by name") {
    const auto refused = [](const std::function<void(checkpoint_files &)> &change, const char *part) {
        const temp_dir dir;
        checkpoint_files c("micro/r1");
        change(c);
        c.save(dir / "in");
        const std::string text =
            failure_of([&] {
                ds::convert(dir / "in", dir / "out.gguf", {.type = ds::format::q8_0}, {});
            }).text;
        CAPTURE(text);
        CHECK(contains(text, part));
    };
    refused([](auto &c) { c.config.erase("num_active_heads"); }, "'num_active_heads': missing");
    refused([](auto &c) { c.config["num_active_heads"] = 9; }, "r1.attention.head_used_count: is 9");
    refused([](auto &c) { c.config["num_active_heads"] = -1; }, "num_active_heads");
    refused([](auto &c) { c.config["num_shared_heads"] = 5; }, "r1.attention.head_shared_count: is 5");
    refused([](auto &c) { c.config["num_shared_heads"] = 3; }, "head_gate.routed.weight");
    refused([](auto &c) { c.config["block_share_map"] = "0"; }, "block_share_map");
    refused([](auto &c) { c.config["block_share_map"] = {0, 0, 1}; }, "r1.block_share_map: has 3 entries");
    refused([](auto &c) { c.config["block_share_map"] = {0, 0, 1, -1}; }, "block_share_map[3]");
    refused([](auto &c) { c.config["block_share_map"] = {0, 0, 1, 4}; }, "r1.block_share_map: entry 3 is 4");
    refused([](auto &c) { c.config["block_share_map"] = {0, 0, 1, 2}; }, "model.layers.2.");
    refused([](auto &c) { c.config["block_share_map"] = {0, 0, 0, 0}; }, "model.layers.1.");
    refused([](auto &c) { c.tensors.erase("model.layers.1.self_attn.head_gate.mix.weight"); },
            "model.layers.1.self_attn.head_gate.mix.weight");
}

TEST_CASE("r1: layers that share a block give the same bits as layers with copies of it") {
    const data d = load("micro/r1");
    for (const ds::format type : {ds::format::f32, ds::format::i8}) {
        const model_file &shared = micro_file("micro/r1", type);
        model_file own = shared;
        own.keys.erase("r1.block_share_map");
        own.parts.clear();
        for (const model_file::part &p : shared.parts) {
            if (!p.name.starts_with("blk.")) own.parts.push_back(p);
            else
                for (const int layer : {0, 1}) {
                    const int block = p.name[4] - '0';
                    own.parts.push_back(p);
                    own.parts.back().name =
                        "blk." + std::to_string(2 * block + layer) + p.name.substr(p.name.find('.', 4));
                }
        }
        const ds_kv_type kv = type == ds::format::i8 ? DS_KV_INT8 : DS_KV_F32;
        CHECK(same_bits(logits_of(own, d, kv), logits_of(shared, d, kv)));
        CHECK(hold(own).model != nullptr);
        CHECK(own.bytes().size() > shared.bytes().size() * 3 / 2);
    }
}

// With gates of zeros every active head has the weight 1.
TEST_CASE("r1: with all heads active and gates of zeros it is deepseek2's dense decoder, to the bit") {
    const data d = load("micro/r1");
    for (const ds::format type : {ds::format::f32, ds::format::q8_0, ds::format::i8}) {
        model_file r = with_gates_of_zeros(type), dense = r;
        r.keys.set_u32("r1.attention.head_used_count", 8);
        r.keys.set_u32("r1.attention.head_shared_count", 0);
        for (const std::string block : {"blk.0.", "blk.1."}) {
            r.erase(block + "attn_head_shared.weight");
            model_file::part &routed = r.find(block + "attn_head_routed.weight");
            routed.ne[0] = 8;
            routed.bytes.assign(8 * 96 * sizeof(float), '\0');
        }
        const std::string header = dense.keys.header();
        const ds::gguf_file keys(ds::os::mapping::borrow(header.data(), header.size()), "keys");
        dense.keys = {};
        for (size_t i = 0; i < keys.key_count(); ++i) {
            const std::string_view key = keys.key(i);
            const bool own = key.starts_with("r1.");
            dense.keys.set_raw(own ? "deepseek2." + std::string(key.substr(3)) : std::string(key),
                               keys.value(i));
        }
        dense.keys.set_string("general.architecture", "deepseek2");
        dense.keys.set_u32("deepseek2.block_count", 2);
        dense.keys.set_u32("deepseek2.leading_dense_block_count", 2);
        r.keys.set_u32("r1.block_count", 2);
        r.keys.erase("r1.block_share_map");
        std::erase_if(dense.parts, [](const model_file::part &p) { return contains(p.name, "attn_head_"); });
        for (const ds_kv_type kv : {DS_KV_F32, DS_KV_INT8})
            for (const uint32_t step : {1u, 64u})
                CHECK(same_bits(logits_of(r, d, kv, step), logits_of(dense, d, kv, step)));
    }
}

TEST_CASE("r1: inactive heads are not read") {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    const data d = load("micro/r1");
    const model_file plain = with_gates_of_zeros(ds::format::f32);
    // What belongs to head h of a tensor that holds the 8 heads one after another.
    const auto spoil = [&](model_file &f, const char *name, size_t h) {
        for (const std::string block : {"blk.0.", "blk.1."}) {
            model_file::part &p = f.find(block + name);
            const size_t n = p.bytes.size() / sizeof(float) / 8;
            std::fill_n(p.f32() + h * n, n, nan);
        }
    };
    for (const uint32_t step : {1u, 64u}) {
        const std::vector<float> expected = logits_of(plain, d, DS_KV_F32, step);
        for (const char *name : {"attn_q.weight", "attn_k_b.weight", "attn_v_b.weight"}) {
            CAPTURE(name);
            model_file f = plain;
            for (const size_t h : {5, 6, 7}) spoil(f, name, h);
            CHECK(same_bits(logits_of(f, d, DS_KV_F32, step), expected));
        }
    }
}

TEST_CASE("r1: folding a calibration's scales in changes nothing but rounding") {
    const temp_dir dir;
    const data d = load("micro/r1");
    ds::convert(data_dir("micro/r1"), dir / "float.gguf",
                {.type = ds::format::f32, .vocab_only = false, .name = ""}, {});
    ds::save(ds::calibrate(dir / "float.gguf", {data_dir("tiny-r1/problems.jsonl")},
                           {.window = 256, .tokens = 1024}, {}),
             dir / "stats");
    ds::requantize_smoothed(dir / "float.gguf", dir / "folded.gguf", ds::format::f32, dir / "stats", {});
    model_file before = read_model_file(dir / "float.gguf"), after = read_model_file(dir / "folded.gguf");
    CHECK(before.find("blk.1.ffn_up.weight").bytes != after.find("blk.1.ffn_up.weight").bytes);
    for (const char *name : {"blk.0.attn_norm.weight", "blk.0.attn_head_routed.weight"})
        CHECK(before.find(name).bytes == after.find(name).bytes);
    const held_model m = hold(after);
    CHECK(largest_difference(logits(engine(m.model, engine_config()), d.ids, d.vocab), d.logits) <= 2e-3);
}
