#include "checkpoint_files.h"

namespace ds::test {

std::string safetensors_bytes(const raw_tensors &tensors) {
    nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
    std::string data;
    for (const auto &[name, t] : tensors) {
        header[name] = {{"dtype", t.dtype},
                        {"shape", t.shape},
                        {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
        data += t.bytes;
    }
    return with_length(header.dump()) + data;
}

void read_safetensors(const std::string &path, raw_tensors &out) {
    const std::string bytes = file_bytes(path);
    uint64_t n;
    memcpy(&n, bytes.data(), 8);
    const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, n));
    for (const auto &[name, t] : header.items()) {
        if (name == "__metadata__") continue;
        const size_t begin = t["data_offsets"][0], end = t["data_offsets"][1];
        out[name] = {t["dtype"], t["shape"], bytes.substr(8 + n + begin, end - begin)};
    }
}

checkpoint_files::checkpoint_files(const std::string &name) {
    const std::string dir = data_path(name);
    config = nlohmann::json::parse(file_bytes(dir + "/config.json"));
    tokenizer = nlohmann::json::parse(file_bytes(dir + "/tokenizer.json"));
    tokenizer_config = nlohmann::json::parse(file_bytes(dir + "/tokenizer_config.json"));
    for (const auto &entry : fs::directory_iterator(dir))
        if (entry.path().filename().string().starts_with("model") &&
            entry.path().extension() == ".safetensors")
            read_safetensors(entry.path().string(), tensors);
}

void checkpoint_files::save(const std::string &directory, bool weights) const {
    fs::create_directories(directory);
    write_bytes(directory + "/config.json", config.dump());
    write_bytes(directory + "/tokenizer.json", tokenizer.dump());
    write_bytes(directory + "/tokenizer_config.json", tokenizer_config.dump());
    if (weights) write_bytes(directory + "/model.safetensors", safetensors_bytes(tensors));
}

}  // namespace ds::test
