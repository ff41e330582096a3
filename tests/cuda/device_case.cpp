#include "device_case.h"

#include "../../ggml-cpu/cpu.h"

#include <cmath>

namespace ds::test {

device_case::device_case(const op_case &c, std::shared_ptr<backend> b) : b_(std::move(b)) {
    const tensor *s[max_sources] = {};
    for (size_t i = 0; i < c.src.size(); ++i)
        if (!c.src[i].bytes.empty()) s[i] = source(c.src[i]);
    node &n = add_operation(g_, c, s);
    out_bytes_ = tensor_bytes(n.out);
    if (!n.out.base) out_ = backend_memory(b_, out_bytes_);
    n.out.data = n.out.base ? n.out.base->data : out_.data();
    if (variant()) work_ = backend_memory(b_, b_->fn->work_bytes(b_.get(), n));
}

void *device_case::fresh(size_t bytes, const void *from) {
    void *const p = memory_.emplace_back(b_, bytes).data();
    const char *const c = static_cast<const char *>(from);
    initial_.emplace_back(p, std::vector<char>(c, c + bytes));
    return p;
}

tensor *device_case::source(const array &a) {
    void *const p = fresh(a.bytes.size(), a.bytes.data());
    return add_source(g_, a, a.ne, p,
                      a.scale.empty() ? nullptr : fresh(a.scale.size() * sizeof(float), a.scale.data()));
}

void device_case::prepare() {
    for (const auto &[p, bytes] : initial_) b_->fn->upload(b_.get(), p, bytes.data(), bytes.size());
    const std::vector<char> garbage(std::max(out_.size(), work_.size()), 0x5a);
    for (const backend_memory *m : {&out_, &work_})
        if (m->size()) b_->fn->upload(b_.get(), m->data(), garbage.data(), m->size());
}

std::vector<char> device_case::run(uint64_t identity) {
    prepare();
    return run_again(identity);
}

std::vector<char> device_case::run_again(uint64_t identity) {
    g_.identity = identity;
    b_->fn->run(b_.get(), g_, work_.data(), nullptr);
    std::vector<char> out(out_bytes_);
    b_->fn->download(b_.get(), out.data(), only().out.data, out.size());
    return out;
}

std::vector<op_case> cuda_cases() {
    std::vector<op_case> cases = all_cases();
    cases.push_back(matmul_case(format::i8, 66, 140, 176, true, fill::plain, true));
    cases.push_back(projections_case(66, 144, true, {{format::i8, 70, true}, {format::i8, 3, false}}));
    cases.push_back(gated_projection_case(format::i8, format::i8, 66, 70, 144, true));
    cases.push_back(head_matmul_case(format::i8, 66, 2, 40, 80));
    // Not bf16: a library's products then have 16 of x's 24 bits, and the cases' tolerance assumes all.
    for (const format f : {format::f32, format::f16})
        cases.push_back(matmul_case(f, 20, 33, 48, f != format::f32, fill::plain, true));
    cases.push_back(projections_case(18, 33, true, {{format::f32, 7, true}, {format::bf16, 40, false}}));
    cases.push_back(gated_projection_case(format::f16, format::bf16, 18, 40, 33, true));
    for (size_t i = 0; i < cases.size(); ++i)
        if (cases[i].text.empty())
            cases[i].text = info(cases[i].kind).name + (", cuda_cases() " + std::to_string(i));
    return cases;
}

std::vector<char> reference_result(const op_case &c) {
    return device_case(
               c, cpu_backend({.threads = 1, .isa = nullptr, .force = {{info(c.kind).name, "reference"}}}))
        .run();
}

format result_format(const op_case &c) {
    if (c.kind == op::candidates) return format::i32;
    if (c.kind != op::kv_write) return format::f32;
    kv_layout l;
    std::memcpy(&l, c.params.bytes, sizeof l);
    return l.type;
}

bool bits_defined(const op_case &c, bool library) {
    if (c.kind == op::get_rows) return true;
    if (c.kind == op::attention) {
        attention_params p;
        std::memcpy(&p, c.params.bytes, sizeof p);
        return p.kv.type == format::i8;
    }
    bool floats = false, packed = false;
    for (size_t i = 1; i < c.src.size(); ++i) {
        packed |= is_packed(c.src[i].type);
        floats |= c.src[i].ne.size() >= 2 && (c.src[i].type == format::f32 || c.src[i].type == format::f16 ||
                                              c.src[i].type == format::bf16);
    }
    const bool products = c.kind == op::matmul || c.kind == op::projections ||
                          c.kind == op::gated_projection || c.kind == op::experts;
    return !packed && !(products && floats && library);
}

std::string compare(const op_case &c, const std::vector<char> &wanted, const std::vector<char> &got,
                    bool bits, double slack) {
    const format type = result_format(c);
    const size_t width = info(type).bytes;
    std::vector<double> exact, tolerance;
    if (!bits && c.finite) c.exact(exact, tolerance);
    for (size_t i = 0; i < got.size() / width; ++i) {
        const char *a = wanted.data() + i * width, *b = got.data() + i * width;
        if (std::memcmp(a, b, width) == 0) continue;
        const double x = value(type, a, static_cast<int64_t>(0)), y = value(type, b, static_cast<int64_t>(0));
        if (x != x || y != y) {
            if (x != x && y != y) continue;
            if (!bits && !c.finite) continue;
        } else if (!bits && (!c.finite || std::fabs(y - exact[i]) <= tolerance[i] * slack)) continue;
        return "element " + std::to_string(i) + " of " + std::to_string(got.size() / width) + ": " +
               shortest(y) + " instead of " + shortest(x);
    }
    return "";
}

}  // namespace ds::test
