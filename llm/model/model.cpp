// Loading: the architecture's reader reads the hyper-parameters; then each of its tensor rows is looked up,
// checked for shape and format, and bound to the file's bytes. Nothing is copied except norms and biases in a
// format other than f32, and tensors that are computed in another order than the file's.
#include "model.h"

#include "../../tensor/numerics.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace ds {

const arch *arch_of(const gguf_file &f) {
    const std::string_view name = f.get_string("general.architecture");
    const arch *a = arch_by_name(name);
    if (!a)
        throw error(status::unsupported, f.name() + ": general.architecture: is " +
                                             quoted(name.data(), name.size()) + ", known are " +
                                             architectures_known());
    return a;
}

static const chat_template *choose_template(const gguf_file &f, const std::string &name) {
    if (name.empty()) return chat_template_recognise(f.get_string("tokenizer.chat_template", ""));
    const chat_template *t = chat_template_by_name(name);
    if (!t)
        throw error(status::argument,
                    "chat_template: is " + quoted(name) + ", known are " + chat_templates_known());
    return t;
}

model::model(gguf_file f, const model_options &o)
    : file(std::move(f)), name(file.get_string("general.name", "")),
      architecture_name(file.get_string("general.architecture", "")), vocabulary(file),
      chat(choose_template(file, o.chat_template)), host_(o.host),
      to_device_(o.device && !o.device->fn->host_memory) {
    std::vector<uint64_t> bytes(static_cast<size_t>(format::count));
    for (const gguf_tensor &t : file.tensors()) {
        parameters += static_cast<uint64_t>(t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]);
        weight_bytes += t.bytes;
        bytes[static_cast<size_t>(t.type)] += t.bytes;
    }
    main_format = static_cast<format>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin());
    for (const std::string &remark : vocabulary.remarks())
        o.host.log(log_level::warning, "%s", remark.c_str());
    if (o.vocab_only) return;
    architecture = arch_of(file);
    h = architecture->read(file);
    bind(o.host, o.progress);
    check_rope_divisors();
    check_router_biases();
    if (o.override_rope) override_rope(o);
    fingerprint = model_fingerprint(*this);
    if (o.context) h.context = o.context;
    if (to_device_) move_to(o.device, o.progress);
}

void model::override_rope(const model_options &o) {
    h.scaling = o.scaling;
    h.rope_factor = o.rope_factor;
    if (o.rope_original_context) h.original_context = o.rope_original_context;
    weights.rope_divisors = nullptr;  // Llama 3's divisors are a scaling too
}

void model::bind(const ds::host &host, const std::function<bool(uint64_t, uint64_t)> &progress) {
    weights.layer.resize(static_cast<size_t>(h.blocks() + h.nextn_layers));
    std::unordered_set<std::string_view> used;
    uint64_t done = 0;
    for (const tensor_row &row : architecture->tensors(h)) {
        const tensor *t = bind_row(row);
        if (!t) continue;
        const gguf_tensor *found = file.find_tensor(row.name);
        if (!found) found = file.find_tensor(row.whole);
        used.insert(found->name);
        if (found->type == format::i8)
            used.insert(file.find_tensor(std::string(found->name) + "_scale")->name);
        slot_of(weights, row) = t;
        done = std::min(done + found->bytes, weight_bytes);
        if (progress && !progress(done, weight_bytes))
            throw error(status::cancelled, file.name() + ": loading was cancelled by its progress callback");
    }
    if (used.size() < file.tensors().size())
        host.log(log_level::warning, "%s: %zu tensors are not used by architecture %s", file.name().c_str(),
                 file.tensors().size() - used.size(), architecture->name);
}

void *model::take(size_t bytes) {
    made_bytes += bytes;
    return made_.emplace_back(host_, bytes).data();
}

// Sums over a row of i8 must fit int32.
static void check_i8_rows(const gguf_file &f, const gguf_tensor &t) {
    const int64_t columns = t.ne[t.rank - 1];
    if (t.type == format::i8 && columns > i8_most_columns)
        throw error(status::unsupported,
                    f.name_of(t) + ": " + std::string(t.name) + ": has rows of " + std::to_string(columns) +
                        " in i8, which can be computed with up to " + std::to_string(i8_most_columns));
}

const tensor *model::bind_row(const tensor_row &row) {
    const gguf_tensor *found = file.find_tensor(row.name);
    if (const gguf_tensor *whole = found || row.whole.empty() ? nullptr : file.find_tensor(row.whole))
        return bind_part(row, *whole);
    if (!found && row.optional) return nullptr;
    if (!found) file.fail(row.name, "tensor is missing");
    tensor t = make_tensor(found->type, row.ne);
    const std::span<const int64_t> have(found->ne, static_cast<size_t>(found->rank));
    if (!std::equal(have.begin(), have.end(), row.ne.begin(), row.ne.end()))
        file.fail(row.name,
                  "has the shape " + shape_text(make_tensor(found->type, have)) + ", needs " + shape_text(t));
    if (!info(found->type).runs || (found->type == format::i8 && row.stays_f32()))
        throw error(status::unsupported,
                    file.name_of(*found) + ": " + row.name + ": number format " + info(found->type).text +
                        " cannot be computed with; those that can: " + formats_that_run());
    check_i8_rows(file, *found);
    t.data = const_cast<uint8_t *>(found->data);
    if (row.stays_f32() && found->type != format::f32) {
        t = make_tensor(format::f32, row.ne);
        t.data = take(tensor_bytes(t));
        decode_row(found->type, found->data, static_cast<float *>(t.data), static_cast<size_t>(elements(t)));
    }
    if (found->type == format::i8) t.scale = bind_scale(row.name, std::span(row.ne).first(row.ne.size() - 1));
    return &tensors_.emplace_back(t);
}

// Binds a file's tensor that holds two of the architecture's; `ne` is the shape that it must have.
tensor model::bind_whole(const gguf_tensor &whole, std::initializer_list<int64_t> ne) const {
    tensor t = make_tensor(whole.type, ne);
    const std::span<const int64_t> have(whole.ne, static_cast<size_t>(whole.rank));
    if (!std::equal(have.begin(), have.end(), ne.begin(), ne.end()) || !info(whole.type).runs)
        file.fail(std::string(whole.name), "is " + shape_text(make_tensor(whole.type, have)) + ", needs " +
                                               shape_text(make_tensor(format::f32, ne)));
    check_i8_rows(file, whole);
    t.data = const_cast<uint8_t *>(whole.data);
    return t;
}

// Rows [first, first + rows) of each of t's matrices: a view, with the scales of these rows.
const tensor *model::bind_rows(tensor t, const tensor *scale, int64_t first, int64_t rows) {
    if (scale) {
        tensor s = make_tensor(format::f32, {t.ne[0], t.ne[1]});
        s.data = f32_at(*scale, 0) + first;
        s.ne[1] = rows;
        t.scale = &tensors_.emplace_back(s);
    }
    t.data = at(t, 0, first);
    t.ne[1] = rows;
    return &tensors_.emplace_back(t);
}

// Gate or up of the routed experts, from a tensor in which each expert has its rows of gate and then its rows
// of up.
const tensor *model::bind_half(const tensor_row &row, const gguf_tensor &whole) {
    const int64_t experts = row.ne[0], rows = row.ne[1];
    const tensor all = bind_whole(whole, {experts, 2 * rows, row.ne[2]});
    const tensor *scale =
        whole.type == format::i8 ? bind_scale(std::string(whole.name), {{experts, 2 * rows}}) : nullptr;
    return bind_rows(all, scale, row.what == role::up ? rows : 0, rows);
}

// One of the two parts of MLA's kv_b, [heads * (key rows + value rows), rank], from a file that holds it
// whole. The key part is transposed head by head: a copy, in the file's format or, for block formats and
// integers, in f16. The value part is a view.
const tensor *model::bind_part(const tensor_row &row, const gguf_tensor &whole) {
    if (row.order == reorder::none) return bind_half(row, whole);
    const int64_t both = h.nope_size + h.value_size;
    const std::string whole_name(whole.name);
    tensor all = make_tensor(whole.type, {h.heads, both, h.kv_rank});
    all.data = bind_whole(whole, {h.heads * both, h.kv_rank}).data;
    const tensor *scale = whole.type == format::i8 ? bind_scale(whole_name, {{h.heads * both}}) : nullptr;
    if (row.order == reorder::value_part) return bind_rows(all, scale, h.nope_size, h.value_size);
    tensor &t = tensors_.emplace_back(make_tensor(
        info(whole.type).block == 1 && whole.type != format::i8 ? whole.type : format::f16, row.ne));
    const transposed p{&t, all, scale};
    if (to_device_) transposed_.push_back(p);
    else transpose(p, t.data = take(tensor_bytes(t)));
    return &t;
}

void model::transpose(const transposed &p, void *to) const {
    const int64_t heads = p.all.ne[0], rank = p.all.ne[2], rows = p.t->ne[2];
    tensor out = *p.t;
    out.data = to;
    const block memory(host_, static_cast<size_t>((rows + 1) * rank) * sizeof(float));
    float *const part = static_cast<float *>(memory.data()), *const line = part + rows * rank;
    for (int64_t head = 0; head < heads; ++head) {
        for (int64_t k = 0; k < rows; ++k) {
            decode_row(p.all.type, at(p.all, head, k), line, static_cast<size_t>(rank));
            const float factor = p.scale ? *f32_at(*p.scale, head * p.all.ne[1] + k) : 1.0f;
            for (int64_t c = 0; c < rank; ++c) part[c * rows + k] = line[c] * factor;
        }
        encode_row(out.type, part, at(out, head), static_cast<size_t>(rows * rank));
    }
}

// The scales of an i8 tensor: one finite f32 per row, in a separate tensor.
const tensor *model::bind_scale(const std::string &weights_name, std::span<const int64_t> ne) {
    const std::string scale_name = weights_name + "_scale";
    const gguf_tensor *found = file.find_tensor(scale_name);
    tensor t = make_tensor(format::f32, ne);
    if (!found) file.fail(scale_name, "tensor is missing, " + weights_name + " is i8 and needs it");
    if (found->type != format::f32 || !std::equal(ne.begin(), ne.end(), found->ne, found->ne + found->rank))
        file.fail(scale_name,
                  "is " +
                      shape_text(make_tensor(found->type, {found->ne, static_cast<size_t>(found->rank)})) +
                      ", needs " + shape_text(t));
    t.data = const_cast<uint8_t *>(found->data);
    for (int64_t i = 0; i < elements(t); ++i)
        if (!finite_f32(static_cast<const float *>(t.data)[i]))
            file.fail(scale_name, "element " + std::to_string(i) + " is not finite");
    return &tensors_.emplace_back(t);
}

// Frequencies are at most 1, and a divisor of 0.5 doubles them: with smaller ones, the angle of a distant
// position could exceed the range of sin_cos_f64.
void model::check_rope_divisors() const {
    if (!weights.rope_divisors) return;
    const auto *v = static_cast<const float *>(weights.rope_divisors->data);
    for (int64_t i = 0; i < elements(*weights.rope_divisors); ++i)
        if (!(v[i] >= 0.5f && finite_f32(v[i])))
            file.fail("rope_freqs.weight",
                      "element " + std::to_string(i) + " is " + shortest(v[i]) + ", must be at least 0.5");
}

// Experts are ranked by these; a NaN would choose one expert several times.
void model::check_router_biases() const {
    for (size_t layer = 0; layer < weights.layer.size(); ++layer) {
        const tensor *const bias = weights.layer[layer].router_bias;
        for (int64_t i = 0; bias && i < elements(*bias); ++i)
            if (!finite_f32(*f32_at(*bias, i)))
                file.fail("blk." + std::to_string(layer) + ".exp_probs_b.bias",
                          "element " + std::to_string(i) + " is " + shortest(*f32_at(*bias, i)) +
                              ", must be finite");
    }
}

// ---- Moving to a device

// The tensors that the layers in use read, scales included, each once.
std::vector<tensor *> model::tensors_run() {
    std::unordered_set<const tensor *> wanted;
    const auto want = [&](const tensor *t) {
        if (!t) return;
        wanted.insert(t);
        if (t->scale) wanted.insert(t->scale);
    };
    for (const tensor_row &row : architecture->tensors(h))
        if (row.layer < h.blocks()) want(slot_of(weights, row));
    std::vector<tensor *> list;
    for (tensor &t : tensors_)
        if (wanted.count(&t)) list.push_back(&t);
    return list;
}

namespace {
// Bytes of the host's memory that are copied together.
struct piece {
    const char *from;
    uint64_t bytes, to;  // to: offset in the device's memory
};
}  // namespace

// Bytes that several tensors share are copied once, so that views keep their offsets relative to each other.
void model::move_to(const std::shared_ptr<backend> &to,
                    const std::function<bool(uint64_t, uint64_t)> &progress) {
    constexpr uint64_t alignment = 256, step = uint64_t{64} << 20;
    // The memory that contains all tensors, by address: the file's tensors, and decoded or transposed copies.
    std::vector<piece> whole;
    for (const gguf_tensor &t : file.tensors())
        whole.push_back({reinterpret_cast<const char *>(t.data), t.bytes, 0});
    for (const block &b : made_) whole.push_back({static_cast<const char *>(b.data()), b.size(), 0});
    std::erase_if(whole, [](const piece &p) { return p.bytes == 0; });
    std::sort(whole.begin(), whole.end(), [](const piece &a, const piece &b) { return a.from < b.from; });
    const auto piece_of = [&](const void *p) {
        const auto after = std::upper_bound(whole.begin(), whole.end(), static_cast<const char *>(p),
                                            [](const char *x, const piece &b) { return x < b.from; });
        return static_cast<size_t>(after - whole.begin()) - 1;
    };
    const std::vector<tensor *> list = tensors_run();
    std::vector<bool> used(whole.size(), false);
    for (const tensor *t : list)
        if (t->data) used[piece_of(t->data)] = true;
    const auto offset_for = [&](uint64_t bytes) {
        return std::exchange(device_bytes, device_bytes + (bytes + alignment - 1) / alignment * alignment);
    };
    for (size_t i = 0; i < whole.size(); ++i)
        if (used[i]) whole[i].to = offset_for(whole[i].bytes);
    std::erase_if(transposed_, [&](const transposed &p) {
        return std::find(list.begin(), list.end(), p.t) == list.end();
    });
    for (transposed &p : transposed_) p.to = offset_for(tensor_bytes(*p.t));
    device = to;
    device_memory_ = backend_memory(device, device_bytes);
    char *const base = static_cast<char *>(device_memory_.data());
    const auto upload = [&](const piece &p) {
        for (uint64_t done = 0; done < p.bytes; done += step) {
            const uint64_t n = std::min(step, p.bytes - done);
            device->fn->upload(device.get(), base + p.to + done, p.from + done, n);
            if (progress && !progress(p.to + done + n, device_bytes))
                throw error(status::cancelled,
                            file.name() + ": loading was cancelled by its progress callback");
        }
    };
    for (size_t i = 0; i < whole.size(); ++i)
        if (used[i]) upload(whole[i]);
    // One at a time: all of them together might not fit the host's memory.
    for (const transposed &p : transposed_) {
        const block made(host_, tensor_bytes(*p.t));
        transpose(p, made.data());
        upload({static_cast<const char *>(made.data()), made.size(), p.to});
    }
    device->fn->wait(device.get());  // engines use other streams
    for (tensor *t : list) {
        if (!t->data) continue;
        const piece &p = whole[piece_of(t->data)];
        t->data = base + p.to + (static_cast<const char *>(t->data) - p.from);
    }
    for (const transposed &p : transposed_) p.t->data = base + p.to;
    for (const gguf_tensor &t : file.tensors()) file.forget(t);
    transposed_.clear();
    made_.clear();
    made_bytes = 0;
}

}  // namespace ds
