// The architecture deepseek2: its keys and those that are refused, files with attn_kv_b in one tensor, and
// the converter's layout of a checkpoint's tensors.
#include "../engine/answers.h"
#include "../support/checkpoint_files.h"
#include "../cuda/fake_device.h"
#include "../support/model_file.h"

#include "../../ggml-cpu/cpu.h"
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

const ds::arch &deepseek2() { return *ds::arch_by_name("deepseek2"); }

ds::hparams read_changed(const key_change &change) { return changed_hparams("micro/deepseek-r1", change); }
std::string refusal(const key_change &change) {
    return failure_of([&] { read_changed(change); }).text;
}

}  // namespace

TEST_CASE("deepseek2: hyper-parameters from the keys") {
    const ds::hparams h = read_changed([](ds::gguf_writer &) {});
    CHECK((h.layers == 3 && h.nextn_layers == 1 && h.dense_layers == 1 && h.hidden == 96 && h.heads == 6));
    CHECK((h.q_rank == 48 && h.kv_rank == 32 && h.nope_size == 32 && h.rotated == 16 && h.value_size == 24 &&
           h.head_size == 48));
    CHECK((h.experts == 16 && h.experts_used == 4 && h.experts_shared == 1 && h.expert_ffn == 64));
    CHECK((h.expert_groups == 4 && h.expert_groups_used == 2 && h.expert_sigmoid && h.expert_norm &&
           h.expert_scale == 2.5f));
    CHECK(h.yarn_log_multiplier == doctest::Approx(0.1));
    CHECK(ds::arch_by_checkpoint_class("DeepseekV2ForCausalLM") == &deepseek2());
    CHECK(ds::arch_by_checkpoint_class("DeepseekV3ForCausalLM") == &deepseek2());
    CHECK(ds::arch_by_checkpoint_class("DeepseekV2ForCausalLM DeepseekV3ForCausalLM") == nullptr);
    CHECK(ds::arch_by_checkpoint_class("") == nullptr);
}

TEST_CASE("deepseek2: groups and scaling that older files leave out") {
    const auto groups = [](uint32_t experts, uint32_t gate) {
        const ds::hparams h = read_changed([&](ds::gguf_writer &w) {
            w.erase("deepseek2.expert_group_count");
            w.erase("deepseek2.expert_group_used_count");
            w.set_u32("deepseek2.expert_count", experts);
            w.set_u32("deepseek2.expert_gating_func", gate);
        });
        return std::pair(h.expert_groups, h.expert_groups_used);
    };
    CHECK(groups(256, 2) == std::pair<int64_t, int64_t>(8, 4));
    CHECK(groups(160, 1) == std::pair<int64_t, int64_t>(8, 3));
    CHECK(groups(64, 1) == std::pair<int64_t, int64_t>(1, 1));
    CHECK(groups(256, 1) == std::pair<int64_t, int64_t>(1, 1));
    CHECK(read_changed([](ds::gguf_writer &w) {
              w.erase("deepseek2.rope.scaling.yarn_log_multiplier");
          }).yarn_log_multiplier == 0);
}

TEST_CASE("deepseek2: invalid keys are refused by name") {
    const auto refused = [](const char *key, uint32_t value, const char *part) {
        const std::string full = std::string("deepseek2.") + key,
                          text = refusal([&](ds::gguf_writer &w) { w.set_u32(full, value); });
        CAPTURE(text);
        CHECK(contains(text, full));
        CHECK(contains(text, part));
    };
    refused("attention.kv_lora_rank", 0, "from 1 to 1024");
    refused("attention.kv_lora_rank", 1025, "from 1 to 1024");
    refused("attention.key_length_mla", 1025, "from 1 to");
    refused("attention.value_length_mla", 0, "from 1 to");
    refused("rope.dimension_count", 15, "even");
    refused("rope.dimension_count", 48, "less than a key's length");
    refused("expert_count", 0, "from 1 to");
    refused("expert_count", 5000, "from 1 to");
    refused("expert_used_count", 17, "from 1 to 16");
    refused("expert_used_count", 9, "the groups that are used have 8");
    refused("expert_group_count", 3, "must divide");
    refused("expert_group_used_count", 5, "from 1 to 4");
    refused("expert_gating_func", 3, "from 1 to 2");
    refused("nextn_predict_layers", 4, "less than block_count");
    for (const char *key : {"expert_count", "expert_used_count", "expert_feed_forward_length",
                            "attention.kv_lora_rank", "attention.value_length_mla"})
        CHECK(contains(refusal([&](ds::gguf_writer &w) { w.erase(std::string("deepseek2.") + key); }), key));
}

// The layout before llama.cpp split kv_b into two tensors: as many key heads as query heads, and length keys
// without "_mla".
static model_file with_whole_kv_b(const char *name, ds::format type) {
    model_file f = micro_file(name, ds::format::f32);
    for (const char *key : {"key_length_mla", "value_length_mla"})
        f.keys.erase(std::string("deepseek2.attention.") + key);
    f.keys.set_u32("deepseek2.attention.head_count_kv", 6);
    f.keys.set_u32("deepseek2.attention.key_length", 48);
    f.keys.set_u32("deepseek2.attention.value_length", 24);
    for (int layer = 0; layer < 3; ++layer) {
        const std::string prefix = "blk." + std::to_string(layer) + ".attn_";
        model_file::part k = f.find(prefix + "k_b.weight"), v = f.find(prefix + "v_b.weight");
        std::vector<float> rows;
        for (int head = 0; head < 6; ++head) {
            for (int i = 0; i < 32; ++i)
                for (int c = 0; c < 32; ++c) rows.push_back(k.f32()[(head * 32 + c) * 32 + i]);
            rows.insert(rows.end(), v.f32() + head * 24 * 32, v.f32() + (head + 1) * 24 * 32);
        }
        f.erase(k.name);
        f.erase(v.name);
        model_file::part whole{prefix + "kv_b.weight", type, {6 * 56, 32}, {}};
        whole.bytes.resize(ds::row_bytes(type, rows.size()));
        if (type != ds::format::i8) ds::encode_row(type, rows.data(), whole.bytes.data(), rows.size());
        else {
            model_file::part scales{
                whole.name + "_scale", ds::format::f32, {6 * 56}, std::string(6 * 56 * 4, '\0')};
            for (size_t r = 0; r < 6 * 56; ++r)
                scales.f32()[r] =
                    ds::encode_row_i8(&rows[r * 32], reinterpret_cast<int8_t *>(&whole.bytes[r * 32]), 32);
            f.parts.push_back(scales);
        }
        f.parts.push_back(whole);
    }
    return f;
}

TEST_CASE("deepseek2: attn_kv_b in one tensor gives the same as its two parts") {
    for (const char *name : {"micro/deepseek-v2-lite", "micro/deepseek-v2"}) {
        const data d = load(name);
        const std::vector<ds_token> ids(d.ids.begin(), d.ids.begin() + 70);
        const auto of = [&](const model_file &f) {
            const held_model m = hold(f);
            return logits(engine(m.model, engine_config()), ids, d.vocab);
        };
        const std::vector<float> parts = of(micro_file(name)),
                                 whole = of(with_whole_kv_b(name, ds::format::f32));
        CHECK(same_bits(parts, whole));
    }
    // With blocks and integers the keys' part becomes a copy in f16, so bits differ. V2-Lite's routing is
    // stable enough for logits to stay close.
    const data d = load("micro/deepseek-v2-lite");
    for (const ds::format type : {ds::format::q8_0, ds::format::i8, ds::format::f16}) {
        const held_model m = hold(with_whole_kv_b("micro/deepseek-v2-lite", type));
        const double kl = mean_kl(d, logits(engine(m.model, engine_config()), d.ids, d.vocab));
        CHECK(kl > 0);
        CHECK(kl < 0.002);
    }
    model_file bad = with_whole_kv_b("micro/deepseek-v2", ds::format::f32);
    bad.find("blk.1.attn_kv_b.weight").ne = {6 * 28, 64};
    ds_error err{};
    ds_model *m = nullptr;
    const aligned_bytes memory(bad.bytes());
    CHECK(ds_model_load_memory(const_cast<aligned_bytes &>(memory).data(), memory.size(), nullptr, &m,
                               &err) == DS_ERR_FORMAT);
    CHECK(contains(err.message, "blk.1.attn_kv_b.weight"));
}

TEST_CASE("deepseek2: the parts made from attn_kv_b use the host's memory and count in the plan; on a device "
          "they are made layer by layer") {
    // the call that fails, from 1
    struct counter {
        uint64_t held = 0, most = 0;
        int64_t calls = 0, fails_at = 0;
    } c;
    ds::host host;
    host.alloc_user = &c;
    host.alloc_fn = [](void *user, size_t n, size_t alignment) {
        auto &count = *static_cast<counter *>(user);
        if (++count.calls == count.fails_at) return static_cast<void *>(nullptr);
        count.most = std::max(count.most, count.held += n);
        return std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment);
    };
    host.free_fn = [](void *user, void *p, size_t n, size_t) {
        static_cast<counter *>(user)->held -= n, std::free(p);
    };
    const data d = load("micro/deepseek-v2-lite");
    for (const ds::format type : {ds::format::f32, ds::format::q8_0, ds::format::i8}) {
        const std::string bytes = with_whole_kv_b("micro/deepseek-v2-lite", type).bytes();
        const uint64_t a_layer = 6 * 32 * 32 * (type == ds::format::f32 ? 4 : 2), scratch = 33 * 32 * 4;
        const auto open = [&](std::shared_ptr<ds::backend> device) {
            ds::model_options o;
            o.host = host;
            o.device = std::move(device);
            return std::make_shared<const ds::model>(
                ds::gguf_file(ds::os::mapping::borrow(bytes.data(), bytes.size()), "test"), o);
        };
        const auto answers_of = [&](const std::shared_ptr<const ds::model> &m,
                                    std::shared_ptr<ds::backend> b) {
            ds::engine_options o;
            o.context = 128;
            o.max_requests = 1;
            ds::engine e(m, ds::engine::resolve(*m, o), b ? std::move(b) : ds::cpu_backend({.threads = 2}));
            ds::request_options r;
            r.prompt = {d.ids.begin(), d.ids.begin() + 40};
            r.max_new = 5;
            r.logits = r.ignore_end = true;
            e.submit(r);
            return ds::test::run_all(e, d.vocab);
        };
        c = {};
        {
            const auto near = open(nullptr);
            CHECK(near->made_bytes == 3 * a_layer);
            CHECK(c.held == 3 * a_layer);
            CHECK(c.most <= c.held + scratch);
            CHECK(ds::engine::measure(*near, ds::engine::resolve(*near, {}), *ds::cpu_backend({.threads = 1}))
                      .weights == near->weight_bytes + 3 * a_layer);
            const auto expected = answers_of(near, nullptr);
            const std::shared_ptr<ds::backend> device = ds::test::fake_device();
            c.most = c.held;
            const auto far = open(device);
            CHECK(c.held == 3 * a_layer);
            CHECK(c.most <= c.held + a_layer + scratch);
            CHECK(far->made_bytes == 0);
            CHECK(far->fingerprint == near->fingerprint);
            if (type != ds::format::i8) CHECK(answers_of(far, device) == expected);
        }
        CHECK(c.held == 0);
        for (const bool far : {false, true}) {
            bool failed = true;
            for (c.fails_at = 1; failed; ++c.fails_at) {
                c.calls = 0;
                failed = false;
                try {
                    open(far ? std::shared_ptr<ds::backend>(ds::test::fake_device()) : nullptr);
                } catch (const ds::error &e) {
                    failed = true;
                    CHECK(e.code == ds::status::memory);
                }
                CHECK(c.held == 0);
            }
            CHECK(c.calls == 6);  // for each layer its parts, and scratch memory
            c.fails_at = 0;
        }
    }
}

// A layout of newer llama.cpp files: each expert's gate and then its up matrix, in one tensor.
static model_file with_gate_and_up_whole(const char *name, ds::format type) {
    model_file f = micro_file(name, type);
    const auto join = [&](const std::string &gate_name, const std::string &up_name,
                          const std::string &whole_name) {
        const model_file::part gate = f.find(gate_name), up = f.find(up_name);
        model_file::part whole{whole_name, gate.type, gate.ne, {}};
        whole.ne[1] *= 2;
        const size_t experts = static_cast<size_t>(gate.ne[0]), bytes = gate.bytes.size() / experts;
        for (size_t e = 0; e < experts; ++e)
            whole.bytes += gate.bytes.substr(e * bytes, bytes) + up.bytes.substr(e * bytes, bytes);
        f.erase(gate_name);
        f.erase(up_name);
        f.parts.push_back(whole);
    };
    for (int layer = 1; layer < 3; ++layer)
        for (const std::string suffix : {".weight", ".weight_scale"}) {
            if (suffix == ".weight_scale" && type != ds::format::i8) continue;
            const std::string prefix = "blk." + std::to_string(layer) + ".ffn_", end = "_exps" + suffix;
            join(prefix + "gate" + end, prefix + "up" + end, prefix + "gate_up" + end);
        }
    return f;
}

TEST_CASE("deepseek2: ffn_gate_up_exps gives the same as its two halves") {
    for (const ds::format type : {ds::format::f32, ds::format::q8_0, ds::format::i8}) {
        const data d = load("micro/deepseek-v2-lite");
        const std::vector<ds_token> ids(d.ids.begin(), d.ids.begin() + 70);
        const auto of = [&](const model_file &f) {
            const held_model m = hold(f);
            return logits(engine(m.model, engine_config()), ids, d.vocab);
        };
        CHECK(same_bits(of(micro_file("micro/deepseek-v2-lite", type)),
                        of(with_gate_and_up_whole("micro/deepseek-v2-lite", type))));
    }
    model_file bad = with_gate_and_up_whole("micro/deepseek-v2-lite", ds::format::f32);
    bad.find("blk.1.ffn_gate_up_exps.weight").ne = {16, 64, 192};
    ds_error err{};
    ds_model *m = nullptr;
    const aligned_bytes memory(bad.bytes());
    CHECK(ds_model_load_memory(const_cast<aligned_bytes &>(memory).data(), memory.size(), nullptr, &m,
                               &err) == DS_ERR_FORMAT);
    CHECK(contains(err.message, "blk.1.ffn_gate_up_exps.weight"));
}

TEST_CASE("deepseek2: the converter merges experts, splits kv_b, and keeps the layer that predicts one more "
          "token") {
    const temp_dir dir;
    const checkpoint_files source("micro/deepseek-r1");
    ds::convert(data_dir("micro/deepseek-r1"), dir / "out.gguf",
                {.type = ds::format::f32, .vocab_only = false, .name = ""}, {});
    model_file f = read_model_file(dir / "out.gguf");
    const auto same = [&](float x, const std::string &name, size_t i) {
        return x == source.tensors.at(name).bf16(i);
    };
    bool ok = true;
    for (const int layer : {1, 2, 3}) {
        const std::string gguf = "blk." + std::to_string(layer) + ".",
                          hf = "model.layers." + std::to_string(layer) + ".";
        for (const auto &[part, rows, cols] :
             {std::tuple("gate", 64, 96), {"up", 64, 96}, {"down", 96, 64}}) {
            model_file::part &p = f.find(gguf + "ffn_" + part + "_exps.weight");
            CHECK(p.ne == std::vector<int64_t>{16, rows, cols});
            for (size_t e = 0; e < 16; ++e)
                for (size_t i = 0; i < static_cast<size_t>(rows * cols); ++i)
                    ok &= same(p.f32()[e * static_cast<size_t>(rows * cols) + i],
                               hf + "mlp.experts." + std::to_string(e) + "." + part + "_proj.weight", i);
        }
        model_file::part &k = f.find(gguf + "attn_k_b.weight"), &v = f.find(gguf + "attn_v_b.weight");
        CHECK(k.ne == std::vector<int64_t>{6, 32, 32});
        CHECK(v.ne == std::vector<int64_t>{6, 24, 32});
        for (size_t head = 0; head < 6; ++head)
            for (size_t c = 0; c < 32; ++c) {
                for (size_t i = 0; i < 32; ++i)
                    ok &= same(k.f32()[(head * 32 + c) * 32 + i], hf + "self_attn.kv_b_proj.weight",
                               (head * 56 + i) * 32 + c);
                for (size_t i = 0; i < 24; ++i)
                    ok &= same(v.f32()[(head * 24 + i) * 32 + c], hf + "self_attn.kv_b_proj.weight",
                               (head * 56 + 32 + i) * 32 + c);
            }
        CHECK(f.find(gguf + "ffn_gate_inp.weight").type == ds::format::f32);
        CHECK(f.find(gguf + "exp_probs_b.bias").ne == std::vector<int64_t>{16});
    }
    CHECK(ok);
    CHECK(f.find("blk.3.nextn.eh_proj.weight").ne == std::vector<int64_t>{96, 192});
    for (const char *name : {"embed_tokens", "enorm", "hnorm", "shared_head_head", "shared_head_norm"})
        f.find(std::string("blk.3.nextn.") + name + ".weight");

    const model_file i8 = micro_file("micro/deepseek-r1", ds::format::i8);
    for (const model_file::part &p : i8.parts)
        if (p.name.ends_with("_exps.weight_scale")) CHECK((p.ne.size() == 2 && p.ne[0] == 16));
}

TEST_CASE("deepseek2: folding a calibration's scales in changes nothing but rounding") {
    const temp_dir dir;
    for (const char *name : {"micro/deepseek-v2-lite", "micro/deepseek-r1"}) {
        const data d = load(name);
        ds::convert(data_dir(name), dir / "float.gguf",
                    {.type = ds::format::f32, .vocab_only = false, .name = ""}, {});
        ds::save(ds::calibrate(dir / "float.gguf", {data_dir("tiny-r1/problems.jsonl")},
                               {.window = 256, .tokens = 1024}, {}),
                 dir / "stats");
        ds::requantize_smoothed(dir / "float.gguf", dir / "folded.gguf", ds::format::f32, dir / "stats", {});
        model_file before = read_model_file(dir / "float.gguf"), after = read_model_file(dir / "folded.gguf");
        int changed = 0;
        for (int i = 0; i < 3; ++i)
            changed += before.find(ds::format_text("blk.%d.attn_kv_a_mqa.weight", i)).bytes !=
                       after.find(ds::format_text("blk.%d.attn_kv_a_mqa.weight", i)).bytes;
        CHECK(changed > 0);
        const held_model m = hold(after);
        CHECK(largest_difference(logits(engine(m.model, engine_config()), d.ids, d.vocab), d.logits) <= 2e-3);
    }
}

TEST_CASE("deepseek2: unknown checkpoints are refused by name") {
    const auto refused = [](const std::function<void(checkpoint_files &)> &change, const char *part) {
        const temp_dir dir;
        checkpoint_files c("micro/deepseek-r1");
        change(c);
        c.save(dir / "in");
        const std::string text =
            failure_of([&] {
                ds::convert(dir / "in", dir / "out.gguf",
                            {.type = ds::format::f32, .vocab_only = false, .name = ""}, {});
            }).text;
        CAPTURE(text);
        CHECK(contains(text, part));
    };
    refused([](checkpoint_files &c) { c.config["topk_method"] = "random"; }, "topk_method");
    refused([](checkpoint_files &c) { c.config["scoring_func"] = "sqrt"; }, "scoring_func");
    refused([](checkpoint_files &c) { c.config["scoring_func"] = "softmax"; }, "topk_method");
    refused([](checkpoint_files &c) { c.config["moe_layer_freq"] = 2; }, "moe_layer_freq");
    refused([](checkpoint_files &c) { c.tensors.erase("model.layers.1.mlp.experts.7.up_proj.weight"); },
            "experts.7.up_proj");
    refused(
        [](checkpoint_files &c) {
            c.tensors.at("model.layers.1.mlp.experts.7.up_proj.weight").dtype = "F16";
        },
        "experts.7.up_proj");
    refused([](checkpoint_files &c) { c.config["n_group"] = 3; }, "expert_group_count");
    refused([](checkpoint_files &c) { c.config["num_nextn_predict_layers"] = 0; }, "model.layers.3.");
}
