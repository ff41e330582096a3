// A step is queued several times and waited for once; the best of several such rounds counts. Bytes are those
// that a step must read once: every weight that its rows use, and the keys and values that they see.
// Bandwidth is compared with that of a sum over 8 GiB on the device.
#include "device.h"

#include "../../ggml-cuda/host/cuda.h"
#include "../../llm/engine/page_pool.h"
#include "../../llm/model/kv_layout.h"
#include "../../llm/engine/sampler.h"
#include "../../tensor/numerics.h"
#include "../../tensor/os.h"
#include "../../tensor/plan.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <deque>
#include <random>

using namespace ds;

namespace bench {

namespace {

using nlohmann::json;

struct shape {
    const char *name, *arch;
    hparams h;
};

hparams dense(int64_t layers, int64_t hidden, int64_t heads, int64_t kv_heads, int64_t ffn, int64_t vocab) {
    hparams h;
    h.layers = layers, h.hidden = hidden, h.heads = heads, h.kv_heads = kv_heads, h.head_size = 128,
    h.ffn = ffn, h.vocab = vocab;
    h.context = 131072, h.norm_eps = 1e-6f, h.rotated = 128, h.rope_base = 1e6;
    return h;
}

// Sizes from the models' config.json.
std::vector<shape> shapes() {
    hparams lite = dense(27, 2048, 16, 1, 10944, 102400);
    lite.head_size = 192, lite.rotated = 64, lite.kv_rank = 512, lite.nope_size = 128, lite.value_size = 128,
    lite.rope_base = 10000;
    lite.experts = 64, lite.experts_used = 6, lite.experts_shared = 2, lite.expert_ffn = 1408,
    lite.dense_layers = 1;
    return {{"r1-1.5b", "qwen2", dense(28, 1536, 12, 2, 8960, 151936)},
            {"r1-8b", "llama", dense(32, 4096, 32, 8, 14336, 128256)},
            {"r1-14b", "qwen2", dense(48, 5120, 40, 8, 13824, 152064)},
            {"13b", "llama", dense(40, 5120, 40, 8, 13824, 32000)},
            {"deepseek-v2-lite", "deepseek2", lite}};
}

// Random I8 weights, norms about 1, and scales that keep the size of activations about the same through a
// layer.
class weights {
public:
    weights(const shape &s, std::shared_ptr<backend> b)
        : of_(s), arch_(*arch_by_name(s.arch)), b_(std::move(b)) {
        w_.layer.resize(static_cast<size_t>(s.h.layers));
        const std::vector<tensor_row> rows = arch_.tensors(s.h);
        for (const bool fill : {false, true}) {
            if (fill) {
                memory_ = backend_memory(b_, bytes_);
                fill_random();
                bytes_ = 0;
                tensors_.clear();
            }
            for (const tensor_row &r : rows)
                if (!r.optional) add(r, fill);
        }
        b_->fn->wait(b_.get());
    }
    const model_weights &get() const { return w_; }
    size_t bytes() const { return memory_.size(); }
    const arch &architecture() const { return arch_; }
    // Bytes that a step of so many rows reads: all but the embedding, and of the experts the expected share
    // when rows choose evenly.
    double read_bytes(double rows) const {
        const double share = of_.h.experts ? 1.0 - std::pow(1.0 - static_cast<double>(of_.h.experts_used) /
                                                                      static_cast<double>(of_.h.experts),
                                                            rows)
                                           : 1.0;
        return static_cast<double>(dense_) + static_cast<double>(experts_) * share;
    }

private:
    char *take(size_t n) {
        char *const p = memory_.data() ? static_cast<char *>(memory_.data()) + bytes_ : nullptr;
        bytes_ += (n + 255) / 256 * 256;
        return p;
    }
    void add(const tensor_row &r, bool fill) {
        tensor t = make_tensor(r.stays_f32() ? format::f32 : format::i8, r.ne);
        t.data = take(tensor_bytes(t));
        std::vector<float> values;
        void *to = t.data;
        if (t.type == format::f32) {
            values.resize(static_cast<size_t>(elements(t)));
            for (float &x : values) x = r.what == role::norm ? 1.0f + 0.1f * uniform() : 0.05f * uniform();
        } else {
            tensor s = make_tensor(format::f32, {r.ne.begin(), r.ne.end() - 1});
            s.data = to = take(tensor_bytes(s));
            values.resize(static_cast<size_t>(elements(s)));
            // 74: the standard deviation of uniform bytes
            for (float &x : values)
                x = (1.0f + 0.1f * uniform()) / (74.0f * std::sqrt(static_cast<float>(r.ne.back())));
            t.scale = &tensors_.emplace_back(s);
        }
        if (!fill) return;
        b_->fn->upload(b_.get(), to, values.data(), values.size() * sizeof(float));
        const size_t n = tensor_bytes(t);
        if (r.what != role::embedding)
            (t.rank == 3 && of_.h.experts && t.ne[0] == of_.h.experts ? experts_ : dense_) += n;
        const tensor *const at = &tensors_.emplace_back(t);
        (r.slot ? w_.layer[static_cast<size_t>(r.layer)].*r.slot : w_.*r.top) = at;
    }
    void fill_random() {
        std::vector<uint32_t> some(size_t{8} << 20);
        for (uint32_t &x : some) x = static_cast<uint32_t>(random_());
        const size_t part = some.size() * sizeof(uint32_t);
        char *const base = static_cast<char *>(memory_.data());
        b_->fn->upload(b_.get(), base, some.data(), std::min(part, memory_.size()));
        for (size_t done = part; done < memory_.size(); done += part)
            b_->fn->copy(b_.get(), base + done, base, std::min(part, memory_.size() - done));
    }
    float uniform() { return static_cast<float>(static_cast<int32_t>(random_())) * 0x1p-31f; }

    const shape &of_;
    const arch &arch_;
    std::shared_ptr<backend> b_;
    std::mt19937 random_{1};
    backend_memory memory_;
    size_t bytes_ = 0, dense_ = 0, experts_ = 0;
    std::deque<tensor> tensors_;
    model_weights w_;
};

// Bytes that are valid integers, and as parts of a scale give small positive floats.
void fill_with_pages(backend &b, const backend_memory &pages) {
    std::vector<char> some(std::min<size_t>(pages.size(), size_t{16} << 20));
    std::mt19937 r(2);
    for (char &c : some) c = static_cast<char>(0x30 + r() % 14);
    char *const base = static_cast<char *>(pages.data());
    b.fn->upload(&b, base, some.data(), some.size());
    for (size_t done = some.size(); done < pages.size(); done += some.size())
        b.fn->copy(&b, base + done, base, std::min(some.size(), pages.size() - done));
}

// Steps of `rows` rows: one of each of `rows` sequences of `context` positions, or the last rows of one
// sequence.
class steps {
public:
    steps(const weights &w, const shape &s, std::shared_ptr<backend> b, int64_t rows, int64_t sequences,
          int64_t context, uint64_t identity)
        : b_(std::move(b)), graph_(static_cast<size_t>(16 + 24 * s.h.layers)),
          layout_(make_page_layout(w.architecture(), s.h, format::i8)), rows_(rows), context_(context),
          vocab_(s.h.vocab) {
        const int64_t pages = pages_for(context), outputs = sequences;
        pages_ = backend_memory(b_, pool_bytes(layout_.page_bytes, pages * sequences));
        fill_with_pages(*b_, pages_);
        std::vector<int32_t> in;
        for (int64_t i = 0; i < rows; ++i) in.push_back(static_cast<int32_t>(i * 7919 % s.h.vocab));
        for (int64_t i = 0; i < rows; ++i) in.push_back(position(i, sequences));
        for (int64_t i = 0; i < rows; ++i) in.push_back(sequences > 1 ? static_cast<int32_t>(i) : 0);
        for (int64_t i = 0; i < rows; ++i)
            in.push_back(static_cast<int32_t>((sequences > 1 ? i * pages * page_positions : 0) +
                                              position(i, sequences)));
        for (int64_t i = 0; i < outputs; ++i) in.push_back(static_cast<int32_t>(rows - outputs + i));
        for (int64_t i = 0; i < sequences * pages; ++i) in.push_back(static_cast<int32_t>(i));
        for (int64_t i = 0; i < outputs; ++i)
            in.push_back(static_cast<int32_t>(bits_of(1.0f / own_temperature)));
        inputs_ = backend_memory(b_, in.size() * sizeof(int32_t));
        b_->fn->upload(b_.get(), inputs_.data(), in.data(), inputs_.size());
        near_inputs_ = std::move(in);
        int32_t *at = static_cast<int32_t *>(inputs_.data());
        const auto list = [&](int64_t n, const char *name) {
            return graph_.input(format::i32, {n}, std::exchange(at, at + n), name);
        };
        step_inputs i;
        i.ids = list(rows, "ids"), i.positions = list(rows, "positions"), i.sequence = list(rows, "sequence"),
        i.slots = list(rows, "slots"), i.outputs = list(outputs, "outputs");
        i.tables = graph_.input(format::i32, {sequences, pages}, std::exchange(at, at + sequences * pages),
                                "tables");
        i.pages = graph_.input(format::i8, {pages * sequences, static_cast<int64_t>(layout_.page_bytes)},
                               pages_.data(), "pages");
        const tensor *const logits = w.architecture().build({graph_, s.h, w.get(), i, layout_.layer});
        graph_.keep(logits);
        leading_ =
            candidates(graph_, logits, graph_.input(format::f32, {outputs}, at, "factors"), leading_count);
        near_leading_ = backend_memory(b_, tensor_bytes(*leading_), backend_memory::for_copies);
        for (const node &n : graph_.nodes())
            if (!b_->fn->variant(b_.get(), n))
                throw error(status::unsupported,
                            std::string(info(n.kind).name) + " does not run on the device");
        const plan p = make_plan(graph_, *b_);
        arena_ = backend_memory(b_, p.arena_bytes);
        work_ = backend_memory(b_, p.work_bytes);
        place(graph_, p, arena_.data());
        graph_.identity = identity;
    }
    size_t bytes() const { return pages_.size() + arena_.size() + work_.size() + inputs_.size(); }
    double kv_bytes(double sequences) const {
        return static_cast<double>(layout_.page_bytes) / page_positions * static_cast<double>(context_) *
               sequences;
    }

    // Seconds of a step. With `stop` it is queued like an engine's steps, which can be stopped midway.
    double seconds(int times, int rounds, const std::atomic<bool> *stop = nullptr) {
        return best_of(times, rounds, [&] { b_->fn->run(b_.get(), graph_, work_.data(), stop); });
    }
    // Seconds of a step with the engine's work around it: inputs are uploaded, the leading logits downloaded,
    // and a token of each row is chosen with R1's settings.
    double seconds_with_choice(int times, int rounds) {
        sampler chooser(static_cast<size_t>(vocab_));
        sampling how;
        how.temperature = own_temperature, how.top_p = 0.95f;
        const std::atomic<bool> stop{false};
        return best_of(times, rounds, [&] {
            b_->fn->upload(b_.get(), inputs_.data(), near_inputs_.data(), inputs_.size());
            b_->fn->run(b_.get(), graph_, work_.data(), &stop);
            b_->fn->download(b_.get(), near_leading_.data(), leading_->data, tensor_bytes(*leading_));
            chosen_ = 0;
            for (int64_t i = 0; i < leading_->ne[0]; ++i) {
                const int32_t *const row =
                    static_cast<const int32_t *>(near_leading_.data()) + i * leading_->ne[1];
                candidates_head head;
                std::memcpy(&head, row, sizeof head);
                const leading_logits l = {
                    head.finite != 0,
                    {reinterpret_cast<const float *>(row + candidates_head_ints + leading_count),
                     leading_count},
                    {row + candidates_head_ints, leading_count},
                    static_cast<size_t>(vocab_),
                    head.total};
                chosen_ += chooser.choose(l, how, nullptr, static_cast<uint64_t>(i)).has_value();
            }
        });
    }
    // rows of the last step for which the leading logits were enough
    int64_t chosen() const { return chosen_; }

private:
    template <class F> double best_of(int times, int rounds, const F &step) {
        for (int i = 0; i < 3; ++i) step();
        b_->fn->wait(b_.get());
        double best = 1e30;
        for (int r = 0; r < rounds; ++r) {
            const double begun = os::seconds();
            for (int i = 0; i < times; ++i) step();
            b_->fn->wait(b_.get());
            best = std::min(best, (os::seconds() - begun) / times);
        }
        return best;
    }
    int32_t position(int64_t i, int64_t sequences) const {
        return static_cast<int32_t>(sequences > 1 ? context_ - 1 : context_ - rows_ + i);
    }
    static constexpr int32_t leading_count = 128;
    static constexpr float own_temperature = 0.6f;  // R1's
    std::shared_ptr<backend> b_;
    graph graph_;
    page_layout layout_;
    int64_t rows_, context_, vocab_, chosen_ = 0;
    backend_memory pages_, inputs_, arena_, work_, near_leading_;
    std::vector<int32_t> near_inputs_;
    const tensor *leading_ = nullptr;
};

// Seconds of one layer's attention alone over i8 pages: `sequences` of `context` positions, each with its
// last `rows` rows.
double attention_seconds(const shape &s, const std::shared_ptr<backend> &b, int64_t sequences, int64_t rows,
                         int64_t context) {
    const arch &a = *arch_by_name(s.arch);
    const page_layout layout = make_page_layout(a, s.h, format::i8);
    const int64_t pages = pages_for(context), n = sequences * rows, heads = s.h.heads,
                  d = layout.layer[0].head_size,
                  page_bytes =
                      static_cast<int64_t>(layout.layer[0].k_bytes() + layout.layer[0].v_bytes() + 63) / 64 *
                      64;
    kv_layout one = layout.layer[0];  // a page of this layer alone
    one.k_offset = 0, one.v_offset = static_cast<int64_t>(one.k_bytes());
    std::mt19937 random(4);
    const backend_memory pool(b, static_cast<size_t>(pages * sequences * page_bytes)),
        qs(b, static_cast<size_t>(n * heads * d) * 4), ys(b, static_cast<size_t>(n * heads * d) * 4);
    fill_with_pages(*b, pool);
    std::vector<float> q(static_cast<size_t>(n * heads * d));
    for (float &x : q) x = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f;
    b->fn->upload(b.get(), qs.data(), q.data(), qs.size());
    std::vector<int32_t> in;
    for (int64_t i = 0; i < sequences * pages; ++i) in.push_back(static_cast<int32_t>(i));
    for (int64_t i = 0; i < n; ++i) in.push_back(static_cast<int32_t>(i / rows));
    for (int64_t i = 0; i < n; ++i) in.push_back(static_cast<int32_t>(context - rows + i % rows));
    const backend_memory lists(b, in.size() * sizeof(int32_t));
    b->fn->upload(b.get(), lists.data(), in.data(), lists.size());
    int32_t *const tables = static_cast<int32_t *>(lists.data()), *const sequence =
                                                                      tables + sequences * pages;
    graph g(8);
    attention(g, g.input(format::f32, {n, heads, d}, qs.data(), ""),
              g.input(format::i8, {pages * sequences, page_bytes}, pool.data(), ""),
              g.input(format::i32, {sequences, pages}, tables, ""), g.input(format::i32, {n}, sequence, ""),
              g.input(format::i32, {n}, sequence + n, ""), {one, 1.0f / std::sqrt(static_cast<float>(d))});
    node &only = g.nodes()[0];
    only.out.data = ys.data();
    if (!b->fn->variant(b.get(), only))
        throw error(status::unsupported, "attention does not run on the device");
    const backend_memory work(b, b->fn->work_bytes(b.get(), only));
    double best = 1e30;
    for (int r = 0; r < 6; ++r) {
        const double begun = os::seconds();
        for (int i = 0; i < 10; ++i) b->fn->run(b.get(), g, work.data(), nullptr);
        b->fn->wait(b.get());
        if (r > 0) best = std::min(best, (os::seconds() - begun) / 10);
    }
    return best;
}

// Operations a second of one product with I8 weights by the given method; 0 if the method does not support
// it.
double product_rate(int device, const char *way, int64_t n, int64_t m, int64_t k) {
    const std::shared_ptr<backend> b = cuda_backend({.device = device, .force = {{"matmul", way}}});
    graph g(8);
    std::mt19937 r(3);
    std::vector<float> x(static_cast<size_t>(n * k)), scale(static_cast<size_t>(m), 0.01f);
    for (float &v : x) v = static_cast<float>(static_cast<int32_t>(r())) * 0x1p-31f;
    std::vector<uint32_t> w(static_cast<size_t>(m * k / 4));
    for (uint32_t &v : w) v = static_cast<uint32_t>(r());
    const backend_memory xs(b, x.size() * 4), ws(b, w.size() * 4), ss(b, scale.size() * 4),
        ys(b, static_cast<size_t>(n * m) * 4);
    b->fn->upload(b.get(), xs.data(), x.data(), xs.size());
    b->fn->upload(b.get(), ws.data(), w.data(), ws.size());
    b->fn->upload(b.get(), ss.data(), scale.data(), ss.size());
    tensor *const weights = g.input(format::i8, {m, k}, ws.data(), "");
    weights->scale = g.input(format::f32, {m}, ss.data(), "");
    matmul(g, g.input(format::f32, {n, k}, xs.data(), ""), weights, nullptr);
    node &one = g.nodes()[0];
    one.out.data = ys.data();
    if (std::string(b->fn->variant(b.get(), one)) != way) return 0;
    const backend_memory work(b, b->fn->work_bytes(b.get(), one));
    double best = 0;
    for (int i = 0; i < 6; ++i) {
        const double begun = os::seconds();
        for (int t = 0; t < 4; ++t) b->fn->run(b.get(), g, work.data(), nullptr);
        b->fn->wait(b.get());
        if (i > 0)
            best = std::max(best, 4.0 * 2.0 * static_cast<double>(n) * static_cast<double>(m) *
                                      static_cast<double>(k) / (os::seconds() - begun));
    }
    return best;
}

void row(const std::string &what, const std::string &found, const std::string &wanted) {
    std::fprintf(stderr, "#row %-58s %-14s wanted: %s\n", what.c_str(), found.c_str(), wanted.c_str());
}
std::string percent(double x) { return format_text("%lld %%", static_cast<long long>(std::lround(100 * x))); }
std::string whole(double x) { return format_text("%lld", static_cast<long long>(std::lround(x))); }

class measurements {
public:
    explicit measurements(const device_options &o)
        : o_(o), b_(cuda_backend({.device = o.device})),
          plain_(cuda_backend({.device = o.device, .force = {}, .record = false})),
          overlapping_(cuda_backend({.device = o.device, .force = {}, .record = true, .overlap = true})) {
        const cuda_device &d = cuda_device_of(*b_);
        size_t bytes = size_t{8} << 30;
        bandwidth_ = cuda_read_rate(*b_, bytes);
        out_["device"] = d.name;
        out_["read"] = {{"bytes", bytes}, {"bytes_per_second", bandwidth_}};
    }
    void limits() {
        row("reads on " + std::string(cuda_device_of(*b_).name) +
                format_text(", a sum over %.1f GiB", out_["read"]["bytes"].get<double>() / 0x1p30),
            whole(bandwidth_ / 1e9) + " GB/s", "-");
    }
    // The products of a layer of r1-8b: query, key and value; output; gate and up; down. The figure is the
    // operations of all four over their total time.
    void products() {
        for (const int64_t rows : {4096, 512})
            for (const char *way : {"wgmma", "library", "tiles"}) {
                double ops = 0, seconds = 0;
                for (const auto &[m, k] :
                     {std::array<int64_t, 2>{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}}) {
                    const double rate = product_rate(o_.device, way, rows, m, k),
                                 one = 2.0 * static_cast<double>(rows * m * k);
                    out_["products"].push_back({{"rows", rows},
                                                {"weights", m},
                                                {"depth", k},
                                                {"way", way},
                                                {"ops_per_second", rate}});
                    ops += one, seconds += rate > 0 ? one / rate : 1e9;
                }
                row("8B int8 products of a layer, " + std::to_string(rows) + " rows, " + way,
                    whole(ops / seconds / 1e12) + " TOPS",
                    rows == 4096 && std::string(way) == "wgmma" ? "990 (50 % of 1,979)" : "-");
            }
    }
    void attention_alone(const shape &s) {
        const double position =
            static_cast<double>(make_page_layout(*arch_by_name(s.arch), s.h, format::i8).layer[0].k_bytes() +
                                make_page_layout(*arch_by_name(s.arch), s.h, format::i8).layer[0].v_bytes()) /
            page_positions;
        for (const auto &[batch, context] : {std::array<int64_t, 2>{32, 8192}, {1, 32768}, {64, 1024}}) {
            const double t = attention_seconds(s, b_, batch, 1, context),
                         rate = position * static_cast<double>(batch * context) / t;
            out_["attention"].push_back({{"shape", s.name},
                                         {"batch", batch},
                                         {"context", context},
                                         {"seconds", t},
                                         {"bytes_per_second", rate},
                                         {"of_reads", rate / bandwidth_}});
            row(std::string(s.name) + " attention alone, batch " + std::to_string(batch) + ", context " +
                    std::to_string(context),
                percent(rate / bandwidth_) + ", " + whole(rate / 1e9) + " GB/s",
                batch == 32 ? "80 % of reads" : "-");
        }
        for (const int64_t rows : {4096, 512}) {
            const double t = attention_seconds(s, b_, 1, rows, 4096),
                         seen = static_cast<double>(rows) * (4096.0 - static_cast<double>(rows - 1) / 2),
                         ops = 4.0 * seen * static_cast<double>(s.h.heads * s.h.head_size) / t;
            out_["attention"].push_back({{"shape", s.name},
                                         {"rows", rows},
                                         {"context", 4096},
                                         {"seconds", t},
                                         {"ops_per_second", ops}});
            row(std::string(s.name) + " attention alone, the last " + std::to_string(rows) + " rows of 4096",
                whole(ops / 1e12) + " TFLOP/s of q.k and p.v", "-");
        }
    }
    void decode(const shape &s, const weights &w, int64_t batch, int64_t context, const std::string &wanted,
                bool by_rate = false) {
        steps d(w, s, b_, batch, batch, context, ++identity_);
        const double t = d.seconds(10, 4), bytes = w.read_bytes(static_cast<double>(batch)) +
                                                   d.kv_bytes(static_cast<double>(batch));
        json j = {{"shape", s.name},
                  {"batch", batch},
                  {"context", context},
                  {"seconds", t},
                  {"bytes_per_second", bytes / t},
                  {"of_reads", bytes / t / bandwidth_},
                  {"tokens_per_second", static_cast<double>(batch) / t},
                  {"recorded", cuda_recorded(*b_) > 0}};
        const std::string what = std::string(s.name) + " int8 decode, batch " + std::to_string(batch) +
                                 ", context " + std::to_string(context);
        row(what,
            by_rate ? whole(static_cast<double>(batch) / t) + " tokens/s"
                    : percent(bytes / t / bandwidth_) + ", " + whole(bytes / t / 1e9) + " GB/s",
            wanted);
        if (batch == 1 || batch == 64) {
            steps p(w, s, plain_, batch, batch, context, ++identity_);
            const double without = p.seconds(10, 4), whole_step = d.seconds_with_choice(10, 4);
            const double overlapping =
                steps(w, s, overlapping_, batch, batch, context, ++identity_).seconds(10, 4);
            j["seconds_without_graph"] = without;
            j["seconds_overlapping"] = overlapping;
            j["seconds_with_choice"] = whole_step;
            j["chosen_from_leading"] = d.chosen();
            row("  its recorded graph against none", format_text("%.3f : %.3f ms", 1e3 * t, 1e3 * without),
                "stated: " + percent(without / t - 1) + " gained");
            row("  kernels that begin early against none",
                format_text("%.3f : %.3f ms", 1e3 * overlapping, 1e3 * t),
                "stated: " + percent(t / overlapping - 1) + " gained");
            row("  with inputs there, leading logits back, and choice",
                whole(static_cast<double>(batch) / whole_step) + " tokens/s", by_rate ? wanted : "-");
        }
        out_["decode"].push_back(j);
    }
    void prefill(const shape &s, const weights &w, int64_t rows, int64_t total, const std::string &wanted) {
        double t = 0, stoppable = 0;
        const std::atomic<bool> stop{false};
        for (int64_t done = 0; done < total; done += rows) {
            steps d(w, s, b_, rows, 1, done + rows, ++identity_);
            t += d.seconds(2, 2);
            stoppable += d.seconds(2, 2, &stop);
        }
        out_["prefill"].push_back({{"shape", s.name},
                                   {"rows", rows},
                                   {"tokens", total},
                                   {"seconds", t},
                                   {"tokens_per_second", static_cast<double>(total) / t},
                                   {"seconds_stoppable", stoppable}});
        row(std::string(s.name) + " int8 prefill, " + std::to_string(total) + " tokens by " +
                std::to_string(rows),
            whole(static_cast<double>(total) / t) + " tokens/s", wanted);
        row("  in pieces that can be stopped, as an engine queues it",
            whole(static_cast<double>(total) / stoppable) + " tokens/s", wanted);
    }
    void memory(const shape &s) {
        const uint64_t before = describe_cuda_device(o_.device).memory_free;
        const weights w(s, b_);
        const steps d(w, s, b_, 512, 1, 4096, ++identity_);
        const uint64_t taken = before - describe_cuda_device(o_.device).memory_free,
                       planned = w.bytes() + d.bytes();
        out_["memory"].push_back({{"shape", s.name}, {"planned", planned}, {"taken", taken}});
        row(std::string(s.name) + " int8, 4,096 positions: planned, taken",
            format_text("%llu, %llu MB", static_cast<unsigned long long>(planned / 1000000),
                        static_cast<unsigned long long>(taken / 1000000)),
            "14300 MB at most");
    }
    void shape_alone(const shape &s, bool quick) {
        const std::string name = s.name;
        const weights w(s, b_);
        decode(s, w, 1, 512, name == "r1-8b" ? "80 %, then 90" : name == "r1-1.5b" ? "60 %" : "-");
        if (name == "r1-8b") {
            decode(s, w, 64, 1024, "14000 tokens/s", true);
            prefill(s, w, 4096, 4096, "35000 tokens/s");
            if (quick) return;
            decode(s, w, 32, 8192, "-");
            decode(s, w, 256, 512, "-", true);
            decode(s, w, 1, 32768, "-");
            prefill(s, w, 512, 4096, "-");
        } else if (!quick) prefill(s, w, 4096, 4096, "-");
    }
    const json &result() const { return out_; }

private:
    const device_options &o_;
    std::shared_ptr<backend> b_, plain_, overlapping_;
    double bandwidth_ = 0;
    uint64_t identity_ = 0;
    json out_;
};

}  // namespace

std::vector<std::string> device_parts() {
    std::vector<std::string> names = {"limits", "products", "memory", "attention"};
    for (const shape &s : shapes())
        if (std::string(s.name) != "13b") names.push_back(s.name);
    return names;
}

int measure_device(const device_options &o) {
    const std::vector<shape> all = shapes();
    measurements m(o);
    const auto wanted = [&](const std::string &part) { return o.part.empty() || o.part == part; };
    if (wanted("limits")) m.limits();
    if (wanted("products")) m.products();
    if (wanted("attention")) m.attention_alone(all[1]);
    if (wanted("memory")) m.memory(all[3]);
    for (const shape &s : all)
        if (std::string(s.name) != "13b" && wanted(s.name)) m.shape_alone(s, o.quick);
    std::printf("%s\n", m.result().dump(1).c_str());
    return 0;
}

}  // namespace bench
