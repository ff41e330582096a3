// The forward pass against an independent float64 implementation: logits of whole sequences, greedy
// continuations, distributions under each number format, and the arithmetic that the bundled model was
// trained for.
#include "../engine/right_answers.h"
#include "../support/formats.h"

using namespace golden;

// A rounding that routes a token to another expert changes its logits by much, so models with routed experts
// have a larger limit.
static double limit_of(const std::string &name, double dense) {
    return name.find("deepseek") == std::string::npos ? dense : 0.05;
}

TEST_CASE("golden: F32 logits of every position and the greedy continuation") {
    for (const std::string &name : ds::test::micro_checkpoints()) {
        CAPTURE(name);
        const data d = load(name);
        const model_ptr m = model(name, ds::format::f32);
        const engine_ptr e = engine(m, engine_config());
        const double difference = largest_difference(logits(e, d.ids, d.vocab), d.logits);
        INFO("largest difference of a logit: " << difference);
        CHECK(difference <= 2e-3);
        CHECK(greedy(e, {d.ids.begin(), d.ids.begin() + 16}, 24) == d.greedy);
    }
}

struct golden_limit {
    ds::format type;
    double limit;
};

TEST_CASE("golden: distributions with BF16 weights and F16 pages, and with Q8_0") {
    for (const std::string &name : ds::test::micro_checkpoints())
        for (const golden_limit &g : {golden_limit{ds::format::bf16, 0.0005}, {ds::format::q8_0, 0.003}}) {
            CAPTURE(name);
            const data d = load(name);
            const model_ptr m = model(name, g.type);
            ds_engine_config c = engine_config();
            c.kv_type = DS_KV_F16;
            const double kl = mean_kl(d, logits(engine(m, c), d.ids, d.vocab));
            INFO(ds::info(g.type).text << ": mean KL " << kl);
            CHECK(kl <= limit_of(name, g.limit));
            CHECK(kl > 0);
        }
}

TEST_CASE("golden: distributions with I8 weights and I8 pages") {
    for (const std::string &name : ds::test::micro_checkpoints()) {
        CAPTURE(name);
        const data d = load(name);
        const model_ptr m = model(name, ds::format::i8);
        ds_engine_config c = engine_config();
        c.kv_type = DS_KV_DEFAULT;
        const double kl = mean_kl(d, logits(engine(m, c), d.ids, d.vocab));
        INFO("mean KL " << kl);
        CHECK(kl <= limit_of(name, 0.005));
        CHECK(kl > 0);
    }
}

TEST_CASE("golden: tiny-r1's likelihood of its own text") {
    const data d = load("tiny-r1");
    for (const golden_limit &g :
         {golden_limit{ds::format::f32, 0.001}, {ds::format::q8_0, 0.005}, {ds::format::i8, 0.01}}) {
        const model_ptr m = model("tiny-r1", g.type);
        ds_engine_config c = engine_config();
        if (g.type == ds::format::i8) c.kv_type = DS_KV_INT8;
        const double nll = mean_nll(d, logits(engine(m, c), d.ids, d.vocab));
        INFO(ds::info(g.type).text << ": mean NLL " << nll);
        CHECK(std::fabs(nll / 2.453904 - 1) <= g.limit);
    }
}

TEST_CASE("golden: tiny-r1 does arithmetic") {
    for (const ds::format type : {ds::format::f32, ds::format::q8_0, ds::format::i8}) {
        const int right = right_answers(model("tiny-r1", type));
        MESSAGE(std::string(ds::info(type).text)
                << ": " << right << " of " << questions << " right (reference in float32: 191 of 200)");
        CHECK(right >= (sanitized ? 17 : 188));
    }
}
