// A step is queued several times and waited for once; the best of some such rounds counts. Sums of bytes are those that a step must read once: every weight that its
// rows meet, and the keys and values that they see. Bandwidth is held against that of a copy on the device, counting what it reads and what it writes.
#include "device.h"

#include "../../ggml-cuda/host/cuda.h"
#include "../../llm/kv_cache.h"
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
    h.layers = layers, h.hidden = hidden, h.heads = heads, h.kv_heads = kv_heads, h.head_size = 128, h.ffn = ffn, h.vocab = vocab;
    h.context = 131072, h.norm_eps = 1e-6f, h.rotated = 128, h.rope_base = 1e6;
    return h;
}

// Sizes from the models' config.json.
std::vector<shape> shapes() {
    hparams lite = dense(27, 2048, 16, 1, 10944, 102400);
    lite.head_size = 192, lite.rotated = 64, lite.kv_rank = 512, lite.nope_size = 128, lite.value_size = 128, lite.rope_base = 10000;
    lite.experts = 64, lite.experts_used = 6, lite.experts_shared = 2, lite.expert_ffn = 1408, lite.dense_layers = 1;
    return {{"r1-1.5b", "qwen2", dense(28, 1536, 12, 2, 8960, 151936)},
            {"r1-8b", "llama", dense(32, 4096, 32, 8, 14336, 128256)},
            {"r1-14b", "qwen2", dense(48, 5120, 40, 8, 13824, 152064)},
            {"13b", "llama", dense(40, 5120, 40, 8, 13824, 32000)},
            {"deepseek-v2-lite", "deepseek2", lite}};
}

// Weights of I8, random; norms about 1; scales so that what goes through a layer stays about as large as it was.
class weights {
public:
    weights(const shape &s, std::shared_ptr<backend> b) : of_(s), arch_(*arch_by_name(s.arch)), b_(std::move(b)) {
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
    // That a step of so many rows reads: all but the embedding; of experts, those that rows meet when they choose evenly.
    double read_bytes(double rows) const {
        const double share = of_.h.experts ? 1.0 - std::pow(1.0 - static_cast<double>(of_.h.experts_used) / static_cast<double>(of_.h.experts), rows) : 1.0;
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
            for (float &x : values) x = (1.0f + 0.1f * uniform()) / (74.0f * std::sqrt(static_cast<float>(r.ne.back())));      // 74: of uniform bytes
            t.scale = &tensors_.emplace_back(s);
        }
        if (!fill) return;
        b_->fn->upload(b_.get(), to, values.data(), values.size() * sizeof(float));
        const size_t n = tensor_bytes(t);
        if (r.what != role::embedding) (t.rank == 3 && of_.h.experts && t.ne[0] == of_.h.experts ? experts_ : dense_) += n;
        const tensor *const at = &tensors_.emplace_back(t);
        (r.slot ? w_.layer[static_cast<size_t>(r.layer)].*r.slot : w_.*r.top) = at;
    }
    void fill_random() {
        std::vector<uint32_t> some(size_t{8} << 20);
        for (uint32_t &x : some) x = random_();
        const size_t part = some.size() * sizeof(uint32_t);
        char *const base = static_cast<char *>(memory_.data());
        b_->fn->upload(b_.get(), base, some.data(), std::min(part, memory_.size()));
        for (size_t done = part; done < memory_.size(); done += part) b_->fn->copy(b_.get(), base + done, base, std::min(part, memory_.size() - done));
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

// Steps of `rows` rows: of as many sequences, each at the end of `context` positions, or of one sequence's last rows.
class steps {
public:
    steps(const weights &w, const shape &s, std::shared_ptr<backend> b, int64_t rows, int64_t sequences, int64_t context, uint64_t identity)
        : b_(std::move(b)), graph_(static_cast<size_t>(16 + 24 * s.h.layers)), layout_(make_page_layout(w.architecture(), s.h, format::i8)), rows_(rows), context_(context) {
        const int64_t pages = pages_for(context), outputs = sequences;
        pages_ = backend_memory(b_, pool_bytes(layout_.page_bytes, pages * sequences));
        fill_pages();
        std::vector<int32_t> in;
        for (int64_t i = 0; i < rows; ++i) in.push_back(static_cast<int32_t>(i * 7919 % s.h.vocab));
        for (int64_t i = 0; i < rows; ++i) in.push_back(position(i, sequences));
        for (int64_t i = 0; i < rows; ++i) in.push_back(sequences > 1 ? static_cast<int32_t>(i) : 0);
        for (int64_t i = 0; i < rows; ++i) in.push_back(static_cast<int32_t>((sequences > 1 ? i * pages * page_positions : 0) + position(i, sequences)));
        for (int64_t i = 0; i < outputs; ++i) in.push_back(static_cast<int32_t>(rows - outputs + i));
        for (int64_t i = 0; i < sequences * pages; ++i) in.push_back(static_cast<int32_t>(i));
        inputs_ = backend_memory(b_, in.size() * sizeof(int32_t));
        b_->fn->upload(b_.get(), inputs_.data(), in.data(), inputs_.size());
        int32_t *at = static_cast<int32_t *>(inputs_.data());
        const auto list = [&](int64_t n, const char *name) { return graph_.input(format::i32, {n}, std::exchange(at, at + n), name); };
        step_inputs i;
        i.ids = list(rows, "ids"), i.positions = list(rows, "positions"), i.sequence = list(rows, "sequence"), i.slots = list(rows, "slots"), i.outputs = list(outputs, "outputs");
        i.tables = graph_.input(format::i32, {sequences, pages}, at, "tables");
        i.pages = graph_.input(format::i8, {pages * sequences, static_cast<int64_t>(layout_.page_bytes)}, pages_.data(), "pages");
        w.architecture().build({graph_, s.h, w.get(), i, layout_.layer});
        for (const node &n : graph_.nodes())
            if (!b_->fn->variant(b_.get(), n)) throw error(status::unsupported, std::string(info(n.kind).name) + " does not run on the device");
        const plan p = make_plan(graph_, *b_);
        arena_ = backend_memory(b_, p.arena_bytes);
        work_ = backend_memory(b_, p.work_bytes);
        place(graph_, p, arena_.data());
        graph_.identity = identity;
    }
    size_t bytes() const { return pages_.size() + arena_.size() + work_.size() + inputs_.size(); }
    double kv_bytes(double sequences) const { return static_cast<double>(layout_.page_bytes) / page_positions * static_cast<double>(context_) * sequences; }

    // Seconds of a step.
    double seconds(int times, int rounds) {
        for (int i = 0; i < 3; ++i) b_->fn->run(b_.get(), graph_, work_.data(), nullptr);
        b_->fn->wait(b_.get());
        double best = 1e30;
        for (int r = 0; r < rounds; ++r) {
            const double begun = os::seconds();
            for (int i = 0; i < times; ++i) b_->fn->run(b_.get(), graph_, work_.data(), nullptr);
            b_->fn->wait(b_.get());
            best = std::min(best, (os::seconds() - begun) / times);
        }
        return best;
    }

private:
    int32_t position(int64_t i, int64_t sequences) const { return static_cast<int32_t>(sequences > 1 ? context_ - 1 : context_ - rows_ + i); }
    // Bytes that are integers as well as parts of small positive floats, which the scales among them are.
    void fill_pages() {
        std::vector<char> some(std::min<size_t>(pages_.size(), size_t{16} << 20));
        std::mt19937 r(2);
        for (char &c : some) c = static_cast<char>(0x30 + r() % 14);
        char *const base = static_cast<char *>(pages_.data());
        b_->fn->upload(b_.get(), base, some.data(), some.size());
        for (size_t done = some.size(); done < pages_.size(); done += some.size()) b_->fn->copy(b_.get(), base + done, base, std::min(some.size(), pages_.size() - done));
    }
    std::shared_ptr<backend> b_;
    graph graph_;
    page_layout layout_;
    int64_t rows_, context_;
    backend_memory pages_, inputs_, arena_, work_;
};

double copy_bandwidth(const std::shared_ptr<backend> &b) {
    const size_t n = size_t{2} << 30;
    const backend_memory from(b, n), to(b, n);
    double best = 0;
    for (int i = 0; i < 6; ++i) {
        const double begun = os::seconds();
        for (int k = 0; k < 4; ++k) b->fn->copy(b.get(), to.data(), from.data(), n);
        b->fn->wait(b.get());
        best = std::max(best, 8.0 * static_cast<double>(n) / (os::seconds() - begun));
    }
    return best;
}

// Operations a second of one product with I8 weights, made in this way; 0 where it does not fit.
double product_rate(int device, const char *way, int64_t n, int64_t m, int64_t k) {
    const std::shared_ptr<backend> b = cuda_backend({.device = device, .force = {{"matmul", way}}});
    graph g(8);
    std::mt19937 r(3);
    std::vector<float> x(static_cast<size_t>(n * k)), scale(static_cast<size_t>(m), 0.01f);
    for (float &v : x) v = static_cast<float>(static_cast<int32_t>(r())) * 0x1p-31f;
    std::vector<uint32_t> w(static_cast<size_t>(m * k / 4));
    for (uint32_t &v : w) v = r();
    const backend_memory xs(b, x.size() * 4), ws(b, w.size() * 4), ss(b, scale.size() * 4), ys(b, static_cast<size_t>(n * m) * 4);
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
        if (i > 0) best = std::max(best, 4.0 * 2.0 * static_cast<double>(n) * static_cast<double>(m) * static_cast<double>(k) / (os::seconds() - begun));
    }
    return best;
}

void row(const std::string &what, const std::string &found, const std::string &wanted) { std::fprintf(stderr, "#row %-58s %-14s wanted: %s\n", what.c_str(), found.c_str(), wanted.c_str()); }
std::string percent(double x) { return format_text("%lld %%", static_cast<long long>(std::lround(100 * x))); }
std::string whole(double x) { return format_text("%lld", static_cast<long long>(std::lround(x))); }

class measurements {
public:
    explicit measurements(const device_options &o) : o_(o), b_(cuda_backend({.device = o.device})), plain_(cuda_backend({.device = o.device, .force = {}, .record = false})) {
        const cuda_device &d = cuda_device_of(*b_);
        out_["device"] = d.name;
        bandwidth_ = copy_bandwidth(b_);
        out_["copy_bytes_per_second"] = bandwidth_;
        row("copy on " + std::string(d.name), whole(bandwidth_ / 1e9) + " GB/s", "-");
    }
    void products() {
        for (const auto &[n, m, k] : {std::array<int64_t, 3>{4096, 4096, 4096}, {4096, 28672, 4096}, {4096, 4096, 14336}, {512, 28672, 4096}})
            for (const char *way : {"library", "wgmma", "tiles"}) {
                const double rate = product_rate(o_.device, way, n, m, k);
                out_["products"].push_back({{"rows", n}, {"weights", m}, {"depth", k}, {"way", way}, {"ops_per_second", rate}});
                const std::string size = std::to_string(n) + " x " + std::to_string(m) + " x " + std::to_string(k);
                row("I8 product " + size + ", " + way, whole(rate / 1e12) + " TOPS", "990 (50 % of 1,979)");
            }
    }
    void decode(const shape &s, const weights &w, int64_t batch, int64_t context, const std::string &wanted, bool by_rate = false) {
        steps d(w, s, b_, batch, batch, context, ++identity_);
        const double t = d.seconds(10, 4), bytes = w.read_bytes(static_cast<double>(batch)) + d.kv_bytes(static_cast<double>(batch));
        json j = {{"shape", s.name}, {"batch", batch}, {"context", context}, {"seconds", t}, {"bytes_per_second", bytes / t}, {"of_copy", bytes / t / bandwidth_},
                  {"tokens_per_second", static_cast<double>(batch) / t}, {"recorded", cuda_recorded(*b_) > 0}};
        if (batch == 1) {
            steps p(w, s, plain_, batch, batch, context, ++identity_);
            j["seconds_without_graph"] = p.seconds(10, 4);
            row(std::string("recorded graph against none, ") + s.name, percent(j["seconds_without_graph"].get<double>() / t - 1), "stated");
        }
        out_["decode"].push_back(j);
        const std::string what = std::string(s.name) + " int8 decode, batch " + std::to_string(batch) + ", context " + std::to_string(context);
        row(what, by_rate ? whole(static_cast<double>(batch) / t) + " tokens/s" : percent(bytes / t / bandwidth_), wanted);
    }
    void prefill(const shape &s, const weights &w, int64_t rows, int64_t total) {
        double t = 0;
        for (int64_t done = 0; done < total; done += rows) t += steps(w, s, b_, rows, 1, done + rows, ++identity_).seconds(2, 2);
        out_["prefill"].push_back({{"shape", s.name}, {"rows", rows}, {"tokens", total}, {"seconds", t}, {"tokens_per_second", static_cast<double>(total) / t}});
        row(std::string(s.name) + " int8 prefill, " + std::to_string(total) + " tokens by " + std::to_string(rows), whole(static_cast<double>(total) / t) + " tokens/s", "35000 (8B)");
    }
    void memory(const shape &s) {
        const uint64_t before = describe_cuda_device(o_.device).memory_free;
        const weights w(s, b_);
        const steps d(w, s, b_, 512, 1, 4096, ++identity_);
        const uint64_t taken = before - describe_cuda_device(o_.device).memory_free;
        out_["memory"].push_back({{"shape", s.name}, {"planned", w.bytes() + d.bytes()}, {"taken", taken}});
        row(std::string(s.name) + " int8, 4,096 positions: memory taken", format_text("%llu MB", static_cast<unsigned long long>(taken / 1000000)), "14300 MB at most");
    }
    const json &result() const { return out_; }
    const std::shared_ptr<backend> &place() const { return b_; }

private:
    const device_options &o_;
    std::shared_ptr<backend> b_, plain_;
    double bandwidth_ = 0;
    uint64_t identity_ = 0;
    json out_;
};

} // namespace

int measure_device(const device_options &o) {
    const std::vector<shape> all = shapes();
    measurements m(o);
    if (o.shape.empty()) {
        m.products();
        m.memory(all[3]);
    }
    for (const shape &s : all) {
        const std::string name = s.name;
        if (o.shape.empty() ? name == "13b" || (o.quick && name != "r1-8b") : name != o.shape) continue;
        const weights w(s, m.place());
        m.decode(s, w, 1, 512, name == "r1-8b" ? "80 %, then 90" : name == "r1-1.5b" ? "60 %" : "-");
        if (name == "r1-8b" || !o.shape.empty()) {
            m.decode(s, w, 32, 8192, "80 % (attention alone)");
            m.decode(s, w, 64, 1024, "14000 tokens/s", true);
            m.decode(s, w, 256, 512, "-", true);
            m.decode(s, w, 1, 32768, "-");
            m.prefill(s, w, 512, 4096);
        }
        m.prefill(s, w, 4096, 4096);
    }
    std::printf("%s\n", m.result().dump(1).c_str());
    return 0;
}

} // namespace bench
