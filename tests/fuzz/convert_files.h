// The files of a checkpoint that the converter reads, in the order of an input's parts.
#pragma once

#include "fuzz.h"

namespace ds::fuzz {

inline const std::vector<std::string> checkpoint_files = {"config.json",
                                                          "tokenizer.json",
                                                          "tokenizer_config.json",
                                                          "generation_config.json",
                                                          "model.safetensors",
                                                          "chat_template.jinja",
                                                          "model.safetensors.index.json",
                                                          "model-00002.safetensors",
                                                          "chat_template.json",
                                                          "additional_chat_templates/tool_use.jinja"};

}  // namespace ds::fuzz
